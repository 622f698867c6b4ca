"""What needs a second person: back-fills, corrections and reversals (L17, T24, T38, T39, F08, F09, F35).

Both are two steps, asked for by one person and decided by another; nothing is overwritten. A back-fill is how
hours enter that were not placed and accepted before they were served (F03).
"""

from collections.abc import Callable
from typing import Any
from uuid import UUID

from ledger.commands import Command, DecideBackfill, DecideCorrection, RequestBackfill, RequestCorrection
from ledger.errors import (
    AlreadyDecidedError,
    AlreadyExistsError,
    InvalidRequestError,
    NotAllowedNowError,
    SelfApprovalError,
    UnknownRequestError,
    VolunteerWithdrawnError,
    refuse_all,
)
from ledger.events import (
    BackfillDecided,
    BackfillRequested,
    CorrectionDecided,
    CorrectionRequested,
    Fact,
    SessionCorrected,
    SessionRecorded,
    SessionReversed,
    SourceClass,
)
from ledger.rulebook import Edition, local_day
from ledger.rules.case import Case
from ledger.rules.sessions import Posting, Times, entries_for, is_late, refusals_of, reversals_of
from ledger.rules.volunteers import Session, Volunteer


def request_backfill(command: RequestBackfill, case: Case) -> list[Fact]:
    """By the volunteer or by staff of the unit; already judged once, so that nobody waits for what cannot be."""
    volunteer = case.volunteer(command.volunteer_id)
    case.unit(command.unit_id)
    _require_self_or_staff(volunteer.id, command.unit_id, case)
    if volunteer.withdrawn:
        raise VolunteerWithdrawnError(volunteer_id=volunteer.id)
    _require_new(command.request_id, volunteer)
    if volunteer.claims_session(command.session_id):
        raise AlreadyExistsError(what="session", id=command.session_id)
    if command.order_id is not None and case.order(command.order_id).unit_id != command.unit_id:
        raise InvalidRequestError(problem="the order belongs to another unit")
    times = Times(command.started_at, command.ended_at, command.break_minutes)
    refuse_all(refusals_of(volunteer, times, case))
    return [
        BackfillRequested(
            **case.stamp(volunteer.id),
            request_id=command.request_id,
            session_id=command.session_id,
            order_id=command.order_id,
            unit_id=command.unit_id,
            activity_kind=command.activity_kind,
            started_at=command.started_at,
            ended_at=command.ended_at,
            break_minutes=command.break_minutes,
            reason=command.reason,
        )
    ]


def decide_backfill(command: DecideBackfill, case: Case) -> list[Fact]:
    """By another person than the one who asked or served; approval records the session in class ``backfilled``."""
    volunteer = case.volunteer(command.volunteer_id)
    request = volunteer.request(command.request_id, BackfillRequested)
    if request is None:
        raise UnknownRequestError(id=command.request_id)
    asked = request.fact
    assert isinstance(asked, BackfillRequested)
    case.require_staff(asked.unit_id, "organiser", "dispatcher")
    _require_open(command.request_id, request.verdict)
    if case.caller.person_id in (asked.caller_id, volunteer.id):
        raise SelfApprovalError(request_id=command.request_id)
    decided = BackfillDecided(
        **case.stamp(volunteer.id),
        request_id=command.request_id,
        session_id=asked.session_id,
        verdict=command.verdict,
        requested_by_id=asked.caller_id,
    )
    if command.verdict == "declined":
        return [decided]
    return [decided, *_backfilled(volunteer, asked, case)]


def _backfilled(volunteer: Volunteer, asked: BackfillRequested, case: Case) -> list[Fact]:
    times = Times(asked.started_at, asked.ended_at, asked.break_minutes)
    refuse_all(refusals_of(volunteer, times, case))
    edition = case.edition_on(local_day(times.started_at))
    late = is_late(times, case, edition.book)
    session = SessionRecorded(
        **case.stamp(volunteer.id, times.started_at),
        session_id=asked.session_id,
        order_id=asked.order_id,
        unit_id=asked.unit_id,
        team_id=None,
        activity_kind=asked.activity_kind,
        started_at=times.started_at,
        ended_at=times.ended_at,
        break_minutes=times.break_minutes,
        source_class="backfilled",
        inferred=False,
        late=late,
        responsible_id=case.caller.person_id,
        recorder_id=asked.caller_id,
        approver_id=case.caller.person_id,
        rulebook_version=edition.version,
    )
    posting = Posting(
        asked.session_id, asked.order_id, asked.unit_id, asked.activity_kind, "backfilled", False, late
    )
    return [session, *entries_for(volunteer.id, posting, times, 1, case)]


def request_correction(command: RequestCorrection, case: Case) -> list[Fact]:
    """By the volunteer or by staff of the session's unit; an amendment says the right times, a reversal none."""
    volunteer = case.volunteer(command.volunteer_id)
    session = volunteer.session(command.session_id)
    _require_self_or_staff(volunteer.id, session.record.unit_id, case)
    _require_new(command.request_id, volunteer)
    _require_correctable(command, session)
    if command.kind == "amend":
        times = _times_of(command)
        refuse_all(refusals_of(volunteer, times, case, _edition_of(session, case), session))
    return [
        CorrectionRequested(
            **case.stamp(volunteer.id),
            request_id=command.request_id,
            session_id=command.session_id,
            kind=command.kind,
            started_at=command.started_at,
            ended_at=command.ended_at,
            break_minutes=command.break_minutes,
            reason=command.reason,
        )
    ]


