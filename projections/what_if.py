"""What if another rule book had applied? Read-time parameters judged again, beside what stands (T46).

Nothing is recorded, nothing refused comes back, and every minute that counts goes on counting: where the other book
would have asked for approval or said no, the row says so. Judged again are the star somebody stands at
(``star_minutes``), whether a session was recorded in time (``record_working_days`` and the calendar), and the minutes
of a day (``day_minutes_free``, ``day_minutes_max``) and of a session (``session_minutes_min``,
``session_minutes_max``). Bounds of scores, deadlines of offers and lists of categories decided when something was
asked: they are not judged again. No entry is held yet, so none is released.
"""

import json
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from typing import Any, Generic, Literal, TypeVar

from pydantic import ValidationError
from sqlalchemy import (
    TIMESTAMP,
    BigInteger,
    ColumnElement,
    Integer,
    Select,
    Text,
    Values,
    and_,
    case,
    cast,
    column,
    func,
    literal,
    null,
    select,
    true,
    values,
)

from ledger import events
from ledger.archive import Archive
from ledger.codec import instant_text
from ledger.errors import InvalidRequestError
from ledger.log import LedgerLog
from ledger.rulebook import CHINA, Edition, RuleBook, RuleBooks, local_day
from projections import replay
from projections.engine import facts_in_store
from projections.facts import facts_of
from projections.hours import entries, volunteer_days, volunteer_hours
from projections.moment import Moment
from projections.projection import Projection, latest

Verdict = Literal["counts", "would_be_held", "would_be_refused"]
T = TypeVar("T")

records = facts_of("session_records", events.SessionRecorded, events.SessionCorrected, events.SessionReversed)
_said_when = records.c.topic != events.SessionReversed.TOPIC

session_times = Projection(
    name="session_times",
    version=1,
    select=select(
        records.c.volunteer_id,
        records.c.session_id,
        latest(records.c.started_at, records.c.position).label("started_at"),
        latest(records.c.ended_at, records.c.position).label("ended_at"),
        latest(cast(records.c.late, Integer), records.c.position).label("late"),
        latest(records.c.rulebook_version, records.c.position).label("rulebook_version"),
        latest(records.c.topic, records.c.position).label("last_topic"),
        func.max(records.c.recorded_at).filter(_said_when).label("said_at"),
    ).group_by(records.c.volunteer_id, records.c.session_id),
    stored=False,
)
"""Each session with its times as they count now, and when these were written down."""

session_minutes = Projection(
    name="session_minutes",
    version=1,
    select=select(
        entries.c.volunteer_id, entries.c.session_id, func.sum(entries.c.minutes).label("minutes")
    ).group_by(entries.c.volunteer_id, entries.c.session_id),
    stored=False,
)
"""What each session adds to the account."""

FIGURES = (volunteer_hours, volunteer_days, session_times, session_minutes)
totals, days, times, sums = (figure.table() for figure in FIGURES)


@dataclass(frozen=True)
class StarRow:
    """Somebody who would stand at another star; the entries at ``positions`` add up to ``minutes``."""

    volunteer_id: str
    minutes: int
    before: int
    after: int
    positions: tuple[int, ...]


@dataclass(frozen=True)
class LateRow:
    """A session that would be late, or no longer; ``recorded_at`` is when its times, as they stand, were written."""

    volunteer_id: str
    session_id: str
    ended_at: str
    recorded_at: str
    minutes: int
    before: bool
    after: bool
    positions: tuple[int, ...]


@dataclass(frozen=True)
class DayRow:
    """One person's local day with another verdict; its minutes go on counting."""

    volunteer_id: str
    served_on: str
    minutes: int
    before: Verdict
    after: Verdict
    positions: tuple[int, ...]


@dataclass(frozen=True)
class SessionRow:
    """A session with another verdict; its minutes go on counting. ``length_seconds`` is from start to end."""

    volunteer_id: str
    session_id: str
    minutes: int
    length_seconds: int
    before: Verdict
    after: Verdict
    positions: tuple[int, ...]


@dataclass(frozen=True)
class Section(Generic[T]):
    """How many rows differ, and the first of them in the order of their ids."""

    changed: int
    rows: tuple[T, ...]


@dataclass(frozen=True)
class WhatIf:
    """Everything that would stand otherwise. ``changed_fields`` are those of the book that are not as on that day."""

    position: int
    judged_on: date
    first_on: date | None
    last_on: date | None
    rulebook_version: int
    changed_fields: tuple[str, ...]
    volunteers_by_star_before: Mapping[int, int]
    volunteers_by_star_after: Mapping[int, int]
    stars: Section[StarRow]
    late: Section[LateRow]
    days: Section[DayRow]
    sessions: Section[SessionRow]

    @property
    def changed(self) -> int:
        """How many rows differ in all."""
        return sum(s.changed for s in (self.stars, self.late, self.days, self.sessions))


