"""A witness: somebody outside the operator who cosigns a log's checkpoints as long as the log only grows.

    request = "old " size newline | base64(hash) newline, for each hash of the proof | newline | the signed checkpoint
                                                                                       (c2sp.org/tlog-witness)

It needs nothing of the log but its public key: no database of ours, no fact. For each log it keeps the newest
checkpoint that it cosigned, in a file of its own, and never cosigns another tree of that size, nor a smaller one.
Order of writing: first the file (synced), then the answer. A crash in between leaves a size that the log learns when
it asks again; the same checkpoint is then cosigned once more.

    state folder: <SHA-256 of the origin, hex>   the cosigned checkpoint, as anybody may have it
                  witness.lock                   held while the witness runs

What may not live here: HTTP, and how a log makes its proofs.
"""

import logging
import re
import threading
import time
from base64 import b64decode, b64encode
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from ledger.checkpoint import (
    SIZE_MAX,
    Algorithm,
    Checkpoint,
    Note,
    OpenedCheckpoint,
    SignerKey,
    VerifierKey,
    open_checkpoint,
)
from ledger.errors import (
    CheckpointInconsistentError,
    ExpectedError,
    NoteKeyMalformedError,
    WitnessElsewhereError,
    WitnessLogUnknownError,
    WitnessRequestMalformedError,
    WitnessRunningError,
    WitnessStateDamagedError,
)
from ledger.merkle import EMPTY_ROOT, ProofError, verify_consistency
from ledger.own_file import hold, write_whole

REQUEST_BYTES_MAX = 1 << 17
"""Room for 63 hashes and a note with sixteen signatures of 5 kB, which the specification asks verifiers to take."""
PROOF_HASHES_MAX = 63
_OLD = re.compile("old (0|[1-9][0-9]{0,18})")

logger = logging.getLogger("wenming.witness")


# --- what is asked ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class AddCheckpoint:
    """A request to cosign: the size that the witness is believed to know, the proof from there, and the note."""

    old_size: int
    proof: tuple[bytes, ...]
    note: bytes

    def to_bytes(self) -> bytes:
        """The body of the request."""
        lines = [f"old {self.old_size}", *(b64encode(one).decode() for one in self.proof), ""]
        return "".join(f"{line}\n" for line in lines).encode() + self.note

    @classmethod
    def parse(cls, body: bytes) -> "AddCheckpoint":
        """The request in these bytes, its form only. WITNESS_REQUEST_MALFORMED."""
        if len(body) > REQUEST_BYTES_MAX:
            raise WitnessRequestMalformedError(problem=f"it is longer than {REQUEST_BYTES_MAX} bytes")
        head, blank, note = body.partition(b"\n\n")
        old, *encoded = head.decode("ascii", "replace").split("\n")
        size = _OLD.fullmatch(old)
        if not blank or size is None or int(size[1]) > SIZE_MAX:
            raise WitnessRequestMalformedError(
                problem="it does not begin with a size, a proof and a blank line"
            )
        if len(encoded) > PROOF_HASHES_MAX:
            raise WitnessRequestMalformedError(problem=f"the proof has more than {PROOF_HASHES_MAX} hashes")
        return cls(int(size[1]), tuple(map(_hash, encoded)), note)


def _hash(encoded: str) -> bytes:
    """Canonical base64 of 32 bytes."""
    try:
        raw = b64decode(encoded, validate=True)
    except ValueError:
        raw = b""
    if len(raw) != 32 or b64encode(raw).decode() != encoded:
        raise WitnessRequestMalformedError(problem="a line of the proof is not the base64 of a hash")
    return raw


# --- the logs it watches ---------------------------------------------------------------------------------------------


def logs_of(lines: Iterable[str]) -> dict[str, tuple[VerifierKey, ...]]:
    """Keys by origin, from lines ``VKEY [ORIGIN]``; left out, the origin is the key's name. NOTE_KEY_MALFORMED.

    Blank lines and those that begin with # say nothing. While a log's keys change, it has a line for each.
    """
    found: dict[str, tuple[VerifierKey, ...]] = {}
    for line in lines:
        vkey, _, origin = line.strip().partition(" ")
        if vkey and not vkey.startswith("#"):
            key = VerifierKey.from_text(vkey)
            origin = origin.strip() or key.name
            found[origin] = (*found.get(origin, ()), key)
    return found


# --- the witness -----------------------------------------------------------------------------------------------------