def decide_correction(command: DecideCorrection, case: Case) -> list[Fact]:
    """By somebody who did not ask, serve or record; old entries are reversed one by one and new ones posted."""
    volunteer = case.volunteer(command.volunteer_id)
    request = volunteer.request(command.request_id, CorrectionRequested)
    if request is None:
        raise UnknownRequestError(id=command.request_id)
    asked = request.fact
    assert isinstance(asked, CorrectionRequested)
    session = volunteer.session(asked.session_id)
    case.require_staff(session.record.unit_id, "organiser", "dispatcher")
    _require_open(command.request_id, request.verdict)
    if case.caller.person_id in (asked.caller_id, volunteer.id, session.record.recorder_id):
        raise SelfApprovalError(request_id=command.request_id)
    decided = CorrectionDecided(
        **case.stamp(volunteer.id),
        request_id=command.request_id,
        session_id=asked.session_id,
        kind=asked.kind,
        verdict=command.verdict,
        requested_by_id=asked.caller_id,
    )
    if command.verdict == "declined":
        return [decided]
    change = _reversed if asked.kind == "reverse" else _amended
    return [decided, *change(volunteer, session, asked, case)]


def _reversed(volunteer: Volunteer, session: Session, asked: CorrectionRequested, case: Case) -> list[Fact]:
    if session.reversed:
        raise NotAllowedNowError(status="reversed", action="reverse", allowed=["amend"])
    fact = SessionReversed(
        **case.stamp(volunteer.id, session.started_at),
        session_id=session.id,
        request_id=asked.request_id,
        revision=session.revision + 1,
        rulebook_version=_edition_of(session, case).version,
        current_rulebook_version=case.edition_on(local_day(case.now)).version,
    )
    return [fact, *reversals_of(session.entries, case)]


def _amended(volunteer: Volunteer, session: Session, asked: CorrectionRequested, case: Case) -> list[Fact]:
    times = _times_of(asked)
    edition = _edition_of(session, case)
    refuse_all(refusals_of(volunteer, times, case, edition, session))
    record, revision = session.record, session.revision + 1
    source_class = _class_after(record, volunteer.id, times, case)
    late = is_late(times, case, edition.book)
    fact = SessionCorrected(
        **case.stamp(volunteer.id, times.started_at),
        session_id=session.id,
        request_id=asked.request_id,
        revision=revision,
        started_at=times.started_at,
        ended_at=times.ended_at,
        break_minutes=times.break_minutes,
        source_class=source_class,
        late=late,
        rulebook_version=edition.version,
        current_rulebook_version=case.edition_on(local_day(case.now)).version,
    )
    posting = Posting(
        session.id, record.order_id, record.unit_id, record.activity_kind, source_class, False, late
    )
    return [
        fact,
        *reversals_of(session.entries, case),
        *entries_for(volunteer.id, posting, times, revision, case, edition),
    ]


def _class_after(record: SessionRecorded, volunteer_id: UUID, times: Times, case: Case) -> SourceClass:
    """Times that people say are confirmed at best (T24), and back-filled before the acceptance was recorded (F03)."""
    if record.order_id is None or record.source_class not in ("machine", "confirmed"):
        return record.source_class
    known_before = case.order(record.order_id).known_before(volunteer_id, times.started_at)
    return "confirmed" if known_before else "backfilled"


def _edition_of(session: Session, case: Case) -> Edition:
    """The rule book of the original's day (design, decision 6)."""
    edition = case.rulebooks.version(session.record.rulebook_version)
    assert edition is not None, "a recorded session names an edition that was published"
    return edition


def _times_of(source: RequestCorrection | CorrectionRequested) -> Times:
    if source.started_at is None or source.ended_at is None:
        raise InvalidRequestError(problem="amend needs started_at and ended_at")
    return Times(source.started_at, source.ended_at, source.break_minutes or 0)


def _require_correctable(command: RequestCorrection, session: Session) -> None:
    if command.kind == "reverse":
        if session.reversed:
            raise NotAllowedNowError(status="reversed", action="reverse", allowed=["amend"])
        if command.started_at or command.ended_at or command.break_minutes is not None:
            raise InvalidRequestError(problem="reverse takes no times")


def _require_self_or_staff(volunteer_id: UUID, unit_id: UUID, case: Case) -> None:
    if case.caller.person_id != volunteer_id:
        case.require_staff(unit_id, "organiser", "recorder", "dispatcher")


def _require_new(request_id: UUID, volunteer: Volunteer) -> None:
    if request_id in volunteer.requests:
        raise AlreadyExistsError(what="request", id=request_id)


def _require_open(request_id: UUID, verdict: str | None) -> None:
    if verdict is not None:
        raise AlreadyDecidedError(request_id=request_id, verdict=verdict)


DECIDERS: dict[type[Command], Callable[[Any, Case], list[Fact]]] = {
    RequestBackfill: request_backfill,
    DecideBackfill: decide_backfill,
    RequestCorrection: request_correction,
    DecideCorrection: decide_correction,
}