# --- the other book --------------------------------------------------------------------------------------------------


def book_of_edition(books: RuleBooks, version: int) -> RuleBook:
    """An edition that was published by then; INVALID_REQUEST if there is none of that number."""
    edition = books.version(version)
    if edition is None:
        known = ", ".join(str(one.version) for one in books.editions) or "none"
        raise InvalidRequestError(problem=f"no edition {version} was published by then; there are: {known}")
    return edition.book


def book_with(base: RuleBook, fields: Mapping[str, Any]) -> RuleBook:
    """``base`` with some or all of its fields replaced; INVALID_REQUEST, naming each field, if that is no rule book."""
    sources = fields.get("sources", {})
    if not isinstance(sources, Mapping):
        raise InvalidRequestError(problem="sources: give a table of field names and texts")
    whole = base.model_dump() | dict(fields) | {"sources": {**base.sources, **sources}}
    try:
        return RuleBook.model_validate(whole)
    except ValidationError as error:
        problems = (f"{'/'.join(map(str, one['loc'])) or 'book'}: {one['msg']}" for one in error.errors()[:5])
        raise InvalidRequestError(problem="; ".join(problems)) from None


def fields_in(text: str, form: Literal["toml", "json"]) -> dict[str, Any]:
    """The fields of a whole or partial book; INVALID_REQUEST for a text that is none."""
    try:
        fields = tomllib.loads(text) if form == "toml" else json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InvalidRequestError(problem=f"the book is no {form.upper()}: {error}") from None
    if not isinstance(fields, dict):
        raise InvalidRequestError(problem="the book is a table of fields")
    return fields


# --- the question ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Asked:
    """Which local days are judged by the other book (both ends included; None: no end), and how many rows are shown.

    Stars count everything a person ever served, and so do not depend on the days.
    """

    first_on: date | None = None
    last_on: date | None = None
    limit: int = 100

    def __post_init__(self) -> None:
        if not all(1949 <= day.year <= 2199 for day in (self.first_on, self.last_on) if day):
            raise InvalidRequestError(problem="first_on and last_on lie between 1949 and 2199")
        if self.first_on and self.last_on and self.first_on > self.last_on:
            raise InvalidRequestError(problem="first_on comes after last_on")


def what_if(
    log: LedgerLog,
    book: Callable[[RuleBooks, RuleBook], RuleBook],
    asked: Asked,
    position: int | None = None,
    *,
    effective_on: date | None = None,
    judged_on: date | None = None,
    archive: Archive | None = None,
) -> WhatIf:
    """What would stand otherwise, had the other book applied on the asked days; now, or as of a moment.

    ``book`` gives it, from all editions published by then and the one in force on ``judged_on`` (left out, on
    ``effective_on`` or else on the local day of the last fact).
    """
    reached = replay.resolve(log, position)
    day = judged_on or effective_on or local_day(replay.recorded_at(log, reached))
    books = replay.rulebooks_as_of(log, reached)
    standing = replay.edition_on(log, day, reached)
    other = book(books, standing.book)
    with replay.at(log, FIGURES, reached, effective_on=effective_on, archive=archive) as moment:
        judge = _Judge(log, moment, books, standing, other, asked, replay.end_of(effective_on))
        return WhatIf(
            reached,
            day,
            asked.first_on,
            asked.last_on,
            standing.version,
            tuple(n for n in RuleBook.model_fields if getattr(other, n) != getattr(standing.book, n)),
            judge.by_star(standing.book),
            judge.by_star(other),
            judge.stars(),
            judge.late(),
            judge.days(),
            judge.sessions(),
        )


