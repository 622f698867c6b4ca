"""What nobody must see: a name, a number or a free text of a person, anywhere but before the few who may read it."""

import base64
import hashlib
import io
import json
import logging
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from urllib.parse import quote
from uuid import UUID

import httpx2
import pytest
import uvicorn

from api.batches import Work
from api.commands import ROUTES
from ledger.codec import canonical_json
from tests.api.conftest import (
    ADDRESS,
    COMMENT,
    CONTACT,
    NAME,
    NEED,
    PHONE,
    REASON,
    Copier,
    Town,
    founded,
    id_number,
    name,
    sqlite_settings,
)
from tests.api.test_auth import COLUMNS, READS, filled

NEW_NAME, NEW_PHONE, REFUSAL = "王标记改名", "13893807777", "标记需求不属于服务范围"
MARKERS = (NAME, PHONE, ADDRESS, NEED, CONTACT, REASON, COMMENT, NEW_NAME, NEW_PHONE, REFUSAL, id_number())
NUMBERS = (id_number(), PHONE, NEW_PHONE)


@cache
def forms(marker: str) -> tuple[bytes, ...]:
    """`_forms`, once for each marker."""
    return tuple(_forms(marker))


def _forms(marker: str) -> Iterator[bytes]:
    """Every way in which a text might stand in a file by accident: encodings, hex, base64, JSON and URL escapes."""
    for encoding in ("utf-8", "utf-16-le", "utf-16-be", "gb18030"):
        raw = marker.encode(encoding)
        yield raw
        yield raw.hex().encode()
        yield raw.hex().upper().encode()
        for shift in range(3):
            # The characters of base64 that depend on this text alone, wherever it begins in the whole.
            coded = base64.b64encode(b"\0" * shift + raw)[-(-shift * 4 // 3) :]
            inner = coded[: len(coded.rstrip(b"=")) - 1]
            yield inner
            yield inner.translate(bytes.maketrans(b"+/", b"-_"))
    if not marker.isascii():
        yield json.dumps(marker)[1:-1].encode()
        yield quote(marker).encode()


def found_in(data: bytes) -> list[str]:
    return [marker for marker in MARKERS if any(form in data for form in forms(marker))]


def test_the_search_finds_what_it_looks_for() -> None:
    for marker in MARKERS:
        plain = f"x{marker}y".encode()
        for hidden in (plain, plain.hex().encode(), base64.b64encode(plain), base64.b64encode(b"." + plain)):
            assert marker in found_in(hidden)
    assert found_in("王姓志愿者服务".encode()) == []


def live(town: Town) -> None:
    """Everything that takes a name, a number or a free text, done, tried, retried and refused."""
    wang = town.enrol()
    town.enrol("zhao", 124, name="赵标记", phone="13993809999")
    body = town.enrolment("copy")
    for path in ("/volunteers", "/volunteers?dry_run=true"):
        town.post(path, "organiser", body)
    for wrong in (
        {"phone": PHONE + "9"},
        {"id_number": id_number()[:-1] + "?"},
        {"name": NAME * 40},
        {NAME: NAME},
    ):
        town.post("/volunteers", "organiser", body | {"profile": body["profile"] | wrong})
    town.post("/volunteers", "organiser", body | {"volunteer_id": NAME, "volunteer_number": id_number()})
    profile = {"name": NEW_NAME, "id_number": id_number(), "phone": NEW_PHONE, "address": ADDRESS}
    town.done(f"/volunteers/{wang}/profile", "wang", {"profile": profile}, key="profile")
    town.done(f"/volunteers/{wang}/profile", "wang", {"profile": profile}, key="profile")
    town.post(f"/volunteers/{wang}/profile", "wang", {"profile": profile | {"name": NAME}}, key="profile")
    path = town.place("unwanted")
    town.done(f"{path}/reject", "organiser", {"reason": "not_our_service", "explanation": REFUSAL})
    town.post(f"{path}/reject", "organiser", {"reason": REFUSAL, "explanation": REFUSAL})
    town.post("/orders", "resident", town.order("late", wanted_until=NEED, activity_kind=NEED))
    town.post("/orders", "resident", town.order("unwanted"))
    path = town.served()
    town.rate(path)
    town.post(f"{path}/rate", "resident", {"rating_id": name("2"), "score": COMMENT, "comment": COMMENT})
    town.post(f"{path}/rate", "resident", {"rating_id": name("2"), "score": 1, "comment": COMMENT})
    town.wait(days=1)
    town.done(town.backfill(), "checker", {"verdict": "approved"})
    town.post(f"/volunteers/{wang}/backfills", "wang", {"reason": REASON, "started_at": REASON})
    certify(town)
    town.done(town.correction(kind="reverse"), "checker", {"verdict": "approved"})
    town.client.get(f"/v1/volunteers/{NAME}/{PHONE}", headers=town.headers("wang"))
    town.client.get("/v1/orders", params={"stage": NAME, "after": NAME}, headers=town.headers("wang"))


def certify(town: Town) -> None:
    """Certificates issued, printed, checked by name, rightly and wrongly, in a batch, and revoked."""
    town.issuer()
    number, now = town.certificate(), town.today
    town.printed(number)
    for typed in (NEW_NAME, NAME):
        for accept in ("application/json", "text/html"):
            town.client.post(f"/verify/{number}", headers={"Accept": accept}, data={"name": typed})
        town.client.post(f"/verify/{number}", headers={"Accept": "application/json"}, json={"name": typed})
        town.client.get(f"/verify/{typed}", headers={"Accept": "application/json"})
    town.client.post(f"/verify/{number}", headers={"Accept": "application/json"}, json={NAME: id_number()})
    town.post("/certificates", "organiser", {"volunteer_id": NAME, "first_on": now, "last_on": now})
    batch = {"first_on": "2026-03-01", "last_on": now, "volunteer_ids": [name("wang")]}
    town.post_anything("/certificates/batch", "organiser", batch)
    town.sign()
    while Work(town.parts).round():
        pass
    why = {"reason": "issued_by_mistake", "explanation": REASON}
    town.done(f"/certificates/{number}/revoke", "checker", why)
    town.post(f"/certificates/{number}/revoke", "checker", why | {"reason": NAME})


@pytest.fixture(scope="module")
def lived(town_in: Copier, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Town, Path, str]]:
    """A town after all that, its folder, and all that every library logged of it, at the most talkative."""
    folder = tmp_path_factory.mktemp("lived")
    with everything_logged() as log:
        for town in town_in(folder):
            live(town)
            yield town, folder, log.getvalue()


@contextmanager
def everything_logged() -> Iterator[io.StringIO]:
    """The text of every record of every logger; only what the test's own client says of its requests is left out."""
    written = io.StringIO()
    handler = logging.StreamHandler(written)
    handler.addFilter(lambda record: not record.name.startswith(("httpx2", "httpcore2")))
    loggers = [logging.getLogger(), logging.getLogger("sqlalchemy")]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.DEBUG)
    for source in (
        "uvicorn",
        "uvicorn.access",
        "uvicorn.error",
    ):  # a server of another test may have turned it off
        logging.getLogger(source).propagate = True
    loggers[0].addHandler(handler)
    try:
        yield written
    finally:
        loggers[0].removeHandler(handler)
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)


