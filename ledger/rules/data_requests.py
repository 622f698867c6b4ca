"""What a person may ask about their own data: to see it, to have its use restricted, to have it erased (T51, PIPL).

One asks (or an administrator takes it down for them), another person decides, and an erasure is then carried out.
Rules hold no keys: the edge destroys a key once the fact that says so is durable.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import date
from typing import Any, Literal
from uuid import UUID

from ledger import ids
from ledger.commands import Command, DecideDataRequest, EraseSubject, RequestData
from ledger.errors import (
    AlreadyDecidedError,
    AlreadyExistsError,
    InvalidRequestError,
    NotAllowedNowError,
    SelfApprovalError,
    SubjectErasedError,
)
from ledger.events import (
    DataRequestDecided,
    DataRequestKind,
    DataRequestOutcome,
    DataRequestReceived,
    Fact,
    SubjectErased,
    SubjectReleased,
    SubjectRestricted,
)
from ledger.rulebook import local_day
from ledger.rules.case import Case

ANSWER_WORKING_DAYS = 15
"""Working days in which a request is answered; PIPL art. 50 says "in good time", and practice counts fifteen."""

RETENTION_RUNS = "retention_runs"
"""The reason that refuses an erasure because the law still demands the record; its use is restricted (art. 47)."""


@dataclass(frozen=True, slots=True)
class DataRequest:
    """A request as it stands; ``outcome`` is None until somebody decided."""

    id: UUID
    version: int
    subject_id: UUID
    kind: DataRequestKind
    received_by_id: UUID
    due_on: date
    outcome: DataRequestOutcome | None = None
    stream: Literal["data_request"] = "data_request"

    def may_be_decided_by(self, person_id: UUID) -> bool:
        """Neither by the person it is about, nor by who received it: two people see every request."""
        return person_id not in (self.subject_id, self.received_by_id)


@dataclass(frozen=True, slots=True)
class Subject:
    """How a person's data may be used. Restriction ends by release, erasure never."""

    id: UUID
    version: int
    person_id: UUID
    restricted: bool = False
    erased: bool = False
    stream: Literal["subject"] = "subject"


def receive(command: RequestData, case: Case) -> list[Fact]:
    """By the person themself, or relayed by an administrator; due fifteen working days on."""
    relayed = case.caller.person_id != command.subject_id
    if relayed:
        case.require_role("admin")
    if case.exists(command.request_id):
        raise AlreadyExistsError(what="data request", id=command.request_id)
    if case.exists(command.subject_id):
        case.volunteer(command.subject_id)  # residents have no stream; a unit or an order has no rights
    if command.kind != "access":
        _require_not_erased(command.subject_id, case)
    today = local_day(case.now)
    edition = case.edition_on(today)
    return [
        DataRequestReceived(
            **case.stamp(command.request_id),
            subject_id=command.subject_id,
            kind=command.kind,
            relayed=relayed,
            due_on=edition.book.working_days_after(today, ANSWER_WORKING_DAYS),
            rulebook_version=edition.version,
        )
    ]


def decide(command: DecideDataRequest, case: Case) -> list[Fact]:
    """By another administrator than who received it; a restriction or its release takes effect in the same append."""
    case.require_role("admin")
    request = case.data_request(command.request_id)
    if request.outcome is not None:
        raise AlreadyDecidedError(request_id=request.id, verdict=request.outcome)
    if not request.may_be_decided_by(case.caller.person_id):
        raise SelfApprovalError(request_id=request.id)
    if (command.outcome == "refused") != (command.reason is not None):
        raise InvalidRequestError(problem="a refusal needs a reason, and nothing else takes one")
    decided = DataRequestDecided(
        **case.stamp(request.id),
        subject_id=request.subject_id,
        kind=request.kind,
        outcome=command.outcome,
        reason=command.reason,
        late=local_day(case.now) > request.due_on,
        received_by_id=request.received_by_id,
    )
    return [decided, *_in_effect(request, command, case)]


def erase(command: EraseSubject, case: Case) -> list[Fact]:
    """Carries out what was decided; erasing somebody twice changes nothing."""
    case.require_role("admin")
    request = case.data_request(command.request_id)
    status = f"{request.kind} {request.outcome or 'received'}"
    if status != "erasure fulfilled":
        raise NotAllowedNowError(status=status, action="erase", allowed=[] if request.outcome else ["decide"])
    subject = case.subject(request.subject_id)
    if subject is not None and subject.erased:
        return []
    return [_said(SubjectErased, request, case)]


def _in_effect(request: DataRequest, command: DecideDataRequest, case: Case) -> list[Fact]:
    """The restriction or release that the decision brings about, if things are not so already."""
    if command.outcome == "refused":
        restricts = request.kind == "erasure" and command.reason == RETENTION_RUNS
        releases = False
    else:
        restricts, releases = request.kind == "restriction", request.kind == "release"
    if restricts or releases:
        _require_not_erased(request.subject_id, case)
    subject = case.subject(request.subject_id)
    restricted = subject is not None and subject.restricted
    if restricts and not restricted:
        return [_said(SubjectRestricted, request, case)]
    if releases and restricted:
        return [_said(SubjectReleased, request, case)]
    return []


def _said(
    kind: type[SubjectRestricted] | type[SubjectReleased] | type[SubjectErased],
    request: DataRequest,
    case: Case,
) -> Fact:
    stream_id = ids.subject_id(case.ledger_id, request.subject_id)
    if case.subject(request.subject_id) is None and case.exists(stream_id):
        # Not by a command of today (`ledger.commands.NewId`); nothing is written into the stream of another thing.
        raise AlreadyExistsError(what="something else", id=stream_id)
    return kind(**case.stamp(stream_id), subject_id=request.subject_id, request_id=request.id)


def _require_not_erased(person_id: UUID, case: Case) -> None:
    subject = case.subject(person_id)
    if subject is not None and subject.erased:
        raise SubjectErasedError(subject_id=person_id)


def evolve(state: DataRequest | None, fact: Fact) -> DataRequest:
    version = fact.originator_version
    if isinstance(fact, DataRequestReceived):
        return DataRequest(
            fact.originator_id, version, fact.subject_id, fact.kind, fact.caller_id, fact.due_on
        )
    assert state is not None
    if isinstance(fact, DataRequestDecided):
        return replace(state, version=version, outcome=fact.outcome)
    return replace(state, version=version)


def evolve_subject(state: Subject | None, fact: Fact) -> Subject:
    assert isinstance(fact, SubjectRestricted | SubjectReleased | SubjectErased)
    before = state or Subject(fact.originator_id, 0, fact.subject_id)
    return replace(
        before,
        version=fact.originator_version,
        restricted=isinstance(fact, SubjectRestricted),
        erased=before.erased or isinstance(fact, SubjectErased),
    )


DECIDERS: dict[type[Command], Callable[[Any, Case], list[Fact]]] = {
    RequestData: receive,
    DecideDataRequest: decide,
    EraseSubject: erase,
}
