"""Between moments and between rule books by HTTP (T43, T44, T46)."""

import json
from typing import Any

import pytest

from tests.api.conftest import PHONE, Town, name
from tests.api.test_bad_input import refused


def asked(town: Town, who: str, body: Any, **params: Any) -> Any:
    return town.client.post("/v1/what-if", headers=town.headers(who), params=params, json=body)


def test_a_difference_tells_before_and_after_and_the_facts_in_between(town: Town) -> None:
    wang = town.enrol()
    start = town.last
    town.served()
    middle = town.last
    town.wait(days=1)
    town.done(town.backfill(), "checker", {"verdict": "approved"})
    found = town.seen("/diff", "auditor", projection="volunteer_hours", **{"from": middle})
    (change,) = found["changes"]
    assert change["key"] == {"volunteer_id": wang, "source_class": "backfilled"}
    assert (change["before"], change["after"]) == (None, {"minutes": 60, "services": 1})
    (fact,) = change["facts"]
    assert (fact["topic"], change["facts_count"], found["next_after"]) == ("entry.posted", 1, None)
    assert fact["recorded_at"] > fact["happened_at"]
    whole = town.seen("/diff", "auditor", projection="volunteer_hours", **{"from": start, "to": town.last})
    assert len(whole["changes"]) == 2
    assert (
        town.seen("/diff", "auditor", projection="volunteer_hours", **{"from": start, "to": start})["changes"]
        == []
    )
    then = town.seen("/events/" + str(middle), "auditor")["data"]["recorded_at"]
    assert town.seen("/diff", "auditor", projection="volunteer_hours", **{"from": then})["from"] == middle


def test_differences_come_in_pages_and_for_some_keys(standing_town: Town) -> None:
    town = standing_town
    how: dict[str, Any] = {"projection": "volunteers", "from": 0}
    whole = town.seen("/diff", "auditor", **how)["changes"]
    assert len(whole) == 2
    first = town.seen("/diff", "auditor", **how, limit=1)
    second = town.seen("/diff", "auditor", **how, limit=1, after=first["next_after"])
    assert first["changes"] + second["changes"] == whole
    assert second["next_after"] is None
    own = town.seen("/diff", "auditor", **how, where=f"volunteer_id={name('zhao')}")["changes"]
    assert own == [change for change in whole if change["key"]["volunteer_id"] == name("zhao")]
    assert town.seen("/diff", "auditor", **how, where="volunteer_id=' OR true --")["changes"] == []


def test_any_figure_is_explained_by_its_facts(standing_town: Town) -> None:
    town = standing_town
    how: dict[str, Any] = {"projection": "unit_months", "where": f"unit_id={town.station}"}
    found = town.seen("/explain", "auditor", **how)
    assert sum(share["minutes"] for share in found["shares"]) == 140
    assert all(share["fact"]["topic"] == "entry.posted" for share in found["shares"])
    assert town.seen("/explain", "auditor", **how, as_of="5")["shares"] == []
    rated = {"projection": "order_board", "where": f"order_id={name('order')}"}
    whole = town.seen("/explain", "auditor", **rated)
    page = town.seen("/explain", "auditor", **rated, limit=2)
    rest = town.seen("/explain", "auditor", **rated, after=page["next_after"])
    assert page["shares"] + rest["shares"] == whole["shares"]
    assert whole["facts_count"] == len(whole["shares"]) > 2


def test_a_person_a_stream_and_the_log_are_read_as_of_any_moment(town: Town) -> None:
    wang = town.enrol()
    before, day = town.last, town.now.date().isoformat()
    town.wait(days=2)
    town.done(f"/volunteers/{wang}/withdraw", "wang", {})
    at: dict[str, Any]
    for at in ({"as_of": str(before)}, {"effective_on": day}):
        then = town.seen(f"/volunteers/{wang}", "wang", **at)
        assert (then["withdrawn"], then["version"]) == (False, 2)
        assert then["profile"]["phone"] == PHONE
        topics = [event["topic"] for event in town.seen(f"/streams/{wang}", "wang", **at)["events"]]
        assert topics == ["volunteer.enrolled", "volunteer.category_declared"]
        log = town.seen("/events", "auditor", **at, stream=wang)
        assert [event["topic"] for event in log["events"]] == topics
    assert town.seen(f"/volunteers/{wang}", "wang")["withdrawn"] is True
    for at in ({"as_of": "1"}, {"effective_on": "2026-02-01"}):
        refused(town.get(f"/volunteers/{wang}", "wang", **at), 404, "UNKNOWN_VOLUNTEER")
        refused(town.get(f"/streams/{wang}", "wang", **at), 404, "NOT_FOUND")
        assert town.seen("/events", "auditor", **at, stream=wang)["events"] == []


def test_nobodys_words_stand_among_the_facts_of_a_difference(standing_town: Town) -> None:
    for figure in standing_town.seen("/projections", "auditor")["projections"]:
        text = standing_town.get("/diff", "auditor", projection=figure["name"], **{"from": 0}).text
        assert "s1." not in text
        assert PHONE not in text


