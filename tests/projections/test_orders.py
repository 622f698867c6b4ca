"""The order board tells the stage that the rules know, and the funnel counts every step (S053–S057, T09–T12)."""

from collections import Counter
from collections.abc import Iterator
from datetime import timedelta

import pytest

from ledger import commands as c
from ledger import ids
from ledger.rules import Caller
from ledger.rules.orders import Order
from projections import follower, replay
from projections.orders import Which, answers_to, board, funnel, order_answers, order_board
from tests.county import LEDGER_ID, SEALED, County, name, sample_steps

FIGURES = (order_board, order_answers)


@pytest.fixture
def county(sqlite_url: str) -> Iterator[County]:
    made = County(sqlite_url)
    made.do(c.FormTeam(kind="branch", name="支队", unit_id=made.institutes[0], parent_team_id=made.corps))
    made.branch = ids.team_id(LEDGER_ID, "branch", made.institutes[0], None)  # type: ignore[attr-defined]
    yield made
    made.close()


def stages(county: County, position: int | None = None) -> dict[str, str]:
    follower.catch_up(county.log)
    with replay.at(county.log, FIGURES, position) as moment:
        return {o["order_id"]: o["stage"] for o in board(moment, Which(), county.now)}


def test_the_board_agrees_with_the_rules_after_any_story(county: County) -> None:
    county.tell(sample_steps(80))
    found = stages(county)
    for order_id in county.orders:
        state = county.ledger.state(order_id)
        assert isinstance(state, Order)
        assert found[str(order_id)] == state.status
    assert stages(county, county.log.head().size) == found


def test_an_acceptance_taken_back_or_for_another_team_does_not_count(county: County) -> None:
    volunteer = county.volunteer(0)
    order = county.place(county.station)
    here = str(order)
    assert stages(county)[here] == "placed"
    county.do(c.DispatchOrder(order_id=order, team_id=county.squad, volunteer_ids=(volunteer,)))
    assert stages(county)[here] == "dispatched"
    county.do(c.AcceptOrder(order_id=order, volunteer_id=volunteer), county.as_volunteer(volunteer))
    assert stages(county)[here] == "accepted"
    county.do(c.DeclineOrder(order_id=order, volunteer_id=volunteer), county.as_volunteer(volunteer))
    assert stages(county)[here] == "dispatched"
    county.do(c.OfferOrder(order_id=order, volunteer_ids=(county.volunteer(1),)))
    county.do(
        c.AcceptOrder(order_id=order, volunteer_id=county.volunteer(1)),
        county.as_volunteer(county.volunteer(1)),
    )
    assert stages(county)[here] == "accepted"
    county.wait(minutes=1)
    team = county.branch  # type: ignore[attr-defined]
    county.do(c.JoinTeam(team_id=team, volunteer_id=volunteer))
    county.do(c.ReassignOrder(order_id=order, team_id=team, volunteer_ids=(volunteer,), reason="too_far"))
    assert stages(county)[here] == "dispatched"
    state = county.ledger.state(order)
    assert isinstance(state, Order)
    assert state.status == "dispatched"


def test_pages_follow_one_another_and_lose_nothing(county: County) -> None:
    for _ in range(7):
        county.place(county.station)
    follower.catch_up(county.log)
    seen: list[str] = []
    with replay.at(county.log, FIGURES) as moment:
        while page := board(moment, Which(), county.now, after=seen[-1] if seen else None, limit=3):
            seen += [order["order_id"] for order in page]
    assert sorted(seen) == sorted(str(order) for order in county.orders)


def test_the_funnel_counts_every_step_and_the_board_filters(county: County) -> None:
    volunteer = county.volunteer(0)
    rated = county.serve(county.station, [volunteer], 60)
    county.rate(rated, 5, name("neighbour"))
    rejected = county.place(county.base)
    county.do(c.RejectOrder(order_id=rejected, reason="out_of_scope", explanation=SEALED))
    county.place(county.base)
    follower.catch_up(county.log)
    with replay.at(county.log, FIGURES) as moment:
        whole = funnel(moment, Which())
        here = board(moment, Which(units=[str(county.base)]), county.now + timedelta(hours=1))
        mine = board(moment, Which(person=str(volunteer)), county.now)
        answers = answers_to(moment, str(rated))
    assert whole == {
        "placed": 3, "dispatched": 1, "accepted": 1, "completed": 1, "rated": 1, "rejected": 1, "withdrawn": 0,
    }  # fmt: skip
    assert Counter(o["stage"] for o in here) == {"rejected": 1, "placed": 1}
    assert all(o["age_seconds"] >= 3600 for o in here)
    assert [o["order_id"] for o in mine] == [str(rated)]
    assert [a["answer"] for a in answers] == ["order.served"]


def test_a_resident_finds_their_own_orders(county: County) -> None:
    order = county.place(county.station)
    state = county.ledger.state(order)
    assert isinstance(state, Order)
    who = Caller(state.requester_id, "resident")
    follower.catch_up(county.log)
    with replay.at(county.log, FIGURES) as moment:
        assert [o["order_id"] for o in board(moment, Which(person=str(who.person_id)), county.now)] == [
            str(order)
        ]
        assert board(moment, Which(person=str(name("stranger"))), county.now) == []
