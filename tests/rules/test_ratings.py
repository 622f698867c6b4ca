"""评单: the public judges, and nobody judges their own (S056, L14, T12, T13, F06)."""

from datetime import UTC, datetime
from uuid import UUID

import pytest

from ledger import commands as c
from ledger import events as e
from ledger.errors import (
    AlreadyExistsError,
    AlreadyRatedError,
    NotAllowedNowError,
    NotYourselfError,
    OutsideSubtreeError,
    RaterNotIndependentError,
    ScoreOutOfRangeError,
    UnknownRatingError,
    WrongRoleError,
)
from ledger.rules import Caller
from tests.rules.given import (
    ACCEPTED_AT,
    COUNTY,
    DISPATCHER,
    ELSEWHERE,
    LEADER,
    LI,
    ORDER,
    ORGANISER,
    RECORDER,
    RESIDENT,
    SEALED,
    SQUAD,
    STATION,
    STRANGER,
    WANG,
    ZHAO,
    History,
    a,
    a_book,
    a_service,
    an_accepted_order,
    by,
    completed,
    fact,
    given,
    name,
)

RESIDENT_THEMSELF = by(RESIDENT, "resident")
LED = fact(e.TeamLeaderAppointed, SQUAD, leader_id=LEADER, previous_leader_id=None)


def served(*facts: e.Fact) -> History:
    """An order Li and Wang served, in a team that Leader leads."""
    before = given(COUNTY, LED, facts, an_accepted_order(LI, WANG, ZHAO))
    return before.after(completed(a_service(LI), a_service(WANG)), RECORDER)


SERVED = served()


def rating(score: int | None = 5, number: int = 1, **how: object) -> c.RateOrder:
    fields = {"order_id": ORDER, "rating_id": name("rating", number), "score": score, **how}
    return c.RateOrder.model_validate(fields)


def taken_back(number: int = 1) -> c.WithdrawRating:
    return c.WithdrawRating(order_id=ORDER, rating_id=name("rating", number))


def test_the_resident_rates_and_each_who_served_is_credited() -> None:
    """S056, L14, T12"""
    SERVED.when(rating(4, comment=SEALED), RESIDENT_THEMSELF).then(
        a(e.OrderRated, rater_id=RESIDENT, score=4, comment=SEALED, relayed=False, late=False),
        *(a(e.RatingCredited, originator_id=v, score=4, ratings=1) for v in (LI, WANG)),
    )


def test_who_could_not_judge_credits_nobody() -> None:
    SERVED.when(rating(None), RESIDENT_THEMSELF).then(a(e.OrderRated, score=None))


@pytest.mark.parametrize("score", [0, 6, -5, 10**30])
def test_a_score_lies_on_the_scale_of_the_rule_book(score: int) -> None:
    """G03"""
    SERVED.when(rating(score), RESIDENT_THEMSELF).then_refused(
        ScoreOutOfRangeError, rating_min=1, rating_max=5
    )


def test_the_scale_is_the_one_of_the_day_that_was_served() -> None:
    tomorrow = datetime(2026, 3, 11, 1, 0, tzinfo=UTC)
    later = History([*SERVED.facts, a_book(2, tomorrow, rating_max=10)])
    later.when(rating(10), RESIDENT_THEMSELF, tomorrow).then_refused(ScoreOutOfRangeError)
    served(a_book(2, ACCEPTED_AT, rating_max=10)).when(rating(10), RESIDENT_THEMSELF).then(
        a(e.OrderRated, rulebook_version=2), a(e.RatingCredited), a(e.RatingCredited)
    )


def test_another_person_rates_with_the_one_time_code_only() -> None:
    """S056: whoever was served and holds the code."""
    stranger = by(STRANGER, "resident")
    SERVED.when(rating(), stranger).then_refused(NotYourselfError)
    found = SERVED.when(rating(code_checked=True), stranger).facts
    assert isinstance(found[0], e.OrderRated)
    assert (found[0].rater_id, found[0].relayed) == (STRANGER, False)


def test_staff_relay_a_rating_with_the_code_and_are_seen_to_have_done_so() -> None:
    found = SERVED.when(rating(code_checked=True), DISPATCHER).facts[0]
    assert isinstance(found, e.OrderRated)
    assert (found.rater_id, found.relayed, found.caller_id) == (RESIDENT, True, DISPATCHER.person_id)
    SERVED.when(rating(), DISPATCHER).then_refused(NotYourselfError)
    SERVED.when(rating(code_checked=True), ELSEWHERE).then_refused(OutsideSubtreeError)
    SERVED.when(rating(code_checked=True), by("auditor", "auditor")).then_refused(WrongRoleError)


