"""People by HTTP: enrolled once, with their consent, under their own key; in teams, and free to go."""

from datetime import timedelta

import pytest

from tests.api.conftest import NAME, PHONE, Town, id_number, name


def test_one_identity_number_is_one_account(town: Town) -> None:
    town.enrol()
    for number in (id_number(), id_number().lower(), f" {id_number()} "):
        taken = town.post("/volunteers", "organiser", town.enrolment("twin", 125, id_number=number))
        assert (taken.status_code, taken.json()["code"]) == (409, "IDENTITY_TAKEN")
    town.done("/volunteers", "organiser", town.enrolment("twin", 125))


def test_a_person_enrols_themself_or_is_entered_by_staff(town: Town) -> None:
    town.account("wang", "volunteer")
    own = town.done("/volunteers", "wang", town.enrolment("wang"))["facts"][0]["data"]
    entered = town.done("/volunteers", "organiser", town.enrolment("li", 126))["facts"][0]["data"]
    assert (own["relayed"], entered["relayed"]) == (False, True)
    for who in ("wang", "recorder", "stranger"):
        assert town.post("/volunteers", who, town.enrolment("chen", 127)).status_code == 403, who


def test_an_account_is_opened_once(town: Town) -> None:
    town.enrol()
    again = town.post("/volunteers", "organiser", town.enrolment("wang", 128))
    assert (again.status_code, again.json()["code"]) == (409, "ALREADY_EXISTS")
    town.done("/volunteers", "organiser", town.enrolment("other", 128))


def test_consent_is_given_before_not_after(town: Town) -> None:
    body = town.enrolment("wang") | {"consented_at": (town.now + timedelta(hours=1)).isoformat()}
    refused = town.post("/volunteers", "organiser", body)
    assert (refused.status_code, refused.json()["code"]) == (409, "IN_FUTURE")


@pytest.mark.parametrize("missing", ["consent_document", "consented_at", "home_unit_id", "profile"])
def test_an_enrolment_lacks_nothing(standing_town: Town, missing: str) -> None:
    body = standing_town.enrolment("li", 126)
    del body[missing]
    refused = standing_town.post("/volunteers", "organiser", body)
    assert (refused.status_code, refused.json()["errors"][0]["pointer"]) == (422, f"/{missing}")


def test_an_unknown_category_is_refused_and_nothing_of_the_enrolment_stays(town: Town) -> None:
    refused = town.post("/volunteers", "organiser", town.enrolment("wang") | {"categories": ["astronaut"]})
    assert (refused.status_code, refused.json()["code"]) == (409, "UNKNOWN_CATEGORY")
    assert town.get(f"/volunteers/{name('wang')}", "admin").status_code == 404
    town.enrol()


def test_a_person_is_shown_with_their_categories(town: Town) -> None:
    wang = town.enrol()
    declared = town.done(f"/volunteers/{wang}/categories", "wang", {"category": "veteran"})
    again = town.done(f"/volunteers/{wang}/categories", "wang", {"category": "veteran"})
    assert (len(declared["facts"]), again["facts"]) == (1, [])
    assert again["last_position"] < again["first_position"]
    shown = town.seen(f"/volunteers/{wang}", "wang")
    assert (shown["categories"], shown["volunteer_number"]) == (["farmer", "veteran"], "gg-0123")
    assert (shown["profile"]["name"], shown["profile"]["phone"]) == (NAME, PHONE)


def test_only_the_volunteer_withdraws_and_then_takes_no_part(town: Town) -> None:
    wang = town.enrol()
    refused = town.post(f"/volunteers/{wang}/withdraw", "organiser", {})
    assert (refused.status_code, refused.json()["code"]) == (403, "ONLY_THEMSELVES")
    town.done(f"/volunteers/{wang}/withdraw", "wang", {})
    assert town.seen(f"/volunteers/{wang}", "wang")["withdrawn"] is True
    body = {"team_id": town.squad, "volunteer_ids": [wang]}
    gone = town.post(f"{town.place()}/dispatch", "dispatcher", body)
    assert (gone.status_code, gone.json()["code"]) == (409, "VOLUNTEER_WITHDRAWN")


def test_a_roster_is_that_of_the_moment_asked_about(town: Town) -> None:
    wang = town.enrol()
    joined = town.last
    town.done(f"/teams/{town.squad}/leave", "wang", {"volunteer_id": wang})
    assert town.seen(f"/teams/{town.squad}/roster", "organiser")["members"] == []
    then = town.seen(f"/teams/{town.squad}/roster", "organiser", as_of=str(joined))["members"]
    assert [member["volunteer_number"] for member in then] == ["gg-0123"]
    squad = next(t for t in town.seen("/teams", "wang")["teams"] if t["team_id"] == town.squad)
    assert squad["members"] == 0


def test_a_member_joins_once_and_leaves_once(town: Town) -> None:
    wang = town.enrol()
    path, body = f"/teams/{town.squad}", {"volunteer_id": wang}
    assert town.post(f"{path}/join", "wang", body).json()["code"] == "ALREADY_MEMBER"
    town.done(f"{path}/leave", "organiser", body | {"reason": "moved_away"})
    assert town.post(f"{path}/leave", "wang", body).json()["code"] == "NOT_MEMBER"


def test_an_offer_is_declined_or_runs_out(town: Town) -> None:
    wang, zhao = town.enrol(), town.enrol("zhao", 124, phone="13993809999")
    path = town.place()
    town.done(f"{path}/dispatch", "dispatcher", {"team_id": town.squad, "volunteer_ids": [wang, zhao]})
    town.done(f"{path}/decline", "wang", {"volunteer_id": wang, "reason": "ill"})
    early = town.post(f"{path}/expire", "admin", {"volunteer_id": zhao})
    assert (early.status_code, early.json()["code"]) == (409, "NOT_OFFERED")
    town.wait(hours=25)
    late = town.post(f"{path}/accept", "zhao", {"volunteer_id": zhao})
    assert late.json()["code"] == "NOT_OFFERED"
    town.done(f"{path}/expire", "admin", {"volunteer_id": zhao})
    answers = {a["volunteer_id"]: a["answer"] for a in town.seen(path, "dispatcher")["answers"]}
    assert answers == {wang: "order.declined", zhao: "order.offer_expired"}
