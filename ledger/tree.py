"""The signed tree beside the facts: tiles of hashes, and every checkpoint that was published.

Tiles are those of C2SP tlog-tiles, one row each: a partial tile grows in its row until it is full, and a full one
never changes again. The rows are a copy of what follows from the facts; nothing here hashes or signs, and nothing read
here is trusted: the signer keeps its own frontier elsewhere, and a proof made from wrong tiles does not hold.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from sqlalchemy import (
    BigInteger,
    Column,
    Connection,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    Text,
    inspect,
    select,
    update,
)
from sqlalchemy.dialects import postgresql, sqlite

from ledger.checkpoint import Note, Signature
from ledger.log import LedgerLog
from ledger.merkle import Tile, TileError, TileHashes, consistency_proof, inclusion_proof, tile_hashes

tree_metadata = MetaData()

tree_tiles = Table(
    "tree_tiles",
    tree_metadata,
    Column("level", Integer, primary_key=True, autoincrement=False),
    Column("tile_index", BigInteger, primary_key=True, autoincrement=False),
    Column("width", Integer, nullable=False),
    Column("data", LargeBinary, nullable=False),
)
"""One row a tile: ``width`` hashes of 32 bytes, one after the other."""

checkpoints = Table(
    "checkpoints",
    tree_metadata,
    Column("size", BigInteger, primary_key=True, autoincrement=False),
    Column("root", LargeBinary, nullable=False),
    Column("signed_at", Text, nullable=False),
    Column("note", Text, nullable=False),
)
"""One row a published checkpoint: the signed note, with its size and root beside it."""

_ADVISORY_LOCK = 7034002


@dataclass(frozen=True)
class Published:
    """A checkpoint as it was published; ``signed_at`` is the signer's clock, and not part of what is signed."""

    size: int
    root: bytes
    signed_at: str
    note: str


