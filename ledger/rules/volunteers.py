"""A volunteer and the account that holds every entry: consent, categories, withdrawal (L05, L09, T05)."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import date, datetime
from typing import Any, Literal
from uuid import UUID

from ledger.commands import Command, CorrectProfile, DeclareCategory, EnrolVolunteer, WithdrawVolunteer
from ledger.errors import (
    AlreadyExistsError,
    InFutureError,
    NotAllowedNowError,
    NotYourselfError,
    UnknownCategoryError,
    UnknownSessionError,
    VolunteerWithdrawnError,
)
from ledger.events import (
    BackfillDecided,
    BackfillRequested,
    CorrectionDecided,
    CorrectionKind,
    CorrectionRequested,
    EntryPosted,
    Fact,
    SessionCorrected,
    SessionRecorded,
    SessionReversed,
    SourceClass,
    VolunteerCategoryDeclared,
    VolunteerEnrolled,
    VolunteerProfileCorrected,
    VolunteerWithdrew,
)
from ledger.rulebook import local_day
from ledger.rules.case import Case


@dataclass(frozen=True, slots=True)
class Session:
    """One service of the volunteer as it counts now; ``entries`` are the ones not reversed."""

    record: SessionRecorded
    started_at: datetime
    ended_at: datetime
    break_minutes: int
    source_class: SourceClass
    late: bool
    revision: int = 1
    entries: tuple[EntryPosted, ...] = ()
    reversed: bool = False

    @property
    def id(self) -> UUID:
        return self.record.session_id


@dataclass(frozen=True, slots=True)
class Request:
    """A back-fill or correction that waits for, or has got, a second person's decision."""

    fact: BackfillRequested | CorrectionRequested
    verdict: str | None = None


@dataclass(frozen=True, slots=True)
class Volunteer:
    """The account as it stands. The mappings are replaced, never changed in place."""

    id: UUID
    version: int
    volunteer_number: str
    home_unit_id: UUID
    withdrawn_at: datetime | None = None
    categories: frozenset[str] = frozenset()
    sessions: Mapping[UUID, Session] = field(default_factory=dict)
    minutes_by_day: Mapping[date, int] = field(default_factory=dict)
    reversals_by_day: Mapping[date, int] = field(default_factory=dict)
    """How many entries of a day were ever reversed."""
    requests: Mapping[UUID, Request] = field(default_factory=dict)
    stream: Literal["volunteer"] = "volunteer"

    @property
    def withdrawn(self) -> bool:
        return self.withdrawn_at is not None

    def session(self, session_id: UUID) -> Session:
        if session_id not in self.sessions:
            raise UnknownSessionError(id=session_id, volunteer_id=self.id)
        return self.sessions[session_id]

    def claims_session(self, session_id: UUID) -> bool:
        """Whether the id is taken: a session id names one service for good, recorded or asked for in a back-fill."""
        return session_id in self.sessions or any(
            isinstance(request.fact, BackfillRequested) and request.fact.session_id == session_id
            for request in self.requests.values()
        )

    def request(self, request_id: UUID, kind: type) -> Request | None:
        request = self.requests.get(request_id)
        return request if request is not None and isinstance(request.fact, kind) else None


def enrol(command: EnrolVolunteer, case: Case) -> list[Fact]:
    """By the person, or by staff with the person's recorded consent (L09); never without it (S044, L05)."""
    relayed = case.caller.person_id != command.volunteer_id
    if case.exists(command.volunteer_id):
        raise AlreadyExistsError(what="volunteer", id=command.volunteer_id)
    case.require_open_data(command.volunteer_id)
    home = case.unit(command.home_unit_id)
    if relayed:
        case.require_staff(home.id, "organiser")
    if command.consented_at > case.now:
        raise InFutureError(started_at=command.consented_at)
    enrolled = VolunteerEnrolled(
        **case.stamp(command.volunteer_id),
        volunteer_number=command.volunteer_number,
        home_unit_id=home.id,
        profile=command.profile,
        consent_document=command.consent_document,
        consented_at=command.consented_at,
        relayed=relayed,
    )
    return [enrolled, *_declared(command.volunteer_id, dict.fromkeys(command.categories), case)]


def declare_category(command: DeclareCategory, case: Case) -> list[Fact]:
    """A person may hold several categories (S040–S042); declaring one twice changes nothing."""
    volunteer = _participant(command.volunteer_id, case)
    return _declared(volunteer.id, [c for c in [command.category] if c not in volunteer.categories], case)


