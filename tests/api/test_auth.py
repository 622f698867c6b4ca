"""Who may ask what: every route × every kind of key, and every read × every role."""

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from fastapi import FastAPI

from ledger.rules.orders import Order
from tests.api.conftest import OTHER_DIVISION, PHONE, Town, name

OPEN = {
    ("GET", "/healthz"),
    ("GET", "/openapi.json"),
    ("GET", "/log/checkpoint"),
    ("GET", "/log/tile/{path:path}"),
    ("GET", "/verify"),
    ("GET", "/verify/{number}"),
    ("POST", "/verify/{number}"),
    ("GET", "/static/check.css"),
    ("GET", "/v1/contract/asyncapi.json"),
    ("GET", "/v1/contract/schemas/{name}"),
}
UNDESCRIBED = {("GET", "/openapi.json"), ("GET", "/log/tile/{path:path}"), ("GET", "/static/check.css")}
"""Not in the description: itself, a stylesheet, and tiles, which c2sp.org/tlog-tiles describes."""
COLUMNS = ("wang", "zhao", "resident", "organiser", "recorder", "stranger", "auditor", "committee", "admin")
EVERYBODY = (200,) * 9
OVERSEERS = (403, 403, 403, 403, 403, 403, 200, 200, 200)
OWN_AND_STAFF = (200, 403, 403, 200, 200, 403, 200, 200, 200)
READS = {
    "/v1/units": EVERYBODY,
    "/v1/units/{unit_id}/hours": (403, 403, 403, 200, 200, 403, 200, 200, 200),
    "/v1/teams": EVERYBODY,
    "/v1/teams/{team_id}/roster": (200, 200, 403, 200, 200, 403, 200, 200, 200),
    "/v1/volunteers/{volunteer_id}": OWN_AND_STAFF,
    "/v1/volunteers/{volunteer_id}/hours": OWN_AND_STAFF,
    "/v1/volunteers/{volunteer_id}/hours/explain": OWN_AND_STAFF,
    "/v1/orders": EVERYBODY,
    "/v1/orders/{order_id}": (200, 403, 200, 200, 200, 403, 200, 200, 200),
    # 409: whoever served or recorded is told that they are not independent, whatever their role.
    "/v1/orders/{order_id}/rating-code": (409, 403, 200, 200, 409, 403, 403, 403, 200),
    "/v1/rankings/stars": OVERSEERS,
    "/v1/projections": EVERYBODY,
    "/v1/diff": OVERSEERS,
    "/v1/explain": OVERSEERS,
    "/v1/events": OVERSEERS,
    "/v1/events/{position}": OVERSEERS,
    "/v1/streams/{stream_id}": (200, 403, 403, 403, 403, 403, 200, 200, 200),
    "/v1/integrity/checkpoint": EVERYBODY,
    "/v1/integrity/consistency": EVERYBODY,
    "/v1/integrity/inclusion/{position}": OVERSEERS,
    "/v1/certificates": EVERYBODY,
    "/v1/certificates/{number}": OWN_AND_STAFF,
    "/v1/certificates/{number}.pdf": (200, 403, 403, 200, 200, 403, 403, 403, 200),
    "/v1/issuer-keys": EVERYBODY,
    "/v1/operations/{operation_id}": (404, 404, 404, 200, 404, 404, 404, 404, 200),
    "/v1/operations/{operation_id}/result": (404, 404, 404, 200, 404, 404, 404, 404, 200),
    "/v1/data-requests": EVERYBODY,
    "/v1/volunteers/{volunteer_id}/access-log": (200, 403, 403, 403, 403, 403, 200, 403, 200),
    # 422: an administrator must name the request for access that they answer.
    "/v1/volunteers/{volunteer_id}/export": (200, 403, 403, 403, 403, 403, 403, 403, 422),
}
"""Each read with what each of `COLUMNS` gets: Wang served the resident's order, which the recorder wrote down."""
ASKED = {
    "/v1/diff": "?projection=volunteer_hours&from=0",
    "/v1/explain": "?projection=volunteer_hours&where=source_class%3Dconfirmed",
}
"""What a read must be asked with."""
QUESTIONS = {"/v1/what-if": (OVERSEERS, {"book": {"star_minutes": [60]}})}
"""Questions that are too long for an address: they are posted, and write nothing."""
WRITES = {
    "/v1/rulebooks",
    "/v1/units",
    "/v1/units/{unit_id}/rename",
    "/v1/units/{unit_id}/move",
    "/v1/units/{unit_id}/roles",
    "/v1/units/{unit_id}/roles/end",
    "/v1/teams",
    "/v1/teams/{team_id}/sponsors",
    "/v1/teams/{team_id}/leader",
    "/v1/teams/{team_id}/join",
    "/v1/teams/{team_id}/leave",
    "/v1/teams/{team_id}/dissolve",
    "/v1/volunteers",
    "/v1/volunteers/{volunteer_id}/categories",
    "/v1/volunteers/{volunteer_id}/profile",
    "/v1/volunteers/{volunteer_id}/withdraw",
    "/v1/volunteers/{volunteer_id}/backfills",
    "/v1/volunteers/{volunteer_id}/backfills/{request_id}/decide",
    "/v1/volunteers/{volunteer_id}/corrections",
    "/v1/volunteers/{volunteer_id}/corrections/{request_id}/decide",
    "/v1/orders",
    "/v1/orders/{order_id}/reject",
    "/v1/orders/{order_id}/withdraw",
    "/v1/orders/{order_id}/dispatch",
    "/v1/orders/{order_id}/offer",
    "/v1/orders/{order_id}/reassign",
    "/v1/orders/{order_id}/accept",
    "/v1/orders/{order_id}/decline",
    "/v1/orders/{order_id}/expire",
    "/v1/orders/{order_id}/complete",
    "/v1/orders/{order_id}/rate",
    "/v1/orders/{order_id}/ratings/withdraw",
    "/v1/certificates",
    "/v1/certificates/batch",
    "/v1/certificates/{number}/print",
    "/v1/certificates/{number}/revoke",
    "/v1/issuer-keys",
    "/v1/issuer-keys/{issuer_key_id}/retire",
    "/v1/data-requests",
    "/v1/data-requests/{request_id}/decide",
    "/v1/data-requests/{request_id}/erase",
}


