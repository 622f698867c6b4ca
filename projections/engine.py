"""Runs the SELECTs: small batches in the database that holds the tables, large ones in DuckDB over decoded columns.

DuckDB never opens the live SQLite file: a second SQLite library in this process would drop our locks (projections.md,
trap 1). Facts reach it as Arrow batches read through Python's own driver.
"""

import gc
import os
import queue
import tempfile
import threading
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, TypeVar
from uuid import UUID, uuid4

import duckdb
import orjson
import pyarrow as pa
import pyarrow.compute as pc
from sqlalchemy import BigInteger, ColumnClause, Connection, Select

from ledger.archive import Archive, Segment
from ledger.log import LedgerLog
from projections.facts import (
    RELATIONS,
    decoded_columns,
    happened_microseconds,
    in_archive,
    in_duckdb,
    in_effective_order,
    in_store,
    is_id,
)
from projections.projection import Engine, Projection, compiled

ARROW_ROWS = 131_072
"""Facts decoded at once: every SELECT pays a fixed cost a batch."""
ARCHIVED_POSITIONS = 10_500_000
"""Archived facts that are grouped at once: with the most columns they take about `MEMORY`."""
MERGED_VALUES = 20_000_000
"""Values of partial results that are merged at once, where the whole need not be in memory."""
BLOCK_POSITIONS = 2_048
"""Facts that the database joins into one row."""
POSITIONS_PER_STREAM = 500
"""Reading so many positions in order takes about as long as reading one stream by its index."""
MAPPED_BYTES = 1 << 40
MEMORY = "2GB"
"""What DuckDB may hold; the rest goes to a directory of its own among the system's temporary ones (``TMPDIR``)."""
Row = tuple[Any, ...]
T = TypeVar("T")


# --- in the store ----------------------------------------------------------------------------------------------------


@lru_cache(maxsize=512)
def merge_clause(projection: Projection, table: str, beside: str = "") -> str:
    """What happens when a key is there already: the merge rule of each measure.

    ``beside`` names a column that belongs to the table's key and not to the figure's.
    """
    assignments = []
    for m in projection.measures:
        old, new = f"{table}.{m.name}", f"excluded.{m.name}"
        if m.merge == "add":
            assignments.append(f"{m.name} = {old} + {new}")
        elif m.at is None:
            sign = ">" if m.merge == "max" else "<"
            assignments.append(
                f"{m.name} = CASE WHEN {old} IS NULL OR {new} {sign} {old} THEN {new} ELSE {old} END"
            )
        else:
            newer = f"({table}.{m.at} IS NULL AND excluded.{m.at} IS NOT NULL) OR excluded.{m.at} > {table}.{m.at}"
            assignments += [
                f"{m.name} = CASE WHEN {newer} THEN {new} ELSE {old} END",
                f"{m.at} = CASE WHEN {newer} THEN excluded.{m.at} ELSE {table}.{m.at} END",
            ]
    keys = ", ".join([*projection.keys, *([beside] if beside else [])])
    return f"ON CONFLICT ({keys}) DO UPDATE SET {', '.join(assignments)}"


@lru_cache(maxsize=512)
def batch_statement(projection: Projection, dialect: Engine, low: str, high: str) -> str:
    """The SELECT over the facts after ``low`` up to ``high``, merged into the live table: constant text."""
    condition = f"position > {low} AND position <= {high}"
    source = in_store(projection.relation, projection.used, dialect, condition)
    columns = ", ".join(projection.columns)
    return (
        f"WITH {projection.relation.name} AS ({source}) INSERT INTO {projection.table_name} ({columns}) "
        f"SELECT {columns} FROM ({projection.sql(dialect)}) AS batch WHERE true "
        f"{merge_clause(projection, projection.table_name)}"
    )


def apply_in_store(connection: Connection, projections: Iterable[Projection], low: int, high: int) -> None:
    """Bring the live tables from position ``low`` to ``high`` inside the caller's transaction."""
    driver: Any = connection.connection.driver_connection
    cursor = driver.cursor()
    try:
        if connection.dialect.name == "sqlite":
            for projection in projections:
                cursor.execute(batch_statement(projection, "sqlite", "?1", "?2"), (low, high))
            return
        with driver.pipeline():
            for projection in projections:
                statement = batch_statement(projection, "postgresql", "%(low)s", "%(high)s")
                cursor.execute(statement, {"low": low, "high": high})
    finally:
        cursor.close()


