"""A small town behind the HTTP edge: real settings, real databases, real keys, and a clock that only `wait` moves."""

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4, uuid5

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from api.app import create_app
from api.batches import Work
from api.parts import Parts, create, open_parts
from api.settings import Settings, read_settings
from ledger import ids
from ledger.checkpoint import SignerKey
from ledger.personal_numbers import check_character
from ledger.rulebook import default_rulebook, local_day
from ledger.signer import Signer
from ledger.signing_keys import create_key_file

START = datetime(2026, 3, 2, 1, 0, tzinfo=UTC)
LEDGER_ID = UUID("5f0c1c3e-6a55-4a1d-9d6a-3f2f4f1f0a02")
DIVISION = "620523100"
OTHER_DIVISION = "620523101"

NAME, PHONE, ADDRESS = "王标记桂兰", "13893801234", "甘谷县标记巷十七号"
NEED, CONTACT = "标记需要陪同就医", "李标记大爷"
REASON, COMMENT = "标记签到机坏了", "标记服务很周到"


def name(*parts: object) -> str:
    """A stable id for somebody or something invented."""
    return str(uuid5(LEDGER_ID, "|".join(map(str, parts))))


def id_number(serial: int = 123) -> str:
    """A well-formed identity number of nobody."""
    first = f"62052319900307{serial:03d}"
    return first + check_character(first)


