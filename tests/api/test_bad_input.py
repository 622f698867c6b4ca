"""What people get wrong, and what the machine does: each refusal by its code and status, and never a 5xx for input."""

import importlib
import pkgutil
import sqlite3
import threading
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import make_url

import api
import ledger
import projections
from api import witnessing
from api.commands import ROUTES, body_model
from api.parts import create, open_parts
from api.problems import BODY_BYTES_MAX, RETRY_SECONDS, STATUS, status_of
from api.settings import read_settings
from api.verify import Limit
from ledger.errors import ExpectedError, LedgerError, Refusal
from tests.api.conftest import LEDGER_ID, START, Town, id_number, name, sqlite_settings

NOWHERE = name("nowhere")


def refused(response: Any, status: int, code: str) -> Any:
    """The problem, once its status, code and form are as promised."""
    assert (response.status_code, response.json().get("code")) == (status, code), response.text
    assert response.headers["content-type"] == "application/problem+json"
    problem = response.json()
    assert problem["status"] == status
    assert problem["type"] == f"/problems/{code.lower().replace('_', '-')}"
    assert problem["detail"]
    assert problem["detail_zh"]
    assert problem["request_id"] == response.headers["Request-Id"]
    return problem


# --- things that are not there ---------------------------------------------------------------------------------------


def test_what_is_unknown_is_said_to_be_unknown(standing_town: Town) -> None:
    town = standing_town
    team = {"team_id": NOWHERE, "volunteer_ids": [name("wang")]}
    kinds = {
        "UNKNOWN_UNIT": [
            town.get(f"/units/{NOWHERE}/hours", "auditor"),
            town.get("/orders", "auditor", unit_id=NOWHERE),
            town.get("/rankings/stars", "auditor", unit_id=NOWHERE),
            town.post(f"/units/{NOWHERE}/rename", "admin", {"name": "新"}),
            town.post("/orders", "resident", town.order("new", unit_id=NOWHERE)),
        ],
        "UNKNOWN_TEAM": [
            town.get(f"/teams/{NOWHERE}/roster", "auditor"),
            town.post(f"/teams/{NOWHERE}/join", "wang", {"volunteer_id": name("wang")}),
            town.post(f"/orders/{name('order')}/dispatch", "dispatcher", team),
        ],
        "UNKNOWN_VOLUNTEER": [
            town.get(f"/volunteers/{NOWHERE}", "auditor"),
            town.get(f"/volunteers/{NOWHERE}/hours", "auditor"),
            town.get(f"/volunteers/{NOWHERE}/hours/explain", "auditor"),
            town.post(f"/volunteers/{NOWHERE}/withdraw", "wang", {}),
            town.post(f"/teams/{town.squad}/join", "organiser", {"volunteer_id": NOWHERE}),
        ],
        "UNKNOWN_ORDER": [
            town.get(f"/orders/{NOWHERE}", "auditor"),
            town.get(f"/orders/{NOWHERE}/rating-code", "resident"),
            town.post(f"/orders/{NOWHERE}/accept", "wang", {"volunteer_id": name("wang")}),
        ],
        "UNKNOWN_SESSION": [
            town.post(
                f"/volunteers/{name('wang')}/corrections",
                "wang",
                {"request_id": NOWHERE, "session_id": NOWHERE, "kind": "reverse", "reason": "记错了"},
            )
        ],
        "UNKNOWN_REQUEST": [
            town.post(
                f"/volunteers/{name('wang')}/backfills/{NOWHERE}/decide", "checker", {"verdict": "approved"}
            )
        ],
        "UNKNOWN_DATA_REQUEST": [
            town.post(f"/data-requests/{NOWHERE}/decide", "admin", {"outcome": "fulfilled"}),
            town.post(f"/data-requests/{NOWHERE}/erase", "admin", {}),
        ],
        "UNKNOWN_RATING": [
            town.post(f"/orders/{name('order')}/ratings/withdraw", "resident", {"rating_id": NOWHERE})
        ],
        "NOT_FOUND": [
            town.get("/events/99999", "auditor"),
            town.get("/events/0", "auditor"),
            town.get(f"/events/{2**70}", "auditor"),
            town.get(f"/streams/{NOWHERE}", "auditor"),
            town.get("/no/such/path", "auditor"),
        ],
    }
    for code, responses in kinds.items():
        for response in responses:
            refused(response, 404, code)


