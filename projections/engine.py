"""Runs the SELECTs: small batches in the database that holds the tables, large ones in DuckDB over decoded columns.

DuckDB never opens the live SQLite file: a second SQLite library in this process would drop our locks (projections.md,
trap 1). Facts reach it as Arrow batches read through Python's own driver.
"""

import gc
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from typing import Any
from uuid import UUID

import duckdb
import pyarrow as pa
from sqlalchemy import BigInteger, ColumnClause, Connection, Select

from ledger.log import LedgerLog
from projections.facts import RELATIONS, decoded_columns, in_duckdb, in_store
from projections.projection import Engine, Projection, compiled

ARROW_ROWS = 65_536
FETCH_ROWS = 256
Row = tuple[Any, ...]


# --- in the store ----------------------------------------------------------------------------------------------------


@lru_cache(maxsize=512)
def merge_clause(projection: Projection, table: str) -> str:
    """What happens when a key is there already: the merge rule of each measure."""
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
    keys = ", ".join(projection.keys)
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
    cursor = connection.connection.cursor()
    try:
        for projection in projections:
            if connection.dialect.name == "sqlite":
                cursor.execute(batch_statement(projection, "sqlite", "?1", "?2"), (low, high))
            else:
                statement = batch_statement(projection, "postgresql", "%(low)s", "%(high)s")
                cursor.execute(statement, {"low": low, "high": high})
    finally:
        cursor.close()


def select_in_store(
    connection: Connection, projection: Projection, sql: str, condition: str, arguments: Sequence[Any]
) -> list[Row]:
    """Rows of some SELECT over the projection's relation, narrowed by a condition with ``?`` placeholders."""
    dialect: Engine = "sqlite" if connection.dialect.name == "sqlite" else "postgresql"
    marks = condition if dialect == "sqlite" else condition.replace("?", "%s")
    source = in_store(projection.relation, projection.used | {"position"}, dialect, marks)
    statement = f"WITH {projection.relation.name} AS ({source}) {sql}"
    return [tuple(row) for row in connection.exec_driver_sql(statement, tuple(arguments))]


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

    def __init__(self, projections: Sequence[Projection], *, effective_by: str | None = None) -> None:
        self.projections = projections
        self._effective_by = effective_by
        self._duck = duckdb.connect(":memory:")
        self._duck.execute("SET threads = 2; SET preserve_insertion_order = false; SET memory_limit = '2GB'")
        self._fields = decoded_columns((p.relation, p.used) for p in projections)
        if effective_by is not None:
            self._fields["happened_at"] = "VARCHAR"
        self._fed = False
        self.topics = sorted({topic for p in projections for topic in p.relation.topics})

    def close(self) -> None:
        self._duck.close()

    def feed(self, batch: pa.Table) -> None:
        """Take one batch of stored facts and add every SELECT's partial result."""
        self._duck.register("stored", batch)
        shape = ", ".join(f'"{name}":"{kind}"' for name, kind in sorted(self._fields.items()))
        decoded = (
            f"SELECT position, stream_id, topic, version, from_json(state, '{{{shape}}}') AS s FROM stored"
        )
        if self._effective_by is not None:
            # On the effective axis "latest" orders by (effective time, position): number the facts in that order.
            decoded = (
                "SELECT row_number() OVER (ORDER BY s.happened_at, position) AS position, stream_id, topic, version, s"
                f" FROM ({decoded}) WHERE s.happened_at <= '{self._effective_by}'"
            )
        self._duck.execute(f"CREATE OR REPLACE TEMP TABLE decoded AS {decoded}")
        for projection in self.projections:
            source = in_duckdb(projection.relation, projection.used, "decoded")
            select = f"WITH {projection.relation.name} AS ({source}) {projection.sql('duckdb')}"
            target = f"part_{projection.name}"
            verb = f"INSERT INTO {target}" if self._fed else f"CREATE TEMP TABLE {target} AS"
            self._duck.execute(f"{verb} {select}")
        self._fed = True
        self._duck.unregister("stored")

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
            body = f"AS {self._merged(projection)}" if self._fed else f"({empty})"
            self._duck.execute(f"CREATE TEMP TABLE {projection.table_name} {body}")

    def arrow(self, projection: Projection) -> pa.Table:
        """The whole result of one SELECT: partial results merged, in the order of the key."""
        if not self._fed:
            return pa.table({name: pa.array([], pa.string()) for name in projection.columns})
        return self._duck.sql(f"{self._merged(projection)} ORDER BY ALL").to_arrow_table()

    def _merged(self, projection: Projection) -> str:
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
        keys = ", ".join(projection.keys)
        return f"SELECT {keys}, {', '.join(outputs)} FROM part_{projection.name} GROUP BY {keys}"

    def rows(self, projection: Projection) -> list[Row]:
        """The same as Python rows."""
        table = self.arrow(projection)
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

    With ``stream_id`` only the facts of that stream.
    """
    mark = "?" if log.dialect == "sqlite" else "%s"
    marks = ", ".join([mark] * len(topics))
    arguments: tuple[object, ...] = (low, high, *topics)
    own = ""
    if stream_id is not None:
        own = f"AND stream_id = {mark}" + ("" if log.dialect == "sqlite" else "::uuid")
        arguments += (str(stream_id),)
    stream = "stream_id" if log.dialect == "sqlite" else "stream_id::text"
    statement = (
        f"SELECT position, {stream}, topic, version, state FROM facts "
        f"WHERE position > {mark} AND position <= {mark} AND topic IN ({marks}) {own} ORDER BY position"
    )
    with log.engine.connect() as connection, no_garbage_collection():
        driver = connection.connection.driver_connection
        assert driver is not None
        cursor = driver.cursor() if log.dialect == "sqlite" else driver.cursor("facts_reader")
        try:
            cursor.execute(statement, arguments)
            while True:
                columns: list[list[Any]] = [[], [], [], [], []]
                while len(columns[0]) < batch_rows:
                    rows = cursor.fetchmany(FETCH_ROWS if log.dialect == "sqlite" else 8192)
                    if not rows:
                        break
                    for target, values in zip(columns, zip(*rows, strict=True), strict=True):
                        target.extend(values)
                if not columns[0]:
                    return
                yield _arrow(columns)
        finally:
            cursor.close()


def _arrow(columns: list[list[Any]]) -> pa.Table:
    kinds = (pa.int64(), pa.string(), pa.string(), pa.int64(), pa.string())
    names = ("position", "stream_id", "topic", "version", "state")
    return pa.table(
        {n: pa.array(values, kind) for n, values, kind in zip(names, columns, kinds, strict=True)}
    )


def compute(
    log: LedgerLog,
    projections: Sequence[Projection],
    low: int,
    high: int,
    *,
    effective_by: str | None = None,
    stream_id: UUID | None = None,
) -> Columns:
    """Every SELECT over the facts after ``low`` up to ``high``; the caller closes what it gets.

    ``effective_by`` keeps what had happened by that instant; ``stream_id`` the facts of one stream.
    """
    columns = Columns(projections, effective_by=effective_by)
    batches = stored_batches(log, low, high, columns.topics, stream_id)
    if effective_by is None:
        for batch in batches:
            columns.feed(batch)
    else:  # the order of effective times is only known when all facts are there
        whole = list(batches)
        if whole:
            columns.feed(pa.concat_tables(whole))
    return columns
