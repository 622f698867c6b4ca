"""Labelled attempts to cheat, one kind after another, so that what the rules refuse can be counted and shown.

Each attempt ends in one labelled step that ought to be refused, after the honest steps it needs.
"""

from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from uuid import UUID

from api.demo.county import Person
from api.demo.story import Served, Story
from ledger import commands as c
from ledger.rulebook import CHINA, local_day
from ledger.rules import Caller

KINDS = {
    "F01": ("OVERLAP", "同一时间两处服务 · in two places at once"),
    "F02": ("DAY_NEEDS_APPROVAL", "一天超过首档上限 · more in a day than counts without approval"),
    "F03": ("BACKFILL_REQUIRED", "买来的五小时，事后补单 · five bought hours, ordered after the fact"),
    "F03-self": ("SELF_APPROVAL", "卖家自己审批补录 · the seller approves the back-fill"),
    "F04": ("IN_FUTURE", "登记将来的时长 · hours of the future"),
    "F06": ("RATER_NOT_INDEPENDENT", "自己评自己 · rating one's own service"),
    "F08": ("SELF_RECORDING", "自己记录自己 · recording one's own service"),
    "F13": ("UNKNOWN_VOLUNTEER", "不具名的集体时长 · hours for nobody in particular"),
    "F35": ("ALREADY_DECIDED", "重复审批 · deciding a second time"),
}
"""Each kind with the code that refuses it and what it is."""


FIRST_DAY, DAYS = 18, 5
"""An attempt is made so many days after the service it builds on, on the first of so many days that is free."""


def attempt_all(story: Story) -> None:
    """About one attempt per two hundred services (performance.md: 0.5 %), every kind at least once."""
    latest = story.end - timedelta(days=FIRST_DAY + DAYS + 2)
    known = [s for s in story.served if s[3] < latest and s[1] not in story.voided]
    for number in range(max(1, round(len(story.served) / (200 * len(KINDS))))):
        for kind in KINDS:
            _attempt(story, kind, number, known)


def _attempt(story: Story, kind: str, number: int, known: list[Served]) -> None:
    """Build on the service of somebody who has a day left for it."""
    for person, _, start, end in story.random.sample(known, min(len(known), 50)):
        first = local_day(end) + timedelta(days=FIRST_DAY)
        day = next((d for n in range(DAYS) if story.is_free(person, d := first + timedelta(days=n))), None)
        if day is not None:
            story.busy[person.person_id].add(day)
            _ATTEMPTS[kind](Attempt(story, kind, number, person, start, end, day))
            return


