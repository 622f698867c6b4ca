"""``given(facts).when(command, caller, at).then(facts | refusal)`` over the pure rules, and a small invented county.

Whatever a test asserts, every `when` also sees to it that a decision changes no state, that its facts are stamped with
who asked and when, stand next in their streams, and can be folded. No database and no clock may be used here.
"""

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid5

from ledger import commands as c
from ledger import events as e
from ledger import ids
from ledger.errors import Offences, Refusal
from ledger.rulebook import default_rulebook, local_day
from ledger.rules import Caller, Case, Role, decide, fold

LEDGER_ID = UUID("5f0c1c3e-6a55-4a1d-9d6a-3f2f4f1f0a03")
SEALED = "s1.QUJD"
FOUNDED = datetime(2026, 1, 5, 1, 0, tzinfo=UTC)
"""When the county's book, units, teams and volunteers were recorded."""
NOW = datetime(2026, 3, 10, 8, 0, tzinfo=UTC)
"""A Tuesday, four in the afternoon in the county: the moment of a command, if not said."""
BOOK = default_rulebook()
PLACED_AT, ASKED_AT, ACCEPTED_AT = (NOW - timedelta(hours=hours) for hours in (30, 29, 28))
"""When the order of most tests was recorded, offered and accepted: the day before `NOW`."""
STARTED_AT, ENDED_AT = (NOW - timedelta(hours=hours) for hours in (4, 2))
"""A service of two hours, from noon in the county."""


def name(*parts: object) -> UUID:
    """A stable id for something invented."""
    return uuid5(LEDGER_ID, "|".join(map(str, parts)))


def ago(hours: float = 0, minutes: float = 0, seconds: float = 0, since: datetime = NOW) -> datetime:
    return since - timedelta(hours=hours, minutes=minutes, seconds=seconds)


# --- who and where ---------------------------------------------------------------------------------------------------

CENTRE = ids.unit_id(LEDGER_ID, "centre", "620523")
INSTITUTE = ids.unit_id(LEDGER_ID, "institute", "620523100")
OTHER_INSTITUTE = ids.unit_id(LEDGER_ID, "institute", "620523101")
STATION = ids.unit_id(LEDGER_ID, "station", "620523100001")
BASE = name("base")
CORPS = ids.team_id(LEDGER_ID, "corps", CENTRE, None)
BRANCH = ids.team_id(LEDGER_ID, "branch", INSTITUTE, None)
SQUAD = ids.team_id(LEDGER_ID, "squad", STATION, None)
BASE_SQUAD = ids.team_id(LEDGER_ID, "squad", BASE, None)
RULEBOOK = ids.rulebook_id(LEDGER_ID)
LI, WANG, ZHAO = name("volunteer", "li"), name("volunteer", "wang"), name("volunteer", "zhao")
"""Three volunteers in the squad of the station."""
SUN = name("volunteer", "sun")
"""A volunteer in no team."""
RESIDENT, LEADER, STRANGER = name("resident"), name("leader"), name("stranger")
ORDER = name("order")


def by(person: str | UUID, role: Role = "volunteer", unit: UUID | None = None) -> Caller:
    return Caller(person if isinstance(person, UUID) else name("staff", person), role, unit)


ADMIN = by("admin", "admin")
ORGANISER = by("organiser", "organiser", STATION)
ANOTHER = by("another", "organiser", STATION)
DISPATCHER = by("dispatcher", "dispatcher", STATION)
RECORDER = by("recorder", "recorder", STATION)
ELSEWHERE = by("elsewhere", "organiser", OTHER_INSTITUTE)
"""Staff of a unit that has nothing to do with the station."""


def themself(person_id: UUID) -> Caller:
    return Caller(person_id, "volunteer")


# --- facts -----------------------------------------------------------------------------------------------------------


def fact(kind: type[e.Fact], stream: UUID, at: datetime = FOUNDED, /, **fields: Any) -> e.Fact:
    """A fact recorded ``at``; its place in the stream is given by the history it stands in."""
    stamp: dict[str, Any] = {
        "originator_id": stream,
        "originator_version": 1,
        "happened_at": at,
        "recorded_at": at,
        "command_id": name("earlier"),
        "caller_id": ADMIN.person_id,
    }
    return kind(**{**stamp, **fields})


def a_unit(unit_id: UUID, kind: str, code: str | None, parent: UUID | None) -> e.Fact:
    fields = {"name": "单位", "division_code": code, "department": None}
    return fact(e.UnitEstablished, unit_id, kind=kind, parent_id=parent, **fields)


