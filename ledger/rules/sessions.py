"""What counts as an hour: how a session becomes signed entries, and when it may not (L10, L11, L15, F01–F04, T24, T27).

Minutes are whole and derived here only: per local day, seconds beyond the last full minute are dropped.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from uuid import UUID

from ledger import ids
from ledger.errors import (
    DayCapError,
    DayNeedsApprovalError,
    EndBeforeStartError,
    InFutureError,
    OverlapError,
    RecordedBeforeEndError,
    Refusal,
    SessionTooLongError,
    SessionTooShortError,
    VolunteerWithdrawnError,
)
from ledger.events import ActivityKind, EntryPosted, SourceClass
from ledger.rulebook import CHINA, Edition, RuleBook, local_day
from ledger.rules.case import Case
from ledger.rules.volunteers import Session, Volunteer


@dataclass(frozen=True, slots=True)
class Times:
    """When somebody served: two instants and the minutes of breaks between them."""

    started_at: datetime
    ended_at: datetime
    break_minutes: int

    def days(self) -> list[tuple[date, int]]:
        """Whole minutes per local day, in order of days; a day without a minute is left out (L11).

        A session over midnight is split in Asia/Shanghai. Breaks come off the longest part first (the earlier one of
        two equal parts), because a break is known by its length only.
        """
        minutes = {day: int((until - since).total_seconds()) // 60 for day, since, until in self._parts()}
        left = self.break_minutes
        for day in sorted(minutes, key=lambda day: -minutes[day]):
            taken = min(left, minutes[day])
            minutes[day] -= taken
            left -= taken
        return [(day, counted) for day, counted in minutes.items() if counted > 0]

    def _parts(self) -> Iterator[tuple[date, datetime, datetime]]:
        since = self.started_at
        while since < self.ended_at:
            day = local_day(since)
            midnight = datetime.combine(day + timedelta(days=1), time(), CHINA).astimezone(since.tzinfo)
            until = min(midnight, self.ended_at)
            yield day, since, until
            since = until


def refusals_of(
    volunteer: Volunteer,
    times: Times,
    case: Case,
    edition: Edition | None = None,
    replaces: Session | None = None,
) -> list[Refusal]:
    """Everything that speaks against these times for this person; an empty list means they count.

    Caps come from the rule book of each served day, or from ``edition`` for a correction (the book of the original's
    day). ``replaces`` is the session a correction stands in for: its own time and minutes do not count against it.
    """
    impossible = _impossible(times, case)
    if impossible:
        return [impossible]
    book = (edition or case.edition_on(local_day(times.started_at))).book
    too_long = _too_long(times, book)
    if too_long:
        # Years of days are not worth counting: the length alone is refused.
        return [too_long, *_overlaps(volunteer, times, replaces)]
    days = times.days()
    return [
        *_gone(volunteer, times),
        *_too_short(days, book),
        *_overlaps(volunteer, times, replaces),
        *_day_caps(volunteer, days, case, edition, replaces),
    ]


def _impossible(times: Times, case: Case) -> Refusal | None:
    if times.ended_at <= times.started_at:
        return EndBeforeStartError(started_at=times.started_at, ended_at=times.ended_at)
    if times.started_at > case.now:
        return InFutureError(started_at=times.started_at, now=case.now)
    if times.ended_at > case.now:
        return RecordedBeforeEndError(ended_at=times.ended_at, now=case.now)
    return None


def _gone(volunteer: Volunteer, times: Times) -> Iterator[Refusal]:
    """Who withdrew serves no more; what was served before still counts (PIPL art. 15)."""
    if volunteer.withdrawn_at is not None and times.ended_at > volunteer.withdrawn_at:
        yield VolunteerWithdrawnError(volunteer_id=volunteer.id)


def _too_long(times: Times, book: RuleBook) -> Refusal | None:
    length = times.ended_at - times.started_at
    if length <= timedelta(minutes=book.session_minutes_max):
        return None
    minutes = -(-length // timedelta(minutes=1))
    return SessionTooLongError(minutes=minutes, minutes_max=book.session_minutes_max)


def _too_short(days: list[tuple[date, int]], book: RuleBook) -> Iterator[Refusal]:
    minutes = sum(minutes for _, minutes in days)
    if minutes < book.session_minutes_min:
        yield SessionTooShortError(minutes=minutes, minutes_min=book.session_minutes_min)


def _overlaps(volunteer: Volunteer, times: Times, replaces: Session | None) -> Iterator[Refusal]:
    """Nobody is in two places at once, across all units; touching ends are allowed (F01, T27)."""
    for other in volunteer.sessions.values():
        if other.reversed or (replaces is not None and other.id == replaces.id):
            continue
        if times.started_at < other.ended_at and other.started_at < times.ended_at:
            yield OverlapError(volunteer_id=volunteer.id, session_id=other.id)
            return


def _day_caps(
    volunteer: Volunteer,
    days: list[tuple[date, int]],
    case: Case,
    edition: Edition | None,
    replaces: Session | None,
) -> Iterator[Refusal]:
    """Above the first tier a day needs approval; above the last it is impossible (F02)."""
    own = {entry.served_on: entry.minutes for entry in replaces.entries} if replaces else {}
    for day, added in days:
        book = (edition or case.edition_on(day)).book
        minutes = volunteer.minutes_by_day.get(day, 0) - own.get(day, 0) + added
        about = {"volunteer_id": volunteer.id, "served_on": day, "minutes": minutes}
        if minutes > book.day_minutes_max:
            yield DayCapError(**about, minutes_max=book.day_minutes_max)
        elif minutes > book.day_minutes_free:
            yield DayNeedsApprovalError(**about, minutes_free=book.day_minutes_free)


def is_late(times: Times, case: Case, book: RuleBook) -> bool:
    """Whether the record window (working days after the service) has passed: a flag, never a silent drop (L15)."""
    return local_day(case.now) > book.record_deadline(local_day(times.ended_at))


@dataclass(frozen=True, slots=True)
class Posting:
    """What an entry says besides its day and minutes."""

    session_id: UUID
    order_id: UUID | None
    unit_id: UUID
    activity_kind: ActivityKind
    source_class: SourceClass
    inferred: bool
    late: bool


def entries_for(
    volunteer_id: UUID,
    posting: Posting,
    times: Times,
    revision: int,
    case: Case,
    edition: Edition | None = None,
) -> list[EntryPosted]:
    """One signed entry a local day; the first carries the service count (design, decision 7)."""
    return [
        EntryPosted(
            **case.stamp(volunteer_id, times.started_at),
            entry_id=ids.entry_id(volunteer_id, posting.session_id, revision, day),
            session_id=posting.session_id,
            order_id=posting.order_id,
            unit_id=posting.unit_id,
            activity_kind=posting.activity_kind,
            served_on=day,
            minutes=minutes,
            services=1 if index == 0 else 0,
            source_class=posting.source_class,
            inferred=posting.inferred,
            late=posting.late,
            reverses_entry_id=None,
            rulebook_version=(edition or case.edition_on(day)).version,
        )
        for index, (day, minutes) in enumerate(times.days())
    ]


def reversals_of(entries: Iterable[EntryPosted], case: Case) -> list[EntryPosted]:
    """For each entry its exact negative, on the same day and in the same class (T38)."""
    return [
        EntryPosted(
            **case.stamp(entry.originator_id, entry.happened_at),
            entry_id=ids.reversal_id(entry.entry_id),
            session_id=entry.session_id,
            order_id=entry.order_id,
            unit_id=entry.unit_id,
            activity_kind=entry.activity_kind,
            served_on=entry.served_on,
            minutes=-entry.minutes,
            services=-entry.services,
            source_class=entry.source_class,
            inferred=entry.inferred,
            late=entry.late,
            reverses_entry_id=entry.entry_id,
            rulebook_version=entry.rulebook_version,
        )
        for entry in entries
    ]
