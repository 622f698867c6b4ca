"""The audit of what was signed: every checkpoint and every tile beside the tree that the facts themselves give.

It is told each recomputed leaf as the audit meets it, and keeps the hashes of one unfinished tile a level. It writes
nothing, believes no column, and knows nothing of facts. A past that was rewritten to fit itself shows here: the first
checkpoint that does not fit is named, and where the tiles were left alone, the first fact.
"""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

from sqlalchemy import Connection, text

from ledger.checkpoint import Checkpoint, Note, TrustedSignature, VerifierKey
from ledger.errors import ExpectedError
from ledger.merkle import TILE_HEIGHT, TILE_WIDTH, Frontier, Tile, new_tiles, root_of


class Found(Protocol):
    """Where defects go: the earliest position they can be pinned to, their code, and what their sentence needs."""

    def __call__(self, position: int | None, code: str, **details: object) -> None: ...


StoredTile = Callable[[int, int], tuple[Any, bytes]]


@dataclass(frozen=True)
class Witnessed:
    """The newest checkpoint that a witness (its key's label) cosigned, and when: POSIX seconds, the witness's word."""

    witness: str
    size: int
    time_seconds: int


class TreeAudit:
    """Walks checkpoints and tiles beside the leaves.

    ``size`` is that of the newest checkpoint, ``stored`` says width and hashes of a tile at a level and index.
    With ``keys``, each note must be signed by one of them. Only before the first that is, checkpoints may bear keys
    that were not given: the log's earlier ones, perhaps. They are counted, and the later checkpoints cover what they
    cover. Of ``witness_keys`` no cosignature may be wrong, and ``witnesses_min`` must stand under the newest.
    With ``origin``, each must be of that log.
    """

    def __init__(
        self,
        size: int,
        stored: StoredTile,
        found: Found,
        keys: Sequence[VerifierKey],
        witness_keys: Sequence[VerifierKey] = (),
        witnesses_min: int = 0,
        origin: str | None = None,
    ) -> None:
        self.size, self._stored, self._found = size, stored, found
        self._keys, self._witness_keys, self._origin = tuple(keys), tuple(witness_keys), origin
        self._witnesses_min = witnesses_min
        self._before_keys: list[int] | None = []
        self._witnessed: dict[str, Witnessed] = {}
        self._newest: tuple[int, frozenset[str]] = (0, frozenset())
        self._enough = 0
        self.checkpoints = self.checkpoints_of_other_keys = self.tiles = 0
        self._fits_until, self._is_apart = 0, False
        self._rows: list[bytearray] = []
        self._tiles_begun: list[int] = []
        self._waiting: deque[tuple[int, bytes, bytes]] = deque()

    def expect(self, size: int, root: bytes, note: bytes) -> None:
        """A checkpoint, larger than those before it, that is still to be met."""
        self._waiting.append((size, root, note))

    def leaf(self, leaf: bytes, tree: Frontier) -> None:
        """The next leaf, which ``tree`` holds already."""
        self._add(0, leaf)
        if self._waiting and tree.size == self._waiting[0][0]:
            self._compare(*self._waiting.popleft(), tree)

    def finish(self, tree: Frontier) -> None:
        """There are no more leaves: what is left are partial tiles, and checkpoints of facts that are not there."""
        for level in range(len(self._rows)):
            if self._rows[level]:
                self._compare_tile(level)
        while self._waiting:
            self._compare(*self._waiting.popleft(), tree)
        for size in self._before_keys or ():
            self._found(None, "CHECKPOINT_NOTE_WRONG", size=size)
        size, names = self._newest
        require_witnesses(self._found, size, len(names), self._witnesses_min, self._enough)

    @property
    def checks(self) -> dict[str, int]:
        """How many of each kind were checked."""
        others = self.checkpoints_of_other_keys
        return {"checkpoints": self.checkpoints, "tiles": self.tiles} | (
            {"checkpoints of keys not given": others} if others else {}
        )

    @property
    def witnessed(self) -> tuple[Witnessed, ...]:
        """How far each of the known witnesses has cosigned, by name."""
        return tuple(self._witnessed[name] for name in sorted(self._witnessed))

    # -- checkpoints --

    def _compare(self, size: int, root: bytes, note: bytes, tree: Frontier) -> None:
        self.checkpoints += 1
        self._check_note(size, root, note)
        if (tree.size, tree.root()) == (size, root):
            self._fits_until = size
        elif not self._is_apart:  # every later one would be wrong for the same reason
            self._is_apart = True
            self._found(self._fits_until + 1, "CHECKPOINT_WRONG", size=size, first=self._fits_until + 1)

    def _check_note(self, size: int, root: bytes, note: bytes) -> None:
        """The note says what the row says, in the name of one of the keys if there are any to ask for."""
        try:
            parsed = Note.parse(note)
            said = Checkpoint.parse(parsed.text)
            trusted = self._trusted(parsed)
        except ExpectedError:
            self._found(None, "CHECKPOINT_NOTE_WRONG", size=size)
            return
        self._note_witnesses(size, [one for one in trusted if one.key in self._witness_keys])
        if (said.size, said.root) != (size, root) or not self._is_by_the_log(size, trusted):
            self._found(None, "CHECKPOINT_NOTE_WRONG", size=size)
        elif self._origin is not None and said.origin != self._origin:
            self._found(None, "CHECKPOINT_ORIGIN_WRONG", size=size)

    def _trusted(self, note: Note) -> list[TrustedSignature]:
        """Every signature of a known key; SIGNATURE_WRONG if one is not."""
        known = {(key.name, key.key_id): key for key in (*self._keys, *self._witness_keys)}
        lines = [(known.get(line.identity), line) for line in note.signatures]
        return [key.verify(note.text, line) for key, line in lines if key is not None]

    def _is_by_the_log(self, size: int, trusted: Sequence[TrustedSignature]) -> bool:
        """Of a checkpoint before the first that is, it is decided when that one is met, or at the end."""
        if not self._keys:
            return True
        if any(one.key in self._keys for one in trusted):
            self.checkpoints_of_other_keys += len(self._before_keys or ())
            self._before_keys = None
            return True
        if self._before_keys is None:
            return False
        self._before_keys.append(size)
        return True

    def _note_witnesses(self, size: int, cosignatures: Sequence[TrustedSignature]) -> None:
        names = frozenset(one.key.name for one in cosignatures)
        self._newest = (size, names)
        if len(names) >= self._witnesses_min:
            self._enough = size
        for one in cosignatures:
            self._witnessed[one.key.label] = Witnessed(one.key.label, size, one.time_seconds or 0)

    # -- tiles --

    def _add(self, level: int, node: bytes) -> None:
        if level == len(self._rows):
            self._rows.append(bytearray())
            self._tiles_begun.append(0)
        row = self._rows[level]
        row += node
        if len(row) == 32 * TILE_WIDTH:
            self._compare_tile(level)
            above = root_of(bytes(row))
            row.clear()
            self._tiles_begun[level] += 1
            self._add(level + 1, above)

    def _compare_tile(self, level: int) -> None:
        """The tile in hand, as wide as the newest checkpoint has it, and the stored one."""
        index = self._tiles_begun[level]
        width = min(TILE_WIDTH, (self.size >> (TILE_HEIGHT * level)) - index * TILE_WIDTH)
        if width <= 0:
            return
        self.tiles += 1
        computed = bytes(self._rows[level][: 32 * width])
        stored = self._stored(level, index)
        if stored != (width, computed):
            at = _first_apart(computed, stored[1])
            first = ((index * TILE_WIDTH + at) << (TILE_HEIGHT * level)) + 1
            self._found(first, "TILE_WRONG", path=Tile(level, index, width).path, first=first)


