"""A proof in a file of its own: that a fact is in the log, for somebody who has no access to it.

    proof = "c2sp.org/tlog-proof@v1" newline "extra " base64(entry) newline "index " leaf index newline
            | base64(hash) newline, for each hash of the path | newline | the signed checkpoint  (c2sp.org/tlog-proof)

What may not live here: databases and clocks. The text comes in as it was received, and nothing of it is believed.
"""

import re
from base64 import b64decode, b64encode
from collections.abc import Iterable
from dataclasses import dataclass
from uuid import UUID

from ledger import merkle
from ledger.checkpoint import OpenedCheckpoint, VerifierKey, open_checkpoint
from ledger.errors import ProofWrongError

HEADER = "c2sp.org/tlog-proof@v1"
PROOF_BYTES_MAX = 2_000_000
_INDEX = re.compile("index (0|[1-9][0-9]{0,18})")


@dataclass(frozen=True)
class EntryParts:
    """What an entry says of its fact; ``state_digest`` is the SHA-256 of the stored state."""

    stream_id: UUID
    version: int
    topic: str
    state_digest: bytes


@dataclass(frozen=True)
class InclusionProof:
    """The entry with leaf ``index``, its path, and the note of the checkpoint that the path leads to."""

    entry: bytes
    index: int
    path: tuple[bytes, ...]
    note: str

    def to_text(self) -> str:
        """The proof as it is handed out."""
        lines = [HEADER, f"extra {_base64(self.entry)}", f"index {self.index}", *map(_base64, self.path), ""]
        return "".join(f"{line}\n" for line in lines) + self.note

    @classmethod
    def parse(cls, data: bytes) -> "InclusionProof":
        """The proof in these bytes, its form only: `check` says whether it holds. PROOF_WRONG."""
        try:
            head, blank, note = data[:PROOF_BYTES_MAX].decode().partition("\n\n")
        except UnicodeDecodeError:
            raise ProofWrongError(problem="it is not UTF-8") from None
        header, *lines = head.split("\n")
        if header != HEADER or not blank or len(lines) < 2 or len(data) > PROOF_BYTES_MAX:
            raise ProofWrongError(problem=f"it is not a proof of the form {HEADER}")
        extra, index, *path = lines
        found = _INDEX.fullmatch(index)
        if found is None or not extra.startswith("extra "):
            raise ProofWrongError(problem="it names no entry and no index")
        return cls(_bytes(extra[6:]), int(found[1]), tuple(map(_bytes, path)), note)

    def check(
        self, keys: Iterable[VerifierKey], origin: str, witness_keys: Iterable[VerifierKey] = ()
    ) -> OpenedCheckpoint:
        """The checkpoint under which the entry is proven to lie. PROOF_WRONG, and what `open_checkpoint` raises."""
        opened = open_checkpoint(self.note.encode(), origin, keys, witness_keys)
        leaf, tree = merkle.entry_hash(self.entry), opened.checkpoint
        try:
            merkle.verify_inclusion(leaf, self.index, tree.size, list(self.path), tree.root)
        except merkle.ProofError as error:
            raise ProofWrongError(problem=error.reason) from None
        return opened

    def parts(self) -> EntryParts:
        """What the entry says; PROOF_WRONG if it is not one of ours."""
        start = len(merkle.ENTRY_LABEL)
        topic_at = start + 16 + 8 + 2
        topic_end = topic_at + int.from_bytes(self.entry[topic_at - 2 : topic_at], "big")
        if not self.entry.startswith(merkle.ENTRY_LABEL) or len(self.entry) != topic_end + 32:
            raise ProofWrongError(problem="the entry is not that of a fact")
        return EntryParts(
            UUID(bytes=self.entry[start : start + 16]),
            int.from_bytes(self.entry[start + 16 : start + 24], "big"),
            self.entry[topic_at:topic_end].decode(errors="replace"),
            self.entry[topic_end:],
        )


def _base64(raw: bytes) -> str:
    return b64encode(raw).decode()


def _bytes(encoded: str) -> bytes:
    """Canonical base64 only; PROOF_WRONG for any other spelling."""
    try:
        raw = b64decode(encoded, validate=True)
    except ValueError:
        raw = b""
    if not raw or _base64(raw) != encoded:
        raise ProofWrongError(problem="a line is not canonical base64")
    return raw