@dataclass
class Attempt:
    """One attempt on ``day``, with somebody's past service (``start`` … ``end``) to build on."""

    story: Story
    kind: str
    number: int
    person: Person
    start: datetime
    end: datetime
    day: date

    def id_of(self, what: str) -> UUID:
        return self.story.county.id_of("fraud", self.kind, self.number, what)

    @property
    def dawn(self) -> datetime:
        """Six in the morning of the day."""
        return datetime.combine(self.day, time(6), CHINA).astimezone(UTC)

    def seal(self, topic: str, person: UUID, text: str) -> str:
        return self.story.seal(topic, person, {"text": text})

    def ordered(self, start: datetime, *, lead: timedelta, requester: UUID | None = None) -> UUID:
        """An order dispatched to and accepted by the person, placed ``lead`` before ``start``."""
        story, county, place = self.story, self.story.county, self.person.squad
        order_id, resident = self.id_of("order"), requester or county.resident(self.number)
        place_order = c.PlaceOrder(
            order_id=order_id,
            requester_id=resident,
            unit_id=place.unit_id,
            activity_kind="other",
            wanted_from=start,
            wanted_until=start + timedelta(hours=lead.total_seconds() // 3600 + 12),
            need=self.seal("order.placed", resident, "需要帮忙"),
        )
        at = story.add(start - lead, place_order, Caller(resident, "resident"))
        dispatch = c.DispatchOrder(
            order_id=order_id, team_id=county.squad(place), volunteer_ids=(self.person.person_id,)
        )
        at = story.add(at + timedelta(minutes=1), dispatch, county.staff(place, "dispatcher"))
        accept = c.AcceptOrder(order_id=order_id, volunteer_id=self.person.person_id)
        story.add(at + timedelta(minutes=1), accept, Caller(self.person.person_id, "volunteer"))
        return order_id

    def complete(
        self,
        order_id: UUID,
        start: datetime,
        minutes: int,
        *,
        at: datetime,
        honest: bool = False,
        volunteer: UUID | None = None,
        recorder: Caller | None = None,
    ) -> None:
        """Record the service; unless honest, this is the step that ought to be refused."""
        service = c.Service(
            volunteer_id=volunteer or self.person.person_id,
            session_id=self.id_of("session"),
            started_at=start,
            ended_at=start + timedelta(minutes=minutes),
        )
        caller = recorder or self.story.county.staff(self.person.squad, "recorder")
        self.story.add(
            at, c.CompleteOrder(order_id=order_id, services=(service,)), caller, None if honest else self.kind
        )

    def back_fill(self, clerk: Caller, at: datetime) -> tuple[UUID, datetime]:
        """Five hours claimed for the day before."""
        request = self.id_of("request")
        asked = c.RequestBackfill(
            volunteer_id=self.person.person_id,
            request_id=request,
            session_id=self.id_of("session"),
            unit_id=self.person.squad.unit_id,
            activity_kind="other",
            started_at=at - timedelta(hours=27),
            ended_at=at - timedelta(hours=22),
            reason=self.seal("backfill.requested", clerk.person_id, "补录"),
        )
        return request, self.story.add(at, asked, clerk)

    def decide(
        self, request: UUID, who: Caller, at: datetime, verdict: str, honest: bool = False
    ) -> datetime:
        decided = c.DecideBackfill.model_validate(
            {"volunteer_id": self.person.person_id, "request_id": request, "verdict": verdict}
        )
        return self.story.add(at, decided, who, None if honest else self.kind)


def _two_places(a: Attempt) -> None:
    order = a.ordered(a.start, lead=timedelta(hours=40))
    a.complete(order, a.start, 60, at=a.end + timedelta(days=18))


def _long_day(a: Attempt) -> None:
    order = a.ordered(a.dawn, lead=timedelta(hours=30))
    a.complete(order, a.dawn, 600, at=a.dawn + timedelta(hours=14))


def _bought_hours(a: Attempt) -> None:
    """Yesterday's five hours on an order placed, accepted and completed within minutes today."""
    order = a.ordered(a.dawn, lead=timedelta(hours=2))
    a.complete(order, a.dawn - timedelta(hours=27), 300, at=a.dawn + timedelta(minutes=31))


def _own_approval(a: Attempt) -> None:
    seller = a.story.county.staff(a.person.squad, "organiser", 1)
    request, at = a.back_fill(seller, a.dawn)
    a.decide(request, seller, at + timedelta(hours=1), "approved")


def _future(a: Attempt) -> None:
    order = a.ordered(a.dawn, lead=timedelta(hours=30))
    a.complete(order, a.dawn, 60, at=a.dawn - timedelta(hours=5))


def _own_rating(a: Attempt) -> None:
    order = a.ordered(a.dawn, lead=timedelta(hours=30), requester=a.person.person_id)
    a.complete(order, a.dawn, 30, at=a.dawn + timedelta(hours=2), honest=True)
    rating = c.RateOrder(order_id=order, rating_id=a.id_of("rating"), score=5)
    a.story.add(a.dawn + timedelta(hours=4), rating, Caller(a.person.person_id, "volunteer"), a.kind)


def _own_record(a: Attempt) -> None:
    county = a.story.county
    order = a.ordered(a.dawn, lead=timedelta(hours=30))
    themself = Caller(a.person.person_id, "recorder", county.institute_of(a.person.squad))
    a.complete(order, a.dawn, 60, at=a.dawn + timedelta(hours=3), recorder=themself)


def _nobody(a: Attempt) -> None:
    order = a.ordered(a.dawn, lead=timedelta(hours=30))
    a.complete(order, a.dawn, 60, at=a.dawn + timedelta(hours=3), volunteer=a.id_of("the whole squad"))


def _second_decision(a: Attempt) -> None:
    county, place = a.story.county, a.person.squad
    request, at = a.back_fill(county.staff(place, "organiser", 1), a.dawn)
    at = a.decide(
        request, county.staff(place, "organiser", 2), at + timedelta(hours=1), "declined", honest=True
    )
    a.decide(request, county.staff(place, "organiser", 3), at + timedelta(hours=1), "approved")


_ATTEMPTS = {
    "F01": _two_places,
    "F02": _long_day,
    "F03": _bought_hours,
    "F03-self": _own_approval,
    "F04": _future,
    "F06": _own_rating,
    "F08": _own_record,
    "F13": _nobody,
    "F35": _second_decision,
}