def a_team(team_id: UUID, kind: str, unit_id: UUID, parent: UUID | None, *members: UUID) -> list[e.Fact]:
    fields = {"name": "队", "category": None, "unit_id": unit_id, "parent_team_id": parent}
    joined = [fact(e.TeamMemberJoined, team_id, volunteer_id=v, relayed=False) for v in members]
    return [fact(e.TeamFormed, team_id, kind=kind, **fields), *joined]


def a_volunteer(volunteer_id: UUID) -> e.Fact:
    return fact(
        e.VolunteerEnrolled,
        volunteer_id,
        volunteer_number="gg-1",
        home_unit_id=STATION,
        profile=SEALED,
        consent_document="consent-2026",
        consented_at=FOUNDED,
        relayed=False,
    )


def a_book(version: int = 1, at: datetime = FOUNDED, **changes: Any) -> e.Fact:
    """An edition in force from the day it is recorded on."""
    book = BOOK.model_copy(update=changes)
    return fact(
        e.RuleBookPublished, RULEBOOK, at, rulebook_version=version, effective_on=local_day(at), book=book
    )


UNITS: tuple[e.Fact, ...] = (
    a_unit(CENTRE, "centre", "620523", None),
    a_unit(INSTITUTE, "institute", "620523100", CENTRE),
    a_unit(OTHER_INSTITUTE, "institute", "620523101", CENTRE),
    a_unit(STATION, "station", "620523100001", INSTITUTE),
    a_unit(BASE, "base", None, OTHER_INSTITUTE),
)
PEOPLE: tuple[e.Fact, ...] = tuple(a_volunteer(v) for v in (LI, WANG, ZHAO, SUN))
TEAMS: tuple[e.Fact, ...] = (
    *a_team(CORPS, "corps", CENTRE, None),
    *a_team(BRANCH, "branch", INSTITUTE, CORPS),
    *a_team(SQUAD, "squad", STATION, BRANCH, LI, WANG, ZHAO),
    *a_team(BASE_SQUAD, "squad", BASE, CORPS, SUN),
)
COUNTY: tuple[e.Fact, ...] = (a_book(), *UNITS, *PEOPLE, *TEAMS)
"""A rule book, five units, four teams, four volunteers."""


def an_order(at: datetime = PLACED_AT, order_id: UUID = ORDER, **fields: Any) -> e.Fact:
    about: dict[str, Any] = {
        "requester_id": RESIDENT,
        "unit_id": STATION,
        "activity_kind": "health",
        "wanted_from": NOW - timedelta(hours=8),
        "wanted_until": NOW + timedelta(hours=8),
        "need": SEALED,
        "relayed": False,
    }
    return fact(e.OrderPlaced, order_id, at, **{**about, **fields})


def dispatched(*volunteers: UUID, at: datetime = ASKED_AT, order_id: UUID = ORDER) -> list[e.Fact]:
    """The order went to the squad, and these were asked; they may answer until a day later."""
    expires_at = at + timedelta(hours=24)
    offers = [
        fact(e.OrderOffered, order_id, at, unit_id=STATION, volunteer_id=v, expires_at=expires_at)
        for v in volunteers
    ]
    return [fact(e.OrderDispatched, order_id, at, unit_id=STATION, team_id=SQUAD), *offers]


def accepted(*volunteers: UUID, at: datetime = ACCEPTED_AT, order_id: UUID = ORDER) -> list[e.Fact]:
    return [fact(e.OrderAccepted, order_id, at, unit_id=STATION, volunteer_id=v) for v in volunteers]


def an_accepted_order(*volunteers: UUID, order_id: UUID = ORDER) -> list[e.Fact]:
    """Placed, dispatched and accepted the day before `NOW`."""
    facts = [an_order(order_id=order_id), *dispatched(*volunteers, order_id=order_id)]
    return [*facts, *accepted(*volunteers, order_id=order_id)]


# --- commands --------------------------------------------------------------------------------------------------------


def a_service(
    volunteer_id: UUID, started_at: datetime = STARTED_AT, ended_at: datetime = ENDED_AT, **how: Any
) -> c.Service:
    how.setdefault("session_id", name("session", volunteer_id))
    return c.Service(volunteer_id=volunteer_id, started_at=started_at, ended_at=ended_at, **how)


def completed(*services: c.Service, order_id: UUID = ORDER) -> c.CompleteOrder:
    return c.CompleteOrder(order_id=order_id, services=services)


def a_backfill(volunteer_id: UUID, started_at: datetime, ended_at: datetime, **how: Any) -> c.RequestBackfill:
    number = how.pop("number", 1)
    about: dict[str, Any] = {
        "request_id": name("backfill", volunteer_id, number),
        "session_id": name("backfilled session", volunteer_id, number),
        "unit_id": STATION,
        "activity_kind": "culture",
        "reason": SEALED,
    }
    return c.RequestBackfill(
        volunteer_id=volunteer_id, started_at=started_at, ended_at=ended_at, **{**about, **how}
    )


