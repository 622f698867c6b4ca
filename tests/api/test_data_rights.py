"""Rights of a person by HTTP: to see their file, have its use restricted, be erased; and who opened what (T51)."""

import sqlite3
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from api import erasure
from api.accesses import WRONG_CODES_MAX
from api.personal import ERASED, RESTRICTED
from api.rights import ANOTHERS
from ledger import audit, events, ids
from ledger import commands as c
from ledger.rules import Caller
from projections import follower, replay
from projections.figures import all_figures
from tests.api.conftest import (
    ADDRESS,
    CONTACT,
    LEDGER_ID,
    NAME,
    NEED,
    PHONE,
    REASON,
    Copier,
    Town,
    id_number,
    name,
    opened,
    sqlite_settings,
)
from tests.api.test_privacy import found_in

OWN = [NAME, PHONE, ADDRESS, id_number()]
PEOPLE = settings.default.max_examples
"""How many people the property is about: 25, and 200 where every property runs at length."""


def ask(town: Town, kind: str, who: str = "wang", request: str = "wish") -> str:
    """Asked by the person; the path of the request."""
    body = {"request_id": name(request), "subject_id": name(who), "kind": kind}
    town.done("/data-requests", who, body)
    return f"/data-requests/{name(request)}"


def granted(town: Town, kind: str, who: str = "wang", request: str = "wish") -> str:
    path = ask(town, kind, who, request)
    town.done(f"{path}/decide", "admin", {"outcome": "fulfilled"})
    return path


def erase(town: Town, who: str = "wang", request: str = "wish") -> str:
    path = granted(town, "erasure", who, request)
    town.done(f"{path}/erase", "admin", {})
    return path


def refused(response: Any, status: int, code: str) -> Any:
    assert (response.status_code, response.json().get("code")) == (status, code), response.text
    return response.json()


def marks(text: str) -> list[str]:
    return found_in(text.encode())


# --- erasure ---------------------------------------------------------------------------------------------------------


def test_after_an_erasure_the_name_is_gone_everywhere_and_every_figure_and_proof_stands(
    town: Town, tmp_path: Path
) -> None:
    wang = town.enrol()
    path = town.served()
    town.rate(path)
    placed_at = town.last
    before = (figures(town), leaves(town))
    erase(town)
    for who in ("wang", "organiser", "admin"):
        assert set(town.seen(f"/volunteers/{wang}", who)["profile"].values()) == {ERASED}
    assert figures(town) == before[0]
    assert leaves(town)[: len(before[1])] == before[1]
    assert audit.verify(town.parts.log).ok
    assert town.seen(f"/volunteers/{wang}/hours", "wang")["minutes"] == 140
    ranked = town.seen("/rankings/stars", "auditor")["rows"]
    assert ranked == town.seen("/rankings/stars", "auditor", as_of=str(placed_at))["rows"]
    file = town.get(f"/volunteers/{wang}/export", "wang").text
    assert marks(file) == []
    assert ERASED in file
    stored = b"".join(found.read_bytes() for found in tmp_path.iterdir() if found.is_file())
    assert found_in(stored) == []


def test_what_an_erased_resident_asked_for_is_gone_at_every_moment_of_the_past(town: Town) -> None:
    path = town.place()
    placed_at = town.last
    assert town.seen(path, "organiser")["need"]["text"] == NEED
    town.place("later")
    erase(town, "resident")
    for moment in ({}, {"as_of": str(placed_at)}, {"as_of": town.now.isoformat()}):
        for who in ("resident", "organiser"):
            assert set(town.seen(path, who, **moment)["need"].values()) == {ERASED}
    late = town.post("/orders", "resident", town.order("after"))
    refused(late, 410, "SUBJECT_ERASED")


def test_an_erased_person_is_not_corrected_and_may_come_again_only_as_somebody_new(town: Town) -> None:
    wang = town.enrol()
    erase(town)
    refused(
        town.post(f"/volunteers/{wang}/profile", "wang", {"profile": {"name": NAME}}), 410, "SUBJECT_ERASED"
    )
    refused(town.post("/volunteers", "organiser", town.enrolment("wang")), 409, "ALREADY_EXISTS")
    town.account("again", "volunteer")
    town.done("/volunteers", "organiser", town.enrolment("again"))
    assert town.seen(f"/volunteers/{name('again')}/hours", "again")["minutes"] == 0


