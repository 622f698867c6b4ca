"""Time travel: any figure as of any moment, what changed and why, and the proof that the live tables are right.

Reads take ``position`` (the recorded axis: what the ledger knew when it had that many facts) and ``effective_on`` (what
had happened by the end of that local day), alone or together. Nothing here is stored.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from typing import Any
from uuid import UUID

import orjson
from sqlalchemy import Connection, Select, select

from ledger import ids
from ledger.archive import Archive
from ledger.codec import decode, instant_text
from ledger.errors import NoRuleBookError, Refusal
from ledger.events import RuleBookPublished
from ledger.log import LedgerLog
from ledger.rulebook import CHINA, Edition, RuleBooks
from ledger.schema import facts
from projections.engine import Columns, Row, Wanted, archived_rows, archived_shares, compute, select_in_store
from projections.facts import is_id
from projections.figures import all_figures
from projections.follower import by_position, catch_up, prepare, stands_at
from projections.moment import Moment
from projections.projection import Projection

SMALL_HISTORY = 5_000
"""Up to this many facts the database answers sooner than DuckDB starts."""

FEW_STREAMS = 20
"""Up to so many streams are read through the index sooner than the archive is searched for them …"""
SEARCHED_PER_STREAM = 30_000
"""… or one stream for so many archived facts and event types: searching them takes about as long as reading it."""


class BeyondHeadError(Refusal):
    """A position that the log has not reached."""

    code = "AS_OF_BEYOND_HEAD"
    zh = "账本现在只有 {head} 条，没有第 {position} 条时的状态。"
    en = "The ledger has {head} facts; there is no state as of {position}."


class MomentsReversedError(Refusal):
    """A difference that was asked for backwards."""

    code = "MOMENTS_REVERSED"
    zh = "起点（第 {low} 条）在终点（第 {high} 条）之后，请把两个时刻对调。"
    en = "The first moment (position {low}) comes after the second (position {high}); swap them."


@dataclass(frozen=True)
class Change:
    """One key whose figure differs between two moments, and the positions of the facts in between that touched it."""

    key: tuple[Any, ...]
    before: Mapping[str, Any] | None
    after: Mapping[str, Any] | None
    positions: tuple[int, ...]

    def measures(self, figure: Projection) -> Iterator[tuple[str, Any, Any]]:
        """Each measure that is another than before: its name, what it was, and what it is (None: no row)."""
        for name in (m.name for m in figure.measures):
            old, new = (side[name] if side else None for side in (self.before, self.after))
            if old != new:
                yield name, old, new


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
    by = end_of(effective_on)
    rows = _standing(log, figure, Wanted.one(where or {}), position, by, archive)
    return [_named(figure, row) for row in rows]


def _standing(
    log: LedgerLog,
    figure: Projection,
    wanted: Wanted | None,
    position: int,
    effective_by: str | None,
    archive: Archive | None,
) -> list[Row]:
    """Rows with their hidden columns, in key order."""
    if wanted is not None and effective_by is None:
        rows = _wanted_rows(log, figure, wanted, position, archive)
    elif position <= SMALL_HISTORY and effective_by is None:
        rows = select_in_store(log, figure, 0, position)
    else:
        streams = _streams(figure, wanted)
        if streams == []:
            return []
        stream_id = UUID(streams[0]) if streams and len(streams) == 1 else None
        how: dict[str, Any] = {"effective_by": effective_by, "stream_id": stream_id, "wanted": wanted}
        with closing(compute(log, [figure], 0, position, **how, archive=archive)) as columns:
            rows = columns.rows(figure)
    return _in_order(figure, rows)


def _in_order(figure: Projection, rows: list[Row]) -> list[Row]:
    """By key, as every engine must list them."""
    return sorted(rows, key=lambda row: row[: len(figure.keys)])


def _wanted_rows(
    log: LedgerLog, figure: Projection, wanted: Wanted, position: int, archive: Archive | None
) -> list[Row]:
    """Some keys' rows: the archive is searched for them, and the database for what is not there.

    A few streams are read by their index instead.
    """
    streams = _streams(figure, wanted)
    few = max(FEW_STREAMS, position * len(figure.relation.topics) // SEARCHED_PER_STREAM)
    if archive is None or (streams is not None and len(streams) <= few):
        return select_in_store(log, figure, 0, position, wanted=wanted)
    found, left = archived_rows(archive, figure, wanted, 0, position)
    rows = {row[: len(figure.keys)]: row for row in found}
    for low, high in left:
        for row in select_in_store(log, figure, low, high, wanted=wanted):
            old = rows.get(row[: len(figure.keys)])
            rows[row[: len(figure.keys)]] = row if old is None else figure.merged(old, row)
    return list(rows.values())


def _streams(figure: Projection, wanted: Wanted | None) -> list[str] | None:
    """The only streams that have wanted facts; None if that may be any."""
    stream = figure.relation.stream_column
    if wanted is None or stream not in wanted.names:
        return None
    return [value for value in wanted.values(stream) if is_id(value)]


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
    log: LedgerLog,
    figure: Projection,
    low: int,
    high: int,
    *,
    where: Mapping[str, Any] | None = None,
    after: tuple[Any, ...] | None = None,
    limit: int | None = None,
    archive: Archive | None = None,
) -> list[Change]:
    """The keys whose figures differ between two positions, with the facts in between that touched them, in key order.

    Only the facts in between, and the earlier figures of the keys they touch, are computed: a later figure is the
    earlier one merged with what lies between. ``where`` keeps some keys, ``after`` those behind one, ``limit`` so many.
    """
    resolve(log, low)
    resolve(log, high)
    if low > high:
        raise MomentsReversedError(low=low, high=high)
    changes: list[Change] = []
    with _between(log, figure, Wanted.one(where or {}), low, high, archive) as page:
        while limit is None or len(changes) < limit:
            touched = page(after, limit)
            changes += _changes(log, figure, touched, low, archive)
            if limit is None or len(touched) < limit:
                break
            after = touched[-1][: len(figure.keys)]
    return changes[:limit]


@contextmanager
def _between(
    log: LedgerLog, figure: Projection, wanted: Wanted | None, low: int, high: int, archive: Archive | None
) -> Iterator[Callable[[tuple[Any, ...] | None, int | None], list[Row]]]:
    """What the facts after ``low`` up to ``high`` alone add up to, each row with its facts, in key order.

    Asked for behind some key, so many at a time: there may be more than anybody wants in memory.
    """
    if high - low <= SMALL_HISTORY:
        rows = _in_order(figure, select_in_store(log, figure, low, high, wanted=wanted, positions=True))
        yield lambda after, limit: [r for r in rows if not after or r[: len(figure.keys)] > after][:limit]
        return
    computed = compute(log, [figure], low, high, wanted=wanted, positions=True, archive=archive)
    with closing(computed) as columns:
        yield lambda after, limit: columns.page(figure, after, limit)


def _changes(
    log: LedgerLog, figure: Projection, touched: Sequence[Row], low: int, archive: Archive | None
) -> Iterator[Change]:
    if not touched:
        return
    width = len(figure.keys)
    wanted = Wanted(figure.keys, tuple(row[:width] for row in touched))
    earlier = {row[:width]: row for row in _standing(log, figure, wanted, low, None, archive)}
    for *row, positions in touched:
        new = tuple(row)
        key = new[:width]
        old = earlier.get(key)
        later = new if old is None else figure.merged(old, new)
        before, after = (None if r is None else _named(figure, r) for r in (old, later))
        if before != after:
            yield Change(key, before, after, tuple(sorted(map(int, positions.split(",")))))


@dataclass(frozen=True)
class Seen:
    """A fact as somebody who asks why sees it; ``reason`` is a code, or None (words of people are sealed)."""

    position: int
    topic: str
    stream_id: UUID
    happened_at: str
    recorded_at: str
    reason: str | None


def facts_at(log: LedgerLog, positions: Iterable[int]) -> dict[int, Seen]:
    """The facts at some positions, by position."""
    found: dict[int, Seen] = {}
    wanted = sorted(set(positions))
    with log.engine.connect() as connection:
        for start in range(0, len(wanted), FACTS_AT_ONCE):
            some = wanted[start : start + FACTS_AT_ONCE]
            for row in connection.execute(select(facts).where(facts.c.position.in_(some))):
                state = orjson.loads(row.state)
                reason = state.get("reason")
                found[row.position] = Seen(
                    row.position,
                    row.topic,
                    row.stream_id,
                    state["happened_at"],
                    state["recorded_at"],
                    None if reason is None or reason.startswith("s1.") else reason,
                )
    return found


FACTS_AT_ONCE = 5_000


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
    rows = _behind(log, figure, Wanted.one(key), reached, archive)
    return [dict(zip(names, row, strict=True)) for row in sorted(rows, key=lambda row: row[0])]


def verify_against_live(
    log: LedgerLog, *, archive: Archive | None = None
) -> dict[str, list[tuple[Any, ...]]]:
    """Recompute every figure from the first fact and compare it with its table: the keys that differ, by figure.

    A figure that claims to hold more facts than there are would miss the next ones: its place is told instead.
    With ``archive`` the proof is only as good as that: `ledger.archive.check` compares it with the log.
    """
    catch_up(log)
    wrong: dict[str, list[tuple[Any, ...]]] = {}
    places = by_position(log, all_figures())
    head = log.head().size  # after the places, which only grow towards it
    for position, figures in places.items():
        if position > head:
            wrong |= {figure.name: [("position", position)] for figure in figures}
            continue
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


def _behind(
    log: LedgerLog, figure: Projection, wanted: Wanted | None, position: int, archive: Archive | None
) -> list[Row]:
    """Shares of the facts up to ``position``; the database finds those of one stream by their index."""
    if archive is None or _streams(figure, wanted) is not None:
        return select_in_store(log, figure, 0, position, wanted=wanted, shares=True)
    found, left = archived_shares(archive, figure, wanted, 0, position)
    for low, high in left:
        found += select_in_store(log, figure, low, high, wanted=wanted, shares=True)
    return found


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
