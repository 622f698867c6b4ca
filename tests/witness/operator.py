"""An operator with a log of nothing but leaves: grows it, forks it, and asks witnesses to cosign what they like."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from hashlib import sha256

from ledger.checkpoint import Algorithm, Checkpoint, Note, SignerKey, open_checkpoint, sign_checkpoint
from ledger.merkle import consistency_proof, root_of
from ledger.witness import AddCheckpoint

ORIGIN = "ledger.example/gangu"
KEY = SignerKey(ORIGIN, bytes(range(32)))
NEXT_KEY = SignerKey(ORIGIN, bytes(range(32, 64)))
STRANGER = SignerKey("ledger.example/elsewhere", bytes(range(4, 36)))
WITNESS = SignerKey("提灯.example/见证", bytes(range(3, 35)), Algorithm.COSIGNATURE_V1)
NEXT_WITNESS = SignerKey("提灯.example/见证", bytes(range(5, 37)), Algorithm.COSIGNATURE_V1)
NOON = 1_795_000_000
LOGS = {ORIGIN: (KEY.verifier_key,)}


@dataclass
class Operator:
    """One view of the log; ``fork`` is another one that begins as it does."""

    leaves: list[bytes] = field(default_factory=list)
    view: str = "one"

    def grow(self, count: int) -> None:
        for number in range(len(self.leaves), len(self.leaves) + count):
            self.leaves.append(sha256(f"{self.view} {number}".encode()).digest())

    def fork(self, size: int, view: str) -> "Operator":
        return Operator(self.leaves[:size], view)

    @property
    def size(self) -> int:
        return len(self.leaves)

    def root(self, size: int) -> bytes:
        return root_of(b"".join(self.leaves[:size]))

    def note(self, size: int, keys: Sequence[SignerKey] = (KEY,), origin: str = ORIGIN) -> bytes:
        return sign_checkpoint(Checkpoint(origin, size, self.root(size)), keys).to_bytes()

    def proof(self, old: int, new: int) -> tuple[bytes, ...]:
        if not 0 < old <= new:
            return ()
        return tuple(consistency_proof(old, new, self._hash_at))

    def request(self, old: int, new: int) -> bytes:
        return AddCheckpoint(old, self.proof(old, new), self.note(new)).to_bytes()

    def _hash_at(self, height: int, index: int) -> bytes:
        return root_of(b"".join(self.leaves[index << height : (index + 1) << height]))


def grown(size: int) -> Operator:
    """A log of ``size`` leaves."""
    operator = Operator()
    operator.grow(size)
    return operator


def cosigned(note: bytes, lines: str, *witnesses: SignerKey) -> Note:
    """The note with these lines below it, if each of the witnesses cosigned it and nobody else did."""
    whole = note + lines.encode()
    opened = open_checkpoint(whole, ORIGIN, [KEY.verifier_key], [one.verifier_key for one in witnesses])
    assert [one.key for one in opened.cosignatures] == [one.verifier_key for one in witnesses]
    assert opened.unknown == ()
    return Note.parse(whole)
