"""What people might ask a ledger for: mostly sensible for what is the case, sometimes wrong in one thing or another.

Every choice is made by a `Dice` of given numbers, so that a run can be repeated and shrunk; zeros make the sensible
choice everywhere. Knows commands and the plain ledger, never the real one.
"""

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from typing import Any, TypeVar, get_args
from uuid import UUID, uuid5

from ledger import commands as c
from ledger import ids
from ledger.application import Request
from ledger.rulebook import RuleBook, default_rulebook
from ledger.rules import Caller, Role
from tests.model.plain import PlainLedger, day_of
from tests.model.side_by_side import LEDGER_ID

T = TypeVar("T")
ROLES: tuple[Role, ...] = get_args(Role)
SEALED = "s1.QUJD"
DIVISIONS = ("620523", "620523100", "620523101", "620523100001", "620523101001")
KINDS = ("centre", "institute", "institute", "station", "station")
BOOK = default_rulebook().model_copy(
    update={
        "session_minutes_max": 300,
        "day_minutes_free": 240,
        "day_minutes_parent": 270,
        "day_minutes_max": 290,
        "offer_hours": 6,
        "record_working_days": 2,
    }
)
"""Small limits, so that they are met often."""
CHANGES: tuple[dict[str, Any], ...] = (
    {"day_minutes_free": 120, "day_minutes_parent": 130, "day_minutes_max": 140},
    {"session_minutes_max": 100, "record_working_days": 0},
    {"session_minutes_min": 45},
    {"rating_min": 2, "rating_max": 3, "offer_hours": 1},
    {"volunteer_categories": ("farmer", "poet"), "civic_categories": ("models",)},
    {},
)


def name(*parts: object) -> UUID:
    """A stable id for something invented."""
    return uuid5(LEDGER_ID, "|".join(map(str, parts)))


PEOPLE = [name("person", number) for number in range(6)]
VOLUNTEERS, CLERK, CHECKER = PEOPLE[:4], PEOPLE[4], PEOPLE[5]
RESIDENTS = [name("resident", number) for number in range(3)]
EVERYBODY = [*PEOPLE, *RESIDENTS]
NOTHING = name("nothing")
ADMIN = Caller(name("admin"), "admin")


class Dice:
    """Choices out of numbers; when they run out, the first choice."""

    def __init__(self, numbers: Iterable[int] = ()) -> None:
        self._numbers = iter(numbers)

    def roll(self, sides: int) -> int:
        return next(self._numbers, 0) % sides

    def pick(self, options: Sequence[T]) -> T:
        return options[self.roll(len(options))]

    def mostly(self, right: T, *others: T) -> T:
        """``right``, but one of the others once in thirty-two."""
        if self.roll(32) < 31 or not others:
            return right
        return self.pick(others)