Lived = tuple[Town, Path, str]


def test_no_file_log_or_problem_holds_what_people_said_of_themselves(lived: Lived) -> None:
    town, folder, logged = lived
    stored = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    assert {"ledger.db", "ledger.db-wal", "ledger.keys.db", "ledger.keys.db-wal"} <= stored.keys()
    for file, data in stored.items():
        assert found_in(data) == [], file
    assert "INSERT INTO facts" in logged  # the loggers were really turned up
    assert found_in(logged.encode()) == []
    assert len(town.answers) >= 12
    for problem in town.answers:
        assert found_in(problem.encode()) == [], problem


def test_no_table_holds_it_either(lived: Lived) -> None:
    _, folder, _ = lived
    for file in ("ledger.db", "ledger.keys.db"):
        with sqlite3.connect(folder / file) as database:
            tables = [
                row[0] for row in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
            ]
            assert len(tables) >= 4
            for table in tables:
                for row in database.execute(f"SELECT * FROM {table}"):
                    for cell in row:
                        data = cell if isinstance(cell, bytes) else str(cell).encode()
                        assert found_in(data) == [], table


def test_numbers_are_kept_only_as_digests_that_nobody_can_guess(lived: Lived) -> None:
    _, folder, _ = lived
    stored = b"".join(path.read_bytes() for path in folder.iterdir() if path.is_file())
    for number in NUMBERS:
        for text in (number, number.lower(), number.upper(), "+86" + number):
            for algorithm in ("md5", "sha1", "sha256", "sha512", "blake2b", "sha3_256"):
                digest = hashlib.new(algorithm, text.encode()).digest()
                assert digest[:16] not in stored
                assert digest.hex()[:32].encode() not in stored


