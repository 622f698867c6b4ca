"""The ledger a second time: plain, slow, and written from the words of `events.md` and the rule rows, not the rules.

It imports nothing of the ledger (a test sees to that). It keeps what happened in a few dicts and works every figure out
anew from them: minutes from the sessions that stand, an order's state from what was done with it. For a request it says
every reason that speaks against it; which of several the ledger names first is the ledger's own affair.
"""

from collections import Counter
from collections.abc import Callable, Iterable
from datetime import UTC, date, datetime, timedelta
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

SHANGHAI = ZoneInfo("Asia/Shanghai")
Effect = Callable[[UUID], None]
Judgement = tuple[set[str], Effect | None]
"""The reasons against a request, and what it does if there are none (None: there is nothing to do)."""

ABOVE: dict[str, set[str]] = {
    "centre": set(),
    "institute": {"centre"},
    "station": {"institute"},
    "base": {"centre", "institute"},
}
CODE_LENGTH = {"centre": 6, "institute": 9, "station": 12}
TEAM_UNITS = {
    "corps": {"centre"},
    "professional": {"centre"},
    "branch": {"institute"},
    "squad": {"station", "base"},
    "civic": {"centre", "institute", "station", "base"},
}
TEAM_PARENTS: dict[str, set[str | None]] = {
    "corps": {None},
    "professional": {"corps"},
    "branch": {"corps"},
    "squad": {"branch", "corps"},
    "civic": {None, "corps", "branch", "squad"},
}


def day_of(instant: datetime) -> date:
    return instant.astimezone(SHANGHAI).date()


def split(started_at: datetime, ended_at: datetime, break_minutes: int) -> dict[date, int]:
    """Whole minutes of each local day; each minute of break comes off the longest part that has any left."""
    day, parts = day_of(started_at), {}
    while _midnight(day) < ended_at:
        tomorrow = day + timedelta(days=1)
        served = min(ended_at, _midnight(tomorrow)) - max(started_at, _midnight(day))
        parts[day] = served // timedelta(minutes=1)
        day = tomorrow
    longest_first = sorted(parts, key=lambda d: (-parts[d], d))
    for _ in range(break_minutes):
        for day in longest_first:
            if parts[day]:
                parts[day] -= 1
                break
    return {day: minutes for day, minutes in parts.items() if minutes}


def _midnight(day: date) -> datetime:
    return datetime(day.year, day.month, day.day, tzinfo=SHANGHAI).astimezone(UTC)


def deadline(day: date, book: Any) -> date:
    """The last day in time: so many working days after ``day``, weekends and days off skipped (L15)."""
    found: list[date] = [day]
    candidate = day
    while len(found) <= book.record_working_days:
        candidate += timedelta(days=1)
        weekend_or_holiday = candidate.weekday() in (5, 6) or candidate in book.holidays
        if candidate in book.makeup_workdays or not weekend_or_holiday:
            found.append(candidate)
    return found[-1]


Entry = tuple[UUID, date, UUID, str, str, bool, bool, int]
"""Whose minutes: volunteer, day, unit, activity kind, source class, inferred, late, version of the rule book."""


