"""The audit of what was signed: every checkpoint and every tile beside the tree that the facts themselves give.

It is told each recomputed leaf as the audit meets it, and keeps the hashes of one unfinished tile a level. It writes
nothing, believes no column, and knows nothing of facts. A past that was rewritten to fit itself shows here: the first
checkpoint that does not fit is named, and where the tiles were left alone, the first fact.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

from sqlalchemy import Connection, text

from ledger.checkpoint import Checkpoint, Note, VerifierKey, open_note
from ledger.errors import ExpectedError
from ledger.merkle import TILE_HEIGHT, TILE_WIDTH, Frontier, Tile, new_tiles, root_of


class Found(Protocol):
    """Where defects go: the earliest position they can be pinned to, their code, and what their sentence needs."""

    def __call__(self, position: int | None, code: str, **details: object) -> None: ...


class TreeAudit:
    """Walks checkpoints and tiles beside the leaves. With ``keys``, each note must be signed by one of them."""

    def __init__(
        self,
        connection: Connection,
        found: Found,
        tolerant: Callable[[], AbstractContextManager[None]],
        keys: Sequence[VerifierKey],
    ) -> None:
        self._connection, self._found, self._tolerant, self._keys = connection, found, tolerant, tuple(keys)
        self.checkpoints = self.tiles = 0
        self._fits_until, self._is_apart = 0, False
        self._rows: list[bytearray] = []
        self._tiles_begun: list[int] = []
        self._waiting = self._read_checkpoints()
        self.size = self._waiting[0][0] if self._waiting else 0
        self._next = self._waiting[-1][0] if self._waiting else 0

    def leaf(self, leaf: bytes, tree: Frontier) -> None:
        """The next leaf, which ``tree`` holds already."""
        self._add(0, leaf)
        if tree.size == self._next:
            self._compare(*self._waiting.pop(), tree)
            self._next = self._waiting[-1][0] if self._waiting else 0

    def finish(self, tree: Frontier) -> None:
        """There are no more leaves: what is left are partial tiles, and checkpoints of facts that are not there."""
        for level in range(len(self._rows)):
            if self._rows[level]:
                self._compare_tile(level)
        while self._waiting:
            self._compare(*self._waiting.pop(), tree)
        expected = sum(1 for _ in new_tiles(0, self.size))
        stored = self._connection.execute(text("SELECT count(*) FROM tree_tiles")).scalar_one()
        if stored != expected:
            self._found(None, "TILES_COUNT_WRONG", expected=expected, stored=stored)

    # -- checkpoints --

    def _read_checkpoints(self) -> list[tuple[int, bytes, bytes]]:
        """Size, root and note of each, the largest first."""
        found = []
        query = text("SELECT size, root, note FROM checkpoints ORDER BY size DESC")
        for size, root, note in self._connection.execute(query):
            if type(size) is int and size > 0:
                found.append((size, _bytes(root), _bytes(note)))
            else:
                self._found(None, "COLUMN_MALFORMED", table="checkpoints", column="size")
        return found

    def _compare(self, size: int, root: bytes, note: bytes, tree: Frontier) -> None:
        self.checkpoints += 1
        if not self._is_signed(size, root, note):
            self._found(None, "CHECKPOINT_NOTE_WRONG", size=size)
        if (tree.size, tree.root()) == (size, root):
            self._fits_until = size
        elif not self._is_apart:  # every later one would be wrong for the same reason
            self._is_apart = True
            self._found(self._fits_until + 1, "CHECKPOINT_WRONG", size=size, first=self._fits_until + 1)

    def _is_signed(self, size: int, root: bytes, note: bytes) -> bool:
        """Whether the note says what the row says, in the name of one of the keys if there are any to ask for."""
        try:
            said = Checkpoint.parse(open_note(note, self._keys).text if self._keys else Note.parse(note).text)
        except ExpectedError:
            return False
        return (said.size, said.root) == (size, root)

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

    def _stored(self, level: int, index: int) -> tuple[Any, bytes]:
        """Width and hashes as they are stored; no hashes if there are none or they cannot be read."""
        query = text("SELECT width, data FROM tree_tiles WHERE level = :level AND tile_index = :index")
        with self._tolerant():
            row = self._connection.execute(query, {"level": level, "index": index}).one_or_none()
            return (None, b"") if row is None else (row[0], _bytes(row[1]))
        return None, b""


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