def test_an_erasure_is_decided_first_and_by_another(town: Town) -> None:
    town.enrol()
    path = ask(town, "erasure")
    refused(town.post(f"{path}/erase", "admin", {}), 409, "NOT_ALLOWED_NOW")
    refused(town.post(f"{path}/decide", "organiser", {"outcome": "fulfilled"}), 403, "WRONG_ROLE")
    relayed = {"request_id": name("relayed"), "subject_id": name("wang"), "kind": "erasure"}
    town.done("/data-requests", "admin", relayed)
    own = town.post(f"/data-requests/{name('relayed')}/decide", "admin", {"outcome": "fulfilled"})
    refused(own, 409, "SELF_APPROVAL")
    town.done(f"{path}/decide", "admin", {"outcome": "fulfilled"})
    town.post(f"{path}/erase?dry_run=true", "admin", {})
    assert town.seen(f"/volunteers/{name('wang')}", "wang")["profile"]["name"] == NAME
    assert not town.parts.keys.is_erased(UUID(name("wang")))


def test_erasing_again_is_quiet_and_a_retry_gets_the_same_answer(town: Town) -> None:
    town.enrol()
    path = granted(town, "erasure")
    first = town.done(f"{path}/erase", "admin", {}, key="erase")
    again = town.done(f"{path}/erase", "admin", {}, key="erase")
    assert (again["replayed"], again["facts"]) == (True, first["facts"])
    assert town.done(f"{path}/erase", "admin", {})["facts"] == []


def interrupted(town: Town) -> UUID:
    """Wang's erasure is recorded, and the process ended before the key was destroyed."""
    town.enrol()
    granted(town, "erasure")
    command = c.EraseSubject(request_id=UUID(name("wish")))
    town.parts.ledger.handle(command, Caller(UUID(name("admin")), "admin"))
    return UUID(name("wang"))


def test_a_crash_before_the_key_goes_shows_nobody_anything_and_is_carried_out_later(town: Town) -> None:
    wang = interrupted(town)
    assert not town.parts.keys.is_erased(wang)
    assert set(town.seen(f"/volunteers/{wang}", "organiser")["profile"].values()) == {ERASED}
    assert erasure.resume(town.parts) == [wang]
    assert town.parts.keys.is_erased(wang)
    assert erasure.resume(town.parts) == []


def test_a_server_carries_out_what_is_left_when_it_starts(town_in: Copier, tmp_path: Path) -> None:
    for town in town_in(tmp_path / "first"):
        wang = interrupted(town)
    for town in opened(sqlite_settings(tmp_path / "first")):
        assert town.parts.keys.is_erased(wang)


def test_keys_that_came_back_with_a_backup_are_destroyed_again(town: Town, tmp_path: Path) -> None:
    town.enrol()
    erasure.resume(town.parts)
    with sqlite3.connect(tmp_path / "ledger.keys.db") as source, sqlite3.connect(tmp_path / "old.db") as copy:
        source.backup(copy)
    erase(town)
    assert erasure.resume(town.parts) == []
    with sqlite3.connect(tmp_path / "old.db") as copy, sqlite3.connect(tmp_path / "ledger.keys.db") as target:
        copy.backup(target)
    wang = UUID(name("wang"))
    assert not town.parts.keys.is_erased(wang)
    assert erasure.resume(town.parts) == [wang]
    assert town.parts.keys.is_erased(wang)


# --- restriction -----------------------------------------------------------------------------------------------------


def test_a_restriction_leaves_the_person_alone_with_their_data(town: Town) -> None:
    wang = town.enrol()
    granted(town, "restriction")
    assert town.seen(f"/volunteers/{wang}", "wang")["profile"]["name"] == NAME
    for who in ("organiser", "admin"):
        assert set(town.seen(f"/volunteers/{wang}", who)["profile"].values()) == {RESTRICTED}
    for who in ("wang", "organiser"):
        body = {"profile": {"name": "新"}}
        refused(town.post(f"/volunteers/{wang}/profile", who, body), 409, "SUBJECT_RESTRICTED")
    assert accesses(town, wang) == []
    granted(town, "release", request="release")
    assert town.seen(f"/volunteers/{wang}", "organiser")["profile"]["name"] == NAME


def test_an_erasure_refused_for_retention_restricts(town: Town) -> None:
    wang = town.enrol()
    path = ask(town, "erasure")
    town.done(f"{path}/decide", "admin", {"outcome": "refused", "reason": "retention_runs"})
    assert set(town.seen(f"/volunteers/{wang}", "organiser")["profile"].values()) == {RESTRICTED}
    refused(town.post(f"{path}/erase", "admin", {}), 409, "NOT_ALLOWED_NOW")


