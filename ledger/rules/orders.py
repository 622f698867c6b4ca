"""点单 → 派单 → 接单 → 服务: an order's life up to its completion (S053–S058, T09–T11, L05, F03, F08, F13)."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any, Literal
from uuid import UUID

from ledger.commands import (
    AcceptOrder,
    Command,
    CompleteOrder,
    DeclineOrder,
    DispatchOrder,
    ExpireOffer,
    OfferOrder,
    PlaceOrder,
    ReassignOrder,
    RejectOrder,
    Service,
    WithdrawOrder,
)
from ledger.errors import (
    AlreadyExistsError,
    BackfillRequiredError,
    InvalidRequestError,
    NotAcceptedError,
    NotAllowedNowError,
    NotMemberError,
    NotOfferedError,
    NotYourselfError,
    Refusal,
    SelfRecordingError,
    VolunteerWithdrawnError,
    WindowError,
    refuse_all,
)
from ledger.events import (
    ActivityKind,
    Fact,
    OrderAccepted,
    OrderCompleted,
    OrderDeclined,
    OrderDispatched,
    OrderOffered,
    OrderOfferExpired,
    OrderPlaced,
    OrderRated,
    OrderRatingWithdrawn,
    OrderReassigned,
    OrderRejected,
    OrderServed,
    OrderWithdrawn,
    SessionRecorded,
    SourceClass,
)
from ledger.rulebook import local_day
from ledger.rules.case import Case
from ledger.rules.sessions import Posting, Times, entries_for, is_late, refusals_of
from ledger.rules.teams import Team

Status = Literal["placed", "rejected", "withdrawn", "dispatched", "accepted", "completed", "rated"]
ALLOWED: Mapping[Status, tuple[str, ...]] = {
    "placed": ("reject", "withdraw", "dispatch"),
    "dispatched": ("reject", "withdraw", "offer", "reassign", "accept", "decline", "expire"),
    "accepted": ("withdraw", "offer", "reassign", "accept", "decline", "expire", "complete"),
    "completed": ("rate",),
    "rated": ("rate", "withdraw_rating"),
    "rejected": (),
    "withdrawn": (),
}
"""What may be done with an order in each state; refusals and pages read it too."""


@dataclass(frozen=True, slots=True)
class Assignment:
    """One volunteer's answer to one order; ``answered_at`` is when acceptance was recorded."""

    status: Literal["offered", "accepted", "declined", "expired", "released"]
    expires_at: datetime
    answered_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Order:
    """An order as it stands; ``placed_at`` is when the placement was recorded."""

    id: UUID
    version: int
    status: Status
    requester_id: UUID
    unit_id: UUID
    activity_kind: ActivityKind
    placed_at: datetime
    wanted_until: datetime
    team_id: UUID | None = None
    recorder_id: UUID | None = None
    completed_at: datetime | None = None
    assignments: Mapping[UUID, Assignment] = field(default_factory=dict)
    sessions: Mapping[UUID, UUID] = field(default_factory=dict)
    ratings: Mapping[UUID, OrderRated] = field(default_factory=dict)
    withdrawn_ratings: frozenset[UUID] = frozenset()
    stream: Literal["order"] = "order"

    def require(self, action: str) -> None:
        """Refuse with NOT_ALLOWED_NOW, saying what is allowed, unless the order can take ``action``."""
        allowed = ALLOWED[self.status]
        if action not in allowed:
            raise NotAllowedNowError(
                status=self.status, action=action, allowed=allowed, current_version=self.version
            )

    def known_before(self, volunteer_id: UUID, started_at: datetime) -> bool:
        """Whether placement and this volunteer's acceptance were *recorded* before the service began (F03)."""
        assignment = self.assignments.get(volunteer_id)
        accepted_at = assignment.answered_at if assignment and assignment.status == "accepted" else None
        return self.placed_at <= started_at and accepted_at is not None and accepted_at <= started_at


def place(command: PlaceOrder, case: Case) -> list[Fact]:
    """By the resident, or by staff for a resident (``relayed``); always for a time still to come (S053)."""
    if case.exists(command.order_id):
        raise AlreadyExistsError(what="order", id=command.order_id)
    unit = case.unit(command.unit_id)
    relayed = case.caller.person_id != command.requester_id
    if relayed:
        case.require_staff(unit.id, "organiser", "dispatcher")
    case.require_open_data(command.requester_id)
    if command.wanted_until <= command.wanted_from:
        raise WindowError(problem_zh="结束不晚于开始", problem_en="its end is not after its start")
    if command.wanted_until <= case.now:
        raise WindowError(problem_zh="时段已经过去", problem_en="it has passed already")
    return [
        OrderPlaced(
            **case.stamp(command.order_id),
            requester_id=command.requester_id,
            unit_id=unit.id,
            activity_kind=command.activity_kind,
            wanted_from=command.wanted_from,
            wanted_until=command.wanted_until,
            need=command.need,
            relayed=relayed,
        )
    ]


