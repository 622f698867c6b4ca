"""The whole loop by HTTP: 点单 → 派单 → 接单 → 服务 → 评单 → 时长, each step by whoever takes it in life."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tests.api.conftest import NAME, Town, id_number, name

LIVE = ("/units", "/teams", "/orders", "/rankings/stars")


def test_an_order_becomes_rated_hours_that_explain_themselves(town_anywhere: Town) -> None:
    town = town_anywhere
    wang = town.enrol()
    town.account("resident", "resident")
    path = town.place()
    assert town.seen(path, "resident")["stage"] == "placed"
    town.done(f"{path}/dispatch", "dispatcher", {"team_id": town.squad, "volunteer_ids": [wang]})
    assert [o["order_id"] for o in town.seen("/orders", "wang")["orders"]] == [name("order")]
    town.done(f"{path}/accept", "wang", {"volunteer_id": wang})
    town.wait(minutes=1)
    town.done(f"{path}/complete", "recorder", {"services": [town.service()]})
    rated = town.rate(path)

    assert [fact["topic"] for fact in rated["facts"]] == ["order.rated", "rating.credited"]
    hours = town.seen(f"/volunteers/{wang}/hours", "wang")
    assert hours["minutes"] == 140
    assert hours["by_source_class"] == [{"source_class": "confirmed", "minutes": 140, "services": 1}]
    assert hours["by_month"][0]["month"] == "2026-03"
    assert hours["rating"] == {"sum": 5, "ratings": 1, "mean": "5.00"}
    (session,) = town.seen(f"/volunteers/{wang}/hours/explain", "wang")["sessions"]
    assert (session["minutes"], session["evidence_grade"]) == (140, "A")
    assert sum(entry["minutes"] for entry in session["entries"]) == 140
    order = town.seen(path, "resident")
    assert (order["stage"], order["allowed_actions"]) == ("rated", ["rate", "withdraw_rating"])
    assert town.seen("/orders", "organiser")["funnel"]["rated"] == 1
    (row,) = town.seen("/rankings/stars", "auditor")["rows"]
    assert (row["volunteer_id"], row["minutes"], row["rating_mean"]) == (wang, 140, "5.00")
    assert row["entry_ids"] == [entry["entry_id"] for entry in session["entries"]]
    assert town.seen(f"/units/{town.station}/hours", "organiser")["minutes"] == 140
    assert [m["volunteer_id"] for m in town.seen(f"/teams/{town.squad}/roster", "wang")["members"]] == [wang]


def test_a_backfill_and_a_correction_take_a_second_person(town_anywhere: Town) -> None:
    town = town_anywhere
    wang = town.enrol()
    town.served()
    town.wait(days=1)
    decide = town.backfill()
    assert town.post(decide, "wang", {"verdict": "approved"}).status_code == 403
    approved = town.done(decide, "checker", {"verdict": "approved"})["facts"]
    assert [f["topic"] for f in approved] == ["backfill.decided", "session.recorded", "entry.posted"]
    assert approved[2]["data"]["source_class"] == "backfilled"
    assert town.post(decide, "organiser", {"verdict": "declined"}).json()["code"] == "ALREADY_DECIDED"
    assert town.seen(f"/volunteers/{wang}/hours", "wang")["minutes"] == 140 + 60

    served = town.seen(f"/volunteers/{wang}/hours/explain", "wang")["sessions"][0]
    start = datetime.fromisoformat(served["started_at"])
    times = {"started_at": start.isoformat(), "ended_at": (start + timedelta(minutes=100)).isoformat()}
    decide = town.correction(**times)
    refused = town.post(decide, "recorder", {"verdict": "approved"})
    assert (refused.status_code, refused.json()["code"]) == (403, "WRONG_ROLE")
    corrected = town.done(decide, "checker", {"verdict": "approved"})
    assert [f["data"]["minutes"] for f in corrected["facts"] if f["topic"] == "entry.posted"] == [-140, 100]
    assert town.seen(f"/volunteers/{wang}/hours", "wang")["minutes"] == 100 + 60

    town.done(town.correction("reversal", kind="reverse"), "checker", {"verdict": "approved"})
    assert town.seen(f"/volunteers/{wang}/hours", "wang")["minutes"] == 60
    grades = [s["evidence_grade"] for s in town.seen(f"/volunteers/{wang}/hours/explain", "wang")["sessions"]]
    assert grades == ["B", "C"]


def test_whoever_asked_for_a_correction_does_not_decide_it(town: Town) -> None:
    wang = town.enrol()
    town.served()
    body = {
        "request_id": name("r"),
        "session_id": name("session", "order", "wang"),
        "kind": "reverse",
        "reason": "记错了",
    }
    town.done(f"/volunteers/{wang}/corrections", "organiser", body)
    refused = town.post(
        f"/volunteers/{wang}/corrections/{name('r')}/decide", "organiser", {"verdict": "approved"}
    )
    assert (refused.status_code, refused.json()["code"]) == (409, "SELF_APPROVAL")


# --- versions --------------------------------------------------------------------------------------------------------


def test_a_stale_if_match_is_refused_with_the_current_version(town: Town) -> None:
    town.enrol()
    path = town.accepted()
    etag = town.get(path, "resident").headers["ETag"]
    assert etag == '"4"'  # placed, dispatched, offered, accepted
    stale = town.post(f"{path}/withdraw", "resident", {}, If_Match='"1"')
    assert (stale.status_code, stale.json()["code"], stale.json()["current_version"]) == (
        412,
        "VERSION_MISMATCH",
        4,
    )
    assert town.post(f"{path}/withdraw", "resident", {}, If_Match=etag).status_code == 200


@pytest.mark.parametrize("version", ["seven", "*", "-1", "9" * 40, '"1", "2"'])
def test_an_if_match_that_is_no_version_is_refused(standing_town: Town, version: str) -> None:
    path = f"/orders/{name('order')}/withdraw"
    refused = standing_town.post(path, "resident", {}, If_Match=version)
    assert (refused.status_code, refused.json()["code"]) == (422, "INVALID_REQUEST")


def test_the_etag_of_a_person_pins_what_is_written_about_them(town: Town) -> None:
    path = f"/volunteers/{town.enrol()}"
    etag = town.get(path, "wang").headers["ETag"]
    category = {"category": "veteran"}
    assert town.post(f"{path}/categories", "wang", category, If_Match=etag).status_code == 200
    assert town.post(f"{path}/withdraw", "wang", {}, If_Match=etag).status_code == 412


# --- idempotency keys ------------------------------------------------------------------------------------------------


def test_a_write_without_a_key_is_refused(town: Town) -> None:
    town.account("resident", "resident")
    for key in (None, "x" * 129, "\t"):
        refused = town.post("/orders", "resident", town.order("order"), key=key)
        assert (refused.status_code, refused.json()["code"]) == (400, "KEY_REQUIRED")


def test_a_retry_gets_the_first_answer_and_records_nothing(town: Town) -> None:
    town.account("resident", "resident")
    body = town.order("order")
    first = town.done("/orders", "resident", body, key="once")
    again = town.done("/orders", "resident", body, key="once")
    assert again.pop("replayed") is True
    assert first.pop("replayed") is False
    assert again == first
    assert town.parts.log.head().size == first["last_position"]


def test_a_retried_enrolment_is_answered_though_the_number_is_claimed(town: Town) -> None:
    body = town.enrolment("wang")
    first = town.done("/volunteers", "organiser", body, key="enrol")
    again = town.done("/volunteers", "organiser", body, key="enrol")
    assert (again["replayed"], again["facts"]) == (True, first["facts"])


def test_a_key_used_for_something_else_is_refused(town: Town) -> None:
    town.account("resident", "resident")
    town.done("/orders", "resident", town.order("order"), key="once")
    other = town.post("/orders", "resident", town.order("order", activity_kind="law"), key="once")
    assert (other.status_code, other.json()["code"]) == (422, "KEY_REUSED")
    changed_need = town.order("order", need={"text": "别的"})
    assert town.post("/orders", "resident", changed_need, key="once").json()["code"] == "KEY_REUSED"
    withdraw = town.post(f"/orders/{name('order')}/withdraw", "resident", {}, key="once")
    assert withdraw.json()["code"] == "KEY_REUSED"


def test_two_people_may_use_the_same_key(town: Town) -> None:
    for who in ("resident", "neighbour"):
        town.account(who, "resident")
        body = town.order(f"order of {who}", requester_id=name(who))
        assert town.done("/orders", who, body, key="once")["replayed"] is False


# --- trying without recording ----------------------------------------------------------------------------------------


def test_a_dry_run_decides_and_keeps_nothing(town: Town) -> None:
    head = town.parts.log.head().size
    body = town.enrolment("wang")
    tried = town.post("/volunteers?dry_run=true", "organiser", body, key=None)
    assert tried.status_code == 200
    assert tried.json()["facts"][0]["topic"] == "volunteer.enrolled"
    assert "Ledger-Position" not in tried.headers
    assert town.parts.log.head().size == head
    assert town.done("/volunteers", "organiser", town.enrolment("zhao"))["first_position"] == head + 1


def test_a_dry_run_refuses_what_would_be_refused(town: Town) -> None:
    body = town.enrolment("wang", id_number="620523199003071230")
    tried = town.post("/volunteers?dry_run=true", "organiser", body)
    assert (tried.status_code, tried.json()["code"]) == (422, "ID_NUMBER_INVALID")
    tried = town.post("/volunteers?dry_run=true", "stranger", town.enrolment("wang"))
    assert (tried.status_code, tried.json()["code"]) == (403, "OUTSIDE_YOUR_UNITS")


def test_a_refused_enrolment_claims_nothing_for_anybody(town: Town) -> None:
    assert town.post("/volunteers", "stranger", town.enrolment("wang")).status_code == 403
    town.done("/volunteers", "organiser", town.enrolment("zhao"))
    taken = town.post("/volunteers", "organiser", town.enrolment("wang"))
    assert (taken.status_code, taken.json()["code"]) == (409, "IDENTITY_TAKEN")
    unknown = town.post("/volunteers", "organiser", town.enrolment("li", 200) | {"home_unit_id": name("no")})
    assert unknown.json()["code"] == "UNKNOWN_UNIT"
    town.done("/volunteers", "organiser", town.enrolment("chen", 200))


def test_a_stranger_can_neither_give_somebody_a_number_nor_learn_whose_it_is(town: Town) -> None:
    wang = town.enrol()
    town.account("zhao", "volunteer")
    profile = {"name": NAME, "id_number": id_number(200), "phone": "13993801111"}
    assert town.post(f"/volunteers/{wang}/profile", "zhao", {"profile": profile}).status_code == 403
    known = profile | {"id_number": id_number()}
    assert town.post(f"/volunteers/{name('zhao')}/profile", "zhao", {"profile": known}).status_code == 404
    town.done("/volunteers", "organiser", town.enrolment("zhao", 200, phone="13993801111"))
    assert (
        town.parts.keys.same_phone(
            town.parts.accounts.who(town.keys["zhao"]).person_id,
            [town.parts.accounts.who(town.keys["wang"]).person_id],
        )
        == ()
    )


# --- which moment ----------------------------------------------------------------------------------------------------


def reads(town: Town) -> list[str]:
    """Every read that can look back."""
    wang = name("wang")
    return [
        "/units",
        f"/units/{town.station}/hours",
        "/teams",
        f"/teams/{town.squad}/roster",
        f"/volunteers/{wang}",
        f"/volunteers/{wang}/hours",
        f"/volunteers/{wang}/hours/explain",
        "/orders",
        f"/orders/{name('order')}",
        "/rankings/stars",
        "/events",
        f"/streams/{wang}",
    ]


def test_every_read_that_takes_as_of_is_tried_here(standing_town: Town) -> None:
    documented = {
        path
        for path, item in standing_town.app.openapi()["paths"].items()
        if any(p["name"] == "as_of" for p in item.get("get", {}).get("parameters", ()))
        and path != "/v1/explain"  # tests.api.test_travel asks it, with the figure it needs
    }
    values = {"unit_id": standing_town.station, "team_id": standing_town.squad, "order_id": name("order")}
    values |= {"volunteer_id": name("wang"), "stream_id": name("wang")}
    assert {f"/v1{path}" for path in reads(standing_town)} == {path.format(**values) for path in documented}


def test_every_read_gives_the_same_now_and_as_of_the_head(standing_town: Town) -> None:
    town = standing_town
    head = town.parts.log.head().size
    newest = town.parts.log.head().recorded_at.isoformat()
    for path in reads(town):
        now = town.get(path, "auditor")
        assert now.status_code == 200, now.text
        assert now.headers["Ledger-Position"] == str(head)
        for moment in (str(head), newest, newest.replace("+", " ")):
            then = town.get(path, "auditor", as_of=moment)
            assert _without_what_only_now_has(then.json()) == _without_what_only_now_has(now.json()), path
            assert then.headers["Ledger-Position"] == str(head)


def _without_what_only_now_has(body: dict[str, Any]) -> dict[str, Any]:
    return {field: value for field, value in body.items() if field != "allowed_actions"}


def test_the_past_does_not_know_what_came_later(town: Town) -> None:
    wang = town.enrol()
    path = town.accepted()
    before, then = town.last, town.now
    town.wait(hours=1)
    town.done(f"{path}/complete", "recorder", {"services": [town.service()]})
    for moment in (str(before), then.isoformat()):
        assert town.seen(f"/volunteers/{wang}/hours", "wang", as_of=moment)["minutes"] == 0
        assert town.seen(f"/volunteers/{wang}/hours/explain", "wang", as_of=moment)["sessions"] == []
        assert town.seen(path, "resident", as_of=moment)["stage"] == "accepted"
        assert town.seen("/rankings/stars", "auditor", as_of=moment)["rows"] == []
        assert town.seen("/events", "auditor", as_of=moment, limit=1000)["events"][-1]["position"] == before
    assert town.seen(f"/volunteers/{wang}/hours", "wang")["minutes"] == 140


def test_a_moment_beyond_the_head_is_refused(standing_town: Town) -> None:
    beyond = standing_town.parts.log.head().size + 1
    for path in reads(standing_town):
        for moment in (str(beyond), "9" * 15, "2199-01-01T00:00:00+08:00"):
            refused = standing_town.get(path, "auditor", as_of=moment)
            assert (refused.status_code, refused.json()["code"]) == (400, "AS_OF_BEYOND_HEAD"), path


@pytest.mark.parametrize(
    "moment",
    ["yesterday", "-1", "1.5", "2026-03-02T01:00:00", "2026-03-02", "9" * 16, "\x00", "0001-01-01T00:00:00Z"],
)
def test_a_moment_that_is_none_is_refused(standing_town: Town, moment: str) -> None:
    refused = standing_town.get("/units", "auditor", as_of=moment)
    assert (refused.status_code, refused.json()["code"]) == (422, "INVALID_REQUEST")


def test_what_happened_by_a_day_leaves_out_what_happened_later(town: Town) -> None:
    wang = town.enrol()
    town.served()
    town.wait(days=1)
    town.done(town.backfill(), "checker", {"verdict": "approved"})
    town.wait(days=1)
    town.served("later", minutes=60)
    hours = f"/volunteers/{wang}/hours"
    for day, minutes in (("2026-03-01", 0), ("2026-03-02", 140), ("2026-03-04", 250)):
        if minutes:
            assert town.seen(hours, "wang", effective_on=day)["minutes"] == minutes, day
        assert town.seen(f"{hours}/explain", "wang", effective_on=day)["minutes"] == minutes, day
    known = town.seen(f"{hours}/explain", "wang", effective_on="2026-03-04", as_of=str(town.last - 1))
    assert known["minutes"] == 200


@pytest.mark.parametrize("day", ["9999-12-31", "0001-01-01", "2026-02-30", "heute"])
def test_a_day_that_is_none_is_refused(standing_town: Town, day: str) -> None:
    for path in reads(standing_town):
        assert standing_town.get(path, "auditor", effective_on=day).status_code == 422, path


def test_a_reader_may_wait_for_their_own_write_but_not_for_ever(town: Town) -> None:
    behind = town.client.get(
        "/v1/units", headers=town.headers("admin", Ledger_Min_Position=str(town.last + 1))
    )
    assert (behind.status_code, behind.json()["code"]) == (503, "PROJECTION_BEHIND")
    assert behind.headers["Retry-After"] == "1"
    assert behind.json()["position"] == town.last
    wang = town.enrol()
    assert town.seen(f"/volunteers/{wang}", "wang")["version"] == 2


def test_ages_are_told_by_the_clock_of_the_ledger(town: Town) -> None:
    town.place()
    town.wait(hours=2)
    (order,) = town.seen("/orders", "resident")["orders"]
    assert order["age_seconds"] == 2 * 3600


def test_orders_come_in_pages_that_add_up(town: Town) -> None:
    for number in range(5):
        town.place(f"order {number}")
        town.wait(minutes=1)
    found, after = [], None
    while True:
        page = town.seen("/orders", "resident", limit=2, **({"after": after} if after else {}))
        found += [order["order_id"] for order in page["orders"]]
        assert page["funnel"]["placed"] == 5
        after = page["next_after"]
        if after is None:
            break
    assert found == [name(f"order {number}") for number in range(5)]
    assert town.seen("/orders", "resident", stage="rated")["orders"] == []


def test_every_answer_names_its_request_and_is_not_cached(standing_town: Town) -> None:
    found = standing_town.get("/units", "auditor")
    missing = standing_town.client.get("/nope")
    for response in (found, missing):
        assert len(response.headers["Request-Id"]) == 32
        assert response.headers["Cache-Control"] == "private, no-store"
    assert missing.json()["request_id"] == missing.headers["Request-Id"]
    assert missing.headers["content-type"] == "application/problem+json"


def test_the_clock_of_the_town_stands_still(town: Town) -> None:
    fact = town.done("/units/" + town.station + "/rename", "organiser", {"name": "新站"})["facts"][0]
    assert datetime.fromisoformat(fact["data"]["recorded_at"]) == town.now.astimezone(UTC)
