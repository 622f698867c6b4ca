"""What a witness promises: it cosigns what only grew, never two trees of one size, and never goes back."""

import logging
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger import own_file
from ledger import witness as witnessing
from ledger.checkpoint import Checkpoint, Note, Signature, SignerKey, open_checkpoint, sign, sign_checkpoint
from ledger.errors import (
    CheckpointInconsistentError,
    CheckpointMalformedError,
    ExpectedError,
    NoteKeyMalformedError,
    NoteMalformedError,
    NoTrustedSignatureError,
    SignatureWrongError,
    WitnessElsewhereError,
    WitnessLogUnknownError,
    WitnessRequestMalformedError,
    WitnessRunningError,
    WitnessStateDamagedError,
)
from ledger.merkle import EMPTY_ROOT
from ledger.witness import PROOF_HASHES_MAX, REQUEST_BYTES_MAX, AddCheckpoint, Witness, logs_of
from tests.witness.operator import (
    KEY,
    LOGS,
    NEXT_KEY,
    NEXT_WITNESS,
    NOON,
    ORIGIN,
    STRANGER,
    WITNESS,
    Operator,
    cosigned,
    grown,
)

NAME = sha256(ORIGIN.encode()).hexdigest()


def opened(folder: Path, *keys: SignerKey, now: float = NOON) -> Witness:
    return Witness(folder, keys or [WITNESS], LOGS, clock=lambda: now)


@pytest.fixture
def witness(tmp_path: Path) -> Iterator[Witness]:
    with opened(tmp_path) as witness:
        yield witness


def knows(witness: Witness) -> tuple[int, bytes] | None:
    """Size and root of what it cosigned last, as it tells anybody."""
    note = witness.newest(NAME)
    if note is None:
        return None
    found = open_checkpoint(note, ORIGIN, [KEY.verifier_key], [WITNESS.verifier_key])
    assert found.witness_names == {WITNESS.name}
    return found.checkpoint.size, found.checkpoint.root


# --- it cosigns ------------------------------------------------------------------------------------------------------


def test_a_log_that_grows_is_cosigned_at_every_step(witness: Witness) -> None:
    log, old = grown(300), 0
    assert knows(witness) is None
    for new in (0, 1, 1, 2, 7, 8, 255, 256, 257, 300, 300):
        lines = witness.add_checkpoint(log.request(old, new))
        note = cosigned(log.note(new), lines, WITNESS)
        assert witness.newest(NAME) == note.to_bytes()
        assert knows(witness) == (new, log.root(new))
        old = new


def test_it_knows_after_a_restart_what_it_knew_before(tmp_path: Path) -> None:
    log = grown(9)
    with opened(tmp_path) as first:
        first.add_checkpoint(log.request(0, 5))
    with opened(tmp_path) as second:
        assert knows(second) == (5, log.root(5))
        with pytest.raises(WitnessElsewhereError) as elsewhere:
            second.add_checkpoint(log.request(0, 9))
        assert elsewhere.value.details["size"] == 5
        second.add_checkpoint(log.request(5, 9))


def test_what_it_keeps_is_for_its_owner_and_is_the_note_with_the_logs_signature(
    witness: Witness, tmp_path: Path
) -> None:
    log = grown(3)
    with_others = Note.parse(log.note(3, [STRANGER, KEY])).with_signatures(
        [NEXT_WITNESS.cosign(Note.parse(log.note(3)).text, 7)]
    )
    lines = witness.add_checkpoint(AddCheckpoint(0, (), with_others.to_bytes()).to_bytes())
    kept = tmp_path / NAME
    assert kept.read_bytes() == log.note(3) + lines.encode()
    assert kept.stat().st_mode & 0o777 == 0o600
    assert witness.newest("00" * 32) is None


def test_each_log_has_a_state_of_its_own(tmp_path: Path) -> None:
    log = grown(5)
    logs = {**LOGS, STRANGER.name: (STRANGER.verifier_key,)}
    with Witness(tmp_path, [WITNESS], logs, clock=lambda: NOON) as witness:
        witness.add_checkpoint(log.request(0, 5))
        other = log.note(2, [STRANGER], STRANGER.name)
        witness.add_checkpoint(AddCheckpoint(0, (), other).to_bytes())
        assert knows(witness) == (5, log.root(5))