@dataclass
class Town:
    """An open ledger with its HTTP client. Reads wait for the last write, unless they say otherwise."""

    settings: Settings
    parts: Parts
    app: FastAPI
    client: TestClient
    now: datetime = START
    last: int = 0
    keys: dict[str, str] = field(default_factory=dict)
    answers: list[str] = field(default_factory=list)
    number: str = ""
    """Of a printed certificate of Wang's, where the town stands for reading only."""
    operation: str = ""
    """A finished batch, asked for by the organiser, there too."""

    def wait(self, **time: float) -> None:
        self.now += timedelta(**time)

    def at(self, **time: float) -> str:
        """An instant so long after now, as text."""
        return (self.now + timedelta(**time)).isoformat()

    def account(self, who: str, role: str, unit_id: str | None = None) -> str:
        """Give ``who`` a key under their name; their person id is ``name(who)``."""
        key = self.parts.accounts.add(UUID(name(who)), role, UUID(unit_id) if unit_id else None)
        self.keys[who] = key
        return key

    def headers(self, who: str | None, **more: str) -> dict[str, str]:
        own = {"Authorization": f"Bearer {self.keys[who]}"} if who else {}
        return own | {header.replace("_", "-"): value for header, value in more.items()}

    def get(self, path: str, who: str | None, *, fresh: bool = True, **params: Any) -> Any:
        headers = self.headers(who, **({"Ledger_Min_Position": str(self.last)} if fresh else {}))
        return self._kept(self.client.get(f"/v1{path}", headers=headers, params=params or None))

    def post(self, path: str, who: str | None, body: Any, key: str | None = "", **headers: str) -> Any:
        """``key`` None sends none; left out, a new one is used."""
        response = self.post_anything(path, who, body, key, **headers)
        if response.status_code == 200 and not response.json()["dry_run"]:
            self.last = max(self.last, response.json()["last_position"])
        return response

    def post_anything(
        self, path: str, who: str | None, body: Any, key: str | None = "", **headers: str
    ) -> Any:
        """The same for what is no command; it waits for the last write."""
        if key is not None:
            headers = {"Idempotency_Key": key or uuid4().hex, **headers}
        headers["Ledger_Min_Position"] = str(self.last)
        return self._kept(self.client.post(f"/v1{path}", headers=self.headers(who, **headers), json=body))

    def done(self, path: str, who: str, body: Any, **how: Any) -> Any:
        """A write that must succeed; its JSON."""
        response = self.post(path, who, body, **how)
        assert response.status_code == 200, response.text
        return response.json()

    def seen(self, path: str, who: str, **how: Any) -> Any:
        """A read that must succeed; its JSON."""
        response = self.get(path, who, **how)
        assert response.status_code == 200, response.text
        return response.json()

    def _kept(self, response: Any) -> Any:
        if response.status_code >= 400:
            self.answers.append(response.text)
        return response

    # -- what stands in the town --

    def unit(self, kind: str, code: str) -> str:
        return str(ids.unit_id(LEDGER_ID, kind, code))  # type: ignore[arg-type]

    @property
    def station(self) -> str:
        return self.unit("station", f"{DIVISION}001")

    @property
    def squad(self) -> str:
        return str(ids.team_id(LEDGER_ID, "squad", UUID(self.station), None))

    def found(self) -> None:
        """Rule book, units, a corps and a squad, and a key for everybody who works here."""
        self.account("admin", "admin")
        book = default_rulebook().model_dump(mode="json")
        self.done("/rulebooks", "admin", {"version": 1, "effective_on": "2026-03-02", "book": book})
        centre, institute = self.unit("centre", "620523"), self.unit("institute", DIVISION)
        places = (
            {"kind": "centre", "name": "甘谷县文明实践中心", "division_code": "620523"},
            {"kind": "institute", "name": "大像山所", "division_code": DIVISION, "parent_id": centre},
            {"kind": "institute", "name": "磐安所", "division_code": OTHER_DIVISION, "parent_id": centre},
            {"kind": "station", "name": "站", "division_code": f"{DIVISION}001", "parent_id": institute},
        )
        for place in places:
            self.done("/units", "admin", place)
        self.done("/teams", "admin", {"kind": "corps", "name": "总队", "unit_id": centre})
        corps = str(ids.team_id(LEDGER_ID, "corps", UUID(centre), None))
        squad = {"kind": "squad", "name": "小队", "unit_id": self.station, "parent_team_id": corps}
        self.done("/teams", "admin", squad)
        for who, role in (("organiser", "organiser"), ("checker", "organiser"), ("recorder", "recorder")):
            self.account(who, role, self.station)
        self.account("dispatcher", "dispatcher", institute)
        self.account("stranger", "organiser", self.unit("institute", OTHER_DIVISION))
        self.account("auditor", "auditor")
        self.account("committee", "committee")

    def enrolment(self, who: str, serial: int = 123, **profile: str | None) -> dict[str, Any]:
        own = {"name": NAME, "id_number": id_number(serial), "phone": PHONE, "address": ADDRESS}
        return {
            "volunteer_id": name(who),
            "volunteer_number": f"gg-{serial:04d}",
            "home_unit_id": self.station,
            "profile": own | profile,
            "consent_document": "consent-2026",
            "consented_at": self.at(),
            "categories": ["farmer"],
        }

    def enrol(self, who: str = "wang", serial: int = 123, **profile: str | None) -> str:
        """A volunteer with a key of their own, in the squad."""
        self.account(who, "volunteer")
        self.done("/volunteers", "organiser", self.enrolment(who, serial, **profile))
        self.done(f"/teams/{self.squad}/join", who, {"volunteer_id": name(who)})
        return name(who)

    def sign(self) -> SignerKey:
        """A checkpoint over everything so far; the key that signed it."""
        key = SignerKey("ledger.example/town", bytes(32))
        state = self.settings.master_key.with_name("signer.json")
        with Signer(self.parts.log, state, [key], key.name) as signer:
            signer.sign_once()
        return key

    def issuer(self) -> str:
        """The key of the settings, made and registered; its id."""
        assert self.settings.certificate_key is not None
        key = create_key_file(self.settings.certificate_key, "ledger.example/town/issuer")
        done = self.done("/issuer-keys", "admin", {"vkey": key.verifier_key.to_text()})
        return str(done["facts"][0]["stream_id"])

    def certificate(self, who: str = "wang", by: str = "organiser", **how: Any) -> str:
        """One for everything that somebody served this month so far; its number."""
        asked = {"volunteer_id": name(who), "first_on": "2026-03-01", "last_on": self.today}
        return str(self.done("/certificates", by, asked | how)["number"])

    def printed(self, number: str, by: str = "wang") -> bytes:
        """Signed, printed and fetched."""
        self.sign()
        self.done(f"/certificates/{number}/print", by, {})
        response = self.get(f"/certificates/{number}.pdf", by)
        assert response.status_code == 200, response.text
        return bytes(response.content)

    def batch_of_nobody(self) -> str:
        """A batch for somebody who is not there, worked off; its id."""
        body = {"first_on": self.today, "last_on": self.today, "volunteer_ids": [name("nobody")]}
        operation: str = self.post_anything("/certificates/batch", "organiser", body).json()["operation_id"]
        while Work(self.parts).round():
            pass
        return operation

    @property
    def today(self) -> str:
        return local_day(self.now).isoformat()

    # -- an order, step by step --

    def order(self, order: str, **changes: Any) -> dict[str, Any]:
        need = {"text": NEED, "place": ADDRESS, "contact_name": CONTACT, "contact_phone": "13993805678"}
        return {
            "order_id": name(order),
            "requester_id": name("resident"),
            "unit_id": self.station,
            "activity_kind": "health",
            "wanted_from": self.at(hours=1),
            "wanted_until": self.at(hours=9),
            "need": need,
        } | changes

    def place(self, order: str = "order") -> str:
        if "resident" not in self.keys:
            self.account("resident", "resident")
        self.done("/orders", "resident", self.order(order))
        return f"/orders/{name(order)}"

    def accepted(self, order: str = "order", who: str = "wang") -> str:
        """Placed, dispatched and accepted; its path."""
        path = self.place(order)
        self.done(f"{path}/dispatch", "dispatcher", {"team_id": self.squad, "volunteer_ids": [name(who)]})
        self.done(f"{path}/accept", who, {"volunteer_id": name(who)})
        return path

    def service(self, order: str = "order", who: str = "wang", minutes: int = 150) -> dict[str, Any]:
        """A service that began now; the clock moves past its end."""
        service = {
            "volunteer_id": name(who),
            "session_id": name("session", order, who),
            "started_at": self.at(),
            "ended_at": self.at(minutes=minutes),
            "break_minutes": 10,
        }
        self.wait(minutes=minutes + 5)
        return service

    def served(self, order: str = "order", who: str = "wang", minutes: int = 150) -> str:
        """Completed by the recorder; its path."""
        path = self.accepted(order, who)
        self.wait(minutes=1)
        self.done(f"{path}/complete", "recorder", {"services": [self.service(order, who, minutes)]})
        return path

    def rate(self, path: str, score: int | None = 5, rating: str = "rating") -> Any:
        code = self.seen(f"{path}/rating-code", "resident")["code"]
        body = {"rating_id": name(rating), "score": score, "code": code, "comment": COMMENT}
        return self.done(f"{path}/rate", "resident", body)

    def backfill(self, request: str = "backfill", **changes: Any) -> str:
        """Asked for by the volunteer; the path of its decision."""
        body = {
            "request_id": name(request),
            "session_id": name("session", request),
            "unit_id": self.station,
            "activity_kind": "culture",
            "started_at": self.at(hours=-10),
            "ended_at": self.at(hours=-9),
            "reason": REASON,
        } | changes
        path = f"/volunteers/{name('wang')}/backfills"
        self.done(path, "wang", body)
        return f"{path}/{name(request)}/decide"

    def correction(self, request: str = "correction", session: str = "", **changes: Any) -> str:
        """Asked for by the volunteer; the path of its decision."""
        body = {
            "request_id": name(request),
            "session_id": session or name("session", "order", "wang"),
            "kind": "amend",
            "reason": REASON,
        } | changes
        path = f"/volunteers/{name('wang')}/corrections"
        self.done(path, "wang", body)
        return f"{path}/{name(request)}/decide"


