"""Clocks that are ten years off or run backwards: the order of facts stays, and no impossible service passes."""

import hashlib
from collections import Counter
from datetime import datetime, timedelta
from pathlib import Path
from random import Random

import orjson
import pytest

from ledger import audit
from ledger import commands as c
from ledger.application import CLOCK_TOLERANCE_SECONDS, Ledger
from ledger.errors import ClockBehindError, ExpectedError
from ledger.log import LedgerLog
from ledger.rulebook import default_rulebook
from ledger.rules import Caller
from tests.county import LEDGER_ID, SEALED, START, County, name
from tests.faults import chances, times

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1_800)]

LEDGERS = 20
TEN_YEARS = timedelta(days=3_653)
VOLUNTEER = Caller(name("volunteer", 0), "volunteer")


def skewed(random: Random) -> timedelta:
    """How far a clock is off: mostly a little, often backwards, sometimes ten years."""
    match random.randrange(4):
        case 0:
            return random.choice((-1, 1)) * TEN_YEARS * random.random()
        case 1:
            return timedelta(seconds=random.uniform(-3 * CLOCK_TOLERANCE_SECONDS, CLOCK_TOLERANCE_SECONDS))
        case 2:
            return timedelta(minutes=random.uniform(-600, 600))
        case _:
            return timedelta(seconds=random.uniform(0, 60))


@pytest.mark.parametrize("part", range(LEDGERS))
def test_no_clock_changes_the_order_or_lets_an_impossible_service_pass(part: int, tmp_path: Path) -> None:
    random = chances(f"clock skew, ledger {part}")
    county = County(f"sqlite:///{tmp_path / 'ledger.db'}")
    served, told = Counter[str](), Counter[str]()
    for number in range(times(1_000 // LEDGERS)):
        honest = max(START + timedelta(days=1), county.log.head().recorded_at + timedelta(minutes=number))
        now = honest + skewed(random)
        start = now - timedelta(minutes=90) + skewed(random)
        told[attempt(county, number, now, start, start + service_of(random))] += 1
    rows = [(row, orjson.loads(row.state)) for row in county.log.read()]
    recorded = [state["recorded_at"] for _, state in rows]
    assert recorded == sorted(recorded)
    assert [row.position for row, _ in rows] == list(range(1, len(rows) + 1))
    book = default_rulebook()
    for row, state in rows:
        if row.topic == "backfill.requested":
            minutes = between(state["started_at"], state["ended_at"]) / timedelta(minutes=1)
            assert 0 < minutes <= book.session_minutes_max
            assert state["ended_at"] <= state["recorded_at"], "nothing is served in the future"
        if row.topic == "entry.posted":
            served["entries"] += 1
            assert 0 < state["minutes"] <= 24 * 60
    assert audit.verify(county.log).ok
    print(f"{dict(told)}, {served['entries']} entries")
    county.close()


def service_of(random: Random) -> timedelta:
    """How long somebody says they served: the other way round, nothing at all, or for a week."""
    return timedelta(minutes=random.choice((-90, 0, 45, 45, 45, 600, 24 * 60 + 1, 7 * 24 * 60)))


def between(start: str, end: str) -> timedelta:
    return datetime.fromisoformat(end) - datetime.fromisoformat(start)


def attempt(county: County, number: int, now: datetime, start: datetime, end: datetime) -> str:
    """One back-fill asked for and approved by the clock of the day; the refusal's code, or "done"."""
    head = county.log.head()
    ledger = Ledger(county.log, digest=lambda b: hashlib.sha256(b).digest(), clock=lambda: now)
    request = name("request", number)
    asked = c.RequestBackfill(
        volunteer_id=VOLUNTEER.person_id,
        request_id=request,
        session_id=name("session", number),
        unit_id=county.station,
        activity_kind="health",
        started_at=start,
        ended_at=end,
        reason=SEALED,
    )
    decided = c.DecideBackfill(volunteer_id=VOLUNTEER.person_id, request_id=request, verdict="approved")
    behind = (head.recorded_at - now).total_seconds() > CLOCK_TOLERANCE_SECONDS
    try:
        ledger.handle(asked, VOLUNTEER)
    except ExpectedError as refused:
        code = refused.code
    else:
        code = ""
    assert (code == ClockBehindError.code) == behind, "a clock that lies behind the newest record is refused"
    if code:
        assert (county.log.head().size, county.log.head().recorded_at) == (head.size, head.recorded_at)
        return code
    assert county.log.head().recorded_at == max(now, head.recorded_at)
    try:
        ledger.handle(decided, Caller(name("person", "checker"), "organiser"))
    except ExpectedError as refused:
        return f"not approved: {refused.code}"
    return "done"


def test_two_processes_with_different_clocks_write_one_order(database_url: str) -> None:
    """The one behind by more than five seconds is told so, by less writes with the time of the other."""
    county = County(database_url)
    ahead = START + timedelta(hours=1)
    other = LedgerLog.open(database_url)
    for seconds, code in ((0, ""), (1, ""), (5, ""), (6, "CLOCK_BEHIND"), (315_576_000, "CLOCK_BEHIND")):
        county.now = ahead
        county.do(c.RenameUnit(unit_id=county.base, name=f"前 {seconds}"))
        behind = ahead - timedelta(seconds=seconds)
        late = Ledger(other, digest=lambda b: hashlib.sha256(b).digest(), clock=lambda: behind)  # noqa: B023
        rename = c.RenameUnit(unit_id=county.base, name=f"后 {seconds}")
        if code:
            with pytest.raises(ClockBehindError) as refused:
                late.handle(rename, county.admin)
            assert refused.value.code == code
        else:
            (fact,) = late.handle(rename, county.admin).facts
            assert fact.recorded_at == ahead
    assert audit.verify(county.log).ok
    assert county.log.identity.ledger_id == LEDGER_ID
    other.close()
    county.close()