def test_both_its_keys_cosign_while_they_change(tmp_path: Path) -> None:
    log = grown(9)
    with opened(tmp_path) as before:
        before.add_checkpoint(log.request(0, 2))
    with opened(tmp_path, WITNESS, NEXT_WITNESS) as both:
        cosigned(log.note(5), both.add_checkpoint(log.request(2, 5)), WITNESS, NEXT_WITNESS)
    with opened(tmp_path, NEXT_WITNESS) as after:
        cosigned(log.note(9), after.add_checkpoint(log.request(5, 9)), NEXT_WITNESS)


def test_both_keys_of_the_log_are_good_while_they_change(tmp_path: Path) -> None:
    log, both = grown(4), {ORIGIN: (KEY.verifier_key, NEXT_KEY.verifier_key)}
    with Witness(tmp_path, [WITNESS], both) as witness:
        witness.add_checkpoint(AddCheckpoint(0, (), log.note(3, [KEY])).to_bytes())
        witness.add_checkpoint(AddCheckpoint(3, log.proof(3, 4), log.note(4, [NEXT_KEY])).to_bytes())
        witness.add_checkpoint(AddCheckpoint(4, (), log.note(4, [KEY, NEXT_KEY])).to_bytes())


def test_a_clock_put_back_never_makes_a_smaller_tree_look_newer(tmp_path: Path) -> None:
    log, times = grown(3), []
    for new, now in ((1, NOON), (2, NOON - 500), (3, NOON + 1.9)):
        with opened(tmp_path, now=now) as witness:
            lines = witness.add_checkpoint(log.request(new - 1, new))
        found = open_checkpoint(
            log.note(new) + lines.encode(), ORIGIN, [KEY.verifier_key], [WITNESS.verifier_key]
        )
        times.append(found.cosignatures[0].time_seconds)
    assert times == [NOON, NOON, NOON + 1]


def test_a_cosignature_always_has_a_time(tmp_path: Path) -> None:
    log = grown(1)
    with opened(tmp_path, now=0.0) as witness:
        line = Signature.from_line(witness.add_checkpoint(log.request(0, 1))[:-1])
    assert int.from_bytes(line.value[:8], "big") == 1


# --- it refuses ------------------------------------------------------------------------------------------------------

LOG = grown(12)
FORK = LOG.fork(4, "another")
FORK.grow(8)
TEXT = Checkpoint(ORIGIN, 9, LOG.root(9)).to_text()
FORGED = SignerKey(ORIGIN, bytes(32))
WRONG = Note(TEXT, (Signature(ORIGIN, KEY.verifier_key.key_id, bytes(64)),))


def asked(old: int, proof: tuple[bytes, ...], note: bytes) -> bytes:
    return AddCheckpoint(old, proof, note).to_bytes()


def signed(size: int, root: bytes) -> bytes:
    return sign_checkpoint(Checkpoint(ORIGIN, size, root), [KEY]).to_bytes()