def opened(settings: Settings) -> Iterator[Town]:
    """The ledger of these settings, open until the test is over, its figures following."""
    town: Town | None = None
    parts = open_parts(settings, clock=lambda: town.now if town else START)
    app = create_app(parts)
    with TestClient(app, raise_server_exceptions=False) as client:
        town = Town(settings, parts, app, client, last=parts.log.head().size)
        yield town
    parts.close()


def founded(settings: Settings) -> Iterator[Town]:
    """A new ledger with `Town.found` in it."""
    create(settings, ledger_id=LEDGER_ID, created_at=START)
    for town in opened(settings):
        town.found()
        yield town


def sqlite_settings(folder: Path) -> Settings:
    return read_settings(
        database=f"sqlite:///{folder / 'ledger.db'}",
        busy_seconds=0.3,
        certificate_key=folder / "issuer.key",
        public_url="https://ledger.example/gangu/",
    )


Copier = Callable[[Path], Iterator[Town]]


@pytest.fixture(scope="session")
def town_in(tmp_path_factory: pytest.TempPathFactory) -> Copier:
    """Opens a town on SQLite in a folder: a copy of one that was founded once, with the same accounts."""
    original, keys = tmp_path_factory.mktemp("founded"), {}
    for town in founded(sqlite_settings(original)):
        keys = dict(town.keys)

    def copy(folder: Path) -> Iterator[Town]:
        shutil.copytree(original, folder, dirs_exist_ok=True)
        for town in opened(sqlite_settings(folder)):
            town.keys |= keys
            yield town

    return copy


@pytest.fixture
def town(town_in: Copier, tmp_path: Path) -> Iterator[Town]:
    """A town on SQLite."""
    yield from town_in(tmp_path)


@pytest.fixture(scope="module")
def standing_town(town_in: Copier, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Town]:
    """A town for tests that only read, or are refused: one served and rated order, requests, a second volunteer."""
    for town in town_in(tmp_path_factory.mktemp("town")):
        town.enrol()
        town.enrol("zhao", 124, name="赵标记", phone="13993809999")
        town.rate(town.served())
        town.backfill()
        town.correction(kind="reverse")
        town.issuer()
        town.number = town.certificate()
        town.printed(town.number)
        town.operation = town.batch_of_nobody()
        yield town


@pytest.fixture(params=["sqlite", "postgresql"])
def town_anywhere(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Town]:
    """A town on each database in turn; the keys of the one on PostgreSQL lie in an SQLite file."""
    if request.param == "sqlite":
        yield from founded(sqlite_settings(tmp_path))
        return
    yield from founded(
        read_settings(
            database=request.getfixturevalue("postgres_url"),
            keys=f"sqlite:///{tmp_path / 'keys.db'}",
            master_key_file=tmp_path / "master",
            certificate_key=tmp_path / "issuer.key",
            follow=True,
        )
    )