def every_route(app: FastAPI) -> set[tuple[str, str]]:
    """Every method and path that the application answers, those left out of the documentation too."""
    found: set[tuple[str, str]] = set()

    def walk(routes: Any) -> None:
        for route in routes:
            if hasattr(route, "effective_candidates"):
                walk(route.effective_candidates())
            else:
                found.update((method, route.path) for method in route.methods if method != "HEAD")

    walk(app.routes)
    return found


def filled(path: str, town: Town) -> str:
    """The path with things that exist in the standing town."""
    return path.replace(":path", "").format(
        unit_id=town.station,
        team_id=town.squad,
        volunteer_id=name("wang"),
        order_id=name("order"),
        request_id=name("backfill"),
        stream_id=name("wang"),
        position=1,
        number=town.number,
        operation_id=town.operation,
        issuer_key_id=name("issuer key"),
        path="entries/000.p/2",
        name="entry.posted.v1.json",
    ) + ASKED.get(path, "")


def test_every_route_stands_in_the_matrix(standing_town: Town) -> None:
    known = {("GET", path) for path in READS} | {("POST", path) for path in {*WRITES, *QUESTIONS}} | OPEN
    found = every_route(standing_town.app)
    assert found == known
    documented = {
        (method.upper(), path)
        for path, item in standing_town.app.openapi()["paths"].items()
        for method in item
    }
    assert documented == known - UNDESCRIBED


def unusable_keys(town: Town) -> dict[str, str | None]:
    """Everything that is no valid key: none, rubbish, another one's secret, revoked, expired."""
    person, before = UUID(name("somebody")), datetime.now(UTC) - timedelta(seconds=2)
    revoked = town.parts.accounts.add(person, "admin")
    town.parts.accounts.revoke(revoked[3:15])
    good = town.parts.accounts.add(person, "admin")
    return {
        "none": None,
        "empty": "Bearer ",
        "rubbish": "Bearer rubbish",
        "long": "Bearer " + "x" * 4000,
        "another scheme": f"Basic {good}",
        "half a key": f"Bearer {good[:-1]}",
        "another secret": f"Bearer {good[:16]}{town.keys['admin'][16:]}",
        "revoked": f"Bearer {revoked}",
        "expired": f"Bearer {town.parts.accounts.add(person, 'admin', expires_at=before)}",
    }


