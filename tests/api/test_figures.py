"""Figures by HTTP: whole numbers, told with the rule, the position and the moment they rest on."""

import json
from typing import Any

import pytest

from ledger.rulebook import default_rulebook
from tests.api.conftest import OTHER_DIVISION, Town, name
from tests.api.test_auth import READS, filled


def test_units_stand_in_a_tree_with_their_posts(town: Town) -> None:
    person = name("director")
    town.done(f"/units/{town.station}/roles", "organiser", {"role": "director", "person_id": person})
    before = town.last
    town.done(f"/units/{town.station}/rename", "organiser", {"name": "新站"})
    new_parent = town.unit("institute", OTHER_DIVISION)
    town.done(f"/units/{town.station}/move", "admin", {"parent_id": new_parent})
    station = next(u for u in town.seen("/units", "auditor")["units"] if u["unit_id"] == town.station)
    assert (station["name"], station["parent_id"]) == ("新站", new_parent)
    assert station["posts"] == [{"role": "director", "person_id": person}]
    old = town.seen("/units", "auditor", as_of=str(before))["units"]
    old_station = next(u for u in old if u["unit_id"] == town.station)
    assert (old_station["name"], old_station["parent_id"]) == ("站", town.unit("institute", "620523100"))


def test_a_unit_that_moves_takes_its_staff_and_its_hours_along(town: Town) -> None:
    wang = town.enrol()
    town.served()
    new_parent = town.unit("institute", OTHER_DIVISION)
    assert town.get(f"/volunteers/{wang}", "stranger").status_code == 403
    town.done(f"/units/{town.station}/move", "admin", {"parent_id": new_parent})
    assert town.seen(f"/volunteers/{wang}", "stranger")["volunteer_id"] == wang
    assert town.seen(f"/units/{new_parent}/hours", "stranger")["minutes"] == 140
    assert town.get(f"/volunteers/{wang}", "dispatcher").status_code == 403


def test_hours_are_told_by_month_kind_and_class(town: Town) -> None:
    town.enrol()
    town.rate(town.served(), score=4)
    town.wait(days=1)
    town.done(town.backfill(), "checker", {"verdict": "approved"})
    hours = town.seen(f"/volunteers/{name('wang')}/hours", "wang")
    assert hours["by_kind"] == [
        {"activity_kind": "culture", "minutes": 60, "services": 1},
        {"activity_kind": "health", "minutes": 140, "services": 1},
    ]
    assert [row["source_class"] for row in hours["by_source_class"]] == ["backfilled", "confirmed"]
    assert hours["rating"]["mean"] == "4.00"
    assert hours["star"]["rulebook_version"] == 1
    unit = town.seen(f"/units/{town.station}/hours", "organiser")
    assert (unit["minutes"], unit["rating"]) == (200, {"sum": 4, "ratings": 1, "mean": "4.00"})


def test_a_star_is_judged_by_the_rule_book_of_the_day(town: Town) -> None:
    town.enrol()
    town.served()
    book = default_rulebook().model_dump(mode="json") | {"star_minutes": [60, 120, 600, 1200, 2400]}
    town.done("/rulebooks", "admin", {"version": 2, "effective_on": "2026-03-04", "book": book})
    hours = f"/volunteers/{name('wang')}/hours"
    assert town.seen(hours, "wang")["star"]["star"] == 0
    town.wait(days=3)
    town.place("another day")
    star = town.seen(hours, "wang")["star"]
    assert (star["star"], star["rulebook_version"], star["judged_on"]) == (2, 2, "2026-03-05")
    judged = [
        town.seen("/rankings/stars", "auditor", judged_on=day)["rows"][0]["star"]
        for day in ("2026-03-03", "2026-03-04")
    ]
    assert judged == [0, 2]


@pytest.mark.parametrize(
    ("question", "listed"),
    [
        ({}, 1),
        ({"minutes_min": 140}, 1),
        ({"minutes_min": 141}, 0),
        ({"first_on": "2026-03-02", "last_on": "2026-03-02"}, 1),
        ({"first_on": "2026-03-03"}, 0),
        ({"last_on": "2026-03-01"}, 0),
        ({"source_class": "confirmed"}, 1),
        ({"source_class": ["machine", "imported"]}, 0),
        ({"rating_min": "5"}, 1),
        ({"rating_min": "5.01"}, 0),
        ({"ratings_min": 1}, 1),
        ({"ratings_min": 2}, 0),
        ({"star": 0}, 1),
        ({"star": 1}, 0),
        ({"effective_on": "2026-03-02"}, 1),
    ],
)
def test_a_ranking_lists_those_who_meet_its_terms(
    standing_town: Town, question: dict[str, Any], listed: int
) -> None:
    ranking = standing_town.seen("/rankings/stars", "committee", **question)
    assert (len(ranking["rows"]), ranking["qualified"]) == (listed, listed)
    assert ranking["tie_rule"]["zh"]
    assert ranking["tie_rule"]["en"]
    assert ranking["position"] == standing_town.last


def test_a_ranking_of_a_unit_counts_what_was_served_there(standing_town: Town) -> None:
    town = standing_town
    here, there = town.unit("institute", "620523100"), town.unit("institute", OTHER_DIVISION)
    assert len(town.seen("/rankings/stars", "auditor", unit_id=here)["rows"]) == 1
    assert town.seen("/rankings/stars", "auditor", unit_id=there)["rows"] == []


def test_no_number_of_a_figure_is_a_float(standing_town: Town) -> None:
    town = standing_town

    def refuse(text: str) -> None:
        raise AssertionError(text)

    others = {"/v1/projections", "/v1/orders/{order_id}/rating-code"}
    others |= {path for path in READS if path.endswith((".pdf", "/result"))}  # files
    for path in READS.keys() - others:
        text = town.get(filled(path, town).removeprefix("/v1"), "admin").text
        json.loads(text, parse_float=refuse, parse_constant=refuse)


def test_figures_say_how_far_they_have_come(standing_town: Town) -> None:
    town = standing_town
    told = town.seen("/projections", "auditor")
    assert told["head"] == town.last
    assert len(told["projections"]) >= 10
    for figure in told["projections"]:
        assert (figure["position"], figure["lag_facts"], figure["lag_seconds"]) == (town.last, 0, 0)
    health = town.client.get("/healthz").json()
    assert (health["head"], health["figures"]["lag_facts"]) == (town.last, 0)


def test_the_description_names_every_write_and_is_well_formed(standing_town: Town) -> None:
    description = standing_town.client.get("/openapi.json").json()
    names = [
        operation["operationId"] for item in description["paths"].values() for operation in item.values()
    ]
    assert len(names) == len(set(names))
    for path, item in description["paths"].items():
        for method, operation in item.items():
            assert operation["summary"], path
            assert "default" in operation["responses"], path
            assert method == "get" or "requestBody" in operation or path.endswith("/print"), path