@dataclass(frozen=True)
class Wanted:
    """Which keys of a figure are asked for: some of its key columns, and each combination of their values."""

    names: tuple[str, ...]
    rows: tuple[Row, ...]

    @classmethod
    def one(cls, key: Mapping[str, Any]) -> "Wanted | None":
        """The rows that have these values; None for no condition at all."""
        return cls(tuple(key), (tuple(key.values()),)) if key else None

    def values(self, name: str) -> list[Any]:
        """The values of one column, each once."""
        place = self.names.index(name)
        return sorted({row[place] for row in self.rows})

    def table(self) -> pa.Table:
        """As a table of that name for DuckDB."""
        return pa.table(dict(zip(self.names, map(pa.array, zip(*self.rows, strict=True)), strict=True)))

    def in_store(self, dialect: Engine) -> str:
        """As a SELECT whose only argument is `text`."""
        integers = {name for name in self.names if all(isinstance(v, int) for v in self.values(name))}
        if dialect == "sqlite":
            fields = ", ".join(
                f"json_extract(value, '$[{n}]') AS {name}" for n, name in enumerate(self.names)
            )
            return f"SELECT {fields} FROM json_each(?)"
        fields = ", ".join(
            f"(value ->> {n}){'::bigint' if name in integers else ''} AS {name}"
            for n, name in enumerate(self.names)
        )
        return f"SELECT {fields} FROM jsonb_array_elements(%s::jsonb)"

    def text(self) -> str:
        return orjson.dumps(self.rows).decode()


def select_in_store(
    log: LedgerLog,
    projection: Projection,
    low: int,
    high: int,
    *,
    wanted: Wanted | None = None,
    shares: bool = False,
    positions: bool = False,
) -> list[Row]:
    """The projection's rows over the facts after ``low`` up to ``high``, computed by the log's own database.

    ``wanted`` keeps some keys, and reads only their streams where a key is the stream's id. ``shares`` gives each
    fact's own (`Projection.rows_sql`), ``positions`` the facts behind each row (`Projection.sql`).
    """
    dialect: Engine = "sqlite" if log.dialect == "sqlite" else "postgresql"
    mark = "?" if dialect == "sqlite" else "%s"
    tables: list[str] = []
    names: tuple[str, ...] = ()
    arguments: list[Any] = []
    condition = f"position > {mark} AND position <= {mark}"
    bounds: list[Any] = [low, high]
    if wanted is not None:
        names = wanted.names
        tables.append(f"wanted AS ({wanted.in_store(dialect)})")
        arguments.append(wanted.text())
        if projection.relation.stream_column in names:
            streams = _ids(wanted.values(projection.relation.stream_column))
            if dialect == "sqlite":
                # The plus keeps SQLite, which counts nothing, from the one index that would be slower.
                by_stream = len(streams) * POSITIONS_PER_STREAM <= high - low
                condition = (
                    "+position > ? AND +position <= ? AND stream_id IN (SELECT value FROM json_each(?))"
                    if by_stream
                    else "position > ? AND position <= ? AND +stream_id IN (SELECT value FROM json_each(?))"
                )
                bounds.append(orjson.dumps(streams).decode())
            else:
                condition += " AND stream_id = ANY(%s::uuid[])"
                bounds.append(streams)
    plain = [name for name in names if name in projection.plain_keys]
    used = projection.used | {"position"}
    source = in_store(projection.relation, used, dialect, condition, wanted=plain)
    tables.append(f"{projection.relation.name} AS ({source})")
    select = (
        projection.rows_sql(dialect, wanted=names)
        if shares
        else projection.sql(dialect, wanted=names, positions=positions)
    )
    with log.engine.connect() as connection, _mapped(connection):
        rows = connection.exec_driver_sql(f"WITH {', '.join(tables)} {select}", (*arguments, *bounds))
        return [tuple(row) for row in rows]