def test_an_id_of_another_kind_of_thing_is_unknown(standing_town: Town) -> None:
    town = standing_town
    refused(town.get(f"/volunteers/{town.station}", "auditor"), 404, "UNKNOWN_VOLUNTEER")
    refused(town.get(f"/orders/{name('wang')}/rating-code", "admin"), 404, "UNKNOWN_ORDER")


# --- orders and hours that cannot be ---------------------------------------------------------------------------------


def test_a_step_out_of_order_is_refused_and_says_what_is_allowed(town: Town) -> None:
    town.enrol()
    path = town.place()
    problem = refused(
        town.post(f"{path}/accept", "wang", {"volunteer_id": name("wang")}), 409, "NOT_ALLOWED_NOW"
    )
    assert problem["allowed"] == ["reject", "withdraw", "dispatch"]
    assert (problem["current_status"], problem["current_version"]) == ("placed", 1)
    town.done(f"{path}/withdraw", "resident", {})
    dispatch = {"team_id": town.squad, "volunteer_ids": [name("wang")]}
    problem = refused(town.post(f"{path}/dispatch", "dispatcher", dispatch), 409, "NOT_ALLOWED_NOW")
    assert problem["allowed"] == ["—"]


def test_hours_that_cannot_be_are_refused_each_for_its_reason(town: Town) -> None:
    town.enrol()
    path = town.served()
    town.wait(days=2)
    start = town.now - timedelta(days=1)
    session = town.seen(f"/volunteers/{name('wang')}/hours/explain", "wang")["sessions"][0]
    cases = {
        "END_BEFORE_START": (422, start, start - timedelta(hours=1)),
        "IN_FUTURE": (409, town.now + timedelta(hours=1), town.now + timedelta(hours=2)),
        "RECORDED_BEFORE_END": (409, start, town.now + timedelta(hours=1)),
        "SESSION_TOO_LONG": (409, town.now - timedelta(hours=26), town.now - timedelta(hours=1)),
        "SESSION_TOO_SHORT": (409, start, start + timedelta(seconds=30)),
        "DAY_NEEDS_APPROVAL": (409, start, start + timedelta(hours=9)),
        "NO_RULE_BOOK": (409, START - timedelta(days=5), START - timedelta(days=5, hours=-1)),
    }
    for code, (status, started_at, ended_at) in cases.items():
        body = {
            "request_id": name(code),
            "session_id": name("session", code),
            "unit_id": town.station,
            "activity_kind": "law",
            "started_at": started_at.isoformat(),
            "ended_at": ended_at.isoformat(),
            "reason": "补录",
        }
        refused(town.post(f"/volunteers/{name('wang')}/backfills", "wang", body), status, code)
    body |= {"started_at": session["started_at"], "ended_at": session["ended_at"]}
    refused(town.post(f"/volunteers/{name('wang')}/backfills", "wang", body), 409, "OVERLAP")
    assert town.seen(path, "wang")["stage"] == "completed"


def test_a_completion_names_everything_that_speaks_against_it(town: Town) -> None:
    town.enrol()
    town.enrol("zhao", 124, phone="13993809999")
    path = town.accepted()
    early = town.service()
    early["started_at"] = (START - timedelta(hours=1)).isoformat()
    body = {"services": [early, town.service(who="zhao")]}
    problem = refused(town.post(f"{path}/complete", "recorder", body), 409, "BACKFILL_REQUIRED")
    assert {offender["code"] for offender in problem["offenders"]} >= {"BACKFILL_REQUIRED", "NOT_ACCEPTED"}
    ended = problem["offenders"][0]
    assert ended["volunteer_id"] == name("wang")


def test_nobody_accepts_for_somebody_else(town: Town) -> None:
    town.enrol()
    path = town.place()
    town.done(f"{path}/dispatch", "dispatcher", {"team_id": town.squad, "volunteer_ids": [name("wang")]})
    for who in ("organiser", "dispatcher", "admin"):
        refused(town.post(f"{path}/accept", who, {"volunteer_id": name("wang")}), 403, "ONLY_THEMSELVES")