REFUSED: dict[str, tuple[bytes, type[ExpectedError]]] = {
    "nothing": (b"", WitnessRequestMalformedError),
    "no note": (b"old 5\n\n", NoteMalformedError),
    "no blank line": (b"old 5\n", WitnessRequestMalformedError),
    "no size": (b"\n" + LOG.request(5, 9), WitnessRequestMalformedError),
    "a leading zero": (LOG.request(5, 9).replace(b"old 5", b"old 05"), WitnessRequestMalformedError),
    "two spaces": (LOG.request(5, 9).replace(b"old 5", b"old  5"), WitnessRequestMalformedError),
    "a sign": (LOG.request(5, 9).replace(b"old 5", b"old +5"), WitnessRequestMalformedError),
    "digits of another script": (
        LOG.request(5, 9).replace(b"old 5", "old ５".encode()),
        WitnessRequestMalformedError,
    ),
    "a size beyond 63 bits": (asked(2**63, (), LOG.note(9)), WitnessRequestMalformedError),
    "CRLF": (LOG.request(5, 9).replace(b"\n", b"\r\n"), WitnessRequestMalformedError),
    "a hash of 31 bytes": (asked(5, (bytes(31),), LOG.note(9)), WitnessRequestMalformedError),
    "a hash that is no base64": (
        LOG.request(5, 9).replace(b"old 5\n", b"old 5\n!\n"),
        WitnessRequestMalformedError,
    ),
    "unused bits that are set": (
        b"old 5\n" + b"A" * 42 + b"B=\n\n" + LOG.note(9),
        WitnessRequestMalformedError,
    ),
    "64 hashes": (asked(5, (bytes(32),) * 64, LOG.note(9)), WitnessRequestMalformedError),
    "too long": (asked(5, (), b"x" * REQUEST_BYTES_MAX), WitnessRequestMalformedError),
    "a note that is none": (asked(5, (), b"no note"), NoteMalformedError),
    "a note that is no checkpoint": (
        asked(5, (), sign("a\nb\n", [KEY]).to_bytes()),
        CheckpointMalformedError,
    ),
    "another log": (asked(0, (), LOG.note(9, [STRANGER], STRANGER.name)), WitnessLogUnknownError),
    "another log under its name": (asked(5, (), LOG.note(9, [STRANGER])), NoTrustedSignatureError),
    "a key of the same name": (asked(5, LOG.proof(5, 9), LOG.note(9, [FORGED])), NoTrustedSignatureError),
    "a wrong signature": (asked(5, LOG.proof(5, 9), WRONG.to_bytes()), SignatureWrongError),
    "an old size above the new": (asked(6, (), LOG.note(5)), WitnessRequestMalformedError),
    "an old size below what it knows": (LOG.request(4, 9), WitnessElsewhereError),
    "no old size": (LOG.request(0, 9), WitnessElsewhereError),
    "an old size above what it knows": (LOG.request(6, 9), WitnessElsewhereError),
    "an older checkpoint": (LOG.request(3, 4), WitnessElsewhereError),
    "another tree of the same size": (FORK.request(5, 5), CheckpointInconsistentError),
    "a proof of the same size": (asked(5, (bytes(32),), LOG.note(5)), CheckpointInconsistentError),
    "a fork": (FORK.request(5, 9), CheckpointInconsistentError),
    "a fork with the honest proof": (asked(5, LOG.proof(5, 9), FORK.note(9)), CheckpointInconsistentError),
    "a fork from before": (asked(5, FORK.proof(4, 9), FORK.note(9)), CheckpointInconsistentError),
    "a missing proof": (asked(5, (), LOG.note(9)), CheckpointInconsistentError),
    "a proof cut short": (asked(5, LOG.proof(5, 9)[:-1], LOG.note(9)), CheckpointInconsistentError),
    "a proof too long": (asked(5, (*LOG.proof(5, 9), bytes(32)), LOG.note(9)), CheckpointInconsistentError),
}
"""What a witness that knows the first five leaves refuses, and how."""


@pytest.mark.parametrize("case", REFUSED)
def test_what_it_refuses_leaves_it_as_it_was(witness: Witness, tmp_path: Path, case: str) -> None:
    witness.add_checkpoint(LOG.request(0, 5))
    before = (tmp_path / NAME).read_bytes()
    body, refusal = REFUSED[case]
    with pytest.raises(ExpectedError) as refused:
        witness.add_checkpoint(body)
    assert type(refused.value) is refusal
    if isinstance(refused.value, WitnessElsewhereError):
        assert refused.value.details["size"] == 5
    assert (tmp_path / NAME).read_bytes() == before
    witness.add_checkpoint(LOG.request(5, 9))


@pytest.mark.parametrize(
    ("body", "refusal"),
    [
        (asked(0, (bytes(32),), LOG.note(9)), CheckpointInconsistentError),
        (asked(0, (), signed(0, bytes(32))), CheckpointInconsistentError),
        (asked(0, (bytes(32),), signed(0, EMPTY_ROOT)), CheckpointInconsistentError),
        (LOG.request(1, 9), WitnessElsewhereError),
    ],
)
def test_of_nothing_nothing_is_proven(witness: Witness, body: bytes, refusal: type[ExpectedError]) -> None:
    with pytest.raises(refusal):
        witness.add_checkpoint(body)
    assert knows(witness) is None