def approval(command: c.RequestBackfill | c.RequestCorrection, verdict: e.Verdict = "approved") -> c.Command:
    """The decision on a request."""
    kind = c.DecideBackfill if isinstance(command, c.RequestBackfill) else c.DecideCorrection
    return kind(volunteer_id=command.volunteer_id, request_id=command.request_id, verdict=verdict)


# --- given, when, then -----------------------------------------------------------------------------------------------


class _Streams(dict[UUID, Any]):
    def __missing__(self, stream_id: UUID) -> None:
        return None


class History:
    """Facts in their order, and the states they fold into."""

    def __init__(self, facts: Iterable[e.Fact]) -> None:
        self.facts: list[e.Fact] = []
        self._versions: dict[UUID, int] = {}
        for each in facts:
            version = self._versions.get(each.originator_id, 0) + 1
            self._versions[each.originator_id] = version
            self.facts.append(each.model_copy(update={"originator_version": version}))

    def states(self) -> dict[UUID, Any]:
        streams: dict[UUID, list[e.Fact]] = {}
        for each in self.facts:
            streams.setdefault(each.originator_id, []).append(each)
        return _Streams({stream_id: fold(facts) for stream_id, facts in streams.items()})

    def state(self, stream_id: UUID) -> Any:
        return self.states()[stream_id]

    def when(self, command: c.Command, caller: Caller = ADMIN, at: datetime = NOW) -> "Outcome":
        states, untouched = self.states(), self.states()
        case = Case(LEDGER_ID, name("command"), caller, at, len(self.facts), states)
        try:
            facts, refusal = decide(command, case), None
        except Refusal as raised:
            facts, refusal = [], raised
        assert dict(states) == dict(untouched), "a decision changes no state"
        assert all(f.recorded_at == at and f.caller_id == caller.person_id for f in facts)
        after = History([*self.facts, *facts])
        assert after.facts[len(self.facts) :] == facts, "a fact stands next in its stream"
        after.states()
        return Outcome(facts, refusal, after)

    def after(self, command: c.Command, caller: Caller = ADMIN, at: datetime = NOW) -> "History":
        """The history once ``command`` has been done; it may not be refused."""
        return self.when(command, caller, at).history


class Outcome:
    """What a command led to."""

    def __init__(self, facts: list[e.Fact], refusal: Refusal | None, history: History) -> None:
        self.refusal = refusal
        self._facts = facts
        self._history = history

    @property
    def facts(self) -> list[e.Fact]:
        assert self.refusal is None, f"refused: {self.refusal!r}"
        return self._facts

    @property
    def history(self) -> History:
        assert self.refusal is None, f"refused: {self.refusal!r}"
        return self._history

    def then(self, *expected: "Said") -> list[e.Fact]:
        """Exactly these facts in this order, each with (at least) the fields that are named."""
        assert [type(f) for f in self.facts] == [kind for kind, _ in expected]
        for found, (_, fields) in zip(self.facts, expected, strict=True):
            assert {field: getattr(found, field) for field in fields} == fields
        return self.facts

    def then_nothing(self) -> None:
        assert self.facts == []

    def then_refused(self, *kinds: type[Refusal], **details: object) -> Refusal:
        """Refused for exactly these reasons, in this order; ``details`` are some of what the first one says."""
        refusal = self.refusal
        assert refusal is not None, f"accepted: {[type(f).__name__ for f in self._facts]}"
        reasons = refusal.refusals if isinstance(refusal, Offences) else (refusal,)
        assert [type(r) for r in reasons] == list(kinds)
        assert {key: reasons[0].details.get(key) for key in details} == details
        for said in (refusal.sentence_en, refusal.sentence_zh):
            assert "?" not in said, "the sentence has all its words"
        assert refusal.code == kinds[0].code
        return refusal


Said = tuple[type[e.Fact], dict[str, Any]]


def a(kind: type[e.Fact], /, **fields: Any) -> Said:
    """An expected fact, with what is to be looked at."""
    return kind, fields


def given(*facts: e.Fact | Iterable[e.Fact]) -> History:
    return History([each for part in facts for each in ([part] if isinstance(part, e.Fact) else part)])


def a_recorded_session(volunteer_id: UUID = LI, **how: Any) -> History:
    """The county with one session that came from an order."""
    before = given(COUNTY, an_accepted_order(volunteer_id))
    return before.after(completed(a_service(volunteer_id, **how)), RECORDER)