class Wishes:
    """Requests that suit (or do not quite suit) what the plain ledger says is the case at ``now``."""

    def __init__(self, plain: PlainLedger, now: datetime, dice: Dice) -> None:
        self.plain, self.now, self.dice = plain, now, dice

    # -- who asks, and about what --

    def staff(self, *roles: Role) -> Caller:
        person = self.dice.pick([CLERK, CHECKER, CLERK, CHECKER, *EVERYBODY])
        return Caller(person, self.dice.mostly(roles[0], *ROLES), self.dice.mostly(None, *self.plain.units))

    def themself(self, person_id: UUID) -> Caller:
        person = self.dice.mostly(person_id, *EVERYBODY)
        return Caller(person, self.dice.mostly("volunteer", *ROLES))

    def themself_or_staff(self, person_id: UUID) -> Caller:
        return self.staff("organiser") if self.dice.roll(2) else self.themself(person_id)

    def one_of(self, known: Iterable[UUID]) -> UUID:
        """Something there is (the newest, if the dice say nothing), or rarely something there is not."""
        return self.dice.mostly(self.dice.pick([*known][::-1] or [NOTHING]), NOTHING)

    def fresh(self, what: str, known: Iterable[UUID]) -> UUID:
        """An id that is not taken, or rarely one that is."""
        taken = set(known)
        number = next(n for n in range(len(taken) + 1) if name(what, n) not in taken)
        return self.dice.mostly(name(what, number), *sorted(taken))

    def volunteer(self) -> UUID:
        return self.one_of(self.plain.people)

    def team_id(self) -> UUID:
        """Mostly a team that has members."""
        teams = sorted(self.plain.teams, key=lambda t: (not self.plain.teams[t]["members"], t))
        peopled = [t for t in teams if self.plain.teams[t]["members"]]
        return self.dice.mostly(self.dice.pick(peopled or teams or [NOTHING]), *teams, NOTHING)

    # -- rule books, units, teams --

    def rule_book(self) -> Request:
        days = self.dice.pick((1, 2, 5, 1, 0, -1))
        book: RuleBook = BOOK.model_copy(update=self.dice.pick(CHANGES))
        version = self.dice.mostly(len(self.plain.books) + 1, 1, len(self.plain.books) + 2)
        day = day_of(self.now) + timedelta(days=days)
        return Request(
            c.PublishRuleBook(version=version, effective_on=day, book=book), self.staff("steering")
        )

    def unit(self) -> Request:
        number = self.dice.roll(6)
        parent = self.dice.mostly(self.dice.pick([*self.plain.units, None]), NOTHING)
        chosen = [unit_id for unit_id in self.plain.units if not ids.is_derived(unit_id)]
        command = c.EstablishUnit(
            kind=(*KINDS, "base")[number],  # type: ignore[arg-type]
            name="单位",
            parent_id=parent,
            division_code=self.dice.mostly(DIVISIONS[number], *DIVISIONS, None) if number < 5 else None,
            department=self.dice.mostly("culture", None),
            unit_id=self.dice.mostly(self.fresh("base", chosen), None) if number == 5 else None,
        )
        return Request(command, self.staff("steering"))

    def unit_change(self) -> Request:
        unit_id = self.one_of(self.plain.units)
        post = {
            "unit_id": unit_id,
            "role": self.dice.pick(("director", "deputy", "office_director")),
            "person_id": self.dice.pick(EVERYBODY[:3]),
        }
        command: c.Command = self.dice.pick(
            (
                c.MoveUnit(unit_id=unit_id, parent_id=self.one_of(self.plain.units)),
                c.RenameUnit(unit_id=unit_id, name="新名"),
                c.AssignUnitRole.model_validate(post),
                c.AssignUnitRole.model_validate(post),
                c.EndUnitRole.model_validate(post),
            )
        )
        return Request(command, self.staff("steering"))

    def team(self) -> Request:
        kind = self.dice.pick(("squad", "civic", "branch", "professional", "corps"))
        command = c.FormTeam(
            kind=kind,  # type: ignore[arg-type]
            name="队",
            unit_id=self.one_of(self.plain.units),
            category={"civic": "models", "professional": "law"}.get(kind, self.dice.mostly(None, "models")),
            parent_team_id=self.dice.pick([*self.plain.teams, None]),
        )
        return Request(command, self.staff("steering"))

    def team_change(self) -> Request:
        team_id = self.one_of(self.plain.teams)
        into = self.dice.mostly(None, *self.plain.teams, NOTHING)
        command: c.Command = self.dice.pick(
            (
                c.AppointTeamLeader(team_id=team_id, leader_id=self.dice.pick(EVERYBODY)),
                c.AppointTeamLeader(team_id=team_id, leader_id=self.dice.pick(EVERYBODY)),
                c.AssignTeamSponsor(
                    team_id=team_id,
                    department=self.dice.pick(("law", "health")),
                    role=self.dice.pick(("lead", "partner")),
                ),
                c.DissolveTeam(team_id=team_id, reason="merged", merged_into_id=into),
            )
        )
        return Request(command, self.staff("organiser"))

    def membership(self) -> Request:
        volunteer_id, team_id = self.volunteer(), self.team_id()
        kind: Any = self.dice.pick((c.JoinTeam, c.JoinTeam, c.LeaveTeam))
        return Request(kind(team_id=team_id, volunteer_id=volunteer_id), self.themself_or_staff(volunteer_id))

    # -- volunteers --

    def enrolment(self) -> Request:
        person_id = self.dice.pick(PEOPLE[::-1])
        command = c.EnrolVolunteer(
            volunteer_id=person_id,
            volunteer_number="gg-1",
            home_unit_id=self.one_of(self.plain.units),
            profile=SEALED,
            consent_document="consent-2026",
            consented_at=self.now + timedelta(minutes=self.dice.mostly(-5, 0, 1)),
            categories=self.dice.pick(((), ("farmer",), ("farmer", "veteran", "farmer"), ("poet",))),
        )
        return Request(command, self.themself_or_staff(person_id))

    def participation(self) -> Request:
        person_id = self.volunteer()
        category = self.dice.pick(("farmer", "veteran", "poet"))
        command: c.Command = self.dice.pick(
            (
                c.DeclareCategory(volunteer_id=person_id, category=category),
                c.CorrectProfile(volunteer_id=person_id, profile=SEALED),
                c.DeclareCategory(volunteer_id=person_id, category=category),
                c.WithdrawVolunteer(volunteer_id=person_id),
            )
        )
        return Request(command, self.themself_or_staff(person_id))

    # -- back-fills and corrections --

    def _claimed(self, volunteer_id: UUID) -> list[UUID]:
        """Session ids this volunteer has used or asked for, and then those of others."""
        mine = self.plain.people.get(volunteer_id, {"sessions": {}, "requests": {}})
        waiting = [r["session"] for r in mine["requests"].values()]
        others = [s for person in self.plain.people.values() for s in person["sessions"]]
        return [*mine["sessions"], *waiting, *others]

    def _session_id(self, volunteer_id: UUID) -> UUID:
        claimed = self._claimed(volunteer_id)
        number = next(n for n in range(len(claimed) + 1) if name("session", volunteer_id, n) not in claimed)
        return self.dice.mostly(name("session", volunteer_id, number), *claimed)

    def backfill(self) -> Request:
        volunteer_id = self.volunteer()
        length = timedelta(minutes=self.dice.pick((60, 30, 90, 150, 240, 1, 300, 301, 0, -5)))
        until = self.now - timedelta(minutes=self.dice.pick((0, 5, 60, 240, 600, 1440, 2880, 5760, -30)))
        if self.dice.roll(4) == 3:
            until = self._touching(volunteer_id, until, length)
        command = c.RequestBackfill(
            volunteer_id=volunteer_id,
            request_id=self.fresh("request", self._requests(volunteer_id)),
            session_id=self._session_id(volunteer_id),
            unit_id=self.one_of(self.plain.units),
            activity_kind=self.dice.pick(("health", "culture")),
            started_at=until - length - timedelta(seconds=self.dice.pick((0, 0, 59, 1))),
            ended_at=until,
            break_minutes=self.dice.pick((0, 0, 10, 59, 600)),
            reason=SEALED,
            order_id=self.dice.mostly(None, *self.plain.orders, NOTHING),
        )
        return Request(command, self.themself_or_staff(volunteer_id))

    def _touching(self, volunteer_id: UUID, until: datetime, length: timedelta) -> datetime:
        """An end from which the time reaches to the very start, or from the very end, of a session that stands."""
        sessions = self.plain.people.get(volunteer_id, {"sessions": {}})["sessions"].values()
        ends: list[datetime] = [end for s in sessions for end in (s["from"], s["until"] + length)]
        return self.dice.pick(ends or [until])

    def _requests(self, volunteer_id: UUID) -> list[UUID]:
        return [*self.plain.people.get(volunteer_id, {"requests": {}})["requests"]]

    def correction(self) -> Request:
        known = [(v, s) for v, p in self.plain.people.items() for s in p["sessions"]]
        volunteer_id, session_id = self.dice.pick(known[::-1] or [(self.volunteer(), NOTHING)])
        session = self.plain.people.get(volunteer_id, {"sessions": {}})["sessions"].get(session_id)
        kind = self.dice.pick(("amend", "amend", "reverse"))
        amends = self.dice.mostly(kind == "amend", kind != "amend")
        command = c.RequestCorrection(
            volunteer_id=volunteer_id,
            request_id=self.fresh("request", self._requests(volunteer_id)),
            session_id=self.dice.mostly(session_id, NOTHING),
            kind=kind,  # type: ignore[arg-type]
            reason=SEALED,
            **(self._other_times(session) if session and amends else {}),
        )
        return Request(command, self.themself_or_staff(volunteer_id))

    def _other_times(self, session: dict[str, Any]) -> dict[str, Any]:
        since = session["from"] + timedelta(minutes=self.dice.pick((5, 0, -30, 60, -90, -1440)))
        until = session["until"] + timedelta(minutes=self.dice.pick((0, -10, 30, 120, 400, -1500)))
        return {
            "started_at": since,
            "ended_at": until,
            "break_minutes": self.dice.pick((0, None, 5, 30)),
        }

    def decision(self) -> Request:
        open_first = [
            (request["verdict"] is None, volunteer_id, request_id, request["kind"])
            for volunteer_id, person in self.plain.people.items()
            for request_id, request in person["requests"].items()
        ]
        waiting = [r for r in open_first if r[0]] or open_first or [(True, NOTHING, NOTHING, "reverse")]
        _, volunteer_id, request_id, kind = self.dice.pick(self.dice.mostly(waiting, open_first or waiting))
        right, wrong = c.DecideCorrection, c.DecideBackfill
        decide: Any = self.dice.mostly(wrong, right) if kind == "backfill" else self.dice.mostly(right, wrong)
        verdict = self.dice.pick(("approved", "approved", "approved", "declined"))
        caller = Caller(self.dice.pick([CHECKER, CLERK, *EVERYBODY]), self.dice.mostly("organiser", *ROLES))
        return Request(decide(volunteer_id=volunteer_id, request_id=request_id, verdict=verdict), caller)

    # -- orders --

    def order(self) -> Request:
        requester = self.dice.pick([*RESIDENTS, *RESIDENTS, VOLUNTEERS[0]])
        since = self.now + timedelta(minutes=self.dice.pick((60, 0, 600, -60)))
        command = c.PlaceOrder(
            order_id=self.fresh("order", self.plain.orders),
            requester_id=requester,
            unit_id=self.one_of(self.plain.units),
            activity_kind=self.dice.pick(("health", "culture")),
            wanted_from=since,
            wanted_until=since + timedelta(minutes=self.dice.mostly(self.dice.pick((600, 90)), 30, 0)),
            need=SEALED,
        )
        return Request(command, self.themself_or_staff(requester))

    def sending(self, order_id: UUID) -> Request:
        """Dispatch, reassign, or ask more members, as the order needs."""
        order = self.plain.orders.get(order_id)
        team_id = self.team_id()
        held_by = order["team"] if order and order["team"] else team_id
        wanted = self._members(team_id)
        dispatch = c.DispatchOrder(order_id=order_id, team_id=team_id, volunteer_ids=wanted)
        reassign = c.ReassignOrder(
            order_id=order_id, team_id=team_id, volunteer_ids=wanted, reason="too_busy"
        )
        offer = c.OfferOrder(order_id=order_id, volunteer_ids=self._members(held_by))
        if order and order["team"]:
            command: c.Command = self.dice.mostly(self.dice.pick((offer, offer, reassign)), dispatch)
        else:
            command = self.dice.mostly(dispatch, reassign, offer)
        return Request(command, self.staff("dispatcher"))

    def _members(self, team_id: UUID) -> tuple[UUID, ...]:
        members = sorted(self.plain.teams.get(team_id, {"members": ()})["members"]) or [VOLUNTEERS[0]]
        first = self.dice.roll(len(members))
        count = self.dice.pick((2, 1, 3))
        return tuple([*members[first:], *members[:first]][:count]) + self.dice.mostly((), tuple(PEOPLE[3:4]))

    def ending(self, order_id: UUID) -> Request:
        requester = self.plain.orders.get(order_id, {"requester": RESIDENTS[0]})["requester"]
        if self.dice.roll(2):
            return Request(c.WithdrawOrder(order_id=order_id), self.themself_or_staff(requester))
        command = c.RejectOrder(order_id=order_id, reason="no_volunteers", explanation=SEALED)
        return Request(command, self.staff("organiser"))

    def answer(self, order_id: UUID) -> Request:
        asked = self.plain.orders.get(order_id, {"asked": {}})["asked"]
        waiting = [v for v, a in asked.items() if a["answer"] == "offered"]
        volunteer_id = self.dice.mostly(self.dice.pick(waiting or VOLUNTEERS), *asked, NOTHING)
        what = self.dice.roll(8)
        if what == 7:
            command: c.Command = c.ExpireOffer(order_id=order_id, volunteer_id=volunteer_id)
            return Request(command, self.dice.mostly(ADMIN, self.staff("organiser")))
        kind: Any = c.DeclineOrder if what == 6 else c.AcceptOrder
        return Request(kind(order_id=order_id, volunteer_id=volunteer_id), self.themself(volunteer_id))

    def completion(self, order_id: UUID) -> Request:
        asked = self.plain.orders.get(order_id, {"asked": {}})["asked"]
        accepted = [v for v, a in asked.items() if a["answer"] == "accepted"]
        serving = self.dice.mostly(accepted, accepted[:1], [*asked], [*accepted, *accepted]) or [
            self.volunteer()
        ]
        services = [self._service(v, asked.get(v, {}).get("accepted")) for v in serving]
        command = c.CompleteOrder(order_id=order_id, services=tuple(services))
        return Request(command, self.staff("recorder"))

    def _service(self, volunteer_id: UUID, accepted_at: datetime | None) -> c.Service:
        since = accepted_at or self.now - timedelta(hours=2)
        since += timedelta(minutes=self.dice.pick((0, 5, 15, 1, 5)), seconds=self.dice.mostly(0, 30, -1))
        length = timedelta(minutes=self.dice.pick((240, 60, 30, 100, 20, 1)))
        until = self.dice.mostly(min(since + length, self.now), since + length, since, self.now)
        return c.Service(
            volunteer_id=volunteer_id,
            session_id=self._session_id(volunteer_id),
            started_at=since,
            ended_at=until,
            break_minutes=self.dice.pick((0, 0, 0, 10, 90)),
            checked=bool(self.dice.roll(2)),
            end_inferred=self.dice.roll(4) == 3,
        )

    def rating(self, order_id: UUID) -> Request:
        order = self.plain.orders.get(order_id, {"ratings": {}, "requester": RESIDENTS[0]})
        rater = self.dice.pick([order["requester"], *EVERYBODY[::-1]])
        command = c.RateOrder(
            order_id=order_id,
            rating_id=self.fresh(f"rating|{order_id}", order["ratings"]),
            score=self.dice.pick((5, 3, 1, None, 2, 4, 6)),
            code_checked=self.dice.mostly(True, False),
            same_phone_ids=self.dice.mostly((), tuple(VOLUNTEERS[:1])),
        )
        return Request(command, Caller(rater, self.dice.pick(("resident", "volunteer", "organiser"))))

    def rating_back(self, order_id: UUID) -> Request:
        ratings = self.plain.orders.get(order_id, {"ratings": {}})["ratings"]
        live = [(rating_id, r["by"]) for rating_id, r in ratings.items() if r["live"]]
        known = [(rating_id, r["by"]) for rating_id, r in ratings.items()]
        rating_id, rater = self.dice.pick(self.dice.mostly(live, known) or known or [(NOTHING, RESIDENTS[0])])
        return Request(c.WithdrawRating(order_id=order_id, rating_id=rating_id), self.themself(rater))

    def next_step(self, order_id: UUID) -> Request:
        """What would bring the order on, from placing to its rating."""
        order, state = self.plain.orders.get(order_id), self.plain.order_states().get(order_id)
        waiting = order is not None and any(a["answer"] == "offered" for a in order["asked"].values())
        if state in ("dispatched", "accepted") and waiting:
            return self.answer(order_id)
        if state in ("placed", "dispatched"):
            return self.sending(order_id)
        if state == "accepted":
            return self.completion(order_id)
        if state == "rated" and self.dice.roll(2):
            return self.rating_back(order_id)
        return self.rating(order_id) if state in ("completed", "rated") else self.order()

    def ready_to_serve(self, order_id: UUID) -> bool:
        """Whether somebody accepted and nobody is still thinking about it."""
        answers = {a["answer"] for a in self.plain.orders.get(order_id, {"asked": {}})["asked"].values()}
        return self.plain.order_states().get(order_id) == "accepted" and "offered" not in answers

    def some_order(self) -> UUID:
        """An order that can go on, the newest first; or rarely any other."""
        states = self.plain.order_states()
        live = [o for o, s in states.items() if s in ("placed", "dispatched", "accepted")]
        return self.one_of(self.dice.mostly(live or [*states], [*states]))

    # -- anything --

    def anything(self) -> Request:
        order_id = self.some_order()
        what = self.dice.roll(16)
        simple = (
            self.backfill, self.decision, self.correction, self.membership, self.participation,
            self.unit_change, self.team_change, self.rule_book,
        )  # fmt: skip
        if what < len(simple):
            return simple[what]()
        of_order = (
            self.answer, self.answer, self.answer, self.completion, self.sending, self.rating,
            self.rating_back, self.ending,
        )  # fmt: skip
        return of_order[what - len(simple)](order_id)