def _ids(texts: Iterable[Any]) -> list[str]:
    """Those that are ids as facts write them: nothing else can be a stream's."""
    return [text for text in texts if isinstance(text, str) and is_id(text)]


def facts_in_store(
    log: LedgerLog,
    wanted: Sequence[ColumnClause[Any]],
    position: int,
    streams: Sequence[str],
    by: str | None = None,
) -> list[Row]:
    """Some columns of one relation's facts up to ``position`` in these streams, in the order of the log.

    ``by``: only what had happened by that instant.
    """
    if not streams:
        return []
    relation = RELATIONS[str(getattr(wanted[0].table, "name"))]  # noqa: B009 - a relation has a name
    mark = "?" if log.dialect == "sqlite" else "%s"
    marks = ", ".join([mark if log.dialect == "sqlite" else f"{mark}::uuid"] * len(streams))
    names = [column.name for column in wanted]
    condition = f"position <= {mark} AND stream_id IN ({marks})"
    source = in_store(relation, {*names, "position", "happened_at"}, log.dialect, condition)
    statement = (
        f"SELECT {', '.join(names)} FROM ({source}) AS found WHERE {mark} >= happened_at ORDER BY position"
    )
    with log.engine.connect() as connection:
        rows = connection.exec_driver_sql(statement, (position, *streams, by or "9999"))
        return [tuple(row) for row in rows]


# --- in DuckDB -------------------------------------------------------------------------------------------------------