def test_two_signed_trees_of_one_size_are_cried_out_with_the_note(
    witness: Witness, caplog: pytest.LogCaptureFixture
) -> None:
    witness.add_checkpoint(LOG.request(0, 5))
    for body, level in ((FORK.request(5, 5), logging.CRITICAL), (FORK.request(5, 9), logging.WARNING)):
        caplog.clear()
        with pytest.raises(CheckpointInconsistentError):
            witness.add_checkpoint(body)
        assert [record.levelno for record in caplog.records] == [level]
        assert (FORK.note(5).decode() in caplog.text) == (level == logging.CRITICAL)


def test_the_longest_proof_is_read() -> None:
    request = AddCheckpoint(5, (bytes(32),) * PROOF_HASHES_MAX, LOG.note(9))
    assert AddCheckpoint.parse(request.to_bytes()) == request


@given(st.integers(0, 2**63 - 1), st.lists(st.binary(min_size=32, max_size=32), max_size=63))
def test_a_request_is_read_as_it_was_written(old: int, proof: list[bytes]) -> None:
    request = AddCheckpoint(old, tuple(proof), LOG.note(9))
    assert AddCheckpoint.parse(request.to_bytes()) == request


@given(st.binary(max_size=300), st.integers(0, 400))
def test_rubbish_is_refused_by_name(rubbish: bytes, at: int) -> None:
    whole = LOG.request(5, 9)
    for body in (rubbish, whole[:at] + rubbish, whole[:at] + rubbish + whole[at + len(rubbish) :]):
        try:
            again = AddCheckpoint.parse(body).to_bytes()
        except WitnessRequestMalformedError:
            continue
        assert again == body


# --- what it is given ------------------------------------------------------------------------------------------------


def test_logs_are_named_by_their_keys_or_by_what_stands_beside() -> None:
    lines = [
        "# 甘谷",
        "",
        KEY.verifier_key.to_text(),
        f"{NEXT_KEY.verifier_key.to_text()}  {ORIGIN} ",
        f"{STRANGER.verifier_key.to_text()} 另一个 账本",
    ]
    assert logs_of(lines) == {
        ORIGIN: (KEY.verifier_key, NEXT_KEY.verifier_key),
        "另一个 账本": (STRANGER.verifier_key,),
    }
    with pytest.raises(NoteKeyMalformedError):
        logs_of([ORIGIN])


@pytest.mark.parametrize(("keys", "logs"), [([], LOGS), ([WITNESS, KEY], LOGS), ([WITNESS], {})])
def test_it_needs_a_key_that_cosigns_and_a_log(tmp_path: Path, keys: list[SignerKey], logs: Any) -> None:
    with pytest.raises(NoteKeyMalformedError):
        Witness(tmp_path, keys, logs)


def test_its_folder_is_for_one_process_only(tmp_path: Path) -> None:
    with opened(tmp_path), pytest.raises(WitnessRunningError):
        opened(tmp_path)
    opened(tmp_path).close()


@pytest.mark.parametrize("how", ["rubbish", "cut", "another size", "another log", "another key"])
def test_what_it_cannot_read_it_does_not_replace(tmp_path: Path, how: str) -> None:
    with opened(tmp_path) as witness:
        lines = witness.add_checkpoint(LOG.request(0, 5))
    file, whole = tmp_path / NAME, LOG.note(5) + lines.encode()
    text = Checkpoint("another.example/log", 5, LOG.root(5)).to_text()
    damaged = {
        "rubbish": b"rubbish",
        "cut": whole[:-20],
        "another size": whole.replace(b"\n5\n", b"\n4\n"),
        "another log": Note(text, (WITNESS.cosign(text, 5),)).to_bytes(),
        "another key": LOG.note(5) + NEXT_WITNESS.cosign(Note.parse(whole).text, 5).to_line().encode(),
    }[how]
    file.write_bytes(damaged)
    with opened(tmp_path) as witness:
        for refused in (lambda: witness.add_checkpoint(LOG.request(5, 9)), lambda: witness.newest(NAME)):
            with pytest.raises(WitnessStateDamagedError):
                refused()
    assert file.read_bytes() == damaged


# --- always and never ------------------------------------------------------------------------------------------------


