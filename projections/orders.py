"""点单 to 评单: each order with the moments it passed, and who was asked (S053–S057, T09–T12)."""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

from sqlalchemy import func, select

from ledger import events
from projections.facts import facts_of
from projections.moment import Moment
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


def stage(order: Mapping[str, Any], asked: Iterable[Mapping[str, Any]]) -> str:
    """How far an order has come: one word, as the board shows it.

    ``asked`` are this order's rows of `order_answers`: an acceptance taken back, or of a team that no longer
    has the order, does not count.
    """
    if order["rejected_at"]:
        return "rejected"
    if order["withdrawn_at"]:
        return "withdrawn"
    if order["completed_at"]:
        return "rated" if order["rated"] > order["ratings_withdrawn"] else "completed"
    dispatched_at = order["reassigned_at"] or order["dispatched_at"]
    if any(a["answer"] == events.OrderAccepted.TOPIC and a["answered_at"] >= dispatched_at for a in asked):
        return "accepted"
    return "dispatched" if dispatched_at else "placed"


def board(moment: Moment, now: datetime, person: str | None = None) -> list[dict[str, Any]]:
    """Every order with its ``stage`` and ``age_seconds`` (since the last step, at ``now``), oldest first.

    ``person``: only orders they placed or were asked to serve.
    """
    table, given = order_board.table(), order_answers.table()
    asked: defaultdict[str, list[dict[str, Any]]] = defaultdict(list)
    answer_columns = (given.c.order_id, given.c.volunteer_id, given.c.answer, given.c.answered_at)
    for row in moment.rows(select(*answer_columns)):
        asked[row["order_id"]].append(row)
    visible = [table.c[name] for name in (*order_board.keys, *(m.name for m in order_board.measures))]
    found = moment.rows(select(*visible).order_by(table.c.placed_at, table.c.order_id))
    if person is not None:
        found = [
            order
            for order in found
            if order["requester_id"] == person
            or any(a["volunteer_id"] == person for a in asked[order["order_id"]])
        ]
    for order in found:
        order["stage"] = stage(order, asked[order["order_id"]])
        order["age_seconds"] = int((now - datetime.fromisoformat(_last_step(order))).total_seconds())
    return found


def _last_step(order: Mapping[str, Any]) -> str:
    steps_at = [value for name, value in order.items() if name.endswith("_at") and value]
    return str(max(steps_at))


def funnel(orders: Iterable[Mapping[str, Any]]) -> dict[str, int]:
    """How many of the orders ever reached each step."""
    reached: dict[str, int] = dict.fromkeys(("placed", "dispatched", "accepted", "completed", "rated"), 0)
    reached |= {"rejected": 0, "withdrawn": 0}
    for order in orders:
        for step in reached:
            reached[step] += order[f"{step}_at"] is not None
    return reached