class Columns:
    """Feeds decoded facts to many SELECTs at once and keeps their partial results, with bounded memory."""

    def __init__(
        self,
        projections: Sequence[Projection],
        *,
        effective_by: str | None = None,
        wanted: Wanted | None = None,
        positions: bool = False,
    ) -> None:
        self.projections = projections
        self._effective_by = effective_by
        self._wanted = wanted
        self._positions = positions
        self._duck = _duck().cursor()
        if wanted is not None:
            self._duck.register("wanted", wanted.table())
        self._fields = decoded_columns((p.relation, p.used) for p in projections)
        if effective_by is not None:
            self._fields["happened_at"] = "VARCHAR"
        self._parts = 0
        self._native = False
        self.topics = sorted({topic for p in projections for topic in p.relation.topics})

    def close(self) -> None:
        self._duck.close()

    def feed_archive(self, archive: Archive, low: int, high: int) -> list[tuple[int, int]]:
        """Take the archived facts after ``low`` up to ``high``; the ranges that are left for the log, in order."""
        segments, files = archive.readable(low, high, self.topics)
        if not segments:
            return [(low, high)]
        # Keys that are wanted are compared as text.
        self._native = self._wanted is None
        seen = _identities(files)
        try:
            for some in _stretches(segments):
                own = {
                    topic: [path for path in paths if path.parent.name in some]
                    for topic, paths in files.items()
                }
                self._add(partial(self._archived, own, low, high))
        except duckdb.Error:
            if _as_before(seen):
                raise
            self._drop_parts()
            return self.feed_archive(archive, low, high)  # with what is left of it
        return _left(segments, low, high)

    def _archived(self, files: Mapping[str, Sequence[Path]], low: int, high: int, figure: Projection) -> str:
        return in_archive(
            figure.relation,
            self._used(figure),
            files,
            low,
            high,
            native=figure.native if self._native else (),
            effective_by=self._effective_by,
            wanted=[name for name in self._names if name in figure.plain_keys],
        )

    @property
    def _names(self) -> tuple[str, ...]:
        return () if self._wanted is None else self._wanted.names

    def _used(self, figure: Projection) -> set[str]:
        return figure.used | {"position"} if self._positions else figure.used

    def _drop_parts(self) -> None:
        for figure in self.projections:
            self._duck.execute(f"DROP TABLE IF EXISTS part_{figure.name}")
        self._native, self._parts = False, 0

    def archived_shares(
        self, archive: Archive, low: int, high: int
    ) -> tuple[list[Row], list[tuple[int, int]]]:
        """See `archived_shares`; of one figure."""
        (figure,) = self.projections
        segments, files = archive.readable(low, high, self.topics)
        seen = _identities(files)
        source = self._archived(files, low, high, figure)
        shares = figure.rows_sql("duckdb", wanted=self._names)
        try:
            found = self._duck.execute(f"WITH {figure.relation.name} AS ({source}) {shares}")
            return found.fetchall(), _left(segments, low, high)
        except duckdb.Error:
            if _as_before(seen):
                raise
            return self.archived_shares(archive, low, high)

    def feed(self, batch: pa.Table) -> None:
        """Take one batch of stored facts and add every SELECT's partial result."""
        self._duck.register("stored", batch)
        shape = ", ".join(f'"{name}":"{kind}"' for name, kind in sorted(self._fields.items()))
        fields = f"from_json(state, '{{{shape}}}')" if shape else "NULL"
        decoded = f"SELECT position, stream_id, topic, version, {fields} AS s FROM stored"
        if self._effective_by is not None:
            order = in_effective_order(happened_microseconds("s.happened_at"))
            decoded = (
                f"SELECT {order} AS position, stream_id, topic, version, s"
                f" FROM ({decoded}) WHERE s.happened_at <= '{self._effective_by}'"
            )
        self._duck.execute(f"CREATE OR REPLACE TEMP TABLE decoded AS {decoded}")
        self._add(lambda figure: in_duckdb(figure.relation, self._used(figure), "decoded"))
        self._duck.unregister("stored")

    def _add(self, source_of: Callable[[Projection], str]) -> None:
        """Run every SELECT over its relation's rows, and keep what it gives beside what was there."""
        for projection in self.projections:
            source = source_of(projection)
            sql = projection.sql("duckdb", wanted=self._names, positions=self._positions)
            select = f"WITH {projection.relation.name} AS ({source}) {sql}"
            target = f"part_{projection.name}"
            verb = f"INSERT INTO {target}" if self._parts else f"CREATE TEMP TABLE {target} AS"
            self._duck.execute(f"{verb} {select}")
        self._parts += 1

    def rows_of(self, query: Select[Any]) -> list[dict[str, Any]]:
        """The answer to a question over the figures' tables, which are there under their own names."""
        done = self._duck.execute(compiled(query, "duckdb"))
        names = [column[0] for column in done.description or ()]
        return [dict(zip(names, row, strict=True)) for row in done.fetchall()]

    def name_tables(self) -> None:
        """Let every figure's merged result stand under the name of its table."""
        for projection in self.projections:
            empty = ", ".join(
                f"{c.name} {'BIGINT' if isinstance(c.type, BigInteger) else 'VARCHAR'}"
                for c in projection.table().columns
            )
            body = f"AS {self._written(projection)}" if self._parts else f"({empty})"
            self._duck.execute(f"CREATE TEMP TABLE {projection.table_name} {body}")

    def arrow(self, projection: Projection, *, ordered: bool = True) -> pa.Table:
        """The whole result of one SELECT: partial results merged, in the order of the key if it matters."""
        if not self._parts:
            return pa.table({name: pa.array([], pa.string()) for name in self._columns(projection)})
        rows = self._merged(projection) + (f" ORDER BY {', '.join(projection.keys)}" if ordered else "")
        return self._duck.sql(self._written(projection, rows)).to_arrow_table()

    def page(self, projection: Projection, after: Row | None, limit: int | None) -> list[Row]:
        """The rows in the order of the key: those behind one, so many at most."""
        if not self._parts:
            return []
        keys = ", ".join(projection.keys)
        marks = ", ".join("?" * len(projection.keys))
        behind = f"WHERE ({keys}) > ({marks})" if after else ""
        some = "" if limit is None else f"LIMIT {limit}"
        rows = f"SELECT * FROM ({self._written(projection)}) {behind} ORDER BY {keys} {some}"
        return self._duck.execute(rows, list(after or ())).fetchall()

    def _columns(self, projection: Projection) -> tuple[str, ...]:
        return (*projection.columns, "positions") if self._positions else projection.columns

    def batches(self, projection: Projection) -> Iterator[pa.RecordBatch]:
        """The same, in no order, a part at a time: what a result too large for memory is read by."""
        if not self._parts:
            return
        for condition in self._merges(projection):
            rows = self._merged(projection, condition)
            yield from self._duck.sql(self._written(projection, rows)).to_arrow_reader(ARROW_ROWS)

    def _merges(self, projection: Projection) -> list[str]:
        """Conditions on partial results, each key under one of them, so that few enough are merged at one time."""
        ((rows,),) = self._duck.execute(f"SELECT count(*) FROM part_{projection.name}").fetchall()
        times = 1 if self._parts == 1 else 1 + rows * len(projection.columns) // MERGED_VALUES
        return (
            [f"hash({projection.keys[0]}) % {times} = {n}" for n in range(times)] if times > 1 else ["true"]
        )

    def _written(self, projection: Projection, rows: str | None = None) -> str:
        """Rows (left out, all of them) with ids, days and moments as text, which keeps their order."""
        columns = self._columns(projection)
        names = (projection.as_written(name) if self._native else name for name in columns)
        outputs = (f"{text} AS {name}" for text, name in zip(names, columns, strict=True))
        return f"SELECT {', '.join(outputs)} FROM ({rows or self._merged(projection)})"

    def _merged(self, projection: Projection, condition: str = "true") -> str:
        if self._parts == 1:
            columns = ", ".join(self._columns(projection))
            return f"SELECT {columns} FROM part_{projection.name} WHERE {condition}"
        outputs = []
        for m in projection.measures:
            merged = {
                "add": f"sum({m.name})::BIGINT",
                "max": f"max({m.name})",
                "min": f"min({m.name})",
                "latest": f"arg_max({m.name}, {m.at})",
            }[m.merge]
            outputs.append(f"{merged} AS {m.name}")
        outputs += [f"max({m.at}) AS {m.at}" for m in projection.measures if m.at]
        if self._positions:
            outputs.append("string_agg(positions, ',') AS positions")
        keys = ", ".join(projection.keys)
        return f"SELECT {keys}, {', '.join(outputs)} FROM part_{projection.name} WHERE {condition} GROUP BY {keys}"

    def rows(self, projection: Projection) -> list[Row]:
        """The same as Python rows, in no order."""
        return python_rows(self.arrow(projection, ordered=False))


