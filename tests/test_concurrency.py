"""Many hands on one ledger: nothing lost, nothing doubled, one order of things (design, decisions 2–4; F34, F35)."""

import hashlib
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from itertools import count
from threading import Barrier
from uuid import UUID, uuid5

import orjson
import psycopg
import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.exc import DBAPIError, OperationalError

from ledger import commands as c
from ledger import ids
from ledger.application import Answer, Ledger, Request, _Decision
from ledger.errors import Refusal
from ledger.groupcommit import Job, Transaction
from ledger.log import LedgerLog
from ledger.rulebook import default_rulebook, local_day
from ledger.rules import Caller

START = datetime(2026, 3, 2, 1, 0, tzinfo=UTC)
LEDGER_ID = UUID("5f0c1c3e-6a55-4a1d-9d6a-3f2f4f1f0a03")
ADMIN = Caller(uuid5(LEDGER_ID, "admin"), "admin")
HANDS, TURNS = 8, 12


class TickingClock:
    """A clock that is read by many threads and gives each a moment of its own, sometimes a little earlier."""

    def __init__(self) -> None:
        self._ticks = count()

    def __call__(self) -> datetime:
        tick = next(self._ticks)
        return START + timedelta(milliseconds=10 * tick - (25 if tick % 3 == 0 and tick > 9 else 0))


def ledger_over(log: LedgerLog) -> Ledger:
    return Ledger(log, digest=lambda body: hashlib.sha256(body).digest(), clock=TickingClock())


@pytest.fixture
def ledger(database_url: str) -> Iterator[Ledger]:
    """A ledger with a rule book and a centre."""
    log = LedgerLog.create(database_url, ledger_id=LEDGER_ID, kind="demo", created_at=START)
    made = ledger_over(log)
    book = default_rulebook()
    made.handle(c.PublishRuleBook(version=1, effective_on=local_day(START), book=book), ADMIN)
    made.handle(c.EstablishUnit(kind="centre", name="中心", division_code="620523"), ADMIN)
    yield made
    log.close()


def centre() -> UUID:
    return ids.unit_id(LEDGER_ID, "centre", "620523")


def place(number: int) -> c.PlaceOrder:
    return c.PlaceOrder(
        order_id=uuid5(LEDGER_ID, f"order|{number}"),
        requester_id=ADMIN.person_id,
        unit_id=centre(),
        activity_kind="health",
        wanted_from=START + timedelta(days=1),
        wanted_until=START + timedelta(days=2),
        need="s1.QUJD",
    )


def at_once(ledgers: list[Ledger], requests: list[list[Request]]) -> list[Answer | Refusal]:
    """Each list by a thread of its own, all starting together, at the ledgers in turn."""
    together = Barrier(len(requests))

    def work(hand: int) -> list[Answer | Refusal]:
        together.wait()
        return [tried(ledgers[hand % len(ledgers)], request) for request in requests[hand]]

    with ThreadPoolExecutor(len(requests)) as pool:
        return [outcome for outcomes in pool.map(work, range(len(requests))) for outcome in outcomes]


def tried(ledger: Ledger, request: Request) -> Answer | Refusal:
    try:
        return ledger.handle(request.command, request.caller, key=request.key)
    except Refusal as refusal:
        return refusal


def check_log(ledger: Ledger, answers: list[Answer]) -> None:
    """Dense positions and versions, time that never falls, and each answer's facts at its own positions."""
    rows = list(ledger.ledger_log.read())
    versions: Counter[UUID] = Counter()
    for position, row in enumerate(rows, 1):
        versions[row.stream_id] += 1
        assert (row.position, row.version) == (position, versions[row.stream_id])
    recorded = [orjson.loads(row.state)["recorded_at"] for row in rows]
    assert recorded == sorted(recorded)
    commands = Counter(orjson.loads(row.state)["command_id"] for row in rows)
    for answer in answers:
        assert commands[str(answer.command_id)] == len(answer.facts)
        mine = rows[answer.first_position - 1 : answer.last_position]
        assert [(row.stream_id, row.version) for row in mine] == [
            (fact.originator_id, fact.originator_version) for fact in answer.facts
        ]
    for stream_id, version in versions.items():
        state = ledger.state(stream_id)
        assert state is not None
        assert state.version == version