class PlainLedger:
    """Everything that ever happened, as dicts of dicts."""

    def __init__(self, created_at: datetime) -> None:
        self.newest = created_at
        self.books: list[tuple[date, int, Any]] = []
        self.units: dict[UUID, dict[str, Any]] = {}
        self.teams: dict[UUID, dict[str, Any]] = {}
        self.people: dict[UUID, dict[str, Any]] = {}
        self.orders: dict[UUID, dict[str, Any]] = {}

    def judge(self, command: Any, who: Any, clock: datetime) -> Judgement:
        """What may be said against ``command`` at this moment, and its effect."""
        if (self.newest - clock).total_seconds() > 5:
            return {"CLOCK_BEHIND"}, None
        self.now = max(clock, self.newest)
        judge = getattr(self, f"_{type(command).__name__}")
        reasons, effect = judge(command, who)
        if reasons or effect is None:
            return reasons, None

        def happen(made: UUID, now: datetime = self.now) -> None:
            self.now = self.newest = now
            effect(made)

        return reasons, happen

    # -- figures --

    def book_on(self, day: date) -> Any:
        """The book in force: of those that have begun, the one that began last, and of two the later version."""
        edition = self._edition(day)
        return edition[2] if edition else None

    def _edition(self, day: date) -> tuple[date, int, Any] | None:
        begun = [edition for edition in self.books if edition[0] <= day]
        return max(begun, key=lambda edition: edition[:2]) if begun else None

    def entries(self) -> Counter[Entry]:
        """Minutes by everything an entry says of them, from the sessions that stand."""
        minutes: Counter[Entry] = Counter()
        for person_id, person in self.people.items():
            for s in person["sessions"].values():
                said = (s["unit"], s["kind"], s["class"], s["inferred"], s["late"])
                for day, served in self._counted(s).items():
                    minutes[person_id, day, *said, s["corrected_by"] or s["versions"][day]] += served
        return minutes

    def sessions(self) -> dict[tuple[UUID, UUID], tuple[datetime, datetime, int, str]]:
        """When each session that stands took place, and how we know."""
        return {
            (person_id, session_id): (s["from"], s["until"], s["break"], s["class"])
            for person_id, person in self.people.items()
            for session_id, s in person["sessions"].items()
            if not s["reversed"]
        }

    def services(self) -> Counter[tuple[UUID, str]]:
        """How many sessions that stand each volunteer has, by source class."""
        return Counter(
            (person_id, session["class"])
            for person_id, person in self.people.items()
            for session in person["sessions"].values()
            if not session["reversed"]
        )

    def rosters(self) -> dict[UUID, set[UUID]]:
        return {team_id: team["members"] for team_id, team in self.teams.items()}

    def order_states(self) -> dict[UUID, str]:
        return {order_id: self._status(order) for order_id, order in self.orders.items()}

    def ratings(self) -> dict[UUID, tuple[int, int]]:
        """Points and number of live ratings of the services each volunteer took part in."""
        found: dict[UUID, tuple[int, int]] = {}
        for order in self.orders.values():
            for rating in order["ratings"].values():
                if rating["live"] and rating["score"] is not None:
                    for person_id in order["served"]:
                        points, count = found.get(person_id, (0, 0))
                        found[person_id] = (points + rating["score"], count + 1)
        return found

    @staticmethod
    def _counted(session: dict[str, Any]) -> dict[date, int]:
        return {} if session["reversed"] else split(session["from"], session["until"], session["break"])

    @staticmethod
    def _status(order: dict[str, Any]) -> str:
        if order["ended"]:
            return str(order["ended"])
        if order["recorder"]:
            return "rated" if any(r["live"] for r in order["ratings"].values()) else "completed"
        if any(a["answer"] == "accepted" for a in order["asked"].values()):
            return "accepted"
        return "dispatched" if order["team"] else "placed"

    # -- who may --

    def _within(self, who: Any, unit_id: UUID) -> set[str]:
        inside = who.unit_id is None or who.unit_id in self._line(unit_id)
        return set() if inside else {"OUTSIDE_YOUR_UNITS"}

    def _line(self, unit_id: UUID) -> list[UUID]:
        line = [unit_id]
        while (above := self.units[line[-1]]["parent"]) is not None:
            line.append(above)
        return line

    def _staff(self, who: Any, unit_id: UUID, *roles: str) -> set[str]:
        wrong = set() if who.role in (*roles, "admin") else {"WRONG_ROLE"}
        return wrong | self._within(who, unit_id)

    def _taken(self, made: UUID) -> set[str]:
        everything = (self.units, self.teams, self.people, self.orders)
        return {"ALREADY_EXISTS"} if any(made in kept for kept in everything) else set()

    # -- rule book, units --

    def _PublishRuleBook(self, c: Any, who: Any) -> Judgement:
        reasons = set() if who.role in ("admin", "steering") else {"WRONG_ROLE"}
        if who.unit_id is not None and self.units.get(who.unit_id, {"kind": None})["kind"] != "centre":
            reasons.add("OUTSIDE_YOUR_UNITS")
        earliest = day_of(self.now) + timedelta(days=1 if self.books else 0)
        if c.effective_on < earliest or c.version != len(self.books) + 1:
            reasons.add("RULE_BOOK_DATE")
        return reasons, lambda _: self.books.append((c.effective_on, c.version, c.book))

    def _EstablishUnit(self, c: Any, who: Any) -> Judgement:
        based = c.kind == "base"
        fitting = (c.unit_id and c.department) if based else (c.division_code and not c.unit_id)
        if not fitting:
            return {"INVALID_REQUEST"}, None
        same = [u for u in self.units.values() if not based and (u["kind"], c.kind) == (c.kind, u["kind"])]
        twin = any(c.kind == "centre" or u["code"] == c.division_code for u in same)
        reasons = {"ALREADY_EXISTS"} if twin else self._taken(c.unit_id) if based else set()
        allowed = ("admin", "steering") if c.parent_id is None else ("admin", "steering", "organiser")
        if who.role not in allowed:
            reasons.add("WRONG_ROLE")
        if c.parent_id is not None and c.parent_id not in self.units:
            return reasons | {"UNKNOWN_UNIT"}, None
        parent = self.units[c.parent_id] if c.parent_id else None
        if parent:
            reasons |= self._within(who, c.parent_id)
        stands = parent["kind"] in ABOVE[c.kind] if parent else c.kind == "centre"
        named = based or (
            len(c.division_code) == CODE_LENGTH[c.kind]
            and (parent is None or c.division_code.startswith(parent["code"] or "-"))
        )
        if not (stands and named):
            reasons.add("UNIT_TREE")
        unit = {
            "kind": c.kind,
            "code": c.division_code,
            "parent": c.parent_id,
            "name": c.name,
            "posts": set(),
        }
        return reasons, lambda made: self.units.update({made: unit})

    def _RenameUnit(self, c: Any, who: Any) -> Judgement:
        if c.unit_id not in self.units:
            return {"UNKNOWN_UNIT"}, None
        reasons = self._staff(who, c.unit_id, "steering", "organiser")
        return reasons, lambda _: self.units[c.unit_id].update(name=c.name)

    def _MoveUnit(self, c: Any, who: Any) -> Judgement:
        if c.unit_id not in self.units or c.parent_id not in self.units:
            return {"UNKNOWN_UNIT"}, None
        unit, parent = self.units[c.unit_id], self.units[c.parent_id]
        reasons = self._staff(who, c.unit_id, "steering", "organiser") | self._within(who, c.parent_id)
        if parent["kind"] not in ABOVE[unit["kind"]]:
            reasons.add("UNIT_TREE")
        quiet = unit["parent"] == c.parent_id
        return reasons, None if quiet else lambda _: unit.update(parent=c.parent_id)

    def _AssignUnitRole(self, c: Any, who: Any) -> Judgement:
        if c.unit_id not in self.units:
            return {"UNKNOWN_UNIT"}, None
        unit = self.units[c.unit_id]
        reasons = self._staff(who, c.unit_id, "steering", "organiser")
        if (c.role, c.person_id) in unit["posts"]:
            return reasons, None
        held = {role for role, person in unit["posts"] if person == c.person_id}
        office = c.role in ("office_director", "liaison_director") and unit["kind"] != "centre"
        single = c.role != "deputy" and c.role in {role for role, _ in unit["posts"]}
        if office or single or {c.role, *held} >= {"director", "deputy"}:
            reasons.add("ROLE_CONFLICT")
        return reasons, lambda _: unit["posts"].add((c.role, c.person_id))

    def _EndUnitRole(self, c: Any, who: Any) -> Judgement:
        if c.unit_id not in self.units:
            return {"UNKNOWN_UNIT"}, None
        posts = self.units[c.unit_id]["posts"]
        reasons = self._staff(who, c.unit_id, "steering", "organiser")
        if (c.role, c.person_id) not in posts:
            reasons.add("ROLE_CONFLICT")
        return reasons, lambda _: posts.remove((c.role, c.person_id))

    # -- teams --

    def _FormTeam(self, c: Any, who: Any) -> Judgement:
        if c.unit_id not in self.units:
            return {"UNKNOWN_UNIT"}, None
        reasons = self._staff(who, c.unit_id, "steering", "organiser")
        name = "corps" if c.kind == "corps" else (c.kind, c.unit_id, c.category)
        if name in [team["name"] for team in self.teams.values()]:
            reasons.add("ALREADY_EXISTS")
        if c.parent_team_id is not None and c.parent_team_id not in self.teams:
            return reasons | {"UNKNOWN_TEAM"}, None
        book = self.book_on(day_of(self.now))
        if book is None:
            return reasons | {"NO_RULE_BOOK"}, None
        categories: Any = [None]
        if c.kind in ("professional", "civic"):
            categories = book.professional_categories if c.kind == "professional" else book.civic_categories
        parent_kind = self.teams[c.parent_team_id]["kind"] if c.parent_team_id else None
        shaped = self.units[c.unit_id]["kind"] in TEAM_UNITS[c.kind] and parent_kind in TEAM_PARENTS[c.kind]
        if c.parent_team_id and self.teams[c.parent_team_id]["dissolved"]:
            reasons.add("NOT_ALLOWED_NOW")
        if c.parent_team_id and self.teams[c.parent_team_id]["unit"] not in self._line(c.unit_id):
            shaped = False
        if not shaped or c.category not in categories:
            reasons.add("TEAM_SHAPE")
        team: dict[str, Any] = {
            "name": name,
            "kind": c.kind,
            "unit": c.unit_id,
            "members": set(),
            "leader": None,
        }
        return reasons, lambda made: self.teams.update(
            {made: {**team, "sponsors": set(), "dissolved": False}}
        )

    def _team(self, team_id: UUID, who: Any, *roles: str) -> tuple[dict[str, Any], set[str]]:
        team = self.teams[team_id]
        reasons = self._staff(who, team["unit"], *roles)
        return team, reasons | ({"NOT_ALLOWED_NOW"} if team["dissolved"] else set())

    def _AssignTeamSponsor(self, c: Any, who: Any) -> Judgement:
        if c.team_id not in self.teams:
            return {"UNKNOWN_TEAM"}, None
        team, reasons = self._team(c.team_id, who, "steering", "organiser")
        if (c.department, c.role) in team["sponsors"]:
            return reasons, None
        if c.role == "lead" and "lead" in {role for _, role in team["sponsors"]}:
            reasons.add("ALREADY_EXISTS")
        return reasons, lambda _: team["sponsors"].add((c.department, c.role))

    def _AppointTeamLeader(self, c: Any, who: Any) -> Judgement:
        if c.team_id not in self.teams:
            return {"UNKNOWN_TEAM"}, None
        team, reasons = self._team(c.team_id, who, "steering", "organiser")
        return reasons, None if team["leader"] == c.leader_id else lambda _: team.update(leader=c.leader_id)

    def _JoinTeam(self, c: Any, who: Any) -> Judgement:
        if c.team_id not in self.teams or c.volunteer_id not in self.people:
            unknown = {"UNKNOWN_TEAM"} if c.team_id not in self.teams else set()
            return unknown | ({"UNKNOWN_VOLUNTEER"} if c.volunteer_id not in self.people else set()), None
        team, reasons = self._team(c.team_id, who, "organiser")
        if who.person_id == c.volunteer_id:
            reasons -= {"WRONG_ROLE", "OUTSIDE_YOUR_UNITS"}
        if self.people[c.volunteer_id]["withdrawn"]:
            reasons.add("VOLUNTEER_WITHDRAWN")
        if c.volunteer_id in team["members"]:
            reasons.add("ALREADY_MEMBER")
        return reasons, lambda _: team["members"].add(c.volunteer_id)

    def _LeaveTeam(self, c: Any, who: Any) -> Judgement:
        if c.team_id not in self.teams:
            return {"UNKNOWN_TEAM"}, None
        team, reasons = self._team(c.team_id, who, "organiser")
        if who.person_id == c.volunteer_id:
            reasons = set()
        reasons -= {"NOT_ALLOWED_NOW"}
        if c.volunteer_id not in team["members"]:
            reasons.add("NOT_MEMBER")
        return reasons, lambda _: team["members"].remove(c.volunteer_id)

    def _DissolveTeam(self, c: Any, who: Any) -> Judgement:
        if c.team_id not in self.teams:
            return {"UNKNOWN_TEAM"}, None
        team, reasons = self._team(c.team_id, who, "steering", "organiser")
        if c.merged_into_id and c.merged_into_id not in self.teams:
            return reasons | {"UNKNOWN_TEAM"}, None
        target = self.teams[c.merged_into_id] if c.merged_into_id else {"members": set()}
        if c.merged_into_id:
            reasons |= self._within(who, target["unit"])
            reasons |= {"NOT_ALLOWED_NOW"} if target["dissolved"] else set()
            reasons |= {"TEAM_SHAPE"} if target is team else set()

        def happen(_: UUID) -> None:
            target["members"] |= {m for m in team["members"] if not self.people[m]["withdrawn"]}
            team.update(members=set(), dissolved=True)

        return reasons, happen

    # -- volunteers --

    def _EnrolVolunteer(self, c: Any, who: Any) -> Judgement:
        reasons = self._taken(c.volunteer_id)
        if c.home_unit_id not in self.units:
            return reasons | {"UNKNOWN_UNIT"}, None
        if who.person_id != c.volunteer_id:
            reasons |= self._staff(who, c.home_unit_id, "organiser")
        if c.consented_at > self.now:
            reasons.add("IN_FUTURE")
        reasons |= self._unknown_categories(c.categories)
        person = {"home": c.home_unit_id, "categories": set(c.categories), "withdrawn": None}
        return reasons, lambda made: self.people.update({made: {**person, "sessions": {}, "requests": {}}})

    def _unknown_categories(self, categories: Iterable[str]) -> set[str]:
        book = self.book_on(day_of(self.now))
        if not set(categories):
            return set()
        if book is None:
            return {"NO_RULE_BOOK"}
        return set() if set(categories) <= set(book.volunteer_categories) else {"UNKNOWN_CATEGORY"}

    def _participant(self, c: Any, who: Any) -> set[str]:
        person = self.people[c.volunteer_id]
        reasons = set() if who.person_id == c.volunteer_id else self._staff(who, person["home"], "organiser")
        return reasons | ({"VOLUNTEER_WITHDRAWN"} if person["withdrawn"] else set())

    def _DeclareCategory(self, c: Any, who: Any) -> Judgement:
        if c.volunteer_id not in self.people:
            return {"UNKNOWN_VOLUNTEER"}, None
        categories = self.people[c.volunteer_id]["categories"]
        reasons = self._participant(c, who)
        if c.category in categories:
            return reasons, None
        return reasons | self._unknown_categories([c.category]), lambda _: categories.add(c.category)

    def _CorrectProfile(self, c: Any, who: Any) -> Judgement:
        if c.volunteer_id not in self.people:
            return {"UNKNOWN_VOLUNTEER"}, None
        return self._participant(c, who), lambda _: None

    def _WithdrawVolunteer(self, c: Any, who: Any) -> Judgement:
        if c.volunteer_id not in self.people:
            return {"UNKNOWN_VOLUNTEER"}, None
        person = self.people[c.volunteer_id]
        reasons = set() if who.person_id == c.volunteer_id else {"ONLY_THEMSELVES"}
        reasons |= {"NOT_ALLOWED_NOW"} if person["withdrawn"] else set()
        now = self.now
        return reasons, lambda _: person.update(withdrawn=now)

    # -- what counts --

    def _against(
        self, person: dict[str, Any], c: Any, book: Any = None, instead_of: dict[str, Any] | None = None
    ) -> set[str]:
        """Why these times cannot count; with ``book`` it rules every day, else each day has its own."""
        since, until = c.started_at, c.ended_at
        if until <= since:
            return {"END_BEFORE_START"}
        if until > self.now:
            return {"IN_FUTURE"} if since > self.now else {"RECORDED_BEFORE_END"}
        days = split(since, until, c.break_minutes or 0)
        books = {day: book or self.book_on(day) for day in (day_of(since), *days)}
        if None in books.values():
            return {"NO_RULE_BOOK"}
        length = books[day_of(since)]
        reasons = set()
        if person["withdrawn"] and until > person["withdrawn"]:
            reasons.add("VOLUNTEER_WITHDRAWN")
        if until - since > timedelta(minutes=length.session_minutes_max):
            reasons.add("SESSION_TOO_LONG")
        if sum(days.values()) < length.session_minutes_min:
            reasons.add("SESSION_TOO_SHORT")
        others = [s for s in person["sessions"].values() if s is not instead_of and not s["reversed"]]
        if any(max(since, other["from"]) < min(until, other["until"]) for other in others):
            reasons.add("OVERLAP")
        for day, minutes in days.items():
            minutes += sum(self._counted(other).get(day, 0) for other in others)
            if minutes > books[day].day_minutes_max:
                reasons.add("DAY_CAP")
            elif minutes > books[day].day_minutes_free:
                reasons.add("DAY_NEEDS_APPROVAL")
        return reasons

    def _self_or_staff(self, c: Any, who: Any, unit_id: UUID) -> set[str]:
        if who.person_id == c.volunteer_id:
            return set()
        return self._staff(who, unit_id, "organiser", "recorder", "dispatcher")

    @staticmethod
    def _session_taken(person: dict[str, Any], session_id: UUID) -> set[str]:
        asked = [r["session"] for r in person["requests"].values() if r["kind"] == "backfill"]
        return {"ALREADY_EXISTS"} if session_id in (*person["sessions"], *asked) else set()

    # -- back-fills and corrections --

    def _RequestBackfill(self, c: Any, who: Any) -> Judgement:
        unknown = {"UNKNOWN_VOLUNTEER"} if c.volunteer_id not in self.people else set()
        unknown |= {"UNKNOWN_UNIT"} if c.unit_id not in self.units else set()
        if unknown:
            return unknown, None
        person = self.people[c.volunteer_id]
        reasons = self._self_or_staff(c, who, c.unit_id) | self._session_taken(person, c.session_id)
        reasons |= {"UNKNOWN_ORDER"} if c.order_id and c.order_id not in self.orders else set()
        reasons |= {"VOLUNTEER_WITHDRAWN"} if person["withdrawn"] else set()
        reasons |= {"ALREADY_EXISTS"} if c.request_id in person["requests"] else set()
        order = self.orders.get(c.order_id)
        reasons |= {"INVALID_REQUEST"} if order and order["unit"] != c.unit_id else set()
        reasons |= self._against(person, c)
        request = {
            "kind": "backfill",
            "asked": c,
            "by": who.person_id,
            "session": c.session_id,
            "verdict": None,
        }
        return reasons, lambda _: person["requests"].update({c.request_id: request})

    def _decision(self, c: Any, who: Any, unit_id: UUID, request: dict[str, Any], *barred: UUID) -> set[str]:
        reasons = self._staff(who, unit_id, "organiser", "dispatcher")
        reasons |= {"ALREADY_DECIDED"} if request["verdict"] else set()
        if who.person_id in (request["by"], c.volunteer_id, *barred):
            reasons.add("SELF_APPROVAL")
        return reasons

    def _DecideBackfill(self, c: Any, who: Any) -> Judgement:
        if c.volunteer_id not in self.people:
            return {"UNKNOWN_VOLUNTEER"}, None
        person = self.people[c.volunteer_id]
        request = person["requests"].get(c.request_id)
        if request is None or request["kind"] != "backfill":
            return {"UNKNOWN_REQUEST"}, None
        asked = request["asked"]
        reasons = self._decision(c, who, asked.unit_id, request)
        if c.verdict == "approved":
            reasons |= self._against(person, asked)

        def happen(_: UUID) -> None:
            request["verdict"] = c.verdict
            if c.verdict == "approved":
                person["sessions"][asked.session_id] = {
                    **self._new_session(asked, "backfilled", request["by"]),
                    "unit": asked.unit_id,
                    "kind": asked.activity_kind,
                }

        return reasons, happen

    def _new_session(self, times: Any, source_class: str, recorder: UUID) -> dict[str, Any]:
        edition = self._edition(day_of(times.started_at))
        assert edition is not None
        days = split(times.started_at, times.ended_at, times.break_minutes)
        return {
            "from": times.started_at,
            "until": times.ended_at,
            "break": times.break_minutes,
            "class": source_class,
            "recorded_class": source_class,
            "recorder": recorder,
            "order": None,
            "inferred": False,
            "late": self._late(times.ended_at, edition[2]),
            "book": edition[2],
            "version": edition[1],
            "versions": {day: self._edition(day)[1] for day in days},  # type: ignore[index]
            "corrected_by": None,
            "reversed": False,
        }

    def _late(self, ended_at: datetime, book: Any) -> bool:
        return day_of(self.now) > deadline(day_of(ended_at), book)

    def _RequestCorrection(self, c: Any, who: Any) -> Judgement:
        if c.volunteer_id not in self.people:
            return {"UNKNOWN_VOLUNTEER"}, None
        person = self.people[c.volunteer_id]
        session = person["sessions"].get(c.session_id)
        if session is None:
            return {"UNKNOWN_SESSION"}, None
        reasons = self._self_or_staff(c, who, session["unit"])
        reasons |= {"ALREADY_EXISTS"} if c.request_id in person["requests"] else set()
        times = (c.started_at, c.ended_at, c.break_minutes)
        if c.kind == "reverse":
            reasons |= {"NOT_ALLOWED_NOW"} if session["reversed"] else set()
            reasons |= {"INVALID_REQUEST"} if times != (None, None, None) else set()
        elif None in times[:2]:
            reasons.add("INVALID_REQUEST")
        else:
            reasons |= self._against(person, c, session["book"], session)
        request = {"kind": c.kind, "asked": c, "by": who.person_id, "session": c.session_id, "verdict": None}
        return reasons, lambda _: person["requests"].update({c.request_id: request})

    def _DecideCorrection(self, c: Any, who: Any) -> Judgement:
        if c.volunteer_id not in self.people:
            return {"UNKNOWN_VOLUNTEER"}, None
        person = self.people[c.volunteer_id]
        request = person["requests"].get(c.request_id)
        if request is None or request["kind"] == "backfill":
            return {"UNKNOWN_REQUEST"}, None
        session, asked = person["sessions"][request["session"]], request["asked"]
        reasons = self._decision(c, who, session["unit"], request, session["recorder"])
        if c.verdict == "approved" and asked.kind == "reverse":
            reasons |= {"NOT_ALLOWED_NOW"} if session["reversed"] else set()
        elif c.verdict == "approved":
            reasons |= self._against(person, asked, session["book"], session)

        def happen(_: UUID) -> None:
            request["verdict"] = c.verdict
            if c.verdict == "approved" and asked.kind == "reverse":
                session["reversed"] = True
            elif c.verdict == "approved":
                self._amend(session, asked, c.volunteer_id)

        return reasons, happen

    def _amend(self, session: dict[str, Any], asked: Any, person_id: UUID) -> None:
        """Other times; the class is as recorded while they keep its promise of acceptance first, else back-filled."""
        order = session["order"]
        promised = order is None or self._known_before(order, person_id, asked.started_at)
        said = "confirmed" if session["recorded_class"] == "machine" else session["recorded_class"]
        session.update(
            {
                "from": asked.started_at,
                "until": asked.ended_at,
                "break": asked.break_minutes or 0,
                "class": said if promised else "backfilled",
                "inferred": False,
                "late": self._late(asked.ended_at, session["book"]),
                "corrected_by": session["version"],
                "reversed": False,
            }
        )

    # -- orders --

    def _PlaceOrder(self, c: Any, who: Any) -> Judgement:
        reasons = self._taken(c.order_id)
        if c.unit_id not in self.units:
            return reasons | {"UNKNOWN_UNIT"}, None
        if who.person_id != c.requester_id:
            reasons |= self._staff(who, c.unit_id, "organiser", "dispatcher")
        if c.wanted_until <= max(c.wanted_from, self.now):
            reasons.add("BAD_WINDOW")
        order = {
            "unit": c.unit_id,
            "kind": c.activity_kind,
            "requester": c.requester_id,
            "until": c.wanted_until,
            "placed": self.now,
        }
        empty: dict[str, Any] = {
            "team": None,
            "recorder": None,
            "ended": None,
            "asked": {},
            "served": {},
            "ratings": {},
        }
        return reasons, lambda made: self.orders.update({made: {**order, **empty}})

    def _step(self, c: Any, *states: str) -> tuple[dict[str, Any], set[str]]:
        order = self.orders[c.order_id]
        return order, set() if self._status(order) in states else {"NOT_ALLOWED_NOW"}

    def _RejectOrder(self, c: Any, who: Any) -> Judgement:
        if c.order_id not in self.orders:
            return {"UNKNOWN_ORDER"}, None
        order, reasons = self._step(c, "placed", "dispatched")
        reasons |= self._staff(who, order["unit"], "organiser", "dispatcher")
        return reasons, lambda _: order.update(ended="rejected")

    def _WithdrawOrder(self, c: Any, who: Any) -> Judgement:
        if c.order_id not in self.orders:
            return {"UNKNOWN_ORDER"}, None
        order, reasons = self._step(c, "placed", "dispatched", "accepted")
        if who.person_id != order["requester"]:
            reasons |= self._staff(who, order["unit"], "organiser", "dispatcher")
        return reasons, lambda _: order.update(ended="withdrawn")

    def _DispatchOrder(self, c: Any, who: Any) -> Judgement:
        return self._to_team(c, who, "placed")

    def _ReassignOrder(self, c: Any, who: Any) -> Judgement:
        reasons, happen = self._to_team(c, who, "dispatched", "accepted")
        order = self.orders.get(c.order_id)
        if order and order["team"] == c.team_id:
            reasons = reasons | {"INVALID_REQUEST"}
        return reasons, happen

    def _to_team(self, c: Any, who: Any, *states: str) -> Judgement:
        if c.order_id not in self.orders or c.team_id not in self.teams:
            unknown = {"UNKNOWN_ORDER"} if c.order_id not in self.orders else set()
            return unknown | ({"UNKNOWN_TEAM"} if c.team_id not in self.teams else set()), None
        order, reasons = self._step(c, *states)
        team = self.teams[c.team_id]
        reasons |= self._staff(who, order["unit"], "organiser", "dispatcher") | self._within(
            who, team["unit"]
        )
        reasons |= {"NOT_ALLOWED_NOW"} if team["dissolved"] else set()
        open_ = {v for v, a in order["asked"].items() if a["answer"] in ("offered", "accepted")}
        asked, more = self._asking(c, team, set())
        now = self.now

        def happen(_: UUID) -> None:
            order["team"] = c.team_id
            for person_id in open_:
                order["asked"][person_id]["answer"] = "released"
            self._ask(order, asked, now)

        return reasons | more, happen

    def _OfferOrder(self, c: Any, who: Any) -> Judgement:
        if c.order_id not in self.orders:
            return {"UNKNOWN_ORDER"}, None
        order, reasons = self._step(c, "dispatched", "accepted")
        reasons |= self._staff(who, order["unit"], "organiser", "dispatcher")
        if order["team"] is None:
            return reasons, None
        open_ = {v for v, a in order["asked"].items() if a["answer"] in ("offered", "accepted")}
        asked, more = self._asking(c, self.teams[order["team"]], open_)
        now = self.now
        return reasons | more, (lambda _: self._ask(order, asked, now)) if asked else None

    def _asking(self, c: Any, team: dict[str, Any], open_: set[UUID]) -> tuple[set[UUID], set[str]]:
        reasons = set()
        for person_id in c.volunteer_ids:
            if person_id not in team["members"]:
                reasons.add("NOT_MEMBER")
            elif self.people[person_id]["withdrawn"]:
                reasons.add("VOLUNTEER_WITHDRAWN")
        if self.book_on(day_of(self.now)) is None:
            reasons.add("NO_RULE_BOOK")
        return set(c.volunteer_ids) - open_, reasons

    def _ask(self, order: dict[str, Any], asked: set[UUID], now: datetime) -> None:
        until = now + timedelta(hours=self.book_on(day_of(now)).offer_hours)
        for person_id in asked:
            order["asked"][person_id] = {"answer": "offered", "until": until, "accepted": None}

    def _answer(self, c: Any, who: Any, *answers: str) -> tuple[Any, set[str]]:
        order, reasons = self._step(c, "dispatched", "accepted")
        reasons |= {"ONLY_THEMSELVES"} if who.person_id != c.volunteer_id else set()
        asked = order["asked"].get(c.volunteer_id, {"answer": None, "until": self.now})
        return asked, reasons | ({"NOT_OFFERED"} if asked["answer"] not in answers else set())

    def _AcceptOrder(self, c: Any, who: Any) -> Judgement:
        if c.order_id not in self.orders:
            return {"UNKNOWN_ORDER"}, None
        asked, reasons = self._answer(c, who, "offered")
        reasons |= {"NOT_OFFERED"} if asked["until"] <= self.now else set()
        if c.volunteer_id in self.people and self.people[c.volunteer_id]["withdrawn"]:
            reasons.add("VOLUNTEER_WITHDRAWN")
        now = self.now
        return reasons, lambda _: asked.update(answer="accepted", accepted=now)

    def _DeclineOrder(self, c: Any, who: Any) -> Judgement:
        if c.order_id not in self.orders:
            return {"UNKNOWN_ORDER"}, None
        asked, reasons = self._answer(c, who, "offered", "accepted")
        return reasons, lambda _: asked.update(answer="declined")

    def _ExpireOffer(self, c: Any, who: Any) -> Judgement:
        if c.order_id not in self.orders:
            return {"UNKNOWN_ORDER"}, None
        asked, reasons = self._answer(c, who, "offered")
        reasons -= {"ONLY_THEMSELVES"}
        reasons |= {"WRONG_ROLE"} if who.role != "admin" else set()
        reasons |= {"NOT_OFFERED"} if asked["until"] > self.now else set()
        return reasons, lambda _: asked.update(answer="expired")

    @staticmethod
    def _known_before(order: dict[str, Any], person_id: UUID, started_at: datetime) -> bool:
        asked = order["asked"].get(person_id, {"answer": None})
        since = max(order["placed"], asked.get("accepted") or order["placed"])
        return bool(asked["answer"] == "accepted" and since <= started_at)

    def _CompleteOrder(self, c: Any, who: Any) -> Judgement:
        if c.order_id not in self.orders:
            return {"UNKNOWN_ORDER"}, None
        order, reasons = self._step(c, "accepted")
        reasons |= self._staff(who, order["unit"], "recorder", "organiser", "dispatcher")
        for named in ("volunteer_id", "session_id"):
            twice = len({getattr(s, named) for s in c.services}) < len(c.services)
            reasons |= {"INVALID_REQUEST"} if twice else set()
        for service in c.services:
            if service.volunteer_id not in self.people:
                reasons.add("UNKNOWN_VOLUNTEER")
                continue
            reasons |= self._service(order, service, who)

        def happen(_: UUID) -> None:
            order["recorder"] = who.person_id
            for s in c.services:
                order["served"][s.volunteer_id] = s.session_id
                source_class = "machine" if s.checked and not s.end_inferred else "confirmed"
                self.people[s.volunteer_id]["sessions"][s.session_id] = {
                    **self._new_session(s, source_class, who.person_id),
                    "unit": order["unit"],
                    "kind": order["kind"],
                    "order": order,
                    "inferred": s.end_inferred,
                }
            order["ended_on"] = day_of(max(s.ended_at for s in c.services))

        return reasons, happen

    def _service(self, order: dict[str, Any], service: Any, who: Any) -> set[str]:
        person = self.people[service.volunteer_id]
        reasons = self._against(person, service) | self._session_taken(person, service.session_id)
        asked = order["asked"].get(service.volunteer_id, {"answer": None})
        if who.person_id == service.volunteer_id:
            reasons.add("SELF_RECORDING")
        if asked["answer"] != "accepted":
            reasons.add("NOT_ACCEPTED")
        elif not self._known_before(order, service.volunteer_id, service.started_at):
            reasons.add("BACKFILL_REQUIRED")
        if service.end_inferred and service.ended_at > order["until"]:
            reasons.add("INVALID_REQUEST")
        return reasons

    # -- ratings --

    def _RateOrder(self, c: Any, who: Any) -> Judgement:
        if c.order_id not in self.orders:
            return {"UNKNOWN_ORDER"}, None
        order, reasons = self._step(c, "completed", "rated")
        if reasons:
            return reasons, None
        own, public = who.person_id == order["requester"], who.role in ("resident", "volunteer")
        if not own and not c.code_checked:
            reasons.add("ONLY_THEMSELVES")
        relayed = not own and not public
        if relayed:
            reasons |= self._staff(who, order["unit"], "organiser", "dispatcher", "recorder")
        rater = order["requester"] if relayed else who.person_id
        leader = self.teams[order["team"]]["leader"]
        barred = {*order["served"], order["recorder"], leader}
        if {rater, who.person_id} & barred or set(c.same_phone_ids) & set(order["served"]):
            reasons.add("RATER_NOT_INDEPENDENT")
        if any(r["by"] == rater and r["live"] for r in order["ratings"].values()):
            reasons.add("ALREADY_RATED")
        if c.rating_id in order["ratings"]:
            reasons.add("ALREADY_EXISTS")
        book = self.book_on(order["ended_on"])
        if c.score is not None and not book.rating_min <= c.score <= book.rating_max:
            reasons.add("SCORE_OUT_OF_RANGE")
        rating = {"by": rater, "score": c.score, "live": True}
        return reasons, lambda _: order["ratings"].update({c.rating_id: rating})

    def _WithdrawRating(self, c: Any, who: Any) -> Judgement:
        if c.order_id not in self.orders:
            return {"UNKNOWN_ORDER"}, None
        order, reasons = self._step(c, "rated")
        rating = order["ratings"].get(c.rating_id)
        if rating is None or not rating["live"]:
            return reasons | {"UNKNOWN_RATING"}, None
        if who.person_id != rating["by"]:
            reasons.add("ONLY_THEMSELVES")
        return reasons, lambda _: rating.update(live=False)