def test_what_a_key_stood_for_is_kept_only_as_a_keyed_digest(tmp_path: Path) -> None:
    digests = []
    for number in range(2):
        folder = tmp_path / str(number)
        folder.mkdir()
        for town in founded(sqlite_settings(folder)):
            body = town.enrolment("wang")
            town.done("/volunteers", "organiser", body, key="enrol")
            with sqlite3.connect(folder / "ledger.db") as database:
                query = "SELECT digest FROM command_outcomes WHERE command_key = 'enrol'"
                ((digest,),) = database.execute(query).fetchall()
            digests.append(digest)
            assert hashlib.sha256(canonical_json(body)).digest() != digest
    assert len(digests[0]) == 32
    assert digests[0] != digests[1]


def test_a_name_is_shown_to_its_bearer_to_their_staff_and_to_admins_only(standing_town: Town) -> None:
    town = standing_town
    staff, own = {"organiser", "recorder", "admin"}, [NAME, PHONE, ADDRESS, id_number()]
    told: dict[str, tuple[set[str], list[str]]] = {
        "/v1/volunteers/{volunteer_id}": ({"wang"} | staff, own),
        "/v1/volunteers/{volunteer_id}/export": ({"wang"}, [NAME, PHONE, ADDRESS, REASON, id_number()]),
        "/v1/certificates/{number}": ({"wang"} | staff, [NAME]),
        "/v1/orders/{order_id}": ({"resident"} | staff, [ADDRESS, NEED, CONTACT]),
    }
    for path, row in READS.items():
        for who, status in zip(COLUMNS, row, strict=True):
            text = town.get(filled(path, town).removeprefix("/v1"), who).text
            few, what = told.get(path, (set(), []))
            assert found_in(text.encode()) == (what if who in few else []), (path, who)
            assert (who in few) <= (status == 200)
    for who in ("auditor", "committee"):
        assert town.seen(f"/volunteers/{name('wang')}", who)["profile"] is None


def test_a_name_is_shown_as_it_was_last_corrected(town: Town) -> None:
    wang = town.enrol()
    profile = {"name": NEW_NAME, "phone": NEW_PHONE}
    town.done(f"/volunteers/{wang}/profile", "organiser", {"profile": profile})
    shown = town.seen(f"/volunteers/{wang}", "wang")["profile"]
    assert shown == profile | {"id_number": None, "address": None}


def test_after_erasure_the_name_is_gone_and_the_hours_stay(town: Town) -> None:
    wang = town.enrol()
    town.served()
    town.parts.keys.destroy(UUID(wang), datetime.now(UTC))
    for who in ("wang", "organiser", "admin"):
        assert set(town.seen(f"/volunteers/{wang}", who)["profile"].values()) == {"〔已删除〕"}
    assert town.seen(f"/volunteers/{wang}/hours", "wang")["minutes"] == 140
    erased = town.post(f"/volunteers/{wang}/profile", "wang", {"profile": {"name": NAME}})
    assert (erased.status_code, erased.json()["code"]) == (410, "SUBJECT_ERASED")


def test_answers_to_writes_hold_sealed_text_only(town: Town) -> None:
    answer = town.done("/volunteers", "organiser", town.enrolment("wang"))
    assert found_in(json.dumps(answer, ensure_ascii=False).encode()) == []
    assert answer["facts"][0]["data"]["profile"].startswith("s1.")


def test_every_personal_field_of_every_command_is_sealed() -> None:
    for route in ROUTES:
        sealed = {
            name
            for name, field in route.command.model_fields.items()
            if any("s1" in str(part) for part in (*field.metadata, field.annotation))
        }
        assert sealed == set(route.seals), route.path


def test_a_served_ledger_logs_no_person(town: Town, capfd: pytest.CaptureFixture[str]) -> None:
    """Through uvicorn itself, whose access log repeats the address of every request."""
    with everything_logged() as log:
        config = uvicorn.Config(town.app, port=0, lifespan="off", log_level="trace", log_config=None)
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run)
        thread.start()
        while not server.started:
            thread.join(0.01)
        host, port = server.servers[0].sockets[0].getsockname()[:2]
        try:
            with httpx2.Client(base_url=f"http://{host}:{port}/v1") as client:
                headers = town.headers("organiser", Idempotency_Key="k")
                body = town.enrolment("wang")
                assert client.post("/volunteers", json=body, headers=headers).status_code == 200
                body["profile"]["phone"] = PHONE + "99999"
                assert client.post("/volunteers", json=body, headers=headers).status_code == 422
                assert client.post("/volunteers", json={NAME: PHONE}, headers=headers).status_code == 422
        finally:
            server.should_exit = True
            thread.join()
    written = capfd.readouterr()
    assert "POST /v1/volunteers" in log.getvalue()
    assert found_in((log.getvalue() + written.out + written.err).encode()) == []
