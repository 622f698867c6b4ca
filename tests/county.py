"""A small invented county on a real log, for tests: everything in it goes through the commands anybody would use."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid5

from ledger import commands as c
from ledger import ids
from ledger.application import Answer, Ledger
from ledger.certificates import number_of
from ledger.errors import Refusal
from ledger.log import LedgerLog
from ledger.rulebook import default_rulebook, local_day
from ledger.rules import Caller

START = datetime(2026, 3, 2, 1, 0, tzinfo=UTC)
LEDGER_ID = UUID("5f0c1c3e-6a55-4a1d-9d6a-3f2f4f1f0a01")
SEALED = "s1.QUJD"
DIVISIONS = ("620523100", "620523101")
VKEY = "ledger.example/county/issuer+4d3c2b1a+AeHjNyWJHJLlLkwnsp1zRZ8ZXvDk8Rm3cEHmQ8A9ZCyA"
Step = tuple[int, int, int, int]
"""What to do, with whom, where, and how long: any numbers make sense, some of them as refusals."""


def name(*parts: object) -> UUID:
    """A stable id for something invented."""
    return uuid5(LEDGER_ID, "|".join(map(str, parts)))


CLERK = Caller(name("person", "clerk"), "organiser")


@dataclass
class County:
    """A ledger with units, teams and people, and a clock that only `wait` moves."""

    url: str
    now: datetime = START
    refused: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.log = LedgerLog.create(self.url, ledger_id=LEDGER_ID, kind="demo", created_at=START)
        self.ledger = Ledger(self.log, digest=lambda b: hashlib.sha256(b).digest(), clock=lambda: self.now)
        self.admin = Caller(name("person", "admin"), "admin")
        self.orders: list[UUID] = []
        self.sessions: list[tuple[UUID, UUID]] = []
        self.requests: list[tuple[str, UUID, UUID]] = []
        self.certificates: list[str] = []
        self._found()

    def close(self) -> None:
        self.log.close()

    def wait(self, **time: float) -> None:
        self.now += timedelta(**time)

    def do(self, command: c.Command, caller: Caller | None = None, **how: Any) -> Answer:
        return self.ledger.handle(command, caller or self.admin, **how)

    def unit(self, kind: str, code: str | None = None) -> UUID:
        return ids.unit_id(LEDGER_ID, kind, code)

    def volunteer(self, number: int) -> UUID:
        return name("volunteer", number % 4)

    def as_volunteer(self, volunteer_id: UUID) -> Caller:
        return Caller(volunteer_id, "volunteer")

    def _found(self) -> None:
        self.do(c.PublishRuleBook(version=1, effective_on=local_day(self.now), book=default_rulebook()))
        self.centre = self.unit("centre")
        self.do(c.EstablishUnit(kind="centre", name="甘谷县文明实践中心", division_code="620523"))
        self.institutes = [self.unit("institute", code) for code in DIVISIONS]
        for code in DIVISIONS:
            self.do(c.EstablishUnit(kind="institute", name="所", division_code=code, parent_id=self.centre))
        self.station = self.unit("station", DIVISIONS[0] + "001")
        self.do(
            c.EstablishUnit(
                kind="station", name="站", division_code=DIVISIONS[0] + "001", parent_id=self.institutes[0]
            )
        )
        self.base = name("unit", "base")
        self.do(
            c.EstablishUnit(
                kind="base",
                name="基地",
                unit_id=self.base,
                parent_id=self.institutes[1],
                department="culture_bureau",
            )
        )
        self.corps = ids.team_id(LEDGER_ID, "corps", self.centre, None)
        self.do(c.FormTeam(kind="corps", name="总队", unit_id=self.centre))
        self.squad = ids.team_id(LEDGER_ID, "squad", self.station, None)
        self.do(c.FormTeam(kind="squad", name="小队", unit_id=self.station, parent_team_id=self.corps))
        for number in range(4):
            self.enrol(number)
            self.do(c.JoinTeam(team_id=self.squad, volunteer_id=self.volunteer(number)))

    def enrol(self, number: int) -> UUID:
        person = name("volunteer", number)
        self.do(
            c.EnrolVolunteer(
                volunteer_id=person,
                volunteer_number=f"gg-{number:04d}",
                home_unit_id=self.station,
                profile=SEALED,
                consent_document="consent-2026",
                consented_at=self.now,
                categories=("farmer", "veteran")[: number % 3],
            )
        )
        return person

    # -- an order, step by step --

    def place(self, unit_id: UUID, hours: int = 24) -> UUID:
        order_id = name("order", len(self.orders))
        self.orders.append(order_id)
        self.do(
            c.PlaceOrder(
                order_id=order_id,
                requester_id=name("resident", len(self.orders) % 3),
                unit_id=unit_id,
                activity_kind="health" if len(self.orders) % 2 else "culture",
                wanted_from=self.now + timedelta(hours=1),
                wanted_until=self.now + timedelta(hours=hours),
                need=SEALED,
            )
        )
        return order_id

    def serve(self, unit_id: UUID, volunteers: Sequence[UUID], minutes: int, checked: bool = False) -> UUID:
        """An order from placing to completion; the clock moves past the service."""
        order_id = self.place(unit_id)
        self.do(c.DispatchOrder(order_id=order_id, team_id=self.squad, volunteer_ids=tuple(volunteers)))
        for volunteer in volunteers:
            self.do(c.AcceptOrder(order_id=order_id, volunteer_id=volunteer), self.as_volunteer(volunteer))
        self.complete(order_id, volunteers, minutes, checked)
        return order_id

    def complete(self, order_id: UUID, volunteers: Sequence[UUID], minutes: int, checked: bool) -> None:
        self.wait(minutes=1)
        start, end = self.now, self.now + timedelta(minutes=minutes)
        self.now = end + timedelta(minutes=5)
        services = tuple(
            c.Service(
                volunteer_id=v,
                session_id=name("session", order_id, v),
                started_at=start,
                ended_at=end,
                checked=checked,
            )
            for v in volunteers
        )
        self.do(c.CompleteOrder(order_id=order_id, services=services))
        self.sessions += [(v, name("session", order_id, v)) for v in volunteers]

    def rate(self, order_id: UUID, score: int | None, resident: UUID) -> UUID:
        rating = name("rating", order_id, self.log.head().size)
        self.do(
            c.RateOrder(order_id=order_id, rating_id=rating, score=score, code_checked=True),
            Caller(resident, "resident"),
        )
        return rating

    def correct(self, volunteer: UUID, session: UUID, minutes: int | None, shift: int = 0) -> None:
        """Ask for other times (or, with None, a reversal) and let a second person approve."""
        record = self.ledger.state(volunteer).sessions[session]  # type: ignore[union-attr]
        request = name("request", session, self.log.head().size)
        start = record.record.started_at + timedelta(minutes=shift)
        times: dict[str, Any] = (
            {}
            if minutes is None
            else {
                "started_at": start,
                "ended_at": start + timedelta(minutes=minutes),
                "break_minutes": 0,
            }
        )
        self.do(
            c.RequestCorrection(
                volunteer_id=volunteer,
                request_id=request,
                session_id=session,
                kind="reverse" if minutes is None else "amend",
                reason=SEALED,
                **times,
            ),
            Caller(name("person", "clerk"), "organiser"),
        )
        self.do(
            c.DecideCorrection(volunteer_id=volunteer, request_id=request, verdict="approved"),
            Caller(name("person", "checker"), "organiser"),
        )

    # -- a story out of numbers --

    def tell(self, steps: Sequence[Step]) -> None:
        """Do what the steps say; what is refused leaves nothing and is counted."""
        for step in steps:
            try:
                self._step(*step)
            except Refusal as refusal:
                self.refused.append(refusal.code)

    def _step(self, what: int, who: int, where: int, long: int) -> None:
        volunteer = self.volunteer(who)
        unit = [self.centre, *self.institutes, self.station, self.base][where % 5]
        match what % 13:
            case 0 | 1 | 2:
                people = list(dict.fromkeys([volunteer, self.volunteer(who // 4)]))
                self.serve(unit, people, 10 + long * 7 % 470, checked=bool(long % 2))
            case 3:
                self.place(unit)
            case 4:
                order = self.orders[who % len(self.orders)] if self.orders else name("nothing")
                self.rate(order, 1 + long % 5 if long % 7 else None, name("resident", where % 5 + 7))
            case 5 | 6:
                if self.sessions:
                    owner, session = self.sessions[(who + where) % len(self.sessions)]
                    self.correct(owner, session, None if long % 4 == 0 else 20 + long * 11 % 300, long % 3)
            case 7:
                self.do(c.MoveUnit(unit_id=self.station, parent_id=self.institutes[where % 2]))
            case 8:
                membership = c.LeaveTeam if long % 2 else c.JoinTeam
                self.do(membership(team_id=self.squad, volunteer_id=volunteer))
            case 9:
                book = default_rulebook().model_copy(
                    update={"star_minutes": (60 + long, 600, 1200, 2400, 4800)}
                )
                tomorrow = local_day(self.now) + timedelta(days=1)
                self.do(c.PublishRuleBook(version=2 + who % 3, effective_on=tomorrow, book=book))
            case 10:
                self.do(c.RenameUnit(unit_id=unit, name=f"第{long}新名"))
            case 11:
                self.wait(hours=where * 5 + 1)
            case 12:
                self._certify(volunteer, where, long)

    def _certify(self, volunteer: UUID, where: int, long: int) -> None:
        """A certificate issued (in place of an earlier one, now and then) and printed, or one revoked."""
        today = local_day(self.now)
        if long % 8 == 0 and self.certificates:
            number = self.certificates[long % len(self.certificates)]
            self.do(c.RevokeCertificate(certificate_number=number, reason="issued_by_mistake"), CLERK)
            return
        number = number_of(hashlib.sha256(f"{self.log.head().size}".encode()).digest(), 2026)
        replaced = (
            self.certificates[long % len(self.certificates)] if where % 2 and self.certificates else None
        )
        self.do(
            c.IssueCertificate(
                certificate_number=number,
                volunteer_id=volunteer,
                first_on=today - timedelta(days=long % 40),
                last_on=today,
                holder=SEALED,
                commitment="5f" * 32,
                replaces_number=replaced,
            )
        )
        self.certificates.append(number)
        self._print(number)

    def _print(self, number: str) -> None:
        key_id = ids.issuer_key_id(LEDGER_ID, VKEY)
        if self.ledger.state(key_id) is None:
            self.do(c.RegisterIssuerKey(vkey=VKEY))
        self.do(
            c.RecordPrint(
                certificate_number=number,
                pdf_sha256=hashlib.sha256(number.encode()).hexdigest(),
                claim="AQ",
                issuer_key_id=key_id,
                checkpoint="ledger.example\n1\n",
                template_version=1,
            )
        )


def sample_steps(count: int = 60) -> list[Step]:
    """A fixed story that reaches every kind of step."""
    return [(n * 5 + n // 13, n * 3 + n // 7, n * 2 + n // 5, n * 13 % 97) for n in range(count)]
