"""Keeps the tables up with the log: rows and position move in one transaction; live and rebuild are this same code."""

import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
from pyarrow import csv
from sqlalchemy import BigInteger, Column, Connection, MetaData, Table, Text, inspect, select, text
from sqlalchemy.exc import OperationalError, ProgrammingError, SQLAlchemyError

from ledger.archive import Archive
from ledger.codec import EVENTS_BY_TOPIC, decode
from ledger.errors import ArchiveWrongError, LedgerBusyError, LedgerError, UnreadableFactError
from ledger.log import LedgerLog
from projections.engine import ahead, apply_in_store, compute, merge_clause, python_rows
from projections.figures import all_figures
from projections.projection import Projection

SMALL_BATCH = 300
"""Up to here the database that holds the tables runs the SELECTs itself."""
LARGE_BATCH = 1_000_000
WRITE_ROWS = 50_000
"""Rows that are Python objects, or text, at one time."""

positions = Table(
    "figure_positions",
    MetaData(),
    Column("table_name", Text, primary_key=True),
    Column("position", BigInteger, nullable=False),
    Column("updated_at", Text, nullable=False),
)
"""How far each table has come. It moves only from where its batch began: two followers cannot double."""

RETRY_SECONDS = 0.5
RETRY_SECONDS_MAX = 30.0
"""How long a follower waits for a database that is held or away, at first."""

logger = logging.getLogger("wenming.follower")

Progress = Callable[[str, int, int], None]
"""Called with what is being done, how far, and of how much."""


@dataclass(frozen=True)
class Status:
    """One figure's place: ``lag_seconds`` is how long the first fact it does not show has been there (0 if none)."""

    name: str
    position: int
    head: int
    lag_seconds: float

    @property
    def lag_facts(self) -> int:
        return self.head - self.position


class FiguresApartError(LedgerError):
    """Tables of one answer that stand at different positions."""

    code = "FIGURES_APART"
    zh = "统计表 {figures} 还没有跟到同一位置。请稍后再试，或运行 wenming rebuild。"
    en = "The figures {figures} do not stand at one position yet. Try again shortly, or run: wenming rebuild"


class MovedMeanwhileError(Exception):
    """Another follower brought a table further; nothing was written."""


@contextmanager
def _writing(log: LedgerLog) -> Iterator[Connection]:
    """A transaction on the tables, which does not wait for the disk.

    Facts were synced before they got here. If power fails, a table and its position are lost together and made again.
    """
    with log.engine.connect() as plain:
        connection = plain.execution_options(writes=True)
        unsynced = (
            relaxed(connection.connection.driver_connection) if log.dialect == "sqlite" else nullcontext()
        )
        with unsynced, connection.begin():
            yield connection


@contextmanager
def relaxed(driver: Any) -> Iterator[None]:
    """An SQLite connection that neither syncs commits nor overwrites what it frees: tables hold ids and numbers only.

    Some systems build SQLite to overwrite by default, which doubles the work of swapping a table.
    """
    (overwrites,) = driver.execute("PRAGMA secure_delete").fetchone()
    driver.execute("PRAGMA synchronous = NORMAL")
    driver.execute("PRAGMA secure_delete = OFF").fetchone()
    try:
        yield
    finally:
        driver.execute("PRAGMA synchronous = FULL")
        driver.execute(f"PRAGMA secure_delete = {overwrites}").fetchone()


def prepare(log: LedgerLog, figures: Sequence[Projection] | None = None) -> None:
    """Make the tables that are not there yet; they start at position 0."""
    figures = figures or all_figures()
    if _places(log)[1].keys() >= {figure.table_name for figure in figures}:
        return  # a table and its place are made, swapped and dropped in one transaction
    with log.engine.connect() as connection:
        there = set(inspect(connection).get_table_names())
    missing = [figure for figure in figures if figure.table_name not in there]
    if not missing and positions.name in there:
        return
    with _writing(log) as connection:
        if log.dialect == "postgresql":
            connection.exec_driver_sql("SELECT pg_advisory_xact_lock(7034001)")
        positions.create(connection, checkfirst=True)
        for figure in missing:
            figure.table().create(connection, checkfirst=True)
            _start_at(connection, figure.table_name, 0)