def test_without_a_valid_key_every_route_answers_401(standing_town: Town) -> None:
    town = standing_town
    for kind, header in unusable_keys(town).items():
        everywhere = kind in ("none", "rubbish", "revoked", "expired")
        for method, path in sorted(every_route(town.app) - OPEN) if everywhere else [("GET", "/v1/units")]:
            headers = {"Idempotency-Key": "k"} | ({"Authorization": header} if header is not None else {})
            body = {"json": {}} if method == "POST" else {}
            response = town.client.request(method, filled(path, town), headers=headers, **body)
            told = (response.status_code, response.json()["code"], response.headers["WWW-Authenticate"])
            assert told == (401, "UNAUTHENTICATED", "Bearer"), (kind, method, path)


def test_only_health_descriptions_the_signed_log_and_checking_are_open(standing_town: Town) -> None:
    for method, path in OPEN:
        asked = {"params": {"number": standing_town.number}} if path == "/verify" else {}
        answer = standing_town.client.request(method, filled(path, standing_town), **asked)
        assert answer.status_code == 200, path
    health = standing_town.client.get("/healthz").json()
    assert (health["status"], health["kind"]) == ("ok", "production")


@pytest.mark.parametrize("path", READS)
def test_each_role_reads_what_it_may(standing_town: Town, path: str) -> None:
    town = standing_town
    found = [town.get(filled(path, town).removeprefix("/v1"), who).status_code for who in COLUMNS]
    assert dict(zip(COLUMNS, found, strict=True)) == dict(zip(COLUMNS, READS[path], strict=True))


@pytest.mark.parametrize("path", QUESTIONS)
def test_each_role_asks_what_it_may_and_nothing_is_written(standing_town: Town, path: str) -> None:
    town, (expected, body) = standing_town, QUESTIONS[path]
    head = town.parts.log.head().size
    found = [town.client.post(path, headers=town.headers(who), json=body).status_code for who in COLUMNS]
    assert dict(zip(COLUMNS, found, strict=True)) == dict(zip(COLUMNS, expected, strict=True))
    assert town.parts.log.head().size == head


@pytest.mark.parametrize("path", sorted(WRITES))
def test_the_auditor_changes_nothing(standing_town: Town, path: str) -> None:
    town = standing_town
    head = town.parts.log.head().size
    for suffix in ("", "?dry_run=true"):
        refused = town.post(filled(path, town).removeprefix("/v1") + suffix, "auditor", {})
        assert (refused.status_code, refused.json()["code"]) == (403, "WRONG_ROLE")
    assert town.parts.log.head().size == head


def test_the_auditor_does_not_even_enrol_themself(town: Town) -> None:
    refused = town.post("/volunteers", "auditor", town.enrolment("auditor"))
    assert (refused.status_code, refused.json()["code"]) == (403, "WRONG_ROLE")


def test_staff_see_only_the_orders_of_their_own_units(standing_town: Town) -> None:
    town = standing_town
    assert len(town.seen("/orders", "organiser")["orders"]) == 1
    assert town.seen("/orders", "stranger")["orders"] == []
    assert town.seen("/orders", "stranger")["funnel"]["placed"] == 0
    assert len(town.seen("/orders", "auditor")["orders"]) == 1
    assert town.seen("/orders", "zhao")["orders"] == []
    elsewhere = town.unit("institute", OTHER_DIVISION)
    assert town.seen("/orders", "auditor", unit_id=elsewhere)["orders"] == []
    assert len(town.seen("/orders", "auditor", unit_id=town.unit("institute", "620523100"))["orders"]) == 1


def test_a_volunteer_reads_their_own_figures_and_not_those_of_another(standing_town: Town) -> None:
    town = standing_town
    for who, minutes in (("wang", 140), ("zhao", 0)):
        assert town.seen(f"/volunteers/{name(who)}", who)["volunteer_id"] == name(who)
        assert town.seen(f"/volunteers/{name(who)}/hours", who)["minutes"] == minutes
    refused = town.get(f"/volunteers/{name('wang')}/hours", "zhao")
    assert (refused.status_code, refused.json()["code"]) == (403, "ONLY_THEMSELVES")


def test_whether_somebody_exists_is_told_to_those_who_may_read_them(standing_town: Town) -> None:
    unknown = f"/volunteers/{name('nobody')}"
    assert standing_town.get(unknown, "zhao").status_code == 403
    assert standing_town.get(unknown, "auditor").status_code == 404