class PowerCutError(Exception):
    """The process ends here."""


@pytest.mark.parametrize(
    ("owner", "step", "after"),
    [
        (own_file.os, "fsync", False),
        (own_file.os, "replace", False),
        (own_file.os, "replace", True),
        (witnessing, "write_whole", True),
    ],
)
def test_a_crash_anywhere_leaves_what_was_or_what_is_to_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, owner: Any, step: str, after: bool
) -> None:
    with opened(tmp_path) as witness:
        witness.add_checkpoint(LOG.request(0, 5))
        real: Callable[..., Any] = getattr(owner, step)

        def stopping(*arguments: Any) -> None:
            if after:
                real(*arguments)
            raise PowerCutError

        with monkeypatch.context() as patch:
            patch.setattr(owner, step, stopping)
            with pytest.raises(PowerCutError):
                witness.add_checkpoint(LOG.request(5, 9))
    with opened(tmp_path) as witness:
        size = 9 if after else 5
        assert knows(witness) == (size, LOG.root(size))
        cosigned(LOG.note(9), witness.add_checkpoint(LOG.request(size, 9)), WITNESS)


def test_a_disk_that_is_full_gives_no_cosignature(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with opened(tmp_path) as witness:
        witness.add_checkpoint(LOG.request(0, 5))

        def full(*_: Any) -> None:
            raise OSError(28, os.strerror(28))

        with monkeypatch.context() as patch:
            patch.setattr(own_file.os, "fsync", full)
            with pytest.raises(OSError, match="No space"):
                witness.add_checkpoint(LOG.request(5, 9))
        assert knows(witness) == (5, LOG.root(5))


STEPS = st.lists(
    st.tuples(
        st.integers(0, 2),  # whose view
        st.sampled_from(["grow", "fork", "submit", "submit", "submit", "restart"]),
        st.integers(0, 12),
        st.sampled_from(["known", "known", "zero", "other"]),
    ),
    max_size=40,
)


@given(STEPS)
def test_whatever_an_operator_tries_one_history_is_cosigned(steps: list[tuple[int, str, int, str]]) -> None:
    """Three views of one log grow, copy each other and are submitted at will; a model says what must be answered."""
    views, known, history = [Operator(view=str(i)) for i in range(3)], (0, EMPTY_ROOT), dict[int, bytes]()
    with TemporaryDirectory() as place:
        witness = opened(Path(place))
        for who, what, number, believed in steps:
            view = views[who]
            if what == "grow":
                view.grow(number)
            elif what == "fork":
                views[who] = views[number % 3].fork(min(number, views[number % 3].size), f"{who} again")
            elif what == "restart":
                witness.close()
                witness = opened(Path(place))
            else:
                new = max(0, view.size - number // 4)
                old = {"known": known[0], "zero": 0, "other": number}[believed]
                if old > new or old != known[0] or view.root(old) != known[1]:
                    refusal = "MALFORMED" if old > new else "ELSEWHERE" if old != known[0] else "INCONSISTENT"
                    with pytest.raises(ExpectedError) as refused:
                        witness.add_checkpoint(view.request(old, new))
                    assert refused.value.code.endswith(refusal)
                    continue
                cosigned(view.note(new), witness.add_checkpoint(view.request(old, new)), WITNESS)
                known = (new, view.root(new))
                assert history.setdefault(new, view.root(new)) == view.root(new)
        witness.close()


def test_many_at_once_never_roll_it_back(witness: Witness) -> None:
    log = grown(120)
    with ThreadPoolExecutor(8) as pool:
        asked_for = [(old, new) for old in range(0, 120, 7) for new in range(old, 121, 17)]
        answers = list(pool.map(lambda sizes: _answer(witness, log, *sizes), asked_for * 3))
    won = [new for (_, new), ok in zip(asked_for * 3, answers, strict=True) if ok]
    assert won
    known = knows(witness)
    assert known is not None
    assert known[0] == max(won)


def _answer(witness: Witness, log: Operator, old: int, new: int) -> bool:
    try:
        cosigned(log.note(new), witness.add_checkpoint(log.request(old, new)), WITNESS)
    except WitnessElsewhereError:
        return False
    return True
