"""Some months of the county's life as dated requests: enrolments, orders, services, ratings, back-fills, corrections.

Time runs in ticks of half an hour; requests of one tick are made together. The same seed tells the same story.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta
from random import Random
from typing import Any
from uuid import UUID

from api.demo.county import County, Person
from api.demo.words import COMMENTS, NEEDS, id_number, person_name, phone
from ledger import commands as c
from ledger.events import ActivityKind
from ledger.rulebook import CHINA
from ledger.rules import Caller

LAST_DAY = date(2026, 10, 31)
TICK = timedelta(minutes=30)
KINDS: tuple[ActivityKind, ...] = (
    "theory", "culture", "schooling", "health", "science", "law", "ecology", "relief", "other",
)  # fmt: skip
WEIGHTS = (8, 18, 12, 20, 7, 4, 16, 3, 12)

BACKFILLED_EVERY, UNCHECKED_EVERY, AMENDED_EVERY, VOIDED_EVERY = 19, 10, 100, 1000
"""One service in so many is back-filled, one session lacks its check-out …: so even a short story has its share."""

Seal = Callable[[str, UUID, dict[str, str | None]], str]
Served = tuple[Person, UUID, datetime, datetime]
"""Somebody's recorded session, from when to when."""


@dataclass(frozen=True)
class Step:
    """One request of the story. ``label`` names the fraud it attempts, if it does (F03 …)."""

    at: datetime
    command: c.Command
    caller: Caller
    label: str | None = None


@dataclass
class Service:
    """A planned service: who goes where, when, and for how long."""

    people: Sequence[Person]
    day: date
    start: datetime
    minutes: int
    number: int


