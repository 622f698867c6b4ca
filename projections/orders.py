"""点单 to 评单: each order with the moments it passed, and who was asked (S053–S057, T09–T12)."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, case, exists, func, literal, select

from ledger import events
from projections.facts import facts_of
from projections.moment import Moment, one
from projections.projection import Projection, latest

steps = facts_of(
    "order_steps",
    events.OrderPlaced,
    events.OrderRejected,
    events.OrderWithdrawn,
    events.OrderDispatched,
    events.OrderReassigned,
    events.OrderAccepted,
    events.OrderCompleted,
    events.OrderRated,
    events.OrderRatingWithdrawn,
)
answers = facts_of(
    "order_answers",
    events.OrderOffered,
    events.OrderAccepted,
    events.OrderDeclined,
    events.OrderOfferExpired,
    events.OrderServed,
)


def _first(event: type[events.Fact]) -> Any:
    return func.min(steps.c.recorded_at).filter(steps.c.topic == event.TOPIC)


def _count(event: type[events.Fact]) -> Any:
    return func.count().filter(steps.c.topic == event.TOPIC)


order_board = Projection(
    name="order_board",
    version=1,
    select=select(
        steps.c.order_id,
        latest(steps.c.unit_id, steps.c.position).label("unit_id"),
        latest(steps.c.requester_id, steps.c.position).label("requester_id"),
        latest(steps.c.activity_kind, steps.c.position).label("activity_kind"),
        latest(steps.c.team_id, steps.c.position).label("team_id"),
        latest(steps.c.wanted_from, steps.c.position).label("wanted_from"),
        latest(steps.c.wanted_until, steps.c.position).label("wanted_until"),
        _first(events.OrderPlaced).label("placed_at"),
        _first(events.OrderDispatched).label("dispatched_at"),
        _first(events.OrderAccepted).label("accepted_at"),
        _first(events.OrderCompleted).label("completed_at"),
        _first(events.OrderRated).label("rated_at"),
        _first(events.OrderRejected).label("rejected_at"),
        _first(events.OrderWithdrawn).label("withdrawn_at"),
        func.max(steps.c.recorded_at)
        .filter(steps.c.topic == events.OrderReassigned.TOPIC)
        .label("reassigned_at"),
        _count(events.OrderReassigned).label("reassignments"),
        _count(events.OrderRated).label("rated"),
        _count(events.OrderRatingWithdrawn).label("ratings_withdrawn"),
    ).group_by(steps.c.order_id),
)
"""Each order with the moment every step was first recorded, so that ages and the funnel are questions."""

order_answers = Projection(
    name="order_answers",
    version=1,
    select=select(
        answers.c.order_id,
        answers.c.volunteer_id,
        latest(answers.c.topic, answers.c.position).label("answer"),
        latest(answers.c.expires_at, answers.c.position).label("expires_at"),
        func.min(answers.c.recorded_at).label("offered_at"),
        func.max(answers.c.recorded_at).label("answered_at"),
    ).group_by(answers.c.order_id, answers.c.volunteer_id),
)
"""What each volunteer who was asked last answered."""


STAGES = ("placed", "dispatched", "accepted", "completed", "rated", "rejected", "withdrawn")
"""How far an order can have come."""

boards, given = order_board.table(), order_answers.table()


def _stage() -> ColumnElement[str]:
    """How far an order has come, as SQL over `order_board` and `order_answers`.

    An acceptance that was taken back, or given for a team that no longer has the order, does not count.
    """
    dispatched_at = func.coalesce(boards.c.reassigned_at, boards.c.dispatched_at)
    accepted = exists().where(
        given.c.order_id == boards.c.order_id,
        given.c.answer == events.OrderAccepted.TOPIC,
        given.c.answered_at >= dispatched_at,
    )
    return case(
        (boards.c.rejected_at.is_not(None), literal("rejected")),
        (boards.c.withdrawn_at.is_not(None), literal("withdrawn")),
        (boards.c.rated > boards.c.ratings_withdrawn, literal("rated")),
        (boards.c.completed_at.is_not(None), literal("completed")),
        (accepted, literal("accepted")),
        (dispatched_at.is_not(None), literal("dispatched")),
        else_=literal("placed"),
    )


@dataclass(frozen=True)
class Which:
    """Which orders: of these units, of one person (placed by or offered to them), at one stage. None: no limit."""

    units: Collection[str] | None = None
    person: str | None = None
    stage: str | None = None
    order_id: str | None = None


def _matching(which: Which) -> list[ColumnElement[bool]]:
    conditions: list[ColumnElement[bool]] = []
    if which.units is not None:
        conditions.append(boards.c.unit_id.in_(sorted(which.units)))
    if which.person is not None:
        asked = exists().where(given.c.order_id == boards.c.order_id, given.c.volunteer_id == which.person)
        conditions.append((boards.c.requester_id == which.person) | asked)
    if which.stage is not None:
        conditions.append(_stage() == which.stage)
    if which.order_id is not None:
        conditions.append(boards.c.order_id == which.order_id)
    return conditions


def board(
    moment: Moment, which: Which, now: datetime, *, after: str | None = None, limit: int = 1000
) -> list[dict[str, Any]]:
    """Orders with their ``stage`` and ``age_seconds`` (since the last step, at ``now``), oldest first.

    ``after``: the last order of the page before.
    """
    visible = [boards.c[name] for name in (*order_board.keys, *(m.name for m in order_board.measures))]
    query = select(*visible, _stage().label("stage")).where(*_matching(which))
    start = one(moment.rows(select(boards.c.placed_at).where(boards.c.order_id == after))) if after else None
    if start is not None:
        at = start["placed_at"]
        query = query.where(
            (boards.c.placed_at > at) | ((boards.c.placed_at == at) & (boards.c.order_id > after))
        )
    found = moment.rows(query.order_by(boards.c.placed_at, boards.c.order_id).limit(limit))
    for order in found:
        order["age_seconds"] = int((now - datetime.fromisoformat(_last_step(order))).total_seconds())
    return found


def _last_step(order: Mapping[str, Any]) -> str:
    return str(max(value for name, value in order.items() if name.endswith("_at") and value))


def funnel(moment: Moment, which: Which) -> dict[str, int]:
    """How many of the orders ever reached each step."""
    counts: list[ColumnElement[Any]] = [func.count(boards.c[f"{step}_at"]).label(step) for step in STAGES]
    (row,) = moment.rows(select(*counts).where(*_matching(which)))
    return {step: int(row[step]) for step in STAGES}


def answers_to(moment: Moment, order_id: str) -> list[dict[str, Any]]:
    """What everybody who was asked to serve an order last answered."""
    visible = [given.c[name] for name in (*order_answers.keys, *(m.name for m in order_answers.measures))]
    return moment.rows(select(*visible).where(given.c.order_id == order_id).order_by(given.c.volunteer_id))