def _places(log: LedgerLog) -> tuple[int, dict[str, int]]:
    """The log's size and how far each table has come, at one moment; no places if there are no tables yet."""
    with log.engine.connect() as connection:
        try:
            rows = connection.exec_driver_sql(
                "SELECT h.size, p.table_name, p.position FROM ledger_head h LEFT JOIN figure_positions p ON true"
            ).all()
        except (OperationalError, ProgrammingError):  # as the two drivers say that a table is missing
            connection.rollback()
            if inspect(connection).has_table(positions.name):
                raise
            rows = connection.exec_driver_sql("SELECT size, NULL, NULL FROM ledger_head").all()
    return rows[0][0], {name: position for _, name, position in rows if name is not None}


def _start_at(connection: Connection, table_name: str, position: int) -> None:
    connection.execute(
        text(
            "INSERT INTO figure_positions VALUES (:name, :position, :now) ON CONFLICT (table_name) DO NOTHING"
        ),
        {"name": table_name, "position": position, "now": _now()},
    )


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="microseconds")


def catch_up(
    log: LedgerLog,
    figures: Sequence[Projection] | None = None,
    progress: Progress | None = None,
    *,
    archive: Archive | None = None,
) -> int:
    """Bring every figure to the log's head; returns the position they are all at.

    Long stretches, such as all of history for a figure that is new, are read from ``archive`` where it has them.
    """
    figures = figures or all_figures()
    while True:
        head, places = _places(log)
        if any(figure.table_name not in places for figure in figures):
            prepare(log, figures)
            continue
        behind = _grouped(places, figures)
        low = min(behind)
        if low >= head:
            return head
        later = sorted(position for position in behind if position > low)
        high = min([head, low + LARGE_BATCH, *later])
        try:
            bring(log, behind[low], low, high, archive=archive)
        except MovedMeanwhileError:
            continue
        if progress:
            progress("catching up", high, head)
        if high == head and not later:
            return head


def by_position(log: LedgerLog, figures: Sequence[Projection]) -> dict[int, list[Projection]]:
    """The figures by the position their tables are at."""
    return _grouped(_places(log)[1], figures)


def _grouped(places: Mapping[str, int], figures: Sequence[Projection]) -> dict[int, list[Projection]]:
    grouped: dict[int, list[Projection]] = {}
    for figure in figures:
        grouped.setdefault(places[figure.table_name], []).append(figure)
    return grouped


def stands_at(connection: Connection, figures: Sequence[Projection]) -> int:
    """The position that all these tables stand at, as this transaction sees them.

    Tables that are not at one position (a new figure that is still being computed) are refused with FIGURES_APART.
    """
    names = [figure.table_name for figure in figures]
    found = {
        row.position
        for row in connection.execute(select(positions.c.position).where(positions.c.table_name.in_(names)))
    }
    if len(found) != 1:
        raise FiguresApartError(figures=sorted(figure.name for figure in figures))
    return int(found.pop())


def reached(log: LedgerLog) -> int:
    """The position that every figure's table has reached."""
    prepare(log)
    return min(by_position(log, all_figures()))


def bring(
    log: LedgerLog,
    figures: Sequence[Projection],
    low: int,
    high: int,
    *,
    small: bool | None = None,
    archive: Archive | None = None,
) -> None:
    """Bring figures that stand at ``low`` to ``high``, all of them or none.

    ``small`` picks the executor (the database itself, or DuckDB); left out, the size of the batch does.
    Raises `MovedMeanwhileError` if any of them does not stand at ``low``.
    """
    try:
        if small if small is not None else high - low <= SMALL_BATCH:
            with _writing(log) as connection:
                topics = _known_topics(connection, low, high)
                _move(connection, figures, low, high)
                touched = (f for f in figures if not topics.isdisjoint(f.relation.topics))
                apply_in_store(connection, touched, low, high)
            return
        with log.engine.connect() as connection:
            _known_topics(connection, low, high)
        columns = compute(log, figures, low, high, archive=archive)
        try:
            made = ahead((figure, columns.arrow(figure)) for figure in figures)
            with closing(made), _writing(log) as connection:
                _move(connection, figures, low, high)
                for figure, rows in made:
                    write_rows(connection, figure, figure.table_name, rows, merge=low > 0)
        finally:
            columns.close()
    except (MovedMeanwhileError, UnreadableFactError, ArchiveWrongError):
        raise
    except Exception as error:
        raise _unreadable(log, low, high) or error from error