class StoredTree:
    """What was signed, in the tables of a log inside the audit's snapshot."""

    def __init__(
        self, connection: Connection, found: Found, tolerant: Callable[[], AbstractContextManager[None]]
    ) -> None:
        self._connection, self._found, self._tolerant = connection, found, tolerant
        self.checkpoints = list(self._read_checkpoints())
        self.size = self.checkpoints[-1][0] if self.checkpoints else 0

    def tile(self, level: int, index: int) -> tuple[Any, bytes]:
        """Width and hashes as they are stored; no hashes if there are none or they cannot be read."""
        query = text("SELECT width, data FROM tree_tiles WHERE level = :level AND tile_index = :index")
        with self._tolerant():
            row = self._connection.execute(query, {"level": level, "index": index}).one_or_none()
            return (None, b"") if row is None else (row[0], _bytes(row[1]))
        return None, b""

    def count_tiles(self) -> None:
        """There are just the tiles that the newest checkpoint's tree has."""
        expected = sum(1 for _ in new_tiles(0, self.size))
        stored = self._connection.execute(text("SELECT count(*) FROM tree_tiles")).scalar_one()
        if stored != expected:
            self._found(None, "TILES_COUNT_WRONG", expected=expected, stored=stored)

    def _read_checkpoints(self) -> Iterator[tuple[int, bytes, bytes]]:
        """Size, root and note of each, the smallest first."""
        for size, root, note in self._connection.execute(
            text("SELECT size, root, note FROM checkpoints ORDER BY size")
        ):
            if type(size) is int and size > 0:
                yield size, _bytes(root), _bytes(note)
            else:
                self._found(None, "COLUMN_MALFORMED", table="checkpoints", column="size")


def require_witnesses(found: Found, size: int, count: int, minimum: int, enough: int = 0) -> None:
    """The newest checkpoint must bear ``minimum`` cosignatures; ``enough`` is the newest that does, if one does."""
    if count < minimum:
        found(None, "COSIGNATURES_TOO_FEW", size=size, count=count, minimum=minimum, enough=enough)


def origin_of(note: bytes) -> str | None:
    """The log a note says it is of, whoever signed it; None if it is no checkpoint."""
    try:
        return Checkpoint.parse(Note.parse(note).text).origin
    except ExpectedError:
        return None


def _bytes(value: object) -> bytes:
    """A column as bytes, whatever the database makes of it; empty for what is neither text nor bytes."""
    if isinstance(value, str):
        return value.encode()
    return bytes(value) if isinstance(value, (bytes, bytearray, memoryview)) else b""


def _first_apart(computed: bytes, stored: bytes) -> int:
    """The place of the first hash that is not the stored one; 0 if only a width is wrong."""
    for at in range(0, len(computed), 32):
        if computed[at : at + 32] != stored[at : at + 32]:
            return at // 32
    return 0