def test_a_wrong_role_and_a_wrong_place_are_refused(standing_town: Town) -> None:
    town = standing_town
    rename = f"/units/{town.station}/rename"
    assert refused(town.post(rename, "wang", {"name": "新"}), 403, "WRONG_ROLE")["role"] == "volunteer"
    refused(town.post(rename, "stranger", {"name": "新"}), 403, "OUTSIDE_YOUR_UNITS")


def test_a_score_off_the_scale_is_refused(town: Town) -> None:
    town.enrol()
    path = town.served()
    for score in (0, 6, -1, 2**53 - 1):
        body = {"rating_id": name("rating"), "score": score}
        refused(town.post(f"{path}/rate", "resident", body), 422, "SCORE_OUT_OF_RANGE")


# --- requests that are none ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "body",
    [
        b"{",
        b"{'a': 1}",
        b"",
        b"\xff\xfe{}",
        b'{"score": ' + b"9" * 5000 + b"}",
        b'{"need": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    ],
    ids=["cut off", "single quotes", "empty", "not UTF-8", "endless number", "too deep"],
)
def test_a_body_that_is_no_json_is_refused(standing_town: Town, body: bytes) -> None:
    headers = standing_town.headers("resident", Idempotency_Key="k", Content_Type="application/json")
    response = standing_town.client.post("/v1/orders", headers=headers, content=body)
    if body:
        refused(response, 400, "MALFORMED_JSON")
    else:
        refused(response, 422, "INVALID_REQUEST")


@pytest.mark.parametrize(
    "content_type", ["text/plain", "application/x-www-form-urlencoded", "", "\x01", "a/b/c"]
)
def test_a_body_of_another_type_is_refused(standing_town: Town, content_type: str) -> None:
    headers = standing_town.headers("resident", Idempotency_Key="k", Content_Type=content_type)
    response = standing_town.client.post("/v1/orders", headers=headers, content=b'{"order_id": "x"}')
    refused(response, 422, "INVALID_REQUEST")


@pytest.mark.parametrize("value", [None, [], "text", 7, True, {"surplus": 1}])
def test_a_body_of_another_shape_is_refused(standing_town: Town, value: Any) -> None:
    problem = refused(standing_town.post("/orders", "resident", value), 422, "INVALID_REQUEST")
    assert problem["errors"]


WRONG: dict[str, list[Any]] = {
    "order_id": ["", "x", 7, None, "6" * 33, "王标记"],
    "unit_id": [[], {}],
    "activity_kind": ["gardening", "", None],
    "wanted_from": [
        "2026-03-02T10:00:00",
        "2026-03-02",
        "tomorrow",
        None,
        10**30,
        "0001-01-01T00:00:00+14:00",
    ],
    "wanted_until": ["9999-12-31T23:59:59-14:00", "2026-13-01T00:00:00Z", "2026-03-02T25:00:00Z"],
    "need": [
        None,
        "text",
        {"text": ""},
        {"text": "   "},
        {"text": "长" * 2001},
        {"text": "陪同", "place": "巷" * 201},
        {"text": "陪同", "surplus": 1},
        {"text": "陪同", "contact_phone": "1" * 41},
    ],
}


@pytest.mark.parametrize(("field", "value"), [(f, v) for f, values in WRONG.items() for v in values])
def test_a_field_that_is_wrong_is_refused_by_its_name(standing_town: Town, field: str, value: Any) -> None:
    town = standing_town
    response = town.post("/orders", "resident", town.order("new", **{field: value}))
    problem = refused(response, 422, "INVALID_REQUEST")
    assert any(error["pointer"].startswith(f"/{field}") for error in problem["errors"])


@pytest.mark.parametrize(
    "path", ["/units/x/rename", "/orders/7/withdraw", "/teams/%00/join", "/units/王标记/rename"]
)
def test_a_path_that_names_no_id_is_refused(standing_town: Town, path: str) -> None:
    bodies = {"rename": {"name": "新"}, "join": {"volunteer_id": NOWHERE}}
    response = standing_town.post(path, "admin", bodies.get(path.rpartition("/")[2], {}))
    assert "王标记" not in refused(response, 422, "INVALID_REQUEST")["detail"]