def _known_topics(connection: Connection, low: int, high: int) -> set[str]:
    """The topics of some facts. A program older than the log stops here: no figure may skip what it does not know."""
    found = connection.exec_driver_sql(
        f"SELECT topic, min(position) FROM facts WHERE position > {low} AND position <= {high} GROUP BY topic"
    )
    first: dict[str, int] = {row[0]: row[1] for row in found}
    unknown = sorted((position, topic) for topic, position in first.items() if topic not in EVENTS_BY_TOPIC)
    if unknown:
        raise UnreadableFactError(topic=unknown[0][1], position=unknown[0][0], problem="unknown topic")
    return set(first)


def _unreadable(log: LedgerLog, low: int, high: int) -> UnreadableFactError | None:
    """The first fact that stands in the way, by its position; None if the facts are not to blame."""
    for row in log.read(low + 1, high):
        try:
            decode(row.topic, row.stream_id, row.version, row.state)
        except UnreadableFactError as unreadable:
            return UnreadableFactError(**{**unreadable.details, "position": row.position})
    return None


def _move(connection: Connection, figures: Sequence[Projection], low: int, high: int) -> None:
    """Only from where the batch began: addition is not idempotent."""
    names = ", ".join(f"'{figure.table_name}'" for figure in figures)
    unsynced = "; SET LOCAL synchronous_commit = off" if connection.dialect.name == "postgresql" else ""
    moved = connection.exec_driver_sql(
        f"UPDATE figure_positions SET position = {high}, updated_at = '{_now()}' "
        f"WHERE table_name IN ({names}) AND position = {low}{unsynced}"
    )
    if moved.rowcount != len(figures):
        raise MovedMeanwhileError()


def write_rows(
    connection: Connection,
    figure: Projection,
    table: str,
    rows: pa.Table,
    *,
    merge: bool,
    share: int | None = None,
) -> None:
    """Rows in key order into a table: inserted on SQLite, by COPY on PostgreSQL; merged with what is there if asked.

    With ``share`` they are that share's, in a table which has them beside those of others (`worker_store`).
    """
    if not rows:
        return
    names, beside = figure.columns, ""
    if share is not None:
        names, beside = (*names, "share"), "share"
        rows = rows.append_column(beside, pa.repeat(pa.scalar(share, pa.int32()), len(rows)))
    columns = ", ".join(names)
    merging = merge_clause(figure, table, beside) if merge else ""
    driver: Any = connection.connection
    cursor = driver.cursor()
    try:
        if connection.dialect.name == "sqlite":
            marks = ", ".join("?" * len(names))
            statement = f"INSERT INTO {table} ({columns}) VALUES ({marks}) {merging}"
            for batch in rows.to_batches(max_chunksize=WRITE_ROWS):
                cursor.executemany(statement, python_rows(batch))
            return
        target = f"{figure.table_name}_merging" if merge else table
        if merge:
            cursor.execute(f"CREATE TEMP TABLE {target} (LIKE {table}) ON COMMIT DROP")
        with cursor.copy(f"COPY {target} ({columns}) FROM STDIN (FORMAT csv)") as copy:
            for batch in rows.to_batches(max_chunksize=WRITE_ROWS):
                copy.write(_csv(batch))
        if merge:
            cursor.execute(f"INSERT INTO {table} ({columns}) SELECT {columns} FROM {target} {merging}")
    finally:
        cursor.close()