@dataclass
class Story:
    """Everything that will be asked, in the order of time."""

    county: County
    seed: int
    months: int
    seal: Seal
    steps: dict[datetime, list[Step]] = field(default_factory=lambda: defaultdict(list))
    served: list[Served] = field(default_factory=list)
    voided: set[UUID] = field(default_factory=set)
    requesters: dict[UUID, UUID] = field(default_factory=dict)
    joined: dict[UUID, date] = field(default_factory=dict)
    busy: dict[UUID, set[date]] = field(default_factory=lambda: defaultdict(set))

    def __post_init__(self) -> None:
        self.random = Random(f"{self.seed}|story")
        month = LAST_DAY.year * 12 + LAST_DAY.month - self.months
        self.first_day = date(month // 12, month % 12 + 1, 1)
        self.end = datetime.combine(LAST_DAY, time(23, 30), CHINA).astimezone(UTC)

    @property
    def begins(self) -> datetime:
        return datetime.combine(self.first_day, time(8), CHINA).astimezone(UTC)

    def told(self, also: Callable[["Story"], None]) -> Iterator[list[Step]]:
        """The steps of each tick, in order; ``also`` adds its own before they are told."""
        self._found()
        self._enrol()
        for service in self._services():
            self._order(service)
        self._unserved()
        also(self)
        for tick in sorted(self.steps):
            if tick <= self.end:
                yield self.steps[tick]

    def add(self, at: datetime, command: c.Command, caller: Caller, label: str | None = None) -> datetime:
        """Ask at the tick on or after ``at``; returns that tick."""
        tick = ticked(at)
        self.steps[tick].append(Step(tick, command, caller, label))
        return tick

    # -- beginnings --

    def _found(self) -> None:
        self.add(self.begins, self.county.rule_book(self.first_day), self.county.admin)
        for command in self.county.founding():
            self.add(self.begins, command, self.county.admin)

    def _enrol(self) -> None:
        """Half before the first service, the others over the first two thirds of the time."""
        days = (LAST_DAY - self.first_day).days
        for person in self.county.people:
            early = person.appetite == "heavy" or self.random.random() < 0.5
            day = self.first_day + timedelta(
                days=0 if early else self.random.randrange(max(1, days * 2 // 3))
            )
            at = datetime.combine(day, time(9 + self.random.randrange(8)), CHINA).astimezone(UTC)
            self.joined[person.person_id] = day
            self._enrol_one(person, at)

    def _enrol_one(self, person: Person, at: datetime) -> None:
        caller = Caller(person.person_id, "volunteer")
        profile = self.seal("volunteer.enrolled", person.person_id, self.profile(person))
        book = self.county.rule_book(self.first_day)
        assert isinstance(book, c.PublishRuleBook)
        enrol = c.EnrolVolunteer(
            volunteer_id=person.person_id,
            volunteer_number=f"gg-{person.number + 1:06}",
            home_unit_id=person.squad.unit_id,
            profile=profile,
            consent_document="consent.2026.1",
            consented_at=ticked(at),
            categories=tuple(
                self.random.sample(book.book.volunteer_categories, self.random.choice((0, 1, 1, 2)))
            ),
        )
        self.add(at, enrol, caller)
        self.add(
            at, c.JoinTeam(team_id=self.county.squad(person.squad), volunteer_id=person.person_id), caller
        )

    def profile(self, person: Person) -> dict[str, str | None]:
        """The invented personal data of a volunteer: the same for the same seed."""
        random = Random(f"{self.seed}|profile|{person.number}")
        return {
            "name": person_name(random),
            "id_number": id_number(person.number, random),
            "phone": phone(person.number),
            "address": None,
        }

    # -- services --

    def _services(self) -> Iterator[Service]:
        """What each person will serve, shared among squad mates of the same appetite; one service a person and day."""
        left = {person.person_id: self._sessions_of(person) for person in self.county.people}
        mates: dict[tuple[UUID, str], list[Person]] = defaultdict(list)
        for person in self.county.people:
            mates[(person.squad.unit_id, person.appetite)].append(person)
        number = 0
        for person in self.county.people:
            while left[person.person_id] > 0:
                number += 1
                others = [
                    mate
                    for mate in mates[(person.squad.unit_id, person.appetite)]
                    if left[mate.person_id] > 0 and mate != person
                ]
                company = min(len(others), self.random.choice((0, 0, 1, 1, 2)))
                group = [person, *self.random.sample(others, company)]
                day = self._free_day(group)
                for one in group:
                    left[one.person_id] -= 1
                if day is not None:
                    yield self._service(group, day, number)

    def _sessions_of(self, person: Person) -> int:
        scale = self.months / 6
        if person.appetite == "heavy":
            return round(self.random.randint(48, 60) * scale)
        if person.appetite == "middling":
            return max(4, round(min(40, self.random.lognormvariate(2.1, 0.5)) * scale))
        return self.random.choice((0, 1, 1, 2))

    def _free_day(self, group: Sequence[Person]) -> date | None:
        first = max(self.joined[p.person_id] for p in group) + timedelta(days=3)
        span = (LAST_DAY - first).days - 2
        for _ in range(20):
            if span <= 0:
                return None
            day = first + timedelta(days=self.random.randrange(span))
            if all(self.is_free(one, day) for one in group):
                for one in group:
                    self.busy[one.person_id].add(day)
                return day
        return None

    def is_free(self, person: Person, day: date) -> bool:
        """Nothing that day, nor the days beside it: some services run past midnight."""
        near = {day + timedelta(days=n) for n in (-1, 0, 1)}
        return not near & self.busy[person.person_id]

    def _service(self, group: Sequence[Person], day: date, number: int) -> Service:
        appetite = group[0].appetite
        minutes = {
            "light": lambda: self.random.randrange(45, 136, 5),
            "middling": lambda: self.random.randrange(110, 256, 5),
            "heavy": lambda: self.random.randrange(260, 421, 5),
        }[appetite]()
        night = appetite == "heavy" and self.random.random() < 0.03
        hour = 22 if night else self.random.randrange(8, 16)
        start = datetime.combine(day, time(hour, self.random.choice((0, 10, 30, 40))), CHINA)
        return Service(group, day, start.astimezone(UTC), min(minutes, 200) if night else minutes, number)

    def _order(self, service: Service) -> None:
        """From 点单 to 评单, or by way of a back-fill."""
        if service.number % BACKFILLED_EVERY == 0:
            for person in service.people:
                self._backfill(person, service)
            return
        county, place = self.county, service.people[0].squad
        order_id = county.id_of("order", service.number)
        planned_end = service.start + timedelta(minutes=service.minutes)
        placed = self._place(order_id, service, planned_end)
        team = county.squad(place)
        dispatched = self.add(
            min(placed + timedelta(hours=self.random.randrange(1, 20)), service.start - timedelta(hours=20)),
            c.DispatchOrder(
                order_id=order_id, team_id=team, volunteer_ids=tuple(p.person_id for p in service.people)
            ),
            county.staff(place, "dispatcher"),
        )
        for person in service.people:
            at = dispatched + timedelta(hours=self.random.randrange(0, 18), minutes=31)
            accept = c.AcceptOrder(order_id=order_id, volunteer_id=person.person_id)
            self.add(at, accept, Caller(person.person_id, "volunteer"))
        self._complete(order_id, service, planned_end)

    def _place(self, order_id: UUID, service: Service, planned_end: datetime) -> datetime:
        random, place = self.random, service.people[0].squad
        resident = self.county.resident(random.randrange(max(20, self.county.count // 3)))
        kind = random.choices(KINDS, WEIGHTS)[0]
        at = service.start - timedelta(hours=random.randrange(44, 68))
        relayed = random.random() < 0.2
        caller = self.county.staff(place, "organiser") if relayed else Caller(resident, "resident")
        self.requesters[order_id] = resident
        command = c.PlaceOrder(
            order_id=order_id,
            requester_id=resident,
            unit_id=place.unit_id,
            activity_kind=kind,
            wanted_from=service.start,
            wanted_until=planned_end,
            need=self.seal("order.placed", resident, {"text": random.choice(NEEDS[kind])}),
        )
        return self.add(at, command, caller)

    def _complete(self, order_id: UUID, service: Service, planned_end: datetime) -> None:
        random, county, place = self.random, self.county, service.people[0].squad
        services, sessions = [], list[Served]()
        for person in service.people:
            missing = (len(self.served) + len(sessions)) % UNCHECKED_EVERY == 3
            late = 0 if missing else random.choice((0, 0, 0, -5, 5))
            end = planned_end + timedelta(minutes=late)
            session_id = county.id_of("session", service.number, person.number)
            services.append(
                c.Service(
                    volunteer_id=person.person_id,
                    session_id=session_id,
                    started_at=service.start,
                    ended_at=end,
                    break_minutes=30 if service.minutes > 300 else 0,
                    checked=missing or random.random() < 0.6,
                    end_inferred=missing,
                )
            )
            sessions.append((person, session_id, service.start, end))
        recorded = planned_end + timedelta(hours=random.choices((1, 5, 26, 60, 400), (50, 30, 12, 6, 2))[0])
        recorder = county.staff(place, "recorder")
        at = self.add(recorded, c.CompleteOrder(order_id=order_id, services=tuple(services)), recorder)
        self._rate(order_id, at)
        for session in sessions:
            self.served.append(session)
            number = len(self.served)
            if number % VOIDED_EVERY == 107:
                self._correct(session, at, amend=False)
            elif number % AMENDED_EVERY == 57:
                self._correct(session, at, amend=True)

    def _rate(self, order_id: UUID, completed: datetime) -> None:
        random = self.random
        if random.random() > 0.75:
            return
        resident = self.requesters[order_id]
        score = random.choices((5, 4, 3, 2, 1, None), (66, 22, 6, 2, 2, 2))[0]
        comment = None
        if random.random() < 0.3:
            comment = self.seal("order.rated", resident, {"text": random.choice(COMMENTS)})
        command = c.RateOrder(
            order_id=order_id, rating_id=self.county.id_of("rating", order_id), score=score, comment=comment
        )
        self.add(completed + timedelta(hours=random.randrange(2, 140)), command, Caller(resident, "resident"))

    def _backfill(self, person: Person, service: Service) -> None:
        """Served without an order: a clerk asks, somebody else decides, the hours stand in their own class."""
        county, place = self.county, person.squad
        request = county.id_of("backfill", service.number, person.number)
        clerk = county.staff(place, "organiser", 1)
        asked = c.RequestBackfill(
            volunteer_id=person.person_id,
            request_id=request,
            session_id=county.id_of("session", service.number, person.number),
            unit_id=place.unit_id,
            activity_kind=self.random.choices(KINDS, WEIGHTS)[0],
            started_at=service.start,
            ended_at=service.start + timedelta(minutes=service.minutes),
            reason=self.seal("backfill.requested", clerk.person_id, {"text": "临时求助，事后补录"}),
        )
        at = self.add(
            service.start + timedelta(minutes=service.minutes, hours=self.random.randrange(20, 90)),
            asked,
            clerk,
        )
        verdict: Any = "approved" if self.random.random() < 0.93 else "declined"
        decided = c.DecideBackfill(volunteer_id=person.person_id, request_id=request, verdict=verdict)
        self.add(at + timedelta(hours=20), decided, county.staff(place, "organiser", 2))

    def _correct(self, served: Served, recorded: datetime, *, amend: bool) -> None:
        """The volunteer asks for shorter times, or an organiser for none at all; another organiser decides."""
        person, session, start, end = served
        request = self.county.id_of("correction", session)
        if not amend:
            self.voided.add(session)
        writer = (
            Caller(person.person_id, "volunteer")
            if amend
            else self.county.staff(person.squad, "organiser", 1)
        )
        asked = c.RequestCorrection(
            volunteer_id=person.person_id,
            request_id=request,
            session_id=session,
            kind="amend" if amend else "reverse",
            reason=self.seal(
                "correction.requested", writer.person_id, {"text": "时间登记有误" if amend else "实际未到场"}
            ),
            started_at=start if amend else None,
            ended_at=end - timedelta(minutes=self.random.choice((15, 20, 30))) if amend else None,
            break_minutes=0 if amend else None,
        )
        at = self.add(recorded + timedelta(hours=30), asked, writer)
        decided = c.DecideCorrection(volunteer_id=person.person_id, request_id=request, verdict="approved")
        self.add(at + timedelta(hours=24), decided, self.county.staff(person.squad, "organiser", 2))

    # -- orders that lead nowhere --

    def _unserved(self) -> None:
        """Rejected, withdrawn, declined and still open ones: the board is never tidy."""
        people = self.county.people
        for number in range(len(people) // 12):
            person = self.random.choice(people)
            day = max(self.joined[person.person_id] + timedelta(days=3), self.first_day + timedelta(days=5))
            span = (LAST_DAY - day).days
            if span <= 4:
                continue
            start = datetime.combine(day + timedelta(days=self.random.randrange(3, span)), time(10), CHINA)
            service = Service([person], day, start.astimezone(UTC), 90, -1 - number)
            order_id = self.county.id_of("order", service.number)
            placed = self._place(order_id, service, service.start + timedelta(minutes=90))
            self._leave_off(order_id, person, placed)

    def _leave_off(self, order_id: UUID, person: Person, placed: datetime) -> None:
        county, dispatcher = self.county, self.county.staff(person.squad, "dispatcher")
        match self.random.randrange(5):
            case 0:
                explanation = self.seal("order.rejected", dispatcher.person_id, {"text": "超出本站服务范围"})
                reject = c.RejectOrder(order_id=order_id, reason="out_of_scope", explanation=explanation)
                self.add(placed + timedelta(hours=3), reject, dispatcher)
            case 1:
                resident = Caller(self.requesters[order_id], "resident")
                self.add(placed + timedelta(hours=5), c.WithdrawOrder(order_id=order_id), resident)
            case 2 | 3:
                dispatch = c.DispatchOrder(
                    order_id=order_id, team_id=county.squad(person.squad), volunteer_ids=(person.person_id,)
                )
                at = self.add(placed + timedelta(hours=2), dispatch, dispatcher)
                decline = c.DeclineOrder(order_id=order_id, volunteer_id=person.person_id)
                self.add(at + timedelta(hours=4), decline, Caller(person.person_id, "volunteer"))


def ticked(at: datetime) -> datetime:
    """The tick on or after a moment."""
    start = datetime(2020, 1, 1, tzinfo=UTC)
    return start + -((start - at) // TICK) * TICK