class _Judge:
    """Asks the figures of one moment what differs between what stands and another book."""

    def __init__(
        self,
        log: LedgerLog,
        moment: Moment,
        books: RuleBooks,
        standing: Edition,
        other: RuleBook,
        asked: Asked,
        by: str | None,
    ) -> None:
        self._log = log
        self._moment = moment
        self._books = books
        self._standing = standing
        self._other = other
        self._asked = asked
        self._by = by

    # -- stars --

    def by_star(self, book: RuleBook) -> dict[int, int]:
        """How many people stand at each star; those without a minute do not."""
        star = _star(book, _minutes).label("star")
        each = _accounts(star).subquery()
        query = select(each.c.star, func.count().label("people")).group_by(each.c.star).order_by(each.c.star)
        found = {row["star"]: row["people"] for row in self._moment.rows(query)}
        return {star: found.get(star, 0) for star in range(len(book.star_minutes) + 1)}

    def stars(self) -> Section[StarRow]:
        before, after = _star(self._standing.book, _minutes), _star(self._other, _minutes)
        query = _accounts(_minutes.label("minutes"), before.label("before"), after.label("after"))
        count, rows = self._differing(query.having(before != after), totals.c.volunteer_id)
        behind = self._entries(rows)
        return Section(
            count,
            tuple(
                StarRow(
                    row["volunteer_id"],
                    int(row["minutes"]),
                    row["before"],
                    row["after"],
                    tuple(e["position"] for e in behind[row["volunteer_id"]]),
                )
                for row in rows
            ),
        )

    # -- days --

    def days(self) -> Section[DayRow]:
        minutes = func.sum(days.c.minutes)
        before = case(
            (minutes > self._in_force(lambda book: book.day_minutes_max), literal("would_be_refused")),
            (minutes > self._in_force(lambda book: book.day_minutes_free), literal("would_be_held")),
            else_=literal("counts"),
        )
        after = case(
            (minutes > self._other.day_minutes_max, literal("would_be_refused")),
            (minutes > self._other.day_minutes_free, literal("would_be_held")),
            else_=literal("counts"),
        )
        query = (
            select(
                days.c.volunteer_id,
                days.c.served_on,
                minutes.label("minutes"),
                before.label("before"),
                after.label("after"),
            )
            .where(*self._days_asked())
            .group_by(days.c.volunteer_id, days.c.served_on)
            .having(before != after)
        )
        count, rows = self._differing(query, days.c.volunteer_id, days.c.served_on)
        behind = self._entries(rows)
        return Section(
            count,
            tuple(
                DayRow(
                    row["volunteer_id"],
                    row["served_on"],
                    int(row["minutes"]),
                    row["before"],
                    row["after"],
                    tuple(
                        e["position"]
                        for e in behind[row["volunteer_id"]]
                        if e["served_on"] == row["served_on"]
                    ),
                )
                for row in rows
            ),
        )

    def _in_force(self, value: Callable[[RuleBook], int]) -> ColumnElement[Any]:
        """A value of the book in force on the day served; NULL before the first."""
        starts = sorted({edition.effective_on for edition in self._books.editions}, reverse=True)
        editions = [(start, self._books.on(start)) for start in starts]
        cases = [
            (days.c.served_on >= start.isoformat(), literal(value(edition.book)))
            for start, edition in editions
            if edition is not None
        ]
        return case(*cases, else_=null()) if cases else cast(null(), BigInteger)

    def _days_asked(self) -> list[ColumnElement[bool]]:
        first, last = self._asked.first_on, self._asked.last_on
        return [
            true(),
            *([days.c.served_on >= first.isoformat()] if first else []),
            *([days.c.served_on <= last.isoformat()] if last else []),
        ]

    # -- sessions --

    def sessions(self) -> Section[SessionRow]:
        length = _microseconds(times.c.ended_at) - _microseconds(times.c.started_at)
        own = [(times.c.rulebook_version == e.version, e.book) for e in self._books.editions]
        longest = case(*((is_it, _bound(book)) for is_it, book in own), else_=null())
        shortest = case(*((is_it, literal(book.session_minutes_min)) for is_it, book in own), else_=null())
        before, after = (
            case(
                (length > most, literal("would_be_refused")),
                (sums.c.minutes < least, literal("would_be_refused")),
                else_=literal("counts"),
            )
            for most, least in (
                (longest, shortest),
                (_bound(self._other), literal(self._other.session_minutes_min)),
            )
        )
        query = self._standing_sessions(
            sums.c.minutes, length.label("length"), before.label("before"), after.label("after")
        ).where(before != after)
        count, rows = self._differing(query, times.c.volunteer_id, times.c.session_id)
        behind = self._entries(rows)
        return Section(
            count,
            tuple(
                SessionRow(
                    row["volunteer_id"],
                    row["session_id"],
                    row["minutes"],
                    row["length"] // 1_000_000,
                    row["before"],
                    row["after"],
                    _of_session(behind, row),
                )
                for row in rows
            ),
        )

    def late(self) -> Section[LateRow]:
        """By the local day on which each session ended, as the rule has it, and the day its times were written."""
        calendar = self._calendar()
        if calendar is None:
            return Section(0, ())
        after = case((times.c.said_at >= calendar.c.late_from, 1), else_=0)
        query = (
            self._standing_sessions(
                times.c.ended_at, times.c.said_at, sums.c.minutes, times.c.late, after.label("after")
            )
            .join(
                calendar,
                and_(times.c.ended_at >= calendar.c.starts_at, times.c.ended_at < calendar.c.ends_at),
            )
            .where(times.c.late != after)
        )
        count, rows = self._differing(query, times.c.volunteer_id, times.c.session_id)
        behind = self._entries(rows)
        return Section(
            count,
            tuple(
                LateRow(
                    row["volunteer_id"],
                    row["session_id"],
                    row["ended_at"],
                    row["said_at"],
                    row["minutes"],
                    bool(row["late"]),
                    bool(row["after"]),
                    _of_session(behind, row),
                )
                for row in rows
            ),
        )

    def _calendar(self) -> Values | None:
        """Each local day on which a session ended: its first and last moment, and from when on a record is late."""
        dates = self._moment.rows(select(func.substr(times.c.ended_at, 1, 10).label("utc")).distinct())
        if not dates:
            return None
        # A date in UTC is part of two local days.
        ended_on = {date.fromisoformat(row["utc"]) + n * _DAY for row in dates for n in (0, 1)}
        rows = [
            (_midnight(day), _midnight(day + _DAY), _midnight(self._other.record_deadline(day) + _DAY))
            for day in sorted(ended_on)
        ]
        names = ("starts_at", "ends_at", "late_from")
        return values(*(column(name, Text()) for name in names), name="calendar").data(rows)

    def _standing_sessions(self, *columns: ColumnElement[Any]) -> Select[Any]:
        """Sessions of the days asked about that count: neither taken back, nor halfway through being written."""
        first, last = self._asked.first_on, self._asked.last_on
        query = (
            select(times.c.volunteer_id, times.c.session_id, *columns)
            .select_from(times)
            .join(
                sums,
                and_(sums.c.volunteer_id == times.c.volunteer_id, sums.c.session_id == times.c.session_id),
            )
            .where(times.c.last_topic != events.SessionReversed.TOPIC, sums.c.minutes > 0)
        )
        if first:
            query = query.where(times.c.started_at >= _midnight(first))
        return query.where(times.c.started_at < _midnight(last + _DAY)) if last else query

    # -- what all share --

    def _differing(self, query: Select[Any], *order: ColumnElement[Any]) -> tuple[int, list[dict[str, Any]]]:
        (counted,) = self._moment.rows(select(func.count().label("n")).select_from(query.subquery()))
        return counted["n"], self._moment.rows(query.order_by(*order).limit(self._asked.limit))

    def _entries(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, list[dict[str, Any]]]:
        """Every entry of the people in these rows, reversals too, in the order of the log."""
        people = list(dict.fromkeys(row["volunteer_id"] for row in rows))
        wanted = (
            entries.c.volunteer_id,
            entries.c.position,
            entries.c.session_id,
            entries.c.served_on,
        )
        found: dict[str, list[dict[str, Any]]] = {person: [] for person in people}
        for row in facts_in_store(self._log, wanted, self._moment.position, people, self._by):
            entry = dict(zip((c.name for c in wanted), row, strict=True))
            found[entry["volunteer_id"]].append(entry)
        return found