# --- the file, and who opened what -----------------------------------------------------------------------------------


def accesses(town: Town, person: str, who: str = "auditor") -> list[tuple[str, str, str]]:
    found = town.seen(f"/volunteers/{person}/access-log", who)["accesses"]
    return [(access["caller_id"], access["role"], access["topic"]) for access in found]


def test_everybody_who_opens_what_is_anothers_is_written_down(town: Town) -> None:
    wang = town.enrol()
    path = town.place()
    for who in ("wang", "organiser", "auditor", "admin"):
        town.seen(f"/volunteers/{wang}", who)
    seen = [(name(who), who, "volunteer.enrolled") for who in ("organiser", "admin")]
    for who in ("wang", "admin", "auditor"):
        assert accesses(town, wang, who) == seen
    town.seen(path, "resident")
    town.seen(path, "recorder")
    assert accesses(town, name("resident"), "resident") == [(name("recorder"), "recorder", "order.placed")]
    answer = town.get(path, "recorder")
    last = town.seen(f"/volunteers/{name('resident')}/access-log", "resident")["accesses"][-1]
    assert last["request_id"] == answer.headers["Request-Id"]
    page = town.seen(f"/volunteers/{wang}/access-log", "wang", limit=1)
    rest = town.seen(f"/volunteers/{wang}/access-log", "wang", after=page["next_after"])
    assert [*page["accesses"], *rest["accesses"]] == town.seen(f"/volunteers/{wang}/access-log", "wang")[
        "accesses"
    ]


def test_the_access_log_is_only_added_to(town: Town, tmp_path: Path) -> None:
    wang = town.enrol()
    town.seen(f"/volunteers/{wang}", "organiser")
    changes = (
        "UPDATE access_log SET role = 'admin'",
        "DELETE FROM access_log",
        "INSERT OR REPLACE INTO access_log SELECT * FROM access_log",
    )
    for change in changes:
        with (
            sqlite3.connect(tmp_path / "ledger.keys.db") as database,
            pytest.raises(sqlite3.IntegrityError, match="only added to"),
        ):
            database.execute(change)
    assert len(accesses(town, wang)) == 1


def test_a_person_gets_their_whole_file_and_nothing_that_others_said(town: Town) -> None:
    wang = town.enrol()
    path = town.served()
    town.rate(path)
    town.backfill()
    town.seen(f"/volunteers/{wang}", "organiser")
    ask(town, "access")
    file = town.seen(f"/volunteers/{wang}/export", "wang")
    enrolled = file["facts"][0]["data"]["profile"]
    assert enrolled == {"name": NAME, "phone": PHONE, "address": ADDRESS, "id_number": id_number()}
    asked = next(f for f in file["facts"] if f["topic"] == "backfill.requested")
    assert asked["data"]["reason"] == {"text": REASON}
    (order,) = file["orders"]
    assert order["facts"][0]["data"]["need"] == ANOTHERS
    assert next(f for f in order["facts"] if f["topic"] == "order.rated")["data"]["comment"] == ANOTHERS
    assert file["hours"]["minutes"] == 140
    assert file["teams"] == [{"team_id": town.squad, "member": True}]
    assert [(r["kind"], r["outcome"]) for r in file["data_requests"]] == [("access", None)]
    assert [access["caller_id"] for access in file["accesses"]] == [name("organiser")]
    assert "s1." not in town.get(f"/volunteers/{wang}/export", "wang").text
    mine = town.seen(f"/volunteers/{name('resident')}/export", "resident")
    assert mine["orders"][0]["facts"][0]["data"]["need"]["contact_name"] == CONTACT
    assert (mine["facts"], mine["hours"]) == ([], None)


def test_an_administrator_gets_it_only_to_answer_a_request_and_is_written_down(town: Town) -> None:
    wang = town.enrol()
    ask(town, "access")
    path = f"/volunteers/{wang}/export"
    file = town.seen(path, "admin", request_id=name("wish"))
    assert file["facts"][0]["data"]["profile"]["name"] == NAME
    assert (name("admin"), "admin", "volunteer.enrolled") in accesses(town, wang)
    refused(town.get(path, "admin"), 422, "INVALID_REQUEST")
    refused(town.get(path, "admin", request_id=name("nothing")), 404, "UNKNOWN_DATA_REQUEST")
    other = {"request_id": name("relayed"), "subject_id": wang, "kind": "access"}
    town.done("/data-requests", "admin", other)
    refused(town.get(path, "admin", request_id=name("relayed")), 409, "SELF_APPROVAL")
    ask(town, "erasure", request="other kind")
    refused(town.get(path, "admin", request_id=name("other kind")), 404, "UNKNOWN_DATA_REQUEST")
    decision = {"outcome": "refused", "reason": "identity_not_shown"}
    town.done(f"/data-requests/{name('wish')}/decide", "admin", decision)
    refused(town.get(path, "admin", request_id=name("wish")), 409, "NOT_ALLOWED_NOW")