@pytest.mark.parametrize(
    "caller",
    [
        by(LI, "resident"),
        by(WANG, "volunteer"),
        by(LEADER, "resident"),
        RECORDER,
        by(LI, "organiser", STATION),
    ],
    ids=["served", "served too", "leader", "recorder", "served, as staff"],
)
def test_nobody_rates_a_service_they_took_part_in(caller: Caller) -> None:
    """F06, T13: not who served, not their leader, not the recorder — code or no code."""
    SERVED.when(rating(code_checked=True), caller).then_refused(RaterNotIndependentError)


@pytest.mark.parametrize("requester", [LI, LEADER, RECORDER.person_id])
def test_who_ordered_and_took_part_does_not_rate_either_not_even_through_staff(requester: UUID) -> None:
    """F06, T13"""
    order = [f.model_copy(update={"requester_id": requester}) if isinstance(f, e.OrderPlaced) else f
             for f in an_accepted_order(LI, WANG)]  # fmt: skip
    history = given(COUNTY, LED, order).after(completed(a_service(LI), a_service(WANG)), RECORDER)
    history.when(rating(), by(requester, "resident")).then_refused(RaterNotIndependentError)
    history.when(rating(code_checked=True), ORGANISER).then_refused(RaterNotIndependentError)


def test_nobody_rates_who_shares_a_phone_with_one_who_served() -> None:
    """F06"""
    SERVED.when(rating(same_phone_ids=(WANG,)), RESIDENT_THEMSELF).then_refused(RaterNotIndependentError)
    assert SERVED.when(rating(same_phone_ids=(ZHAO,)), RESIDENT_THEMSELF).facts


def test_a_rater_has_one_live_rating_of_a_service() -> None:
    """S056"""
    rated = SERVED.after(rating(), RESIDENT_THEMSELF)
    rated.when(rating(1, number=2), RESIDENT_THEMSELF).then_refused(AlreadyRatedError)
    rated.when(rating(1, number=2, code_checked=True), DISPATCHER).then_refused(AlreadyRatedError)
    assert rated.when(rating(1, number=2, code_checked=True), by(STRANGER, "resident")).facts


def test_a_rating_taken_back_is_taken_from_each_who_served_and_may_be_given_anew() -> None:
    """S056: nothing is amended; the second rating is another one."""
    back = SERVED.after(rating(4), RESIDENT_THEMSELF).when(taken_back(), RESIDENT_THEMSELF)
    back.then(
        a(e.OrderRatingWithdrawn, score=4, rater_id=RESIDENT),
        *(a(e.RatingCredited, originator_id=v, score=-4, ratings=-1) for v in (LI, WANG)),
    )
    assert back.history.state(ORDER).status == "completed"
    back.history.when(rating(2), RESIDENT_THEMSELF).then_refused(AlreadyExistsError)
    assert back.history.when(rating(2, number=2), RESIDENT_THEMSELF).facts


def test_a_rating_is_taken_back_by_its_rater_only_and_once() -> None:
    rated = SERVED.after(rating(), RESIDENT_THEMSELF)
    rated.when(taken_back(), RECORDER).then_refused(NotYourselfError)
    rated.when(taken_back(2), RESIDENT_THEMSELF).then_refused(UnknownRatingError)
    back = rated.after(taken_back(), RESIDENT_THEMSELF)
    back.when(taken_back(), RESIDENT_THEMSELF).then_refused(NotAllowedNowError, status="completed")


def test_nothing_is_rated_before_it_is_served() -> None:
    given(COUNTY, an_accepted_order(LI)).when(rating(), RESIDENT_THEMSELF).then_refused(
        NotAllowedNowError, status="accepted", action="rate"
    )


@pytest.mark.parametrize(("day", "late"), [(24, False), (25, True)])
def test_a_rating_after_ten_working_days_is_late_but_not_lost(day: int, late: bool) -> None:
    """L15: served on Tuesday 10 March, in time until Tuesday the 24th."""
    at = datetime(2026, 3, day, 8, 0, tzinfo=UTC)
    found = SERVED.when(rating(), RESIDENT_THEMSELF, at).facts[0]
    assert isinstance(found, e.OrderRated)
    assert found.late is late