def _csv(batch: pa.RecordBatch) -> memoryview:
    """As PostgreSQL reads it: text in quotes, so that nothing at all is NULL."""
    sink = pa.BufferOutputStream()
    csv.write_csv(batch, sink, csv.WriteOptions(include_header=False))
    return memoryview(sink.getvalue())


def rebuild(
    log: LedgerLog,
    names: Sequence[str] | None = None,
    progress: Progress | None = None,
    *,
    archive: Archive | None = None,
) -> dict[str, int]:
    """Compute figures anew from the first fact, beside the live tables, and swap them in; rows by figure name.

    A crash before the swap leaves the old tables as they were, and so does a fact that cannot be read
    (`UnreadableFactError` names its position).
    """
    figures = [f for f in all_figures() if names is None or f.name in names]
    prepare(log, figures)
    head = log.head().size
    with log.engine.connect() as connection:
        _known_topics(connection, 0, head)
    columns = compute(log, figures, 0, head, archive=archive)
    written: dict[str, int] = {}
    try:
        with closing(ahead((figure, columns.arrow(figure)) for figure in figures)) as made:
            for done, (figure, rows) in enumerate(made):
                written[figure.name] = _rebuild_one(log, figure, rows, head)
                if progress:
                    progress(f"rebuilt {figure.name}", done + 1, len(figures))
    finally:
        columns.close()
    return written


def _rebuild_one(log: LedgerLog, figure: Projection, rows: pa.Table, head: int) -> int:
    live, beside = figure.table_name, f"{figure.table_name}_new"
    with _writing(log) as connection:
        # The place first, as a follower does: two that lock in one order cannot wait for each other.
        connection.execute(
            positions.update().where(positions.c.table_name == live).values(position=head, updated_at=_now())
        )
        connection.exec_driver_sql(f"DROP TABLE IF EXISTS {beside}")
        figure.table(beside).create(connection)
        write_rows(connection, figure, beside, rows, merge=False)
        connection.exec_driver_sql(f"DROP TABLE {live}")
        connection.exec_driver_sql(f"ALTER TABLE {beside} RENAME TO {live}")
    return len(rows)


def reset(log: LedgerLog) -> None:
    """Throw every figure's table away; the next `catch_up` makes them again from the first fact."""
    with _writing(log) as connection:
        for figure in all_figures():
            figure.table().drop(connection, checkfirst=True)
        positions.drop(connection, checkfirst=True)


def status(log: LedgerLog) -> list[Status]:
    """How far every figure has come, in facts and seconds."""
    prepare(log)
    head = log.head().size
    found = []
    for position, figures in by_position(log, all_figures()).items():
        lag = 0.0
        if position < head:
            (first,) = log.read(position + 1, position + 1)
            recorded = first.state.partition(b'"recorded_at":"')[2][:27].decode()
            lag = max(0.0, (datetime.now(UTC) - datetime.fromisoformat(recorded)).total_seconds())
        found += [Status(figure.name, position, head, lag) for figure in figures]
    return sorted(found, key=lambda s: s.name)


def follow(log: LedgerLog, stop: threading.Event, archive: Archive | None = None) -> None:
    """Keep every figure at the head until ``stop`` is set.

    A database that is held or away is tried again; a fact that cannot be read stops it (`UnreadableFactError`).
    """
    pause = RETRY_SECONDS
    while not stop.is_set():
        began = time.monotonic()
        try:
            _follow(log, stop, archive)
        except (SQLAlchemyError, LedgerBusyError, OSError) as trouble:
            if time.monotonic() - began > RETRY_SECONDS_MAX:  # all was well in between
                pause = RETRY_SECONDS
            logger.warning("figures wait %.1f s: %s", pause, type(trouble).__name__)
            stop.wait(pause)
            pause = min(pause * 2, RETRY_SECONDS_MAX)


def _follow(log: LedgerLog, stop: threading.Event, archive: Archive | None) -> None:
    position = catch_up(log, archive=archive)
    with log.waiting() as wait:
        while not stop.is_set():
            wait(position, 0.25)
            if log.head().size > position:
                position = catch_up(log, archive=archive)
