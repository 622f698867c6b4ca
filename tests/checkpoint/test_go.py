"""Go's own `golang.org/x/mod/sumdb/note` opens what we sign, signs what we open, and never disagrees about a text.

Needs Go and that package as Debian installs it (golang-go, golang-golang-x-mod-dev); nothing is downloaded.
"""

import json
import subprocess
from collections.abc import Callable
from typing import Any

import pytest

from ledger.checkpoint import Note, Signature, SignerKey, VerifierKey, open_note, sign, sign_checkpoint
from ledger.errors import LedgerError
from tests.checkpoint.test_checkpoint import (
    CHECKPOINT,
    COSIGNED,
    LOG,
    MALFORMED_NOTES,
    NEW_LOG,
    NOON,
    RENAMED_LOG,
    SIGNED,
    STRANGER,
    TEXT,
    WITNESS,
    verifiers,
)
from tests.go import NOTE, built

Go = Callable[..., subprocess.CompletedProcess[bytes]]
"""Runs the Go program with these arguments and this standard input."""


@pytest.fixture(scope="module")
def go(tmp_path_factory: pytest.TempPathFactory) -> Go:
    """The built program; without Go or its packages the test fails in CI and is skipped, saying so, elsewhere."""
    program = built(NOTE, tmp_path_factory.mktemp("go"))

    def run(*arguments: str, standard_input: bytes = b"") -> subprocess.CompletedProcess[bytes]:
        return subprocess.run([program, *arguments], input=standard_input, capture_output=True, timeout=60)

    return run


def opened_by(go: Go, data: bytes, *keys: VerifierKey) -> dict[str, Any] | None:
    """What Go says of a note; None if it refuses it."""
    done = go("open", *(key.to_text() for key in keys), standard_input=data)
    return json.loads(done.stdout) if done.returncode == 0 else None


def labels(*keys: SignerKey) -> list[str]:
    return [key.verifier_key.label for key in keys]


# --- both ways -------------------------------------------------------------------------------------------------------


def test_go_opens_our_checkpoint(go: Go) -> None:
    found = opened_by(go, SIGNED.to_bytes(), LOG.verifier_key)
    assert found == {"text": TEXT, "verified": labels(LOG), "unverified": []}


def test_go_opens_our_checkpoint_while_keys_change(go: Go) -> None:
    both = sign_checkpoint(CHECKPOINT, [LOG, NEW_LOG, RENAMED_LOG, STRANGER]).to_bytes()
    found = opened_by(go, both, *verifiers(NEW_LOG, RENAMED_LOG))
    assert found is not None
    assert found["verified"] == labels(NEW_LOG, RENAMED_LOG)
    assert found["unverified"] == labels(LOG, STRANGER)


def test_a_verifier_written_from_the_specification_accepts_our_cosignature(go: Go) -> None:
    found = opened_by(go, COSIGNED.to_bytes(), *verifiers(LOG, WITNESS))
    assert found == {"text": TEXT, "verified": labels(LOG, WITNESS), "unverified": []}
    line = COSIGNED.signatures[1]
    later = Signature(line.name, line.key_id, (NOON + 1).to_bytes(8, "big") + line.value[8:])
    assert opened_by(go, Note(TEXT, (later,)).to_bytes(), WITNESS.verifier_key) is None


def test_we_open_what_go_signs(go: Go) -> None:
    texts = go("generate", "go.example/log").stdout.decode().split()
    signer, verifier = SignerKey.from_text(texts[0]), VerifierKey.from_text(texts[1])
    assert signer.verifier_key == verifier
    done = go("sign", texts[0], standard_input=TEXT.encode())
    assert open_note(done.stdout, [verifier]).text == TEXT
    assert done.stdout == sign(TEXT, [signer]).to_bytes()


def test_go_signs_with_our_keys_and_gets_our_bytes(go: Go) -> None:
    done = go("sign", LOG.to_text(), STRANGER.to_text(), standard_input=TEXT.encode())
    assert done.stdout == sign_checkpoint(CHECKPOINT, [LOG, STRANGER]).to_bytes()


# --- never two opinions ----------------------------------------------------------------------------------------------

STRICTER = {"unused bits that are set", "more than a megabyte"}
"""Notes that Go opens and we refuse: for a second spelling of the same bytes, and for their length."""


@pytest.mark.parametrize("case", MALFORMED_NOTES)
def test_go_refuses_the_same_notes(go: Go, case: str) -> None:
    found = opened_by(go, MALFORMED_NOTES[case], LOG.verifier_key)
    assert (found is not None) == (case in STRICTER)


def test_what_we_open_of_an_altered_note_go_opens_as_the_same_text(go: Go) -> None:
    """Every seventh byte replaced: Go may open what we refuse, never the other way about, never another text."""
    data, agreed = COSIGNED.to_bytes(), 0
    for i in range(0, len(data), 7):
        changed = data[:i] + (b"A" if data[i] != 65 else b"B") + data[i + 1 :]
        theirs = opened_by(go, changed, *verifiers(LOG, WITNESS))
        try:
            ours = open_note(changed, verifiers(LOG, WITNESS))
        except LedgerError:
            assert theirs is None or theirs["text"] == TEXT
            continue
        agreed += 1
        assert theirs is not None
        assert theirs["text"] == ours.text == TEXT
        assert theirs["verified"] == [trusted.key.label for trusted in ours.trusted]
    assert agreed > 0
