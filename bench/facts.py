"""Facts of an invented county year, made fast and written straight to a log: what figures are measured on.

Every fact is one that the codec reads back, every stream is counted from 1 without gaps, and recording time never
falls; but no rule has judged them (a person may serve two orders at one hour). The same count and seed give the same
facts. Their shape is that of a real year: 70 % of people served under 5 hours and 1 % over 200, one session in ten
has no check-out, one in twenty is back-filled, one in a hundred is corrected and one in a thousand reversed.
"""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import islice
from random import Random
from typing import Any
from uuid import UUID, uuid5

import orjson
from eventsourcing.persistence import StoredEvent

from ledger import events, ids
from ledger.codec import canonical_json, instant_text
from ledger.log import LedgerLog
from ledger.rulebook import CHINA, default_rulebook

START = datetime(2025, 1, 1, tzinfo=UTC)
LEDGER_ID = UUID("5f0c1c3e-6a55-4a1d-9d6a-3f2f4f1f0b01")
YEAR_SECONDS = 365 * 86_400
FACTS_PER_PERSON = 45
"""How many facts a county year holds for each volunteer, on average, with the hours below."""
KINDS = ("theory", "culture", "schooling", "health", "science", "law", "ecology", "relief", "other")
PROFILE = "s1." + "QUJDREVG" * 12
"""Stands for sealed personal fields of the usual length."""
NEED = "s1." + "QUJDREVG" * 8


@dataclass
class Service:
    """One order on its way: who serves it, how long each, and where."""

    order_id: UUID
    unit_id: UUID
    team_id: UUID
    kind: str
    served: dict[UUID, int]
    """Minutes by volunteer."""


def stored_facts(count: int, seed: int = 1) -> Iterator[StoredEvent]:
    """Exactly ``count`` facts, in the order of the log."""
    return islice(_Year(count, seed).facts(), count)


def write(log: LedgerLog, count: int, batch: int = 2_000) -> None:
    """Append ``count`` facts to an empty log."""
    facts = stored_facts(count)
    while some := list(islice(facts, batch)):
        log.insert_events(some)


def entries(count: int, recorded_at: datetime = START) -> list[StoredEvent]:
    """Posted entries, each the first of a stream of its own, so that writers never meet; all recorded at one moment."""
    dice, now = Random(), instant_text(recorded_at)
    ids_ = (UUID(int=dice.getrandbits(128), version=4) for _ in range(count))
    return [StoredEvent(stream, 1, events.EntryPosted.TOPIC, _entry_state(stream, now)) for stream in ids_]


def _entry_state(stream: UUID, now: str) -> bytes:
    fields = {
        "happened_at": now,
        "recorded_at": now,
        "caller_id": LEDGER_ID,
        "command_id": stream,
        "class_version": 1,
        "entry_id": uuid5(stream, "entry"),
        "session_id": stream,
        "order_id": LEDGER_ID,
        "unit_id": LEDGER_ID,
        "activity_kind": "health",
        "served_on": "2025-01-01",
        "minutes": 90,
        "services": 1,
        "source_class": "confirmed",
        "inferred": False,
        "late": False,
        "reverses_entry_id": None,
        "rulebook_version": 1,
    }
    return canonical_json(fields)


def renewed(count: int, recorded_at: datetime) -> list[StoredEvent]:
    """Orders, offers, entries and ratings in turn, each the first of a new stream: what a live ledger takes in."""
    wanted = (events.OrderPlaced, events.OrderOffered, events.EntryPosted, events.RatingCredited)
    samples = {fact.topic: orjson.loads(fact.state) for fact in stored_facts(2_000)}
    dice, now = Random(), instant_text(recorded_at)
    found = []
    for number in range(count):
        topic = wanted[number % len(wanted)].TOPIC
        state = canonical_json({**samples[topic], "recorded_at": now})
        found.append(StoredEvent(UUID(int=dice.getrandbits(128), version=4), 1, topic, state))
    return found