@pytest.mark.parametrize("title", ["", "长" * 61, "a\x00b", "a\nb", "<script>", "\ud800"])
def test_a_name_of_a_unit_that_cannot_be_printed_is_refused(standing_town: Town, title: str) -> None:
    body = b'{"name": "%s"}' % title.encode("unicode_escape").replace(b"\\x", b"\\u00")
    headers = standing_town.headers("admin", Idempotency_Key="k", Content_Type="application/json")
    path = f"/v1/units/{standing_town.station}/rename"
    refused(standing_town.client.post(path, headers=headers, content=body), 422, "INVALID_REQUEST")


def test_text_with_a_null_character_is_kept_and_text_that_is_no_unicode_is_not(town: Town) -> None:
    town.account("resident", "resident")
    assert town.post("/orders", "resident", town.order("a", need={"text": "陪\x00同"})).status_code == 200
    headers = town.headers("resident", Idempotency_Key="k", Content_Type="application/json")
    body = b'{"text": "\\ud800"}'
    order = town.order("b", need="HERE")
    sent = str(order).replace("'", '"').encode().replace(b'"HERE"', body)
    refused(town.client.post("/v1/orders", headers=headers, content=sent), 422, "INVALID_REQUEST")


@pytest.mark.parametrize("number", [2**53, -(2**63), 10**300, 1.5, float("1e300")])
def test_a_number_beyond_what_facts_hold_is_refused(standing_town: Town, number: float) -> None:
    body = {"rating_id": NOWHERE, "score": number}
    response = standing_town.post(f"/orders/{name('order')}/rate", "resident", body)
    assert response.status_code == 422, response.text


def test_numbers_that_name_a_person_are_checked(town: Town) -> None:
    wrong = id_number()[:-1] + ("1" if id_number()[-1] != "1" else "2")
    for number in (wrong, "620523990307123", "62052319901307123X", "王" * 18):
        body = town.enrolment("wang", id_number=number)
        refused(town.post("/volunteers", "organiser", body), 422, "ID_NUMBER_INVALID")
    for phone in ("1", "12345678901", "0938", "电话"):
        body = town.enrolment("wang", phone=phone)
        refused(town.post("/volunteers", "organiser", body), 422, "PHONE_INVALID")
    assert town.parts.log.head().size == town.last


@pytest.mark.parametrize(
    "question",
    [
        {"limit": 0},
        {"limit": 1001},
        {"limit": "9" * 400},
        {"rating_min": "NaN"},
        {"rating_min": "1e-999999999"},
        {"rating_min": 101},
        {"star": -1},
        {"minutes_min": 2**70},
        {"unit_id": "x"},
        {"source_class": "stolen"},
        {"first_on": "2026-02-30"},
    ],
)
def test_a_question_about_ranks_that_makes_no_sense_is_refused(
    standing_town: Town, question: dict[str, Any]
) -> None:
    refused(standing_town.get("/rankings/stars", "auditor", **question), 422, "INVALID_REQUEST")


def test_unknown_topics_and_stages_are_refused(standing_town: Town) -> None:
    refused(standing_town.get("/events", "auditor", topic="order.eaten"), 422, "INVALID_REQUEST")
    refused(standing_town.get("/orders", "auditor", stage="eaten"), 422, "INVALID_REQUEST")
    refused(standing_town.get("/events", "auditor", after=2**60), 422, "INVALID_REQUEST")


def test_a_method_that_a_path_does_not_take_is_refused(standing_town: Town) -> None:
    for method, path in (
        ("DELETE", "/v1/units"),
        ("PUT", "/v1/orders"),
        ("GET", f"/v1/orders/{NOWHERE}/accept"),
    ):
        response = standing_town.client.request(method, path)
        refused(response, 405, "METHOD_NOT_ALLOWED")
        assert response.headers["Allow"]


def test_a_body_beyond_a_megabyte_is_refused_however_it_is_sent(standing_town: Town) -> None:
    headers = standing_town.headers("resident", Idempotency_Key="k", Content_Type="application/json")
    whole = b'{"text": "' + b"x" * BODY_BYTES_MAX + b'"}'

    def pieces() -> Iterator[bytes]:
        for start in range(0, len(whole), 65_536):
            yield whole[start : start + 65_536]

    for content in (whole, pieces()):
        response = standing_town.client.post("/v1/orders", headers=headers, content=content)
        assert refused(response, 413, "PAYLOAD_TOO_LARGE")["bytes_max"] == BODY_BYTES_MAX