def reject(command: RejectOrder, case: Case) -> list[Fact]:
    order = case.order(command.order_id)
    case.require_staff(order.unit_id, "organiser", "dispatcher")
    order.require("reject")
    return [
        OrderRejected(
            **case.stamp(order.id),
            unit_id=order.unit_id,
            reason=command.reason,
            explanation=command.explanation,
        )
    ]


def withdraw(command: WithdrawOrder, case: Case) -> list[Fact]:
    order = case.order(command.order_id)
    if case.caller.person_id != order.requester_id:
        case.require_staff(order.unit_id, "organiser", "dispatcher")
    order.require("withdraw")
    return [OrderWithdrawn(**case.stamp(order.id), unit_id=order.unit_id, reason=command.reason)]


def dispatch(command: DispatchOrder, case: Case) -> list[Fact]:
    """派单: to a team and members of it, all inside the dispatcher's units (S054)."""
    order, team = case.order(command.order_id), case.team(command.team_id)
    _require_dispatcher(order, team, case)
    order.require("dispatch")
    team.require_active("dispatch")
    dispatched = OrderDispatched(**case.stamp(order.id), unit_id=order.unit_id, team_id=team.id)
    return [dispatched, *_offers(order, team, command.volunteer_ids, case)]


def offer(command: OfferOrder, case: Case) -> list[Fact]:
    order = case.order(command.order_id)
    case.require_staff(order.unit_id, "dispatcher", "organiser")
    order.require("offer")
    assert order.team_id is not None
    return _offers(order, case.team(order.team_id), command.volunteer_ids, case)


def reassign(command: ReassignOrder, case: Case) -> list[Fact]:
    """To another team, before the service; whoever had been asked or had accepted is released (S054)."""
    order, team = case.order(command.order_id), case.team(command.team_id)
    _require_dispatcher(order, team, case)
    order.require("reassign")
    team.require_active("reassign")
    if team.id == order.team_id:
        raise InvalidRequestError(
            problem="the order has that team already; offer it to more of its members instead"
        )
    assert order.team_id is not None
    reassigned = OrderReassigned(
        **case.stamp(order.id),
        unit_id=order.unit_id,
        team_id=team.id,
        from_team_id=order.team_id,
        reason=command.reason,
    )
    released = replace(order, assignments=_released(order))
    return [reassigned, *_offers(released, team, command.volunteer_ids, case)]


def accept(command: AcceptOrder, case: Case) -> list[Fact]:
    """接单: only by the volunteer themself; there is no standing consent (S055, L05)."""
    order = _answering(command.order_id, command.volunteer_id, "accept", case)
    if case.volunteer(command.volunteer_id).withdrawn:
        raise VolunteerWithdrawnError(volunteer_id=command.volunteer_id)
    if order.assignments[command.volunteer_id].expires_at <= case.now:
        raise NotOfferedError(volunteer_id=command.volunteer_id, status="expired")
    return [OrderAccepted(**case.stamp(order.id), unit_id=order.unit_id, volunteer_id=command.volunteer_id)]


def decline(command: DeclineOrder, case: Case) -> list[Fact]:
    """Saying no is always allowed, and so is changing one's mind after a yes (L05)."""
    order = _answering(command.order_id, command.volunteer_id, "decline", case, "offered", "accepted")
    return [
        OrderDeclined(
            **case.stamp(order.id),
            unit_id=order.unit_id,
            volunteer_id=command.volunteer_id,
            reason=command.reason,
        )
    ]


def expire(command: ExpireOffer, case: Case) -> list[Fact]:
    """By the ledger itself, once the time to answer is over (G04)."""
    order = case.order(command.order_id)
    case.require_role("admin")
    order.require("expire")
    assignment = order.assignments.get(command.volunteer_id)
    if assignment is None or assignment.status != "offered" or assignment.expires_at > case.now:
        status = assignment.status if assignment else "never asked"
        raise NotOfferedError(volunteer_id=command.volunteer_id, status=status)
    return [
        OrderOfferExpired(
            **case.stamp(order.id, assignment.expires_at),
            unit_id=order.unit_id,
            volunteer_id=command.volunteer_id,
        )
    ]