class TreeStore:
    """Reads and writes one log's tiles and checkpoints; safe to use from many threads."""

    def __init__(self, log: LedgerLog) -> None:
        self.log = log
        self._is_there = False

    def prepare(self) -> None:
        """Make the tables if they are missing; the signer does this, in the application's role."""
        if self.is_there():
            return
        with self.log.engine.connect() as plain:
            connection = plain.execution_options(writes=True)
            with connection.begin():
                self._lock(connection)
                tree_metadata.create_all(connection)
        self._is_there = True

    def is_there(self) -> bool:
        """Whether anything was ever signed here: both tables exist."""
        if not self._is_there:
            with self.log.engine.connect() as connection:
                tables = set(inspect(connection).get_table_names())
            self._is_there = tree_metadata.tables.keys() <= tables
        return self._is_there

    # -- checkpoints --

    def latest(self) -> Published | None:
        """The newest checkpoint; None before the first."""
        with self.log.engine.connect() as connection:
            return self.latest_in(connection)

    def latest_in(self, connection: Connection) -> Published | None:
        """`latest`, as this transaction sees it."""
        if not self.is_there():
            return None
        row = connection.execute(
            select(checkpoints).order_by(checkpoints.c.size.desc()).limit(1)
        ).one_or_none()
        return None if row is None else _published(row)

    def first(self) -> Published | None:
        """The oldest checkpoint; None before the first."""
        return self._one(select(checkpoints).order_by(checkpoints.c.size).limit(1))

    def at(self, size: int) -> Published | None:
        """The checkpoint of just this size; None if none was published."""
        return self._one(select(checkpoints).where(checkpoints.c.size == size))

    def covering(self, position: int) -> Published | None:
        """The oldest checkpoint that covers a fact; None while none does."""
        query = select(checkpoints).where(checkpoints.c.size >= position)
        return self._one(query.order_by(checkpoints.c.size).limit(1))

    def between(self, first: int, last: int) -> list[Published]:
        """The checkpoints of these sizes, both included, the smallest first."""
        query = (
            select(checkpoints).where(checkpoints.c.size.between(first, last)).order_by(checkpoints.c.size)
        )
        with self.log.engine.connect() as connection:
            return [_published(row) for row in connection.execute(query)]

    def _one(self, query: Any) -> Published | None:
        if not self.is_there():
            return None
        with self.log.engine.connect() as connection:
            row = connection.execute(query).one_or_none()
        return None if row is None else _published(row)

    # -- tiles and proofs --

    def read_tile(self, level: int, index: int) -> bytes:
        """The hashes that are stored for a tile, all of them; TileError if there are none."""
        with self._reading() as read:
            return read(Tile(level, index))

    def tile(self, tile: Tile) -> bytes | None:
        """The hashes of a tile of the newest published tree, partial ones too; None for any other tile."""
        newest = self.latest()
        if newest is None or not _lies_in(tile, newest.size):
            return None
        return tile_hashes(tile, self.read_tile(tile.level, tile.index))

    def inclusion_proof(self, index: int, size: int) -> list[bytes]:
        """The path from a leaf to the root of the tree of ``size``. ProofError, TileError."""
        with self._reading() as read:
            return inclusion_proof(index, size, TileHashes(size, read))

    def consistency_proof(self, old_size: int, new_size: int) -> list[bytes]:
        """That the tree of ``old_size`` is the beginning of that of ``new_size``. ProofError, TileError."""
        with self._reading() as read:
            return consistency_proof(old_size, new_size, TileHashes(new_size, read))

    @contextmanager
    def _reading(self) -> Iterator[Callable[[Tile], bytes]]:
        if not self.is_there():
            raise TileError("nothing is signed yet")
        with self.log.engine.connect() as connection:
            yield lambda tile: read_tile(connection, tile)

    # -- writing --

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        """A transaction that no other signer is in."""
        with self.log.engine.connect() as plain:
            connection = plain.execution_options(writes=True)
            with connection.begin():
                self._lock(connection)
                yield connection

    def write(
        self, connection: Connection, tiles: Iterable[tuple[Tile, bytes]], checkpoint: Published
    ) -> None:
        """Tiles and the checkpoint over them, in the caller's one transaction. A row's tile never gets narrower."""
        rows = [
            {"level": tile.level, "tile_index": tile.index, "width": tile.width, "data": data}
            for tile, data in tiles
        ]
        if rows:
            tile_insert = self.insert_into(tree_tiles)
            connection.execute(
                tile_insert.on_conflict_do_update(
                    index_elements=["level", "tile_index"],
                    set_={"width": tile_insert.excluded.width, "data": tile_insert.excluded.data},
                    where=tree_tiles.c.width < tile_insert.excluded.width,
                ),
                rows,
            )
        new = self.insert_into(checkpoints).values(vars(checkpoint))
        connection.execute(
            new.on_conflict_do_update(index_elements=["size"], set_={"note": new.excluded.note})
        )

    def add_signatures(
        self, connection: Connection, size: int, text: str, added: Iterable[Signature]
    ) -> None:
        """Put signatures below the note of this size, if it still says ``text``; a key's new one replaces its old."""
        query = select(checkpoints.c.note).where(checkpoints.c.size == size)
        stored = connection.execute(query).scalar_one_or_none()
        note = None if stored is None else Note.parse(stored.encode())
        if note is None or note.text != text:
            return
        renewed = note.with_signatures(added).to_bytes().decode()
        connection.execute(update(checkpoints).where(checkpoints.c.size == size).values(note=renewed))

    def insert_into(self, table: Table) -> Any:
        """An INSERT of this database's kind, which may be told what to do on a conflict."""
        return (sqlite if self.log.dialect == "sqlite" else postgresql).insert(table)

    def _lock(self, connection: Connection) -> None:
        """On SQLite, BEGIN IMMEDIATE holds the one writer's place already."""
        if self.log.dialect == "postgresql":
            connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_ADVISORY_LOCK})")


def read_tile(connection: Connection, tile: Tile) -> bytes:
    """The hashes stored at the level and index of ``tile``, however many; TileError if there are none."""
    columns = tree_tiles.c
    found = connection.execute(
        select(columns.data).where(columns.level == tile.level, columns.tile_index == tile.index)
    ).scalar_one_or_none()
    if found is None:
        raise TileError(f"{tile.path} is not stored")
    return bytes(found)


def _lies_in(tile: Tile, size: int) -> bool:
    return tile.index * 256 + tile.width <= size >> (8 * tile.level)


def _published(row: Any) -> Published:
    return Published(row.size, bytes(row.root), row.signed_at, row.note)