def _spill_directory() -> str:
    """A directory that nobody else uses. DuckDB makes it when it first needs it, and removes it in the end."""
    name = Path(tempfile.gettempdir()) / f"wenming-figures-{os.getpid()}-{uuid4().hex}"
    return str(name).replace("'", "''")


def _stretches(segments: Sequence[Segment]) -> Iterator[set[str]]:
    """The names of neighbouring segments that are read together."""
    names: set[str] = set()
    facts = 0
    for segment in segments:
        if names and facts + segment.last - segment.first >= ARCHIVED_POSITIONS:
            yield names
            names, facts = set(), 0
        names.add(segment.name)
        facts += segment.last - segment.first + 1
    yield names


def _identities(files: Mapping[str, Sequence[Path]]) -> dict[Path, tuple[int, int] | None]:
    """Which file stands at each place; None where one is gone already."""
    return {path: _identity(path) for paths in files.values() for path in paths}


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_ino, found.st_mtime_ns


def _as_before(seen: Mapping[Path, tuple[int, int] | None]) -> bool:
    """Whether nobody deleted any of these files or wrote one anew."""
    return all(before is not None and _identity(path) == before for path, before in seen.items())


@lru_cache(maxsize=1)
def _duck() -> duckdb.DuckDBPyConnection:
    """One DuckDB for the process: starting one costs more than most questions, and it remembers the archive's footers.

    Each question gets a cursor of its own, with its own temporary tables, and closes it; all share its memory.
    """
    duck = duckdb.connect(":memory:")
    return duck.execute(
        "SET threads = 2; SET preserve_insertion_order = false; SET parquet_metadata_cache = true; "
        f"SET memory_limit = '{MEMORY}'; SET temp_directory = '{_spill_directory()}'"
    )


