"""Time travel: any figure as of any moment, what changed and why, and the proof that the live tables are right.

Reads take ``position`` (the recorded axis: what the ledger knew when it had that many facts) and ``effective_on`` (what
had happened by the end of that local day), alone or together. Nothing here is stored.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, Select, select

from ledger import ids
from ledger.archive import Archive
from ledger.codec import decode, instant_text
from ledger.errors import NoRuleBookError, Refusal
from ledger.events import RuleBookPublished
from ledger.log import LedgerLog
from ledger.rulebook import CHINA, Edition, RuleBooks
from projections.engine import Columns, Row, archived_shares, compute, select_in_store
from projections.figures import all_figures
from projections.follower import by_position, catch_up, prepare, stands_at
from projections.moment import Moment
from projections.projection import Projection

SMALL_HISTORY = 5_000
"""Up to this many facts the database answers sooner than DuckDB starts."""


class BeyondHeadError(Refusal):
    """A position that the log has not reached."""

    code = "AS_OF_BEYOND_HEAD"
    zh = "账本现在只有 {head} 条，没有第 {position} 条时的状态。"
    en = "The ledger has {head} facts; there is no state as of {position}."


@dataclass(frozen=True)
class Change:
    """One key whose figure differs between two moments, and the positions of the facts in between that touched it."""

    key: tuple[Any, ...]
    before: Mapping[str, Any] | None
    after: Mapping[str, Any] | None
    positions: tuple[int, ...]


def resolve(log: LedgerLog, moment: int | datetime | None) -> int:
    """The position that ``moment`` means: itself, the last one recorded by then, or the head for None."""
    head = log.head().size
    position = head if moment is None else moment if isinstance(moment, int) else log.position_at(moment)
    if not 0 <= position <= head:
        raise BeyondHeadError(position=position, head=head)
    return position


class _Live:
    """The stored tables, read in one transaction."""

    def __init__(self, connection: Connection, position: int) -> None:
        self._connection = connection
        self.position = position

    def rows(self, query: Select[Any]) -> list[dict[str, Any]]:
        return [dict(row) for row in self._connection.execute(query).mappings()]


class _Past:
    """The tables as they were, computed for this question."""

    def __init__(self, columns: Columns, position: int) -> None:
        self._columns = columns
        self.position = position

    def rows(self, query: Select[Any]) -> list[dict[str, Any]]:
        return self._columns.rows_of(query)


@contextmanager
def at(
    log: LedgerLog,
    figures: Sequence[Projection],
    position: int | None = None,
    *,
    effective_on: date | None = None,
    stream_id: UUID | None = None,
    archive: Archive | None = None,
) -> Iterator[Moment]:
    """Figures at one moment, to be asked: the live tables, or with ``position`` / ``effective_on`` as they were.

    ``stream_id`` says that only one stream's rows will be asked for; the past of one stream is read much faster.
    """
    if position is None and effective_on is None:
        prepare(log)
        with log.engine.connect() as plain:
            connection = plain.execution_options(**_SNAPSHOT[log.dialect])
            with connection.begin():
                yield _Live(connection, stands_at(connection, figures))
        return
    reached = resolve(log, position)
    by = end_of(effective_on)
    computed = compute(log, figures, 0, reached, effective_by=by, stream_id=stream_id, archive=archive)
    with closing(computed) as columns:
        columns.name_tables()
        yield _Past(columns, reached)


_SNAPSHOT: Mapping[str, Mapping[str, Any]] = {
    "sqlite": {},
    "postgresql": {"isolation_level": "REPEATABLE READ"},
}
"""How a reading transaction sees one moment throughout."""


def as_of(
    log: LedgerLog,
    figure: Projection,
    position: int,
    *,
    effective_on: date | None = None,
    where: Mapping[str, Any] | None = None,
    archive: Archive | None = None,
) -> list[dict[str, Any]]:
    """The figure's rows as of a moment, hidden columns left out, in key order.

    ``where`` keeps some keys; one on the stream itself (a volunteer's own figures) reads that stream only.
    """
    resolve(log, position)
    where = dict(where or {})
    condition, arguments = _narrowed(log, figure, position, where)
    if effective_on is None and (len(arguments) > 1 or position <= SMALL_HISTORY):
        with log.engine.connect() as connection:
            rows = select_in_store(connection, figure, figure.sql(log.dialect), condition, arguments)
    else:
        by = end_of(effective_on)
        with closing(compute(log, [figure], 0, position, effective_by=by, archive=archive)) as columns:
            rows = columns.rows(figure)
    named = (_named(figure, row) for row in rows)
    return sorted(
        (row for row in named if all(row[k] == v for k, v in where.items())),
        key=lambda row: [row[k] for k in figure.keys],
    )


def live(log: LedgerLog, figure: Projection, where: Mapping[str, Any] | None = None) -> list[dict[str, Any]]:
    """The figure's rows as the stored table has them, hidden columns left out, in key order."""
    prepare(log)
    table = figure.table()
    query = select(table)
    for name, value in (where or {}).items():
        query = query.where(table.c[name] == value)
    with log.engine.connect() as connection:
        rows = [_named(figure, tuple(row)) for row in connection.execute(query)]
    return sorted(rows, key=lambda row: [row[k] for k in figure.keys])


def diff(
    log: LedgerLog, figure: Projection, low: int, high: int, *, archive: Archive | None = None
) -> list[Change]:
    """The keys whose figures differ between two positions, with the facts in between that touched them."""
    touched: dict[tuple[Any, ...], list[int]] = {}
    for row in _shares(log, figure, "position > ? AND position <= ?", (low, resolve(log, high))):
        touched.setdefault(row[1 : 1 + len(figure.keys)], []).append(row[0])
    before = _by_key(figure, as_of(log, figure, low, archive=archive))
    after = _by_key(figure, as_of(log, figure, high, archive=archive))
    changes = (Change(key, before.get(key), after.get(key), tuple(sorted(at))) for key, at in touched.items())
    return sorted((c for c in changes if c.before != c.after), key=lambda c: c.key)


def explain(
    log: LedgerLog,
    figure: Projection,
    key: Mapping[str, Any],
    position: int | None = None,
    *,
    archive: Archive | None = None,
) -> list[dict[str, Any]]:
    """The facts behind one figure: each with its position and its own share; the shares add up to the figure."""
    reached = resolve(log, position)
    names = ("position", *figure.keys, *(m.name for m in figure.measures))
    rows = (dict(zip(names, row, strict=True)) for row in _behind(log, figure, key, reached, archive))
    return sorted(
        (row for row in rows if all(row[k] == v for k, v in key.items())), key=lambda row: row["position"]
    )


def verify_against_live(
    log: LedgerLog, *, archive: Archive | None = None
) -> dict[str, list[tuple[Any, ...]]]:
    """Recompute every figure from the first fact and compare it with its table: the keys that differ, by figure.

    With ``archive`` the proof is only as good as that: `ledger.archive.check` compares it with the log.
    """
    catch_up(log)
    wrong: dict[str, list[tuple[Any, ...]]] = {}
    for position, figures in by_position(log, all_figures()).items():
        with closing(compute(log, figures, 0, position, archive=archive)) as columns:
            for figure in figures:
                expected = _whole(figure, columns.rows(figure))
                with log.engine.connect() as connection:
                    stored = _whole(figure, connection.execute(select(figure.table())))
                keys = [k for k in expected.keys() | stored.keys() if expected.get(k) != stored.get(k)]
                wrong[figure.name] = sorted(keys)
    return wrong


def edition_on(log: LedgerLog, day: date, position: int | None = None) -> Edition:
    """The rule book in force on a local day, of those published by a position; NO_RULE_BOOK if there is none."""
    edition = rulebooks_as_of(log, position).on(day)
    if edition is None:
        raise NoRuleBookError(day=day)
    return edition


def recorded_at(log: LedgerLog, position: int) -> datetime:
    """When the fact at ``position`` was recorded; for position 0, when the ledger was created."""
    row = next(iter(log.read(position, position)), None) if position else None
    if row is None:
        return log.identity.created_at
    return decode(row.topic, row.stream_id, row.version, row.state).recorded_at


def rulebooks_as_of(log: LedgerLog, position: int | None = None) -> RuleBooks:
    """The rule books published by a position."""
    at = resolve(log, position)
    editions = []
    for row in log.stream(ids.rulebook_id(log.identity.ledger_id)):
        fact = decode(row.topic, row.stream_id, row.version, row.state)
        if row.position <= at and isinstance(fact, RuleBookPublished):
            editions.append(Edition(fact.rulebook_version, fact.effective_on, fact.book))
    return RuleBooks(tuple(editions))


def _shares(log: LedgerLog, figure: Projection, condition: str, arguments: Any) -> list[Row]:
    with log.engine.connect() as connection:
        return select_in_store(connection, figure, figure.rows_sql(log.dialect), condition, arguments)


def _behind(
    log: LedgerLog, figure: Projection, key: Mapping[str, Any], position: int, archive: Archive | None
) -> Iterator[Row]:
    """Shares of the facts up to ``position``, some that have another key among them.

    One stream's facts are few, and the database finds them by their index.
    """
    if archive is None or figure.relation.stream_column in key:
        condition, arguments = _narrowed(log, figure, position, key)
        yield from _shares(log, figure, condition, arguments)
        return
    found, left = archived_shares(archive, figure, key, 0, position)
    yield from found
    for low, high in left:
        yield from _shares(log, figure, "position > ? AND position <= ?", (low, high))


def _narrowed(
    log: LedgerLog, figure: Projection, position: int, key: Mapping[str, Any]
) -> tuple[str, list[Any]]:
    """The facts up to ``position``, only those of one stream if the key names it."""
    condition, arguments = "position <= ?", [position]
    stream = figure.relation.stream_column
    if stream in key:
        condition += " AND stream_id = " + ("?" if log.dialect == "sqlite" else "?::uuid")
        arguments.append(key[stream])
    return condition, arguments


def _named(figure: Projection, row: Row) -> dict[str, Any]:
    visible = (*figure.keys, *(m.name for m in figure.measures))
    return dict(zip(visible, row[: len(visible)], strict=True))


def _whole(figure: Projection, rows: Iterable[Any]) -> dict[tuple[Any, ...], tuple[Any, ...]]:
    """Rows by key, hidden columns included: a wrong one would spoil what is merged into it later."""
    return {tuple(row)[: len(figure.keys)]: tuple(row) for row in rows}


def _by_key(figure: Projection, rows: list[dict[str, Any]]) -> dict[tuple[Any, ...], dict[str, Any]]:
    return {tuple(row[k] for k in figure.keys): row for row in rows}


def end_of(day: date | None) -> str | None:
    """The last instant of a local day, as facts write it; None for no day."""
    if day is None:
        return None
    midnight = datetime.combine(day + timedelta(days=1), time(), CHINA)
    return instant_text(midnight.astimezone(UTC) - timedelta(microseconds=1))