def test_requests_are_listed_for_those_who_answer_and_for_the_person(town: Town) -> None:
    town.enrol()
    town.enrol("zhao", 124, phone="13993809999")
    granted(town, "access")
    ask(town, "erasure", "zhao", "second")
    listed = town.seen("/data-requests", "admin")["data_requests"]
    assert [(r["subject_id"], r["kind"], r["outcome"]) for r in listed] == [
        (name("wang"), "access", "fulfilled"),
        (name("zhao"), "erasure", None),
    ]
    assert listed[0]["due_on"] == "2026-03-23"
    waiting = town.seen("/data-requests", "auditor", undecided=True)["data_requests"]
    assert [r["request_id"] for r in waiting] == [name("second")]
    assert [r["kind"] for r in town.seen("/data-requests", "zhao")["data_requests"]] == ["erasure"]
    assert town.seen("/data-requests", "organiser")["data_requests"] == []
    first = town.seen("/data-requests", "admin", limit=1)
    rest = town.seen("/data-requests", "admin", after=first["next_after"])
    assert [*first["data_requests"], *rest["data_requests"]] == listed


def test_nobody_takes_the_stream_in_which_a_persons_rights_will_stand(town: Town) -> None:
    wang = town.enrol()
    town.place()
    taken = str(ids.subject_id(LEDGER_ID, UUID(wang)))
    answer = town.post("/orders", "resident", town.order("spite") | {"order_id": taken})
    refused(answer, 422, "INVALID_REQUEST")
    assert "version 8" in answer.text
    wish = {"request_id": taken, "subject_id": wang, "kind": "access"}
    refused(town.post("/data-requests", "admin", wish), 422, "INVALID_REQUEST")
    assert town.parts.ledger.state(UUID(taken)) is None


# --- what is asked for, and codes ------------------------------------------------------------------------------------


def test_the_need_is_read_by_those_who_must_know_it_while_they_must(town: Town) -> None:
    wang = town.enrol()
    town.enrol("zhao", 124, phone="13993809999")
    path = town.place()
    for who in ("resident", "organiser", "dispatcher", "admin"):
        assert town.seen(path, who)["need"]["text"] == NEED
    assert town.seen(path, "auditor")["need"] is None
    both = {"team_id": town.squad, "volunteer_ids": [wang, name("zhao")]}
    town.done(f"{path}/dispatch", "dispatcher", both)
    assert town.seen(path, "wang")["need"]["place"] == ADDRESS
    town.done(f"{path}/accept", "wang", {"volunteer_id": wang})
    town.done(f"{path}/decline", "zhao", {"volunteer_id": name("zhao")})
    assert town.seen(path, "zhao")["need"] is None
    town.wait(minutes=1)
    assert town.seen(path, "wang")["need"]["text"] == NEED
    town.done(f"{path}/complete", "recorder", {"services": [town.service()]})
    assert town.seen(path, "wang")["need"] is None


def test_an_offer_that_ran_out_shows_no_more(town: Town) -> None:
    wang = town.enrol()
    path = town.place()
    town.done(f"{path}/dispatch", "dispatcher", {"team_id": town.squad, "volunteer_ids": [wang]})
    town.wait(hours=24)
    assert town.seen(path, "wang")["need"] is None


def test_codes_are_guessed_ten_times_an_hour_and_no_more(town: Town) -> None:
    town.enrol()
    path = town.served()
    town.account("neighbour", "resident")
    code = town.seen(f"{path}/rating-code", "resident")["code"]
    wrong = {"rating_id": name("guess"), "score": 1, "code": f"{(int(code) + 1) % 10**8:08d}"}
    for number in range(WRONG_CODES_MAX):
        suffix = "?dry_run=true" if number % 2 else ""
        refused(town.post(f"{path}/rate{suffix}", "neighbour", wrong), 403, "ONLY_THEMSELVES")
        town.wait(minutes=1)
    for tried in (wrong, wrong | {"code": code}):
        answer = town.post(f"{path}/rate", "neighbour", tried)
        refused(answer, 429, "TOO_MANY_ATTEMPTS")
        assert answer.headers["Retry-After"] == str(50 * 60)
    town.wait(minutes=50)
    town.done(f"{path}/rate", "neighbour", wrong | {"code": code})