def _left(segments: Sequence[Segment], low: int, high: int) -> list[tuple[int, int]]:
    """What lies before, between and after the segments: pairs of a position before the first and that of the last."""
    ends = [low, *(end for segment in segments for end in (segment.first - 1, segment.last)), high]
    return [(start, end) for start, end in zip(ends[::2], ends[1::2], strict=True) if start < end]


def python_rows(table: pa.Table | pa.RecordBatch) -> list[Row]:
    """The table's rows as tuples."""
    with no_garbage_collection():
        return list(zip(*(column.to_pylist() for column in table.columns), strict=True))


@contextmanager
def no_garbage_collection() -> Iterator[None]:
    """Millions of short-lived rows otherwise cost as much in cyclic collection as in reading (trap 1)."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def stored_batches(
    log: LedgerLog,
    low: int,
    high: int,
    topics: Sequence[str],
    stream_id: UUID | None = None,
    batch_rows: int = ARROW_ROWS,
) -> Iterator[pa.Table]:
    """The facts after ``low`` up to ``high`` with these topics, as Arrow batches of their stored columns.

    With ``stream_id`` only the facts of that stream. The database joins the values of a block of facts before handing
    them over: one row a block instead of one a fact is what makes reading fast, and leaves the interpreter to others.
    """
    statement, own = _block_statement(log, topics, stream_id)
    block = high - low if stream_id else min(BLOCK_POSITIONS, batch_rows)
    with log.engine.connect() as connection, _fast_reads(connection) as cursor:
        blocks: list[Row] = []
        found = 0
        for first in range(low, high, max(block, 1)):
            cursor.execute(statement, (first, min(first + block, high), *own))
            joined = cursor.fetchone()
            if joined[0]:
                blocks.append(joined)
                found += joined[0]
            if found >= batch_rows:
                yield _arrow(blocks)
                blocks, found = [], 0
        if blocks:
            yield _arrow(blocks)


def _block_statement(
    log: LedgerLog, topics: Sequence[str], stream_id: UUID | None
) -> tuple[str, tuple[str, ...]]:
    """One row: how many facts, their states end to end, and the lengths and other columns as lists with commas."""
    wanted = ", ".join(f"'{topic}'" for topic in topics)
    own: tuple[str, ...] = () if stream_id is None else (str(stream_id),)
    if log.dialect == "sqlite":
        columns = (
            "CAST(group_concat(state, '') AS BLOB), group_concat(length(CAST(state AS BLOB))), "
            "group_concat(position), group_concat(stream_id), group_concat(topic), group_concat(version)"
        )
        condition = "position > ? AND position <= ?" + (" AND stream_id = ?" if own else "")
    else:
        columns = (
            "string_agg(convert_to(state, 'UTF8'), ''::bytea), "
            "string_agg(octet_length(convert_to(state, 'UTF8'))::text, ','), string_agg(position::text, ','), "
            "string_agg(stream_id::text, ','), string_agg(topic, ','), string_agg(version::text, ',')"
        )
        condition = "position > %s AND position <= %s" + (" AND stream_id = %s::uuid" if own else "")
    return f"SELECT count(*), {columns} FROM facts WHERE {condition} AND topic IN ({wanted})", own


@contextmanager
def _fast_reads(connection: Connection) -> Iterator[Any]:
    """A cursor of the driver, with the file mapped into memory on SQLite while it is read from end to end."""
    driver: Any = connection.connection.driver_connection
    if connection.dialect.name == "postgresql":
        with driver.cursor(binary=True) as cursor:
            yield cursor
        return
    with closing(driver.cursor()) as cursor, _mapped(connection):
        yield cursor


@contextmanager
def _mapped(connection: Connection) -> Iterator[None]:
    """On SQLite the file is mapped into memory meanwhile, for reading much of it."""
    driver: Any = connection.connection.driver_connection
    if connection.dialect.name == "sqlite":
        driver.execute(f"PRAGMA mmap_size = {MAPPED_BYTES}").fetchone()
    try:
        yield
    finally:
        if connection.dialect.name == "sqlite":
            driver.execute("PRAGMA mmap_size = 0").fetchone()


def _arrow(blocks: Sequence[Row]) -> pa.Table:
    """Blocks as columns. Raises ValueError (`pa.ArrowInvalid`) for text that is no UTF-8, or lists that do not fit."""
    counts, states, *lists = zip(*blocks, strict=True)
    lengths, positions, streams, topics, versions = (
        pc.split_pattern(pa.array(joined, pa.large_string()), ",").flatten() for joined in lists
    )
    ends = pc.cumulative_sum(lengths.cast(pa.int64()))
    data = b"".join(states)
    rows = sum(counts)
    if any(len(column) != rows for column in (lengths, positions, streams, versions)) or ends[
        -1
    ].as_py() != len(data):
        raise ValueError("a stored column is not as it was written")
    starts = pa.concat_arrays([pa.array([0], pa.int64()), ends])
    state = pa.Array.from_buffers(pa.large_string(), rows, [None, starts.buffers()[1], pa.py_buffer(data)])
    state.validate(full=True)
    names = ("position", "stream_id", "topic", "version", "state")
    return pa.table(
        [positions.cast(pa.int64()), streams, topics, versions.cast(pa.int64()), state], names=names
    )


def ahead(things: Iterator[T]) -> Generator[T, None, None]:
    """The same things, the next one made in a thread of its own while the caller works on one; to be closed."""
    handed = queue.Queue[T | _Failed | None](maxsize=1)
    stop = threading.Event()

    def hand(thing: T | _Failed | None) -> None:
        while not stop.is_set():
            with suppress(queue.Full):
                handed.put(thing, timeout=0.1)
                return

    def make() -> None:
        try:
            for thing in things:
                hand(thing)
                if stop.is_set():
                    return
            hand(None)
        except BaseException as error:  # goes on in the thread that asked
            hand(_Failed(error))

    maker = threading.Thread(target=make, name="figures-ahead", daemon=True)
    maker.start()
    try:
        while (thing := handed.get()) is not None:
            if isinstance(thing, _Failed):
                raise thing.error
            yield thing
    finally:
        stop.set()
        maker.join()


@dataclass(frozen=True)
class _Failed:
    """Stands for the thing that could not be made."""

    error: BaseException


def compute(
    log: LedgerLog,
    projections: Sequence[Projection],
    low: int,
    high: int,
    *,
    effective_by: str | None = None,
    stream_id: UUID | None = None,
    wanted: Wanted | None = None,
    positions: bool = False,
    archive: Archive | None = None,
) -> Columns:
    """Every SELECT over the facts after ``low`` up to ``high``; the caller closes what it gets.

    ``effective_by`` keeps what had happened by that instant; ``stream_id`` the facts of one stream, for which the
    archive is not asked; ``wanted`` some keys of one figure; ``positions`` lists the facts behind each row.
    """
    columns = Columns(projections, effective_by=effective_by, wanted=wanted, positions=positions)
    try:
        left = [(low, high)]
        if archive is not None and stream_id is None:
            left = columns.feed_archive(archive, low, high)
        stored = (
            batch
            for start, end in left
            for batch in stored_batches(log, start, end, columns.topics, stream_id)
        )
        with closing(ahead(stored)) as batches:
            for batch in batches:
                columns.feed(batch)
    except BaseException:
        columns.close()
        raise
    return columns


def archived_rows(
    archive: Archive, figure: Projection, wanted: Wanted, low: int, high: int
) -> tuple[list[Row], list[tuple[int, int]]]:
    """The ``wanted`` rows over the archived facts, hidden columns included, and the ranges left for the log."""
    with closing(Columns([figure], wanted=wanted)) as columns:
        left = columns.feed_archive(archive, low, high)
        return columns.rows(figure), left


def archived_shares(
    archive: Archive, figure: Projection, wanted: Wanted | None, low: int, high: int
) -> tuple[list[Row], list[tuple[int, int]]]:
    """Each archived fact's share in the figures that are ``wanted`` (`Projection.rows_sql`), and the ranges left."""
    with closing(Columns([figure], wanted=wanted, positions=True)) as columns:
        return columns.archived_shares(archive, low, high)