def complete(command: CompleteOrder, case: Case) -> list[Fact]:
    """Record who served and when: one append for the order and every volunteer's account, or none (S058, L10).

    Refused with every offender named: not accepted (L05), order or acceptance recorded after the start (F03), overlap
    (F01), day caps (F02), future or unfinished (F03, F04), the recorder among those who served (F08).
    """
    order = case.order(command.order_id)
    case.require_staff(order.unit_id, "recorder", "organiser", "dispatcher")
    order.require("complete")
    _require_distinct([s.volunteer_id for s in command.services], "volunteer")
    _require_distinct([s.session_id for s in command.services], "session")
    refuse_all([r for service in command.services for r in _offences(order, service, case)])
    served: list[Fact] = [
        OrderServed(
            **case.stamp(order.id, service.ended_at),
            unit_id=order.unit_id,
            volunteer_id=service.volunteer_id,
            session_id=service.session_id,
        )
        for service in command.services
    ]
    assert order.team_id is not None
    completed = OrderCompleted(
        **case.stamp(order.id, max(s.ended_at for s in command.services)),
        unit_id=order.unit_id,
        team_id=order.team_id,
        activity_kind=order.activity_kind,
        recorder_id=case.caller.person_id,
        volunteers=len(command.services),
    )
    accounts = [
        fact
        for service in command.services
        for fact in _recorded(order, service, command.responsible_id, case)
    ]
    return [*served, completed, *accounts]


def _offences(order: Order, service: Service, case: Case) -> list[Refusal]:
    volunteer = case.volunteer(service.volunteer_id)
    assignment = order.assignments.get(volunteer.id)
    found: list[Refusal] = []
    if case.caller.person_id == volunteer.id:
        found.append(SelfRecordingError(volunteer_id=volunteer.id))
    if assignment is None or assignment.status != "accepted":
        status = assignment.status if assignment else "never asked"
        found.append(NotAcceptedError(volunteer_id=volunteer.id, status=status))
    elif not order.known_before(volunteer.id, service.started_at):
        found.append(BackfillRequiredError(volunteer_id=volunteer.id))
    if volunteer.claims_session(service.session_id):
        found.append(AlreadyExistsError(what="session", id=service.session_id))
    if service.end_inferred and service.ended_at > order.wanted_until:
        found.append(InvalidRequestError(problem="an inferred end lies no later than the planned end (F21)"))
    times = Times(service.started_at, service.ended_at, service.break_minutes)
    return found + refusals_of(volunteer, times, case)


def _recorded(order: Order, service: Service, responsible_id: UUID | None, case: Case) -> list[Fact]:
    times = Times(service.started_at, service.ended_at, service.break_minutes)
    edition = case.edition_on(local_day(times.started_at))
    late = is_late(times, case, edition.book)
    # A missing check-out means a person, not a machine, vouches for the end.
    source_class: SourceClass = "machine" if service.checked and not service.end_inferred else "confirmed"
    session = SessionRecorded(
        **case.stamp(service.volunteer_id, times.started_at),
        session_id=service.session_id,
        order_id=order.id,
        unit_id=order.unit_id,
        team_id=order.team_id,
        activity_kind=order.activity_kind,
        started_at=times.started_at,
        ended_at=times.ended_at,
        break_minutes=times.break_minutes,
        source_class=source_class,
        inferred=service.end_inferred,
        late=late,
        responsible_id=responsible_id or case.caller.person_id,
        recorder_id=case.caller.person_id,
        approver_id=None,
        rulebook_version=edition.version,
    )
    posting = Posting(
        service.session_id,
        order.id,
        order.unit_id,
        order.activity_kind,
        source_class,
        service.end_inferred,
        late,
    )
    return [session, *entries_for(service.volunteer_id, posting, times, 1, case)]


def _require_dispatcher(order: Order, team: Team, case: Case) -> None:
    case.require_staff(order.unit_id, "dispatcher", "organiser")
    case.require_within(team.unit_id)


def _offers(order: Order, team: Team, volunteer_ids: Iterable[UUID], case: Case) -> list[Fact]:
    """Offers to those of the list who have none open; members of the team only, and none who withdrew."""
    refusals: list[Refusal] = []
    wanted: list[UUID] = []
    for volunteer_id in dict.fromkeys(volunteer_ids):
        assignment = order.assignments.get(volunteer_id)
        if volunteer_id not in team.members:
            refusals.append(NotMemberError(volunteer_id=volunteer_id))
        elif case.volunteer(volunteer_id).withdrawn:
            refusals.append(VolunteerWithdrawnError(volunteer_id=volunteer_id))
        elif assignment is None or assignment.status not in ("offered", "accepted"):
            wanted.append(volunteer_id)
    refuse_all(refusals)
    hours = case.edition_on(local_day(case.now)).book.offer_hours
    return [
        OrderOffered(
            **case.stamp(order.id),
            unit_id=order.unit_id,
            volunteer_id=volunteer_id,
            expires_at=case.now + timedelta(hours=hours),
        )
        for volunteer_id in wanted
    ]