def test_the_requester_is_never_kept_from_rating_by_those_who_guess(town: Town) -> None:
    town.enrol()
    path = town.served()
    town.account("neighbour", "resident")
    for _ in range(WRONG_CODES_MAX + 1):
        town.post(f"{path}/rate", "neighbour", {"rating_id": name("guess"), "score": 1, "code": "1"})
    town.rate(path)


# --- any number of people --------------------------------------------------------------------------------------------


def figures(town: Town) -> dict[str, Any]:
    """Every figure, brought up to the head."""
    head = town.parts.log.head().size
    deadline = time.monotonic() + 10
    while follower.reached(town.parts.log) < head:
        assert time.monotonic() < deadline, "the figures follow"
        time.sleep(0.01)
    return {figure.name: replay.live(town.parts.log, figure) for figure in all_figures()}


def leaves(town: Town) -> list[bytes]:
    return [row.leaf_hash for row in town.parts.log.read()]


@pytest.fixture(scope="module")
def crowd(town_in: Copier, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Town]:
    """Many volunteers, each with an hour approved by another person."""
    for town in town_in(tmp_path_factory.mktemp("crowd")):
        organiser = Caller(UUID(name("organiser")), "organiser", UUID(town.station))
        checker = replace(organiser, person_id=UUID(name("checker")))
        town.wait(days=2)
        for number in range(PEOPLE):
            enrol_with_an_hour(town, UUID(name("one of many", number)), organiser, checker)
        yield town


def enrol_with_an_hour(town: Town, person: UUID, organiser: Caller, checker: Caller) -> None:
    ledger, keys = town.parts.ledger, town.parts.keys
    enrol = c.EnrolVolunteer(
        volunteer_id=person,
        volunteer_number="gg-1",
        home_unit_id=UUID(town.station),
        profile=keys.seal("volunteer.enrolled", person, {"name": NAME}),
        consent_document="consent-2026",
        consented_at=town.now,
    )
    asked = c.RequestBackfill(
        volunteer_id=person,
        request_id=UUID(name("request", person)),
        session_id=UUID(name("session", person)),
        unit_id=UUID(town.station),
        activity_kind="culture",
        started_at=town.now - timedelta(hours=3),
        ended_at=town.now - timedelta(hours=2),
        reason=keys.seal("backfill.requested", organiser.person_id, {"text": REASON}),
    )
    decided = c.DecideBackfill(volunteer_id=person, request_id=asked.request_id, verdict="approved")
    for command, who in ((enrol, organiser), (asked, organiser), (decided, checker)):
        ledger.handle(command, who)


def forget(town: Town, person: UUID) -> None:
    admin, request = Caller(UUID(name("admin")), "admin"), UUID(name("erasure of", person))
    if town.parts.keys.is_erased(person):
        return
    wish = c.RequestData(request_id=request, subject_id=person, kind="erasure")
    town.parts.ledger.handle(wish, Caller(person, "volunteer"))
    town.parts.ledger.handle(c.DecideDataRequest(request_id=request, outcome="fulfilled"), admin)
    town.parts.ledger.handle(c.EraseSubject(request_id=request), admin)
    erasure.carry_out(town.parts, person)


@settings(max_examples=10)
@given(numbers=st.sets(st.integers(0, PEOPLE - 1), min_size=1, max_size=8))
def test_whoever_is_erased_every_figure_and_leaf_stays_as_it_was(crowd: Town, numbers: set[int]) -> None:
    """Those of earlier examples stay erased: the crowd shrinks, its hours do not."""
    before, written = figures(crowd), leaves(crowd)
    assert sum(row["minutes"] for row in before["volunteer_hours"]) == 60 * PEOPLE
    people = [UUID(name("one of many", number)) for number in sorted(numbers)]
    for person in people:
        forget(crowd, person)
    assert figures(crowd) == before
    assert leaves(crowd)[: len(written)] == written
    assert audit.verify(crowd.parts.log).ok
    assert opened_names(crowd, people) == [None] * len(people)


def opened_names(town: Town, people: list[UUID]) -> list[Any]:
    fields = []
    for person in people:
        fact = next(iter(town.parts.ledger.repository.event_store.get(person)))
        assert isinstance(fact, events.VolunteerEnrolled)
        fields.append(town.parts.keys.unseal(fact.TOPIC, fact.profile))
    return fields