_DAY = timedelta(days=1)
_minutes = func.sum(totals.c.minutes)


def _accounts(*columns: ColumnElement[Any]) -> Select[Any]:
    """A row for each person who served at all."""
    return select(totals.c.volunteer_id, *columns).group_by(totals.c.volunteer_id).having(_minutes > 0)


def _star(book: RuleBook, minutes: ColumnElement[Any]) -> ColumnElement[int]:
    """`RuleBook.star_of` as SQL: how many thresholds are reached."""
    reached = ((minutes >= t, literal(n)) for n, t in reversed(list(enumerate(book.star_minutes, start=1))))
    return case(*reached, else_=literal(0))


def _microseconds(instant: ColumnElement[Any]) -> ColumnElement[int]:
    return func.epoch_us(cast(instant, TIMESTAMP()), type_=BigInteger())


def _bound(book: RuleBook) -> ColumnElement[int]:
    """The longest session in microseconds."""
    return literal(book.session_minutes_max * 60_000_000, BigInteger())


def _midnight(day: date) -> str:
    """The first moment of a local day, as facts write it; of the first day that there is, a text before all others."""
    try:
        return instant_text(datetime.combine(day, time(), CHINA).astimezone(UTC))
    except OverflowError:
        return "0"


def _of_session(behind: Mapping[str, list[dict[str, Any]]], row: Mapping[str, Any]) -> tuple[int, ...]:
    found = behind[row["volunteer_id"]]
    return tuple(entry["position"] for entry in found if entry["session_id"] == row["session_id"])