def founding(now: datetime) -> list[Request]:
    """A centre, two institutes, a station, a base; a corps, two squads; three volunteers in both squads."""
    centre = ids.unit_id(LEDGER_ID, "centre", DIVISIONS[0])
    institutes = [ids.unit_id(LEDGER_ID, "institute", code) for code in DIVISIONS[1:3]]
    station, base = ids.unit_id(LEDGER_ID, "station", DIVISIONS[3]), name("base", 0)
    corps = ids.team_id(LEDGER_ID, "corps", centre, None)
    squads = [ids.team_id(LEDGER_ID, "squad", unit_id, None) for unit_id in (station, base)]
    wanted: list[c.Command] = [
        c.PublishRuleBook(version=1, effective_on=day_of(now), book=BOOK),
        c.EstablishUnit(kind="centre", name="中心", division_code=DIVISIONS[0]),
        *(
            c.EstablishUnit(kind="institute", name="所", division_code=code, parent_id=centre)
            for code in DIVISIONS[1:3]
        ),
        c.EstablishUnit(kind="station", name="站", division_code=DIVISIONS[3], parent_id=institutes[0]),
        c.EstablishUnit(
            kind="base", name="基地", unit_id=base, parent_id=institutes[1], department="culture"
        ),
        c.FormTeam(kind="corps", name="总队", unit_id=centre),
        c.FormTeam(kind="squad", name="小队", unit_id=station, parent_team_id=corps),
        c.FormTeam(kind="squad", name="小队", unit_id=base, parent_team_id=corps),
        *(_enrolment(person_id, station, now) for person_id in VOLUNTEERS[:3]),
        *(c.JoinTeam(team_id=team, volunteer_id=person) for team in squads for person in VOLUNTEERS[:3]),
    ]
    return [Request(command, ADMIN) for command in wanted]


def _enrolment(person_id: UUID, unit_id: UUID, now: datetime) -> c.EnrolVolunteer:
    return c.EnrolVolunteer(
        volunteer_id=person_id,
        volunteer_number="gg-1",
        home_unit_id=unit_id,
        profile=SEALED,
        consent_document="consent-2026",
        consented_at=now,
    )
