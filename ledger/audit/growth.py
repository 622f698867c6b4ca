"""Whether a log only grew: that all of an earlier one, of which something was kept elsewhere, is its beginning.

What was kept is a bundle or a checkpoint. Of an earlier bundle its opening is read, and its hashes beside the facts, so
that the first fact that is another is named; of both, the root is compared with that of the facts themselves.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ledger.audit.report import Findings
from ledger.bundle import (
    Contents,
    ZipReader,
    checkpoint_of,
    checkpoints_path,
    chunk_count,
    chunk_tiles,
    facts_path,
    read_opening,
)
from ledger.checkpoint import NOTE_BYTES_MAX, Checkpoint, VerifierKey, open_note
from ledger.errors import BundleWrongError, ExpectedError
from ledger.merkle import (
    Frontier,
    ProofError,
    ReadTile,
    TileError,
    TileHashes,
    consistency_proof,
    verify_consistency,
)


@dataclass(frozen=True)
class Earlier:
    """What was kept: a checkpoint with its note, and of a bundle what it claims, its keys and its leaf hashes."""

    checkpoint: Checkpoint
    note: str
    contents: Contents | None = None
    keys: tuple[VerifierKey, ...] = ()
    leaves: Iterable[bytes] = ()


@contextmanager
def earlier(path: Path) -> Iterator[Earlier]:
    """The bundle or the checkpoint in a file; its leaf hashes are read as they are needed. BUNDLE_WRONG."""
    with path.open("rb") as file:
        start = file.read(4)
        file.seek(0)
        if start == b"PK\x03\x04":
            reader = ZipReader(file)
            opening = read_opening(reader)
            leaves = _leaves(reader, opening.contents.size)
            yield Earlier(opening.checkpoint, opening.note, opening.contents, opening.keys, leaves)
        else:
            try:
                note = file.read(NOTE_BYTES_MAX + 1).decode()
            except UnicodeDecodeError:
                raise BundleWrongError(
                    place=path.name, problem="it is neither a bundle nor a checkpoint"
                ) from None
            yield Earlier(checkpoint_of(note, path.name), note)


def _leaves(reader: ZipReader, size: int) -> Iterator[bytes]:
    """The leaf hashes of a bundle, from its tiles; the facts are passed over."""
    for chunk in range(chunk_count(size)):
        reader.skip(checkpoints_path(chunk))
        for tile in chunk_tiles(chunk, size):
            data = reader.whole(tile.path)
            if tile.level == 0:
                yield from (data[at : at + 32] for at in range(0, len(data), 32))
        reader.skip(facts_path(chunk))


class Growth:
    """Compares an earlier log with the facts of now, as they are met."""

    def __init__(self, kept: Earlier, findings: Findings) -> None:
        self._kept, self._found = kept, findings.found
        self.size = kept.checkpoint.size
        self._leaves = iter(kept.leaves)
        self._knows_leaves, self._apart_at = kept.contents is not None, 0

    def leaf(self, leaf: bytes, tree: Frontier) -> None:
        """The next leaf of now, which ``tree`` holds already."""
        if tree.size > self.size:
            return
        if self._knows_leaves and not self._apart_at and next(self._leaves, None) != leaf:
            self._apart_at = tree.size
        if tree.size == self.size:
            self._compare_root(tree)

    def _compare_root(self, tree: Frontier) -> None:
        if tree.root() != self._kept.checkpoint.root:
            self._tell_apart()
            self._found(self._apart_at or 1, "SINCE_ROOT_DIFFERS", old=self.size)
        elif self._apart_at:  # the facts are those that were signed then
            raise BundleWrongError(
                place="the earlier bundle", problem="its tiles are not those of its checkpoint"
            )

    def _tell_apart(self) -> None:
        if self._apart_at:
            self._found(self._apart_at, "SINCE_FACT_DIFFERS")

    def compare(self, origin: str | None, now: Mapping[str, str], keys: Sequence[VerifierKey]) -> None:
        """Whether both are of one ledger, and a key that is known signed the earlier checkpoint too."""
        said = {"origin": self._kept.checkpoint.origin}
        if self._kept.contents is not None:
            contents = self._kept.contents
            said |= {
                "ledger_id": contents.ledger_id,
                "kind": contents.kind,
                "created_at": contents.created_at,
            }
        known = dict(now) if origin is None else {**now, "origin": origin}
        for what in (what for what in said if what in known and said[what] != known[what]):
            self._found(None, "SINCE_LEDGER_DIFFERS", what=what)
        if keys and not self._is_signed(keys):
            self._found(None, "SINCE_NOTE_WRONG")

    def compare_keys(self, keys: Sequence[VerifierKey]) -> None:
        """Whether the keys of now still name those of the earlier bundle."""
        for key in self._kept.keys:
            if key not in keys:
                self._found(None, "SINCE_KEYS_DIFFER", key=key.label)

    def _is_signed(self, keys: Sequence[VerifierKey]) -> bool:
        try:
            open_note(self._kept.note.encode(), keys)
        except ExpectedError:
            return False
        return True

    def finish(
        self, tree: Frontier, newest: tuple[int, bytes] | None, read_tile: ReadTile | None = None
    ) -> None:
        """Whether there are still enough facts, and the proof that the tiles of the newest checkpoint give holds."""
        if tree.size < self.size:
            self._tell_apart()
            first = tree.size + 1
            self._found(first, "SINCE_LARGER", old=self.size, size=tree.size, first=first)
        if newest is None or read_tile is None or not 0 < self.size <= newest[0]:
            return
        size, root = newest
        try:
            proof = consistency_proof(self.size, size, TileHashes(size, read_tile))
            verify_consistency(self.size, size, proof, self._kept.checkpoint.root, root)
        except (ProofError, TileError):
            self._found(None, "SINCE_PROOF_WRONG", old=self.size, size=size)