def test_an_address_is_never_repeated(standing_town: Town) -> None:
    for path in ("/v1/people/王标记桂兰", "/v1/units?as_of=王标记桂兰", "/王标记桂兰"):
        assert "王标记" not in standing_town.client.get(path, headers=standing_town.headers("admin")).text


def test_fields_that_nobody_knows_are_not_repeated(standing_town: Town) -> None:
    body = {"王标记桂兰": 1, "620523199003071234 5": 2, "a\ud800b": 3}
    sent = str(body).replace("'", '"').encode()
    headers = standing_town.headers("admin", Idempotency_Key="k", Content_Type="application/json")
    response = standing_town.client.post("/v1/units", headers=headers, content=sent)
    refused(response, 422, "INVALID_REQUEST")
    assert "王标记" not in response.text
    assert "620523" not in response.text


# --- trouble of our own ----------------------------------------------------------------------------------------------


@pytest.fixture
def held(town: Town) -> Iterator[sqlite3.Connection]:
    """Another writer holds the ledger."""
    database = make_url(town.settings.database).database
    assert database is not None
    other = sqlite3.connect(database, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    yield other
    if other.in_transaction:
        other.rollback()
    other.close()


def test_a_held_ledger_is_busy_and_the_same_key_succeeds_once(town: Town, held: sqlite3.Connection) -> None:
    town.account("resident", "resident")
    body, head = town.order("order"), town.parts.log.head().size
    busy = town.post("/orders", "resident", body, key="once")
    problem = refused(busy, 503, "LEDGER_BUSY")
    assert (busy.headers["Retry-After"], problem["seconds"]) == ("1", "0.3")
    assert town.seen("/units", "admin")["units"]
    held.rollback()
    first = town.done("/orders", "resident", body, key="once")
    again = town.done("/orders", "resident", body, key="once")
    assert (first["replayed"], again["replayed"]) == (False, True)
    assert town.parts.log.head().size == head + 1


def test_an_enrolment_refused_by_a_held_ledger_may_be_made_under_another_id(
    town: Town, held: sqlite3.Connection
) -> None:
    refused(town.post("/volunteers", "organiser", town.enrolment("wang")), 503, "LEDGER_BUSY")
    held.rollback()
    town.done("/volunteers", "organiser", town.enrolment("wang again"))


def test_figures_go_on_after_the_ledger_was_held_for_long(town: Town) -> None:
    town.account("resident", "resident")
    database = make_url(town.settings.database).database
    assert database is not None
    with sqlite3.connect(database, isolation_level=None) as other:
        town.done("/orders", "resident", town.order("order"))
        other.execute("BEGIN IMMEDIATE")
        threading.Event().wait(0.8)  # longer than anybody waits for another writer
        other.rollback()
    town.done("/orders", "resident", town.order("second"))
    assert len(town.seen("/orders", "resident")["orders"]) == 2


def test_a_clock_that_runs_back_is_trouble(town: Town) -> None:
    town.account("resident", "resident")
    town.wait(hours=-1)
    refused(town.post("/orders", "resident", town.order("order")), 500, "CLOCK_BEHIND")


def test_what_is_not_our_ledger_is_not_opened(tmp_path: Path) -> None:
    settings = sqlite_settings(tmp_path)
    with pytest.raises(LedgerError, match="There is no ledger") as missing:
        open_parts(settings)
    assert missing.value.code == "LEDGER_MISSING"
    database = tmp_path / "ledger.db"
    database.write_bytes(b"no database, but a letter to the office " * 100)
    for make in (open_parts, create):
        with pytest.raises(LedgerError) as foreign:
            make(settings)
        assert foreign.value.code == "NOT_A_LEDGER"
    database.unlink()
    with sqlite3.connect(database) as other:
        other.execute("CREATE TABLE accounts_of_somebody_else (x)")
    for make in (open_parts, create):
        with pytest.raises(LedgerError) as foreign:
            make(settings)
        assert foreign.value.code == "NOT_A_LEDGER"


def test_a_ledger_of_another_schema_is_not_opened(tmp_path: Path) -> None:
    settings = sqlite_settings(tmp_path)
    create(settings, ledger_id=LEDGER_ID, created_at=START)
    with sqlite3.connect(tmp_path / "ledger.db") as other:
        other.execute("DROP TRIGGER identity_keeps")
        other.execute("UPDATE ledger_identity SET schema_version = 0")
    with pytest.raises(LedgerError) as older:
        open_parts(settings)
    assert older.value.code == "SCHEMA_MISMATCH"


def test_a_ledger_is_not_made_twice(tmp_path: Path) -> None:
    settings = sqlite_settings(tmp_path)
    assert create(settings, ledger_id=LEDGER_ID) == LEDGER_ID
    with pytest.raises(LedgerError) as second:
        create(settings)
    assert second.value.code == "LEDGER_EXISTS"


@pytest.mark.parametrize(
    "given",
    [
        {"database": "mysql://x/y"},
        {"database": "postgresql://secret:password@host/x"},
        {"database": "sqlite:///a.db", "keys": "sqlite:///a.db"},
        {"database": "sqlite:///a.db", "busy_seconds": 0},
        {"database": "sqlite:///a.db", "port": 70_000},
        {"database": "sqlite:///a.db", "surplus": 1},
    ],
)
def test_a_wrong_setting_is_refused_without_its_password(given: dict[str, Any]) -> None:
    with pytest.raises(Refusal) as wrong:
        read_settings(**given)
    assert wrong.value.code == "INVALID_REQUEST"
    assert "password" not in str(wrong.value)


def test_settings_are_shown_without_passwords() -> None:
    settings = read_settings(
        database="postgresql://a:secret@h/x", keys="postgresql://a:secret@h/y", master_key_file="/m"
    )
    assert "secret" not in str(settings.shown())


# --- every code ------------------------------------------------------------------------------------------------------

CONFLICTS = {
    "ALREADY_DECIDED",
    "ALREADY_EXISTS",
    "ALREADY_MEMBER",
    "ALREADY_RATED",
    "BACKFILL_REQUIRED",
    "CONTRACT_BROKEN",
    "DAY_CAP",
    "DAY_NEEDS_APPROVAL",
    "IDENTITY_TAKEN",
    "IN_FUTURE",
    "NOT_ACCEPTED",
    "NOT_ALLOWED_NOW",
    "NOT_MEMBER",
    "NOT_OFFERED",
    "NO_RULE_BOOK",
    "NOT_SIGNED_YET",
    "NOTHING_TO_CERTIFY",
    "NO_ISSUER_KEY",
    "RENDERER_CHANGED",
    "OVERLAP",
    "RATER_NOT_INDEPENDENT",
    "RECORDED_BEFORE_END",
    "ROLE_CONFLICT",
    "RULE_BOOK_DATE",
    "SELF_APPROVAL",
    "SELF_RECORDING",
    "SESSION_TOO_LONG",
    "SESSION_TOO_SHORT",
    "BUNDLE_EXISTS",
    "SEVERAL",
    "SUBJECT_RESTRICTED",
    "TEAM_SHAPE",
    "UNIT_TREE",
    "UNKNOWN_CATEGORY",
    "VOLUNTEER_WITHDRAWN",
}
"""409 is decided for these: the request is well formed, and conflicts with what the ledger holds."""
TROUBLES = {
    "BUNDLE_WRONG",
    "EVENT_TOO_LARGE",
    "KAFKA_REFUSED",
    "KAFKA_UNREACHABLE",
    "MESSAGE_IN_THE_WAY",
    "MESSAGE_MALFORMED",
    "NOT_A_WORKER_STORE",
    "WORKER_STORE_FIGURES",
    "WORKER_STORE_MISSING",
    "WORKER_STORE_OTHER",
    "TOPIC_CUT",
    "RELAY_BEHIND",
    "RELAY_FENCED",
    "RELAY_LEDGER_DIFFERS",
    "RELAY_POSITION_LOST",
    "RELAY_POSITION_MISSING",
    "RELAY_TOPIC_HOLE",
    "RELAY_TRANSACTION_HANGS",
    "TOPIC_MISSING",
    "TOPIC_REPLACED",
    "TOPIC_WRONG",
    "COSIGNATURES_TOO_FEW",
    "ENGINE_UNAVAILABLE",
    "CERTIFICATE_WRONG",
    "CHECKPOINT_MALFORMED",
    "CLOCK_BEHIND",
    "INTERNAL",
    "KEY_STORE_DAMAGED",
    "KEY_STORE_EXISTS",
    "ARCHIVE_WRONG",
    "KEY_STORE_MISSING",
    "KEY_UNKNOWN",
    "LEDGER_DAMAGED",
    "LEDGER_EXISTS",
    "LEDGER_MISSING",
    "MASTER_KEY_INVALID",
    "NOTE_KEYS_AMBIGUOUS",
    "NOTE_KEY_MALFORMED",
    "NOTE_MALFORMED",
    "NOT_A_DEMO",
    "NOT_A_KEY_STORE",
    "NOT_A_LEDGER",
    "NO_TRUSTED_SIGNATURE",
    "OTHER_DEMO",
    "PROOF_WRONG",
    "SCHEMA_MISMATCH",
    "SEAL_BROKEN",
    "SIGNATURE_WRONG",
    "SIGNER_HALTED",
    "WITNESS_RUNNING",
    "WITNESS_STATE_DAMAGED",
    "SIGNER_RUNNING",
    "TOTALS_MALFORMED",
    "UNREADABLE_FACT",
    "WRONG_MASTER_KEY",
    "WRONG_ORIGIN",
}
"""500 is decided for these: an administrator must act, if they ever reach this edge at all."""


def every_error() -> list[type[ExpectedError]]:
    """Every expected error of the product, by importing all of it."""
    for package in (ledger, projections, api):
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            if not module.name.endswith("__main__"):
                importlib.import_module(module.name)
    found: list[type[ExpectedError]] = []
    waiting: list[type[ExpectedError]] = [Refusal, LedgerError]
    while waiting:
        kind = waiting.pop()
        waiting += [
            k for k in kind.__subclasses__() if k.__module__.split(".")[0] in ("ledger", "projections", "api")
        ]
        if kind not in (Refusal, LedgerError):
            found.append(kind)
    return found


def test_every_code_has_a_status_that_somebody_decided() -> None:
    for kind in every_error():
        decided = [kind.code in STATUS, kind.code in CONFLICTS, kind.code in TROUBLES]
        if kind.code in witnessing.STATUS and not any(decided):
            continue  # a witness answers it by its specification's words, and nobody else does
        assert decided.count(True) == 1, kind.code
        error = kind.__new__(kind)
        expected = STATUS.get(kind.code) or (409 if kind.code in CONFLICTS else 500)
        assert status_of(error) == expected, kind.code
        assert issubclass(kind, Refusal) == (expected < 500), kind.code


def test_no_status_is_decided_for_a_code_that_is_gone() -> None:
    codes = {kind.code for kind in every_error()}
    assert STATUS.keys() | CONFLICTS <= codes
    assert RETRY_SECONDS.keys() <= codes


# --- anything at all -------------------------------------------------------------------------------------------------

IDS = st.sampled_from(
    [
        name(*words)
        for words in (("wang",), ("zhao",), ("order",), ("backfill",), ("correction",), ("rating",))
    ]
    + [name("session", words) for words in ("order|wang", "backfill", "nowhere")]
)
WORDS = st.sampled_from(
    [
        "farmer",
        "own_wish",
        "squad",
        "centre",
        "lead",
        "director",
        "amend",
        "reverse",
        "approved",
        "health",
        "620523",
        "620523102",
        "culture",
        "a\x00b",
        "",
        "长" * 3000,
    ]
)
TIMES = st.sampled_from(
    [
        "2026-03-02T01:00:00Z",
        "2026-03-02T09:30:00+08:00",
        "2026-03-02T10:00:00",
        "9999-12-31T23:59:59+00:00",
        "2026-03-02",
        "0001-01-01T00:00:00+14:00",
        "0001-01-01T00:00:00Z",
        "1986-07-01T00:00:00+09:00",
    ]
)
NUMBERS = st.one_of(
    st.integers(-3, 6), st.sampled_from([2**31, 2**53 - 1, 2**53, 2**63, 10**40, -(2**64), 0.5, 1e300, True])
)
ANYTHING = st.recursive(
    st.one_of(st.none(), IDS, WORDS, TIMES, NUMBERS, st.text(max_size=20)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=6,
)
FITTING = {
    "need": st.fixed_dictionaries({"text": st.text(min_size=1, max_size=30)}),
    "reason": st.one_of(WORDS, st.text(min_size=1, max_size=30)),
    "services": st.lists(
        st.fixed_dictionaries(
            {"volunteer_id": IDS, "session_id": IDS, "started_at": TIMES, "ended_at": TIMES},
            optional={"break_minutes": NUMBERS, "checked": st.booleans()},
        ),
        max_size=3,
    ),
    "volunteer_ids": st.lists(IDS, max_size=3),
    "version": NUMBERS,
    "score": NUMBERS,
}


def value_for(field: str) -> st.SearchStrategy[Any]:
    """Mostly what the field could hold, so that many bodies get as far as the rules; sometimes anything."""
    if field in FITTING:
        fitting = FITTING[field]
    elif field.endswith("_id"):
        fitting = IDS
    elif field.endswith(("_at", "_from", "_until", "_on")):
        fitting = TIMES
    else:
        fitting = WORDS
    return st.one_of(fitting, fitting, fitting, ANYTHING)


def bodies(field_names: list[str]) -> st.SearchStrategy[Any]:
    fitting = st.fixed_dictionaries({}, optional={field: value_for(field) for field in field_names})
    whole = st.fixed_dictionaries({field: value_for(field) for field in field_names})
    return st.one_of(whole, whole, fitting, ANYTHING)


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: route.command.__name__)
@settings(max_examples=settings.default.max_examples // 2, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_no_input_brings_a_write_down(standing_town: Town, route: Any, data: st.DataObject) -> None:
    town = standing_town
    places = {"unit_id": town.station, "team_id": town.squad}
    parts = [part[1:-1] for part in route.path.split("/") if part.startswith("{")]
    path = route.path.format(**{part: places.get(part) or data.draw(IDS) for part in parts})
    body = data.draw(bodies(sorted(body_model(route).model_fields)))
    who = data.draw(st.sampled_from(["admin", "organiser", "recorder", "wang", "resident"]))
    headers = town.headers(who, Idempotency_Key="fuzz", Content_Type="application/json")
    try:
        response = town.client.post(f"/v1{path}?dry_run=true", headers=headers, json=body)
    except (UnicodeEncodeError, ValueError):  # the client itself cannot write this
        return
    assert response.status_code < 500, response.text
    assert response.status_code == 200 or response.json()["code"]


NUMBERED = st.sampled_from(["2026-00000-00000-H", "2026-00000-00000-0", "２０２６", "…/", "", "x" * 200])
CERTIFYING = {
    "/v1/certificates": ["volunteer_id", "first_on", "last_on", "replaces"],
    "/v1/certificates/{number}/print": [],
    "/v1/certificates/{number}/revoke": ["reason", "explanation"],
    "/v1/certificates/batch": ["first_on", "last_on", "unit_id"],
    "/verify/{number}": ["name", "id_number", "sha256"],
}
"""What is written about certificates, and what anybody may send; a batch here has nobody in it to be certified."""


@pytest.mark.parametrize("path", CERTIFYING)
@settings(max_examples=settings.default.max_examples // 2, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_no_input_about_certificates_brings_the_edge_down(
    standing_town: Town, path: str, data: st.DataObject
) -> None:
    town = standing_town
    town.app.state.checks = Limit()
    number = data.draw(st.one_of(st.just(town.number), NUMBERED)).replace("/", "%2F") or "-"
    body = data.draw(bodies(CERTIFYING[path]))
    who = data.draw(st.sampled_from(["organiser", "recorder", "wang", "resident"]))
    headers = town.headers(who, Idempotency_Key="fuzz", Accept="application/json")
    try:
        response = town.client.post(f"{path.format(number=number)}?dry_run=true", headers=headers, json=body)
    except (UnicodeEncodeError, ValueError):  # the client itself cannot write this
        return
    assert response.status_code < 500, response.text
    assert response.status_code < 300 or response.json()["code"]


def test_the_ledger_is_as_it_was_after_all_this(standing_town: Town) -> None:
    town = standing_town
    assert town.seen(f"/volunteers/{name('wang')}/hours", "wang")["minutes"] == 140
    assert town.parts.ledger.state(UUID(name("wang"))) is not None