class Witness:
    """Cosigns for the logs it was given. It holds its state folder alone until `close`. WITNESS_RUNNING.

    ``keys`` cosign each with a line of its own: while keys change, the old one and the new one.
    """

    def __init__(
        self,
        folder: Path,
        keys: Sequence[SignerKey],
        logs: Mapping[str, tuple[VerifierKey, ...]],
        clock: Callable[[], float] = time.time,
    ) -> None:
        if not keys or any(key.algorithm is not Algorithm.COSIGNATURE_V1 for key in keys):
            raise NoteKeyMalformedError(problem="a witness needs keys made by: wenming key new --witness")
        if not logs:
            raise NoteKeyMalformedError(problem="a witness needs the public key of at least one log")
        self._folder, self._keys, self._clock = folder, tuple(keys), clock
        self._logs, self._turns = dict(logs), {origin: threading.Lock() for origin in logs}
        lock = hold(folder / "witness")
        if lock is None:
            raise WitnessRunningError(folder=str(folder))
        self._lock = lock

    def __enter__(self) -> "Witness":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let another witness have the folder."""
        self._lock.close()

    def add_checkpoint(self, body: bytes) -> str:
        """The cosignature lines, once what they say is on disk.

        In the order of the specification: WITNESS_REQUEST_MALFORMED, NOTE_MALFORMED or CHECKPOINT_MALFORMED;
        WITNESS_LOG_UNKNOWN; NO_TRUSTED_SIGNATURE, SIGNATURE_WRONG; WITNESS_ELSEWHERE, whose ``size`` is what it knows;
        CHECKPOINT_INCONSISTENT. After each of these it knows what it knew before.
        """
        request = AddCheckpoint.parse(body)
        origin = Checkpoint.parse(Note.parse(request.note).text).origin
        if origin not in self._logs:
            raise WitnessLogUnknownError(origin=origin)
        opened = open_checkpoint(request.note, origin, self._logs[origin])
        with self._turns[origin]:  # what is compared is what is replaced
            known = self._known(origin)
            self._require_grown(request, opened.checkpoint, known.checkpoint if known else None)
            return self._cosign(opened, known)

    def newest(self, origin_hash: str) -> bytes | None:
        """The newest checkpoint cosigned for the log whose origin has this SHA-256 (hex); None if there is none."""
        for origin in self._logs:
            if _name_of(origin) == origin_hash and self._known(origin) is not None:
                return (self._folder / origin_hash).read_bytes()
        return None

    def _require_grown(self, request: AddCheckpoint, new: Checkpoint, known: Checkpoint | None) -> None:
        """The new tree is the known one grown, or the same."""
        size, root = (known.size, known.root) if known else (0, EMPTY_ROOT)
        if request.old_size > new.size:
            raise WitnessRequestMalformedError(problem="the old size is larger than that of the checkpoint")
        if request.old_size != size:
            raise WitnessElsewhereError(origin=new.origin, size=size, asked=request.old_size)
        problem = _inconsistency(request, new, root)
        if problem is None:
            return
        refused = CheckpointInconsistentError(
            origin=new.origin, size=new.size, old_size=size, problem=problem
        )
        if (
            new.size == size
        ):  # a key of the log signed both: with the known one, this note is all the proof it takes
            logger.critical("%s\n%s", refused, request.note.decode())
        else:  # a stranger may have sent a sound checkpoint with a proof that is none
            logger.warning("%s", refused)
        raise refused

    def _cosign(self, opened: OpenedCheckpoint, known: OpenedCheckpoint | None) -> str:
        text = opened.checkpoint.to_text()
        now = max(
            int(self._clock()), _time_of(known), 1
        )  # a clock put back never makes a smaller tree look newer
        lines = [key.cosign(text, now) for key in self._keys]
        note = Note(text, (*(one.signature for one in opened.log_signatures), *lines))
        write_whole(self._folder / _name_of(opened.checkpoint.origin), note.to_bytes())
        return "".join(line.to_line() for line in lines)

    def _known(self, origin: str) -> OpenedCheckpoint | None:
        """What was cosigned last, with a cosignature of one of our keys; None before the first. WITNESS_STATE_DAMAGED.

        The log's signature was verified before it was written, and the log's keys may have changed since.
        """
        file = self._folder / _name_of(origin)
        try:
            data = file.read_bytes()
        except FileNotFoundError:
            return None
        own = [key.verifier_key for key in self._keys]
        try:
            return open_checkpoint(data, origin, own)
        except ExpectedError:
            raise WitnessStateDamagedError(file=str(file)) from None


def _inconsistency(request: AddCheckpoint, new: Checkpoint, root: bytes) -> str | None:
    """Why the new tree is not the one of ``request.old_size`` with ``root`` grown; None if it is."""
    if new.size == request.old_size and new.root != root:
        return "the tree of this size has another root"
    if request.old_size == 0:
        return "of the empty tree there is nothing to prove" if request.proof else None
    try:
        verify_consistency(request.old_size, new.size, request.proof, root, new.root)
    except ProofError as error:
        return error.reason
    return None


def _time_of(known: OpenedCheckpoint | None) -> int:
    signed = known.log_signatures if known else ()
    return max((one.time_seconds or 0 for one in signed), default=0)


def _name_of(origin: str) -> str:
    return sha256(origin.encode()).hexdigest()