def correct_profile(command: CorrectProfile, case: Case) -> list[Fact]:
    """The sealed personal fields are replaced as a whole (L17)."""
    volunteer = _participant(command.volunteer_id, case)
    return [VolunteerProfileCorrected(**case.stamp(volunteer.id), profile=command.profile)]


def withdraw(command: WithdrawVolunteer, case: Case) -> list[Fact]:
    """Only by the volunteer (PIPL art. 15); what was served stays served."""
    volunteer = case.volunteer(command.volunteer_id)
    if case.caller.person_id != volunteer.id:
        raise NotYourselfError(volunteer_id=volunteer.id)
    if volunteer.withdrawn:
        raise NotAllowedNowError(status="withdrawn", action="withdraw", allowed=[])
    return [VolunteerWithdrew(**case.stamp(volunteer.id), reason=command.reason)]


def _participant(volunteer_id: UUID, case: Case) -> Volunteer:
    volunteer = case.volunteer(volunteer_id)
    if case.caller.person_id != volunteer.id:
        case.require_staff(volunteer.home_unit_id, "organiser")
    if volunteer.withdrawn:
        raise VolunteerWithdrawnError(volunteer_id=volunteer.id)
    case.require_open_data(volunteer.id)
    return volunteer


def _declared(volunteer_id: UUID, categories: "Mapping[str, None] | list[str]", case: Case) -> list[Fact]:
    if not categories:
        return []
    known = case.edition_on(local_day(case.now)).book.volunteer_categories
    facts: list[Fact] = []
    for category in categories:
        if category not in known:
            raise UnknownCategoryError(category=category)
        facts.append(VolunteerCategoryDeclared(**case.stamp(volunteer_id), category=category))
    return facts


def evolve(state: Volunteer | None, fact: Fact) -> Volunteer:
    version = fact.originator_version
    if isinstance(fact, VolunteerEnrolled):
        return Volunteer(fact.originator_id, version, fact.volunteer_number, fact.home_unit_id)
    assert state is not None
    match fact:
        case EntryPosted():
            return _with_entry(state, fact)
        case SessionRecorded():
            recorded = Session(
                fact, fact.started_at, fact.ended_at, fact.break_minutes, fact.source_class, fact.late
            )
            return _with_session(state, version, recorded)
        case SessionCorrected():
            corrected = replace(
                state.sessions[fact.session_id],
                started_at=fact.started_at,
                ended_at=fact.ended_at,
                break_minutes=fact.break_minutes,
                source_class=fact.source_class,
                late=fact.late,
                revision=fact.revision,
                reversed=False,
            )
            return _with_session(state, version, corrected)
        case SessionReversed():
            session = state.sessions[fact.session_id]
            return _with_session(state, version, replace(session, revision=fact.revision, reversed=True))
        case BackfillRequested() | CorrectionRequested():
            return replace(
                state, version=version, requests={**state.requests, fact.request_id: Request(fact)}
            )
        case BackfillDecided() | CorrectionDecided():
            decided = replace(state.requests[fact.request_id], verdict=fact.verdict)
            return replace(state, version=version, requests={**state.requests, fact.request_id: decided})
        case VolunteerCategoryDeclared():
            return replace(state, version=version, categories=state.categories | {fact.category})
        case VolunteerWithdrew():
            return replace(state, version=version, withdrawn_at=fact.happened_at)
    return replace(state, version=version)


def _with_session(state: Volunteer, version: int, session: Session) -> Volunteer:
    return replace(state, version=version, sessions={**state.sessions, session.id: session})


def _with_entry(state: Volunteer, entry: EntryPosted) -> Volunteer:
    session = state.sessions[entry.session_id]
    if entry.reverses_entry_id is None:
        entries = (*session.entries, entry)
    else:
        entries = tuple(e for e in session.entries if e.entry_id != entry.reverses_entry_id)
    day, reversals = entry.served_on, state.reversals_by_day
    if entry.reverses_entry_id is not None:
        reversals = {**reversals, day: reversals.get(day, 0) + 1}
    return replace(
        state,
        version=entry.originator_version,
        sessions={**state.sessions, session.id: replace(session, entries=entries)},
        minutes_by_day={**state.minutes_by_day, day: state.minutes_by_day.get(day, 0) + entry.minutes},
        reversals_by_day=reversals,
    )


DECIDERS: dict[type[Command], Callable[[Any, Case], list[Fact]]] = {
    EnrolVolunteer: enrol,
    DeclareCategory: declare_category,
    CorrectProfile: correct_profile,
    WithdrawVolunteer: withdraw,
}

__all__ = ["DECIDERS", "CorrectionKind", "Request", "Session", "Volunteer", "evolve"]