def test_eight_hands_lose_no_command_and_double_none(ledger: Ledger) -> None:
    requests = [
        [Request(place(hand * TURNS + turn), ADMIN, f"{hand}-{turn}") for turn in range(TURNS)]
        for hand in range(HANDS)
    ]
    answers = at_once([ledger], requests)
    assert [a for a in answers if isinstance(a, Refusal)] == []
    placed = [a for a in answers if isinstance(a, Answer)]
    assert sorted(a.first_position for a in placed) == list(range(3, 3 + HANDS * TURNS))
    check_log(ledger, placed)


def test_eight_hands_at_two_ledgers_on_one_log_write_one_history(ledger: Ledger, database_url: str) -> None:
    """As two processes would: what the other wrote meanwhile is known before anything is decided."""
    second = ledger_over(LedgerLog.open(database_url, busy_seconds=30))
    renames = [
        [Request(c.RenameUnit(unit_id=centre(), name=f"第{hand}名{turn}"), ADMIN) for turn in range(TURNS)]
        for hand in range(HANDS)
    ]
    answers = at_once([ledger, second], renames)
    assert [a for a in answers if isinstance(a, Refusal)] == []
    renamed = [a for a in answers if isinstance(a, Answer)]
    assert sorted(a.facts[0].originator_version for a in renamed) == list(range(2, 2 + HANDS * TURNS))
    check_log(ledger, renamed)
    second.ledger_log.close()


def test_one_key_sent_by_eight_hands_at_once_records_its_facts_once(ledger: Ledger) -> None:
    answers = at_once([ledger], [[Request(place(1), ADMIN, "same")]] * HANDS)
    assert sorted(a.replayed for a in answers if isinstance(a, Answer)) == [False] + [True] * (HANDS - 1)
    assert len({(a.command_id, a.facts, a.first_position) for a in answers if isinstance(a, Answer)}) == 1
    assert ledger.ledger_log.head().size == 3


def test_one_key_sent_to_two_ledgers_at_once_records_its_facts_once(
    ledger: Ledger, database_url: str
) -> None:
    """The key is in flight in each process for itself; only the log can tell."""
    second = ledger_over(LedgerLog.open(database_url, busy_seconds=30))
    answers = at_once([ledger, second], [[Request(place(1), ADMIN, "same")]] * HANDS)
    assert [a.replayed for a in answers if isinstance(a, Answer)].count(False) == 1
    assert len({(a.command_id, a.facts, a.first_position) for a in answers if isinstance(a, Answer)}) == 1
    assert ledger.ledger_log.head().size == 3
    second.ledger_log.close()


def test_of_eight_who_ask_for_the_same_thing_one_gets_it(ledger: Ledger) -> None:
    outcomes = at_once([ledger], [[Request(place(1), Caller(ADMIN.person_id, "admin"))]] * HANDS)
    assert Counter(getattr(o, "code", "done") for o in outcomes) == {"done": 1, "ALREADY_EXISTS": HANDS - 1}
    assert ledger.ledger_log.head().size == 3