@pytest.mark.parametrize(
    ("path", "params", "status", "code"),
    [
        ("/diff", {"projection": "hours_of_the_moon", "from": 0}, 422, "INVALID_REQUEST"),
        ("/diff", {"projection": "volunteer_hours"}, 422, "INVALID_REQUEST"),
        ("/diff", {"projection": "volunteer_hours", "from": 5, "to": 4}, 422, "MOMENTS_REVERSED"),
        ("/diff", {"projection": "volunteer_hours", "from": 99999}, 400, "AS_OF_BEYOND_HEAD"),
        ("/diff", {"projection": "volunteer_hours", "from": 0, "to": 99999}, 400, "AS_OF_BEYOND_HEAD"),
        ("/diff", {"projection": "volunteer_hours", "from": "2999-01-01T00:00:00Z"}, 422, "INVALID_REQUEST"),
        (
            "/diff",
            {"projection": "volunteer_hours", "from": "2190-01-01T00:00:00Z"},
            400,
            "AS_OF_BEYOND_HEAD",
        ),
        ("/diff", {"projection": "volunteer_hours", "from": "yesterday"}, 422, "INVALID_REQUEST"),
        ("/diff", {"projection": "volunteer_hours", "from": "-1"}, 422, "INVALID_REQUEST"),
        ("/diff", {"projection": "volunteer_hours", "from": 0, "where": "minutes=5"}, 422, "INVALID_REQUEST"),
        ("/diff", {"projection": "volunteer_hours", "from": 0, "where": "unit"}, 422, "INVALID_REQUEST"),
        (
            "/diff",
            {"projection": "volunteer_hours", "from": 0, "where": "volunteer_id=\0"},
            422,
            "INVALID_REQUEST",
        ),
        ("/diff", {"projection": "volunteer_hours", "from": 0, "after": "x"}, 422, "INVALID_REQUEST"),
        ("/diff", {"projection": "volunteer_hours", "from": 0, "after": "[1, 2]"}, 422, "INVALID_REQUEST"),
        ("/diff", {"projection": "volunteer_hours", "from": 0, "limit": 0}, 422, "INVALID_REQUEST"),
        ("/explain", {"projection": "volunteer_hours"}, 422, "INVALID_REQUEST"),
        ("/explain", {"projection": "volunteer_hours", "where": "unit_id=x"}, 422, "INVALID_REQUEST"),
        (
            "/explain",
            {"projection": "units", "where": "unit_id=x", "as_of": "99999"},
            400,
            "AS_OF_BEYOND_HEAD",
        ),
        (
            "/explain",
            {"projection": "units", "where": "unit_id=x", "effective_on": "2026-03-02"},
            422,
            "INVALID_REQUEST",
        ),
    ],
)
def test_a_question_without_sense_is_refused(
    standing_town: Town, path: str, params: dict[str, Any], status: int, code: str
) -> None:
    refused(standing_town.get(path, "auditor", **params), status, code)


def test_another_book_is_judged_and_nothing_is_recorded(standing_town: Town) -> None:
    town = standing_town
    head = town.parts.log.head().size
    answer = asked(town, "committee", {"book": {"star_minutes": [100], "day_minutes_free": 100}})
    found = answer.json()
    (star,) = found["stars"]["rows"]
    assert (star["volunteer_id"], star["minutes"], star["before"], star["after"]) == (name("wang"), 140, 0, 1)
    assert [row["after"] for row in found["days"]["rows"]] == ["would_be_held"]
    assert found["changed_fields"] == ["star_minutes", "day_minutes_free"]
    minutes = [town.seen(f"/events/{p}", "auditor")["data"]["minutes"] for p in star["positions"]]
    assert sum(minutes) == 140
    assert answer.headers["Ledger-Position"] == str(head)
    assert asked(town, "auditor", {"edition": 1}).json()["changed"] == 0
    earlier = asked(town, "auditor", {"book": {"star_minutes": [100]}}, as_of=5).json()
    assert (earlier["changed"], earlier["position"]) == (0, 5)
    assert (
        asked(town, "auditor", {"book": {"star_minutes": [100]}}, effective_on="2026-03-01").status_code
        == 409
    )
    assert town.parts.log.head().size == head


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"edition": 1, "book": {}},
        {"edition": 99},
        {"edition": 0},
        {"book": {"star_minutes": [2, 1]}},
        {"book": {"moon": 1}},
        {"book": {"sources": {"star_minutes": 1}}},
        {"book": {"holidays": ["never"]}},
        {"book": []},
        {"edition": 1, "first_on": "2026-03-02", "last_on": "2026-03-01"},
        {"edition": 1, "first_on": "0001-01-01"},
        {"edition": 1, "limit": 100_000},
        {"edition": 1, "moon": 1},
    ],
    ids=json.dumps,
)
def test_what_is_no_book_is_refused(standing_town: Town, body: Any) -> None:
    refused(asked(standing_town, "auditor", body), 422, "INVALID_REQUEST")


def test_a_book_beyond_a_megabyte_is_not_read(standing_town: Town) -> None:
    body = {"book": {"sources": {"star_minutes": "x" * 1_100_000}}}
    refused(asked(standing_town, "auditor", body), 413, "PAYLOAD_TOO_LARGE")
