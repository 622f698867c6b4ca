"""评单: the public judges the service, and nobody judges their own (S056, L14, T12, T13, F06)."""

from collections.abc import Callable
from typing import Any, Literal

from ledger.commands import Command, RateOrder, WithdrawRating
from ledger.errors import (
    AlreadyExistsError,
    AlreadyRatedError,
    NotYourselfError,
    RaterNotIndependentError,
    ScoreOutOfRangeError,
    UnknownRatingError,
)
from ledger.events import Fact, OrderRated, OrderRatingWithdrawn, RatingCredited
from ledger.rulebook import local_day
from ledger.rules.case import Case
from ledger.rules.orders import Order


def rate(command: RateOrder, case: Case) -> list[Fact]:
    """By the resident who ordered, or under the one-time code given at completion.

    Staff may relay a code, flagged, but never the recorder of that service. One live rating a rater.
    """
    order = case.order(command.order_id)
    order.require("rate")
    relayed = _who_rates(order, command, case)
    rater_id = order.requester_id if relayed else case.caller.person_id
    _require_independent(order, command, case)
    already = next((r.rating_id for r in order.ratings.values() if r.rater_id == rater_id), None)
    if already is not None:
        raise AlreadyRatedError(rating_id=already)
    if command.rating_id in order.ratings or command.rating_id in order.withdrawn_ratings:
        raise AlreadyExistsError(what="rating", id=command.rating_id)
    assert order.completed_at is not None
    served_on = local_day(order.completed_at)
    edition = case.edition_on(served_on)
    book = edition.book
    if command.score is not None and not book.rating_min <= command.score <= book.rating_max:
        raise ScoreOutOfRangeError(rating_min=book.rating_min, rating_max=book.rating_max)
    rated = OrderRated(
        **case.stamp(order.id),
        rating_id=command.rating_id,
        unit_id=order.unit_id,
        rater_id=rater_id,
        score=command.score,
        comment=command.comment,
        late=local_day(case.now) > book.record_deadline(served_on),
        relayed=relayed,
        rulebook_version=edition.version,
    )
    return [rated, *_credits(order, rated, 1, case)]


def withdraw_rating(command: WithdrawRating, case: Case) -> list[Fact]:
    """By the rater only; what was credited is taken back, and they may rate again (S056)."""
    order = case.order(command.order_id)
    order.require("withdraw_rating")
    rated = order.ratings.get(command.rating_id)
    if rated is None:
        raise UnknownRatingError(id=command.rating_id)
    if case.caller.person_id != rated.rater_id:
        raise NotYourselfError(rating_id=command.rating_id)
    withdrawn = OrderRatingWithdrawn(
        **case.stamp(order.id),
        rating_id=command.rating_id,
        unit_id=order.unit_id,
        rater_id=rated.rater_id,
        score=rated.score,
        reason=command.reason,
    )
    return [withdrawn, *_credits(order, rated, -1, case)]


def _who_rates(order: Order, command: RateOrder, case: Case) -> bool:
    """Whether the rating is relayed by staff; refused for anybody who is neither the requester nor holds the code."""
    if case.caller.person_id == order.requester_id:
        return False
    if not command.code_checked:
        raise NotYourselfError(order_id=order.id)
    if case.caller.role in ("resident", "volunteer"):
        return False
    case.require_staff(order.unit_id, "organiser", "dispatcher", "recorder")
    return True


def _require_independent(order: Order, command: RateOrder, case: Case) -> None:
    rater_ids = {case.caller.person_id}
    if case.caller.role not in ("resident", "volunteer"):
        rater_ids.add(order.requester_id)
    assert order.team_id is not None
    barred = {*order.sessions, order.recorder_id, case.team(order.team_id).leader_id}
    if rater_ids & barred or set(command.same_phone_ids) & set(order.sessions):
        raise RaterNotIndependentError(order_id=order.id)


def _credits(order: Order, rated: OrderRated, sign: Literal[1, -1], case: Case) -> list[Fact]:
    """The rating in the account of each who served; "could not judge" credits nobody."""
    if rated.score is None:
        return []
    return [
        RatingCredited(
            **case.stamp(volunteer_id),
            order_id=order.id,
            rating_id=rated.rating_id,
            unit_id=order.unit_id,
            score=sign * rated.score,
            ratings=sign,
        )
        for volunteer_id in order.sessions
    ]


DECIDERS: dict[type[Command], Callable[[Any, Case], list[Fact]]] = {
    RateOrder: rate,
    WithdrawRating: withdraw_rating,
}