def test_two_approvals_at_once_have_one_winner(ledger: Ledger) -> None:
    volunteer_id, request_id = uuid5(LEDGER_ID, "volunteer"), uuid5(LEDGER_ID, "request")
    enrol = c.EnrolVolunteer(
        volunteer_id=volunteer_id,
        volunteer_number="gg-1",
        home_unit_id=centre(),
        profile="s1.QUJD",
        consent_document="consent-2026",
        consented_at=START - timedelta(days=1),
    )
    ledger.handle(enrol, ADMIN)
    hours = c.RequestBackfill(
        volunteer_id=volunteer_id,
        request_id=request_id,
        session_id=uuid5(LEDGER_ID, "session"),
        unit_id=centre(),
        activity_kind="health",
        started_at=START - timedelta(minutes=40),
        ended_at=START - timedelta(minutes=10),
        reason="s1.QUJD",
    )
    ledger.handle(hours, ADMIN)
    decide = c.DecideBackfill(volunteer_id=volunteer_id, request_id=request_id, verdict="approved")
    deciders = [Caller(uuid5(LEDGER_ID, f"decider|{hand}"), "organiser") for hand in range(HANDS)]
    outcomes = at_once([ledger], [[Request(decide, decider)] for decider in deciders])
    assert Counter(getattr(o, "code", "done") for o in outcomes) == {"done": 1, "ALREADY_DECIDED": HANDS - 1}
    entries = [row for row in ledger.ledger_log.read() if row.topic == "entry.posted"]
    assert [orjson.loads(row.state)["minutes"] for row in entries] == [30]


class CutOff(Job[None]):
    """Whoever writes for others loses the connection in the middle of deciding."""

    def __init__(self, url: str) -> None:
        self.url = url

    def prepare(self, tx: Transaction) -> None:
        mine = tx._session._connection  # type: ignore[attr-defined]
        pid = mine.exec_driver_sql("SELECT pg_backend_pid()").scalar_one()
        with psycopg.connect(self.url, autocommit=True) as administrator:
            administrator.execute("SELECT pg_terminate_backend(%s, 10000)", (pid,))
        mine.exec_driver_sql("SELECT 1")


def test_a_connection_lost_while_deciding_is_told_as_such_to_everybody_in_the_batch(
    postgres_url: str,
) -> None:
    log = LedgerLog.create(postgres_url, ledger_id=LEDGER_ID, kind="demo", created_at=START)
    ledger = ledger_over(log)
    ledger.handle(c.PublishRuleBook(version=1, effective_on=local_day(START), book=default_rulebook()), ADMIN)
    establish = Request(c.EstablishUnit(kind="centre", name="中心", division_code="620523"), ADMIN, "unit")
    jobs = [
        _Decision(ledger, establish),
        CutOff(postgres_url),
        _Decision(ledger, Request(place(1), ADMIN, "order")),
    ]
    errors = log.submit_many(jobs)
    assert [type(error) for error in errors] == [OperationalError] * 3
    assert log.head().size == 1
    answers = [
        ledger.handle(establish.command, ADMIN, key="unit"),
        ledger.handle(place(1), ADMIN, key="order"),
    ]
    assert [answer.replayed for answer in answers] == [False, False]
    check_log(ledger, answers)
    log.close()


def test_after_a_failed_write_nothing_that_did_not_happen_is_remembered(sqlite_url: str) -> None:
    log = LedgerLog.create(sqlite_url, ledger_id=LEDGER_ID, kind="demo", created_at=START)
    ledger = ledger_over(log)
    ledger.handle(c.EstablishUnit(kind="centre", name="中心", division_code="620523"), ADMIN)
    raw = create_engine(sqlite_url)
    with raw.begin() as connection:
        connection.execute(
            text("CREATE TRIGGER full BEFORE INSERT ON facts BEGIN SELECT RAISE(ABORT, 'disk full'); END")
        )
    for command in (place(1), c.RenameUnit(unit_id=centre(), name="新名")):
        with pytest.raises(DBAPIError):
            ledger.handle(command, ADMIN)
    with raw.begin() as connection:
        connection.execute(text("DROP TRIGGER full"))
    raw.dispose()
    answers = [
        ledger.handle(place(1), ADMIN),
        ledger.handle(c.RenameUnit(unit_id=centre(), name="新名"), ADMIN),
    ]
    check_log(ledger, answers)
    log.close()