def skew(count: int, seed: int = 1) -> dict[str, float]:
    """How the hours of the same facts are spread: how many people, and the shares of them under 5 h and over 200 h."""
    minutes = [sum(own) for own in _targets(Random(seed), max(8, count // FACTS_PER_PERSON))]
    people = len(minutes)
    return {
        "people": people,
        "under_5_hours": sum(m < 300 for m in minutes) / people,
        "over_200_hours": sum(m > 12_000 for m in minutes) / people,
    }


def _targets(dice: Random, people: int) -> list[list[int]]:
    """For each person the minutes of each session they will serve."""
    found = []
    for number in range(people):
        place = number % 100
        hours = dice.uniform(0.5, 5) if place < 70 else dice.lognormvariate(3, 0.8) if place < 99 else 0.0
        hours = dice.uniform(200, 320) if place == 99 else min(max(hours, 0.5), 199)
        sessions = max(1, round(hours / 2.2))
        found.append([max(10, int(hours * 60 / sessions))] * sessions)
    return found


class _Year:
    """The facts of one year, one after the other; versions and the clock move as they are made."""

    def __init__(self, count: int, seed: int) -> None:
        self._dice = Random(seed)
        self._versions: dict[UUID, int] = {}
        self._second = 0.0
        self._admin = self._id()
        people = max(8, count // FACTS_PER_PERSON)
        self._people = [self._id() for _ in range(people)]
        self._turns = [
            (person, minutes)
            for person, own in zip(self._people, _targets(Random(seed), people), strict=True)
            for minutes in own
        ]
        self._pace = YEAR_SECONDS / max(1, len(self._turns) // 2)
        self._centre = ids.unit_id(LEDGER_ID, "centre", "620523")
        self._institutes = [f"620523{100 + n}" for n in range(max(2, min(15, people // 50)))]
        self._stations = [
            f"{self._institutes[n % len(self._institutes)]}{n:03d}"
            for n in range(max(4, min(405, people // 20)))
        ]

    def facts(self) -> Iterator[StoredEvent]:
        """Founding, enrolment, then orders without end, each completed three days after it was placed."""
        yield from self._founding()
        for number, person in enumerate(self._people):
            yield from self._enrolment(number, person)
        open_ = deque[Service]()
        days_open = int(3 * 86_400 / self._pace)
        while True:
            self._dice.shuffle(self._turns)
            turns = iter(self._turns)
            while some := list(islice(turns, self._dice.choice((1, 1, 2, 2, 3, 4)))):
                self._second += self._pace * len(some) / 2
                service = self._service(dict(some))
                yield from self._placed(service)
                open_.append(service)
                if len(open_) > days_open:
                    yield from self._completed(open_.popleft())

    # -- parts of a fact --

    def _id(self) -> UUID:
        return UUID(int=self._dice.getrandbits(128), version=4)

    def _now(self, hours: float = 0) -> str:
        return instant_text(START + timedelta(seconds=self._second + hours * 3600))

    def _fact(
        self, event: type[events.Fact], stream: UUID, caller: UUID, command: UUID, **fields: Any
    ) -> StoredEvent:
        version = self._versions.get(stream, 0) + 1
        self._versions[stream] = version
        now = self._now()
        fields |= {
            "happened_at": now,
            "recorded_at": now,
            "caller_id": caller,
            "command_id": command,
            "class_version": event.class_version,
        }
        return StoredEvent(stream, version, event.TOPIC, canonical_json(fields))

    # -- what happens --

    def _founding(self) -> Iterator[StoredEvent]:
        book = {
            "rulebook_version": 1,
            "effective_on": START.astimezone(CHINA).date(),
            "book": default_rulebook(),
        }
        rulebook = ids.rulebook_id(LEDGER_ID)
        yield self._fact(events.RuleBookPublished, rulebook, self._admin, self._id(), **book)
        yield self._unit("centre", "620523", None)
        for code in self._institutes:
            yield self._unit("institute", code, self._centre)
        for code in self._stations:
            yield self._unit("station", code, ids.unit_id(LEDGER_ID, "institute", code[:9]))
        for code in self._stations:
            unit = ids.unit_id(LEDGER_ID, "station", code)
            squad = {"kind": "squad", "category": None, "name": "志愿服务小队", "parent_team_id": None}
            team = ids.team_id(LEDGER_ID, "squad", unit, None)
            yield self._fact(events.TeamFormed, team, self._admin, self._id(), unit_id=unit, **squad)

    def _unit(self, kind: str, code: str, parent: UUID | None) -> StoredEvent:
        fields = {"kind": kind, "name": f"甘谷县文明实践第{code}", "department": None, "division_code": code}
        unit = ids.unit_id(LEDGER_ID, kind, code)
        return self._fact(events.UnitEstablished, unit, self._admin, self._id(), parent_id=parent, **fields)

    def _enrolment(self, number: int, person: UUID) -> Iterator[StoredEvent]:
        unit = ids.unit_id(LEDGER_ID, "station", self._stations[number % len(self._stations)])
        command = self._id()
        yield self._fact(
            events.VolunteerEnrolled,
            person,
            person,
            command,
            volunteer_number=f"gg-{number:06d}",
            home_unit_id=unit,
            profile=PROFILE,
            consent_document="consent-2026",
            consented_at=self._now(),
            relayed=False,
        )
        if number % 4 == 0:
            yield self._fact(
                events.VolunteerCategoryDeclared, person, person, command, category="party_member"
            )
        team = ids.team_id(LEDGER_ID, "squad", unit, None)
        joined = {"volunteer_id": person, "relayed": False}
        yield self._fact(events.TeamMemberJoined, team, person, self._id(), **joined)

    def _service(self, served: dict[UUID, int]) -> Service:
        unit = ids.unit_id(LEDGER_ID, "station", self._dice.choice(self._stations))
        team = ids.team_id(LEDGER_ID, "squad", unit, None)
        return Service(self._id(), unit, team, self._dice.choice(KINDS), served)

    def _placed(self, service: Service) -> Iterator[StoredEvent]:
        order, unit = service.order_id, service.unit_id
        resident = self._dice.choice(self._people)
        yield self._fact(
            events.OrderPlaced,
            order,
            resident,
            self._id(),
            requester_id=resident,
            unit_id=unit,
            activity_kind=service.kind,
            wanted_from=self._now(24),
            wanted_until=self._now(72),
            need=NEED,
            relayed=False,
        )
        command = self._id()
        team = {"unit_id": unit, "team_id": service.team_id}
        yield self._fact(events.OrderDispatched, order, self._admin, command, **team)
        for person in service.served:
            offer = {"unit_id": unit, "volunteer_id": person, "expires_at": self._now(24)}
            yield self._fact(events.OrderOffered, order, self._admin, command, **offer)
        for person in service.served:
            yield self._fact(
                events.OrderAccepted, order, person, self._id(), unit_id=unit, volunteer_id=person
            )

    def _completed(self, service: Service) -> Iterator[StoredEvent]:
        order, unit, command = service.order_id, service.unit_id, self._id()
        sessions = []
        for person, minutes in service.served.items():
            session = self._id()
            sessions.append((person, session))
            yield from self._session(service, command, person, session, minutes)
        for person, session in sessions:
            served = {"unit_id": unit, "volunteer_id": person, "session_id": session}
            yield self._fact(events.OrderServed, order, self._admin, command, **served)
        yield self._fact(
            events.OrderCompleted,
            order,
            self._admin,
            command,
            unit_id=unit,
            team_id=service.team_id,
            activity_kind=service.kind,
            recorder_id=self._admin,
            volunteers=len(sessions),
        )
        if self._dice.random() < 0.6:
            yield from self._rating(service)
        if self._dice.random() < 0.022:
            person, session = sessions[0]
            yield from self._correction(service, person, session, service.served[person])

    def _session(
        self, service: Service, command: UUID, person: UUID, session: UUID, minutes: int
    ) -> Iterator[StoredEvent]:
        common = self._common(service, session)
        yield self._fact(
            events.SessionRecorded,
            person,
            self._admin,
            command,
            **common,
            team_id=service.team_id,
            started_at=self._now(-minutes / 60),
            ended_at=self._now(),
            break_minutes=0,
            responsible_id=self._admin,
            recorder_id=self._admin,
            approver_id=self._admin if common["source_class"] == "backfilled" else None,
        )
        yield self._entry(person, command, common, session, 1, minutes, None)

    def _common(self, service: Service, session: UUID) -> dict[str, Any]:
        """What a session and its entries share; the class and the flags follow from the session's id."""
        chance = session.int % 100
        source = "backfilled" if chance < 5 else "machine" if chance < 45 else "confirmed"
        return {
            "session_id": session,
            "order_id": service.order_id,
            "unit_id": service.unit_id,
            "activity_kind": service.kind,
            "source_class": source,
            "inferred": chance >= 90,
            "late": False,
            "rulebook_version": 1,
        }

    def _entry(
        self,
        person: UUID,
        command: UUID,
        common: dict[str, Any],
        session: UUID,
        revision: int,
        minutes: int,
        reverses: UUID | None,
        served_on: str | None = None,
    ) -> StoredEvent:
        day = served_on or (START + timedelta(seconds=self._second)).astimezone(CHINA).date().isoformat()
        entry = uuid5(session, f"entry|{revision}")
        return self._fact(
            events.EntryPosted,
            person,
            self._admin,
            command,
            **common,
            entry_id=ids.reversal_id(reverses) if reverses else entry,
            served_on=day,
            minutes=minutes,
            services=-1 if reverses else 1,
            reverses_entry_id=reverses,
        )

    def _rating(self, service: Service) -> Iterator[StoredEvent]:
        rating, command, score = self._id(), self._id(), self._dice.choice((3, 4, 4, 5, 5, 5))
        rater = self._dice.choice(self._people)
        yield self._fact(
            events.OrderRated,
            service.order_id,
            rater,
            command,
            rating_id=rating,
            unit_id=service.unit_id,
            rater_id=rater,
            score=score,
            comment=None,
            late=False,
            relayed=False,
            rulebook_version=1,
        )
        credit = {"order_id": service.order_id, "rating_id": rating, "unit_id": service.unit_id}
        for person in service.served:
            yield self._fact(events.RatingCredited, person, rater, command, **credit, score=score, ratings=1)

    def _correction(
        self, service: Service, person: UUID, session: UUID, minutes: int
    ) -> Iterator[StoredEvent]:
        """Nine in ten get other times, one in ten counts for nothing."""
        amend, request, command = self._dice.random() < 0.9, self._id(), self._id()
        asked = {"request_id": request, "session_id": session, "kind": "amend" if amend else "reverse"}
        shorter = max(5, minutes - 5)
        times: dict[str, Any] = {"started_at": None, "ended_at": None, "break_minutes": None}
        if amend:
            times = {"started_at": self._now(-shorter / 60), "ended_at": self._now(), "break_minutes": 0}
        yield self._fact(
            events.CorrectionRequested, person, person, self._id(), **asked, **times, reason="s1.QUJD"
        )
        decided = {"verdict": "approved", "requested_by_id": person}
        yield self._fact(events.CorrectionDecided, person, self._admin, command, **asked, **decided)
        common, books = self._common(service, session), {"rulebook_version": 1, "current_rulebook_version": 1}
        revised = {"session_id": session, "request_id": request, "revision": 2, **books}
        if amend:
            held = {"source_class": common["source_class"], "late": False}
            yield self._fact(
                events.SessionCorrected, person, self._admin, command, **revised, **times, **held
            )
        else:
            yield self._fact(events.SessionReversed, person, self._admin, command, **revised)
        first = uuid5(session, "entry|1")
        yield self._entry(person, command, common, session, 2, -minutes, first)
        if amend:
            yield self._entry(person, command, common, session, 2, shorter, None)
