"""点单 to 评单: each order with the moments it passed, and who was asked (S053–S057, T09–T12)."""

from collections.abc import Mapping
from typing import Any

from sqlalchemy import func, select

from ledger import events
from projections.facts import facts_of
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
    ).group_by(answers.c.order_id, answers.c.volunteer_id),
)
"""What each volunteer who was asked last answered."""


def stage(order: Mapping[str, Any]) -> str:
    """How far an order has come: one word, as the board shows it."""
    if order["rejected_at"]:
        return "rejected"
    if order["withdrawn_at"]:
        return "withdrawn"
    if order["completed_at"]:
        return "rated" if order["rated"] > order["ratings_withdrawn"] else "completed"
    if order["accepted_at"]:
        return "accepted"
    return "dispatched" if order["dispatched_at"] else "placed"
