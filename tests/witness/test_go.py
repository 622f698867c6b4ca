"""Go's own sumdb packages check a witnessed log that runs, and our witness cosigns nothing that Go calls malformed."""

import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from api.parts import create
from api.settings import read_settings
from ledger.checkpoint import Note
from ledger.errors import ExpectedError
from ledger.log import LedgerLog
from ledger.signing_keys import read_key_files
from ledger.witness import AddCheckpoint, Witness, logs_of
from tests.checkpoint.test_checkpoint import LOG, MALFORMED_NOTES, ORIGIN, SIGNED, TEXT, WITNESS
from tests.checkpoint.test_go import STRICTER, Go, opened_by
from tests.cli import wenming
from tests.signer.conftest import START
from tests.signer.test_go import grow, signed_size
from tests.signer.test_go import served as serving
from tests.signer.test_signer import wait_for
from tests.witness.operator import WITNESS as CAREFUL
from tests.witness.test_http import served

LOGS = {ORIGIN: (LOG.verifier_key,)}


@pytest.fixture
def witness(tmp_path: Path) -> Iterator[Witness]:
    with Witness(tmp_path, [WITNESS], LOGS) as witness:
        yield witness


def test_go_verifies_log_and_witness_on_the_checkpoint_of_a_running_server(
    go: Go,
    sqlite_url: str,
    tmp_path: Path,
) -> None:
    key, witnesses = tmp_path / "log.key", tmp_path / "witnesses"
    (tmp_path / "elsewhere").mkdir()
    create(read_settings(database=sqlite_url), created_at=START)
    vkey = wenming("key", "new", "--name", "ledger.example/gangu", key).out.strip()
    log, verifier = LedgerLog.open(sqlite_url), read_key_files([key])[0].verifier_key
    with served(tmp_path / "elsewhere", logs_of([vkey])) as elsewhere:
        witnesses.write_text(f"{CAREFUL.verifier_key.to_text()} {elsewhere}\n", "utf-8")
        with serving(tmp_path, sqlite_url, key, witnesses=witnesses) as address:
            for size in (3, 300):
                grow(log, size)
                wait_for(lambda: signed_size(address) == size and len(note_at(address).signatures) == 2, 60)  # noqa: B023
                served_note = note_at(address)
                found = opened_by(go, served_note.to_bytes(), verifier, CAREFUL.verifier_key)
                assert found == {
                    "text": served_note.text,
                    "verified": [verifier.label, CAREFUL.verifier_key.label],
                    "unverified": [],
                }
    log.close()


def note_at(address: str) -> Note:
    with urllib.request.urlopen(f"{address}/log/checkpoint", timeout=5) as answer:
        return Note.parse(answer.read())


def cosigned(witness: Witness, note: bytes) -> str | None:
    """The cosignature lines that a witness that knows nothing yet gives; None if it refuses."""
    try:
        return witness.add_checkpoint(AddCheckpoint(0, (), note).to_bytes())
    except ExpectedError:
        return None


@pytest.mark.parametrize("case", MALFORMED_NOTES)
def test_what_go_calls_malformed_is_never_cosigned(go: Go, witness: Witness, case: str) -> None:
    note = MALFORMED_NOTES[case]
    theirs = opened_by(go, note, LOG.verifier_key)
    assert cosigned(witness, note) is None
    assert (theirs is not None) == (case in STRICTER)


def test_whatever_is_cosigned_of_altered_notes_go_opens_as_the_same_text(
    go: Go,
    tmp_path: Path,
) -> None:
    data, agreed = SIGNED.with_signatures([WITNESS.cosign(TEXT, 7)]).to_bytes(), 0
    for at in range(0, len(data), 5):
        changed = data[:at] + (b"A" if data[at] != 65 else b"B") + data[at + 1 :]
        (tmp_path / str(at)).mkdir()
        with Witness(tmp_path / str(at), [WITNESS], LOGS) as witness:
            lines = cosigned(witness, changed)
        if lines is None:
            continue
        agreed += 1
        assert opened_by(go, changed, LOG.verifier_key) is not None
        theirs = opened_by(go, SIGNED.to_bytes() + lines.encode(), LOG.verifier_key, WITNESS.verifier_key)
        assert theirs is not None
        assert theirs["text"] == TEXT
    assert agreed > 0


def test_what_go_signs_is_cosigned_and_opened_by_go(go: Go, witness: Witness) -> None:
    note = go("sign", LOG.to_text(), standard_input=TEXT.encode()).stdout
    lines = cosigned(witness, note)
    assert lines is not None
    found = opened_by(go, note + lines.encode(), LOG.verifier_key, WITNESS.verifier_key)
    assert found == {
        "text": TEXT,
        "verified": [LOG.verifier_key.label, WITNESS.verifier_key.label],
        "unverified": [],
    }