def _answering(order_id: UUID, volunteer_id: UUID, action: str, case: Case, *statuses: str) -> Order:
    order = case.order(order_id)
    if case.caller.person_id != volunteer_id:
        raise NotYourselfError(volunteer_id=volunteer_id)
    order.require(action)
    assignment = order.assignments.get(volunteer_id)
    status = assignment.status if assignment else "never asked"
    if status not in (statuses or ("offered",)):
        raise NotOfferedError(volunteer_id=volunteer_id, status=status)
    return order


def _require_distinct(ids: list[UUID], what: str) -> None:
    twice = sorted({str(i) for i in ids if ids.count(i) > 1})
    if twice:
        raise InvalidRequestError(problem=f"{what} named twice: {', '.join(twice)}")


def _released(order: Order) -> dict[UUID, Assignment]:
    return {
        volunteer_id: replace(a, status="released") if a.status in ("offered", "accepted") else a
        for volunteer_id, a in order.assignments.items()
    }


def evolve(state: Order | None, fact: Fact) -> Order:
    version = fact.originator_version
    if isinstance(fact, OrderPlaced):
        return Order(
            fact.originator_id,
            version,
            "placed",
            fact.requester_id,
            fact.unit_id,
            fact.activity_kind,
            fact.recorded_at,
            fact.wanted_until,
        )
    assert state is not None
    match fact:
        case OrderOffered() | OrderAccepted() | OrderDeclined() | OrderOfferExpired():
            return _answered(state, fact)
        case OrderDispatched():
            return replace(state, version=version, status="dispatched", team_id=fact.team_id)
        case OrderReassigned():
            return replace(
                state,
                version=version,
                status="dispatched",
                team_id=fact.team_id,
                assignments=_released(state),
            )
        case OrderServed():
            sessions = {**state.sessions, fact.volunteer_id: fact.session_id}
            return replace(state, version=version, sessions=sessions)
        case OrderCompleted():
            return replace(
                state,
                version=version,
                status="completed",
                recorder_id=fact.recorder_id,
                completed_at=fact.happened_at,
            )
        case OrderRejected():
            return replace(state, version=version, status="rejected")
        case OrderWithdrawn():
            return replace(state, version=version, status="withdrawn")
        case OrderRated() | OrderRatingWithdrawn():
            return _rated(state, fact)
    return replace(state, version=version)


def _answered(state: Order, fact: OrderOffered | OrderAccepted | OrderDeclined | OrderOfferExpired) -> Order:
    if isinstance(fact, OrderOffered):
        assignment = Assignment("offered", fact.expires_at)
    elif isinstance(fact, OrderAccepted):
        before = state.assignments[fact.volunteer_id]
        assignment = replace(before, status="accepted", answered_at=fact.recorded_at)
    else:
        status: Literal["declined", "expired"] = "declined" if isinstance(fact, OrderDeclined) else "expired"
        assignment = replace(state.assignments[fact.volunteer_id], status=status, answered_at=None)
    assignments = {**state.assignments, fact.volunteer_id: assignment}
    accepted = any(a.status == "accepted" for a in assignments.values())
    return replace(
        state,
        version=fact.originator_version,
        status="accepted" if accepted else "dispatched",
        assignments=assignments,
    )


def _rated(state: Order, fact: OrderRated | OrderRatingWithdrawn) -> Order:
    if isinstance(fact, OrderRated):
        ratings = {**state.ratings, fact.rating_id: fact}
        gone = state.withdrawn_ratings
    else:
        ratings = {k: v for k, v in state.ratings.items() if k != fact.rating_id}
        gone = state.withdrawn_ratings | {fact.rating_id}
    return replace(
        state,
        version=fact.originator_version,
        status="rated" if ratings else "completed",
        ratings=ratings,
        withdrawn_ratings=gone,
    )


DECIDERS: dict[type[Command], Callable[[Any, Case], list[Fact]]] = {
    PlaceOrder: place,
    RejectOrder: reject,
    WithdrawOrder: withdraw,
    DispatchOrder: dispatch,
    OfferOrder: offer,
    ReassignOrder: reassign,
    AcceptOrder: accept,
    DeclineOrder: decline,
    ExpireOffer: expire,
    CompleteOrder: complete,
}
