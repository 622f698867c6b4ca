"""A volunteer's statement: where each minute comes from, read from their own stream (T24, L17; no second copy)."""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal
from uuid import UUID

from ledger import events
from ledger.codec import decode
from ledger.errors import UnknownVolunteerError
from ledger.log import LedgerLog
from projections.replay import resolve

Grade = Literal["A", "B", "C"]


@dataclass
class Line:
    """One session: its times as they count now, its entries by position, who vouches for it, and what it adds."""

    session_id: UUID
    recorded: events.SessionRecorded
    position: int
    started_at: datetime
    ended_at: datetime
    break_minutes: int
    source_class: events.SourceClass
    late: bool
    revision: int = 1
    reversed: bool = False
    minutes: int = 0
    services: int = 0
    ratings: int = 0
    entries: list[tuple[int, events.EntryPosted]] = field(default_factory=list)

    @property
    def grade(self) -> Grade:
        """How well the hours are evidenced.

        A: checked by machine, or confirmed and judged by the public; B: confirmed by the recorder alone, or with an end
        taken from the plan; C: back-filled or imported.
        """
        if self.source_class in ("backfilled", "imported"):
            return "C"
        if self.recorded.inferred:
            return "B"
        return "A" if self.source_class == "machine" or self.ratings > 0 else "B"


@dataclass(frozen=True)
class Statement:
    """All sessions of a volunteer as of ``position``; the minutes of the lines add up to ``minutes``."""

    volunteer_id: UUID
    position: int
    version: int
    minutes: int
    lines: tuple[Line, ...]


def statement(log: LedgerLog, volunteer_id: UUID, position: int | None = None) -> Statement:
    """The statement as of a position (the head, if left out); UNKNOWN_VOLUNTEER if they had not enrolled by then."""
    reached = resolve(log, position)
    rows = [row for row in log.stream(volunteer_id) if row.position <= reached]
    facts = [(row.position, decode(row.topic, row.stream_id, row.version, row.state)) for row in rows]
    if not facts or not isinstance(facts[0][1], events.VolunteerEnrolled):
        raise UnknownVolunteerError(id=volunteer_id)
    lines = _lines(facts)
    return Statement(volunteer_id, reached, rows[-1].version, sum(line.minutes for line in lines), lines)


def _lines(facts: Iterable[tuple[int, events.Fact]]) -> tuple[Line, ...]:
    lines: dict[UUID, Line] = {}
    ratings: defaultdict[UUID | None, int] = defaultdict(int)
    for position, fact in facts:
        match fact:
            case events.SessionRecorded():
                lines[fact.session_id] = Line(
                    fact.session_id,
                    fact,
                    position,
                    fact.started_at,
                    fact.ended_at,
                    fact.break_minutes,
                    fact.source_class,
                    fact.late,
                )
            case events.SessionCorrected():
                _correct(lines[fact.session_id], fact)
            case events.SessionReversed():
                lines[fact.session_id].reversed = True
                lines[fact.session_id].revision = fact.revision
            case events.EntryPosted():
                line = lines[fact.session_id]
                line.entries.append((position, fact))
                line.minutes += fact.minutes
                line.services += fact.services
            case events.RatingCredited():
                ratings[fact.order_id] += fact.ratings
    for line in lines.values():
        line.ratings = ratings[line.recorded.order_id] if line.recorded.order_id else 0
    return tuple(sorted(lines.values(), key=lambda line: (line.started_at, line.position)))


def _correct(line: Line, fact: events.SessionCorrected) -> None:
    line.started_at, line.ended_at = fact.started_at, fact.ended_at
    line.break_minutes, line.source_class = fact.break_minutes, fact.source_class
    line.late, line.revision, line.reversed = fact.late, fact.revision, False
