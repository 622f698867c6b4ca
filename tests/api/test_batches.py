"""Many certificates at once: asked for, made by the server, taken up again after a stop (L18, T35; AIP-151)."""

import io
import time
import zipfile
from pathlib import Path
from typing import Any
from uuid import UUID

from api.batches import Work
from api.operations import Operations
from tests.api.conftest import Copier, Town, id_number, name, opened, sqlite_settings
from tests.api.test_certificates import checked, problem


def begun(town: Town, key: str = "batch", by: str = "organiser", **asked: Any) -> str:
    """A batch for the station, taken on; its id."""
    body = {"first_on": "2026-03-01", "last_on": town.today} | (asked or {"unit_id": town.station})
    response = town.post_anything("/certificates/batch", by, body, key=key)
    assert response.status_code == 202, response.text
    operation: str = response.json()["operation_id"]
    assert response.headers["Location"] == f"/v1/operations/{operation}"
    return operation


def reached(town: Town, operation: str, state: str) -> Any:
    """The operation, once the server has brought it there."""
    deadline = time.monotonic() + 20
    while (found := town.seen(f"/operations/{operation}", "organiser"))["state"] != state:
        assert time.monotonic() < deadline, found
        time.sleep(0.05)
    return found


def lived(town: Town) -> None:
    """Two who served, one who did not, and a key that signs."""
    town.enrol()
    town.enrol("zhao", 124, name="赵标记", phone="13993809999")
    town.enrol("sun", 125, name="孙标记", phone="13993809998")
    town.served()
    town.served("another", "zhao")
    town.issuer()


def test_everybody_of_a_unit_who_served_gets_a_certificate(town_anywhere: Town) -> None:
    town = town_anywhere
    lived(town)
    operation = begun(town)
    waiting = reached(town, operation, "signing")
    assert (waiting["total"], waiting["done"], waiting["result"]) == (2, 0, None)
    early = town.get(f"/operations/{operation}/result", "organiser")
    assert problem(early) == (409, "NOT_ALLOWED_NOW")
    town.sign()
    done = reached(town, operation, "done")
    assert (done["total"], done["done"], done["printed"], done["refused"]) == (2, 2, 2, 0)
    assert [item["volunteer_id"] for item in done["items"]] == [name("wang"), name("zhao")]
    with zipfile.ZipFile(
        io.BytesIO(town.get(f"/operations/{operation}/result", "organiser").content)
    ) as file:
        documents = {entry: file.read(entry) for entry in file.namelist()}
    numbers = [item["certificate_number"] for item in done["items"]]
    assert list(documents) == [f"{number}.pdf" for number in numbers]
    for number in numbers:
        pdf = documents[f"{number}.pdf"]
        assert pdf == town.get(f"/certificates/{number}.pdf", "organiser").content
        assert checked(pdf).claim.number == number


def test_who_gets_none_is_told_why(town: Town) -> None:
    lived(town)
    people = [name(who) for who in ("sun", "wang", "nobody", "sun")]
    operation = begun(town, volunteer_ids=people)
    town.sign()
    reached(town, operation, "signing")
    town.sign()
    done = reached(town, operation, "done")
    came_of_it = {item["volunteer_id"]: (item["state"], item["code"]) for item in done["items"]}
    assert came_of_it == {
        name("sun"): ("refused", "NOTHING_TO_CERTIFY"),
        name("wang"): ("printed", None),
        name("nobody"): ("refused", "UNKNOWN_VOLUNTEER"),
    }


def test_a_name_that_cannot_be_printed_spoils_nobody_elses(town: Town) -> None:
    lived(town)
    profile = {"name": "王\U0002a6d6", "id_number": id_number()}
    town.done(f"/volunteers/{name('wang')}/profile", "wang", {"profile": profile})
    operation = begun(town)
    reached(town, operation, "signing")
    town.sign()
    done = reached(town, operation, "done")
    assert [(item["state"], item["code"]) for item in done["items"]] == [
        ("refused", "GLYPH_MISSING"),
        ("printed", None),
    ]


def test_the_same_key_asks_for_the_same_batch(town: Town) -> None:
    lived(town)
    first = begun(town)
    reached(town, first, "signing")
    head = town.parts.log.head().size
    assert begun(town) == first
    body = {"first_on": "2026-03-02", "last_on": town.today, "unit_id": town.station}
    other = town.post_anything("/certificates/batch", "organiser", body, key="batch")
    assert problem(other) == (422, "KEY_REUSED")
    assert town.parts.log.head().size == head


def test_a_batch_is_for_staff_of_the_unit_and_shown_to_who_asked(town: Town) -> None:
    lived(town)
    body = {"first_on": "2026-03-01", "last_on": town.today, "unit_id": town.station}
    for who, expected in (
        ("stranger", (403, "OUTSIDE_YOUR_UNITS")),
        ("recorder", (403, "WRONG_ROLE")),
        ("wang", (403, "WRONG_ROLE")),
        ("auditor", (403, "WRONG_ROLE")),
    ):
        assert problem(town.post_anything("/certificates/batch", who, body)) == expected
    for wrong in (body | {"unit_id": None}, body | {"volunteer_ids": [name("wang")]}):
        assert problem(town.post_anything("/certificates/batch", "organiser", wrong)) == (
            422,
            "INVALID_REQUEST",
        )
    operation = begun(town)
    for who, status in (
        ("organiser", 200),
        ("admin", 200),
        ("checker", 404),
        ("wang", 404),
        ("auditor", 404),
    ):
        assert town.get(f"/operations/{operation}", who).status_code == status, who
    assert problem(town.get(f"/operations/{name('nothing')}", "admin")) == (404, "NOT_FOUND")


def test_strangers_in_a_list_are_refused_one_by_one(town: Town) -> None:
    lived(town)
    operation = begun(town, by="stranger", volunteer_ids=[name("wang")])
    work = Work(town.parts)
    while work.round():
        pass
    (item,) = town.seen(f"/operations/{operation}", "stranger")["items"]
    assert (item["state"], item["code"]) == ("refused", "OUTSIDE_YOUR_UNITS")


def test_a_stop_in_the_middle_loses_and_doubles_nothing(town_in: Copier, tmp_path: Path) -> None:
    """What was issued just before the stop, but not yet noted, is found again by its key."""
    for town in town_in(tmp_path):
        lived(town)
        operation = begun(town)
        reached(town, operation, "signing")
        issued = {
            item.volunteer_id: item.certificate_number
            for item in town.parts.operations.items(UUID(operation))
        }
        keys, now = dict(town.keys), town.now
    store = Operations(f"sqlite:///{tmp_path / 'ledger.keys.db'}", 1.0)
    lost = [
        type(item)(item.item, item.volunteer_id, "waiting", None, None)
        for item in store.items(UUID(operation))
    ]
    store.note(UUID(operation), lost)
    store.close()
    for town in opened(sqlite_settings(tmp_path)):
        town.keys |= keys
        town.now = now
        reached(town, operation, "signing")
        town.sign()
        done = reached(town, operation, "done")
        assert {UUID(i["volunteer_id"]): i["certificate_number"] for i in done["items"]} == issued
        topics = [
            row.topic
            for row in town.parts.log.read(1, town.parts.log.head().size)
            if "certificate." in row.topic
        ]
        assert topics == ["certificate.issued"] * 2 + ["certificate.printed"] * 2