def test_the_rating_code_is_for_the_resident_and_never_for_the_recorder(town: Town) -> None:
    town.enrol()
    path = town.accepted()
    early = town.get(f"{path}/rating-code", "resident")
    assert (early.status_code, early.json()["code"]) == (409, "NOT_ALLOWED_NOW")
    town.wait(minutes=1)
    town.done(f"{path}/complete", "recorder", {"services": [town.service()]})
    code = town.seen(f"{path}/rating-code", "resident")["code"]
    assert town.seen(f"{path}/rating-code", "organiser")["code"] == code
    for who in ("recorder", "wang"):
        refused = town.get(f"{path}/rating-code", who)
        assert (refused.status_code, refused.json()["code"]) == (409, "RATER_NOT_INDEPENDENT")
        body = {"rating_id": name("own"), "score": 5, "code": code}
        assert town.post(f"{path}/rate", who, body).json()["code"] == "RATER_NOT_INDEPENDENT"


def test_the_recorder_with_another_key_stays_the_recorder(town: Town) -> None:
    town.enrol()
    path = town.served()
    person = UUID(name("recorder"))
    for role in ("organiser", "admin", "resident"):
        town.keys["same person"] = town.parts.accounts.add(person, role)
        refused = town.get(f"{path}/rating-code", "same person")
        assert (refused.status_code, refused.json()["code"]) == (409, "RATER_NOT_INDEPENDENT"), role


def test_without_the_code_nobody_else_rates(town: Town) -> None:
    town.enrol()
    path = town.served()
    town.account("neighbour", "resident")
    for code in (None, "", "00000000", "x" * 40):
        body = {"rating_id": name("forged"), "score": 1, "code": code}
        refused = town.post(f"{path}/rate", "neighbour", body)
        assert (refused.status_code, refused.json()["code"]) == (403, "ONLY_THEMSELVES")
    for claim in ({"code_checked": True}, {"same_phone_ids": []}):
        claimed = town.post(f"{path}/rate", "neighbour", {"rating_id": name("forged"), "score": 1} | claim)
        assert (claimed.status_code, claimed.json()["code"]) == (422, "INVALID_REQUEST")


def test_a_rater_who_shares_a_phone_with_the_volunteer_is_refused(town: Town) -> None:
    town.enrol()
    town.enrol("resident", 130, name="张标记")
    path = town.served()
    body = {"rating_id": name("rating"), "score": 5}
    refused = town.post(f"{path}/rate", "resident", body)
    assert (refused.status_code, refused.json()["code"]) == (409, "RATER_NOT_INDEPENDENT")


def test_a_revoked_key_stops_at_once(town: Town) -> None:
    key = town.account("organiser", "organiser", town.station)
    assert town.get("/units", "organiser").status_code == 200
    town.parts.accounts.revoke(key[3:15])
    assert town.get("/units", "organiser").status_code == 401


def test_a_key_opens_until_it_expires(town: Town) -> None:
    tomorrow = datetime.now(UTC) + timedelta(days=1)
    town.keys["guest"] = town.parts.accounts.add(UUID(name("guest")), "auditor", expires_at=tomorrow)
    assert town.get("/units", "guest").status_code == 200


def test_no_key_is_kept_in_clear(town: Town) -> None:
    stored = b"".join(
        path.read_bytes() for path in town.settings.master_key.parent.iterdir() if path.is_file()
    )
    for key in town.keys.values():
        assert key.encode() not in stored
        assert key[16:].encode() not in stored


def test_staff_cannot_pass_on_the_rating_of_somebody_who_shares_a_phone_with_who_served(town: Town) -> None:
    """F06: whoever speaks for a resident is bound by what binds the resident."""
    town.enrol()
    path = town.served()
    code = town.seen(f"{path}/rating-code", "resident")["code"]
    order = town.parts.ledger.state(UUID(path.rsplit("/", 1)[-1]))
    assert isinstance(order, Order)
    town.parts.keys.set_phone(order.requester_id, PHONE)
    refused = town.post(f"{path}/rate", "organiser", {"rating_id": name("r"), "score": 5, "code": code})
    assert (refused.status_code, refused.json()["code"]) == (409, "RATER_NOT_INDEPENDENT")
