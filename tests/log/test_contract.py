"""What the log promises, on SQLite and on PostgreSQL alike (audit.md, Append; design, decisions 2–4; F34)."""

import multiprocessing
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import pytest
from eventsourcing.persistence import IntegrityError, StoredEvent
from sqlalchemy import create_engine, text
from sqlalchemy.exc import DBAPIError

from ledger.codec import encode
from ledger.errors import (
    LedgerBusyError,
    LedgerExistsError,
    LedgerMissingError,
    NotALedgerError,
    SchemaMismatchError,
)
from ledger.events import UnitRenamed
from ledger.groupcommit import Job, Outcome, Transaction
from ledger.log import LedgerLog
from ledger.merkle import Frontier, leaf_hash

START = datetime(2026, 3, 1, tzinfo=UTC)


def renamed(stream: UUID, version: int, at: datetime = START, name: str = "甘谷县中心") -> StoredEvent:
    """A small fact, encoded as the log stores it."""
    fact = UnitRenamed(
        originator_id=stream,
        originator_version=version,
        happened_at=at,
        recorded_at=at,
        command_id=uuid4(),
        caller_id=uuid4(),
        name=name,
    )
    return StoredEvent(stream, version, fact.TOPIC, encode(fact))


@pytest.fixture
def log(database_url: str) -> Iterator[LedgerLog]:
    made = LedgerLog.create(database_url, ledger_id=uuid4(), kind="demo", created_at=START)
    yield made
    made.close()


def test_positions_are_dense_from_one_in_the_order_of_commits(log: LedgerLog) -> None:
    first, second = uuid4(), uuid4()
    assert list(log.insert_events([renamed(first, 1), renamed(second, 1)])) == [1, 2]
    assert list(log.insert_events([renamed(first, 2)])) == [3]
    assert [row.position for row in log.read()] == [1, 2, 3]
    assert log.max_notification_id() == 3


def test_every_fact_has_its_leaf_hash_and_the_head_their_frontier(log: LedgerLog) -> None:
    stream = uuid4()
    log.insert_events([renamed(stream, n) for n in range(1, 8)])
    frontier = Frontier()
    for row in log.read():
        assert row.leaf_hash == leaf_hash(row.stream_id.bytes, row.version, row.topic.encode(), row.state)
        frontier.append(row.leaf_hash)
    assert log.head().frontier.root() == frontier.root()
    assert log.head().size == 7


def test_a_wrong_version_hurts_nobody_and_leaves_no_gap(log: LedgerLog) -> None:
    stream, other = uuid4(), uuid4()
    log.insert_events([renamed(stream, 1)])
    for wrong in (1, 3):
        with pytest.raises(IntegrityError):
            log.insert_events([renamed(other, 1), renamed(stream, wrong)])
    assert log.stream(other) == []
    assert list(log.insert_events([renamed(stream, 2)])) == [2]


def test_a_conflict_touches_its_own_job_and_never_its_neighbours(log: LedgerLog) -> None:
    stream = uuid4()
    log.insert_events([renamed(stream, 1)])

    class Insert(Job[int]):
        def __init__(self, event: StoredEvent) -> None:
            self.event = event

        def prepare(self, tx: Transaction) -> None:
            tx.append([self.event], tx.recorded_at, expect_versions=True)

        def committed(self) -> int:
            return self.event.originator_version

    neighbour = uuid4()
    answers = log.submit_many(
        [Insert(renamed(neighbour, 1)), Insert(renamed(stream, 1)), Insert(renamed(stream, 2))]
    )
    assert answers[0] == 1
    assert isinstance(answers[1], IntegrityError)
    assert answers[2] == 2
    assert [row.position for row in log.read()] == [1, 2, 3]


def test_many_threads_append_at_once_and_nothing_is_lost_or_doubled(log: LedgerLog) -> None:
    streams = [uuid4() for _ in range(8)]

    def write(stream: UUID) -> None:
        for version in range(1, 26):
            log.insert_events([renamed(stream, version)])

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(write, streams))
    assert [row.position for row in log.read()] == list(range(1, 201))
    for stream in streams:
        assert [row.version for row in log.stream(stream)] == list(range(1, 26))


def test_threads_that_race_for_one_stream_have_one_winner_a_version(log: LedgerLog) -> None:
    stream = uuid4()
    wins: list[int] = []

    def race(_: int) -> None:
        for version in range(1, 11):
            try:
                log.insert_events([renamed(stream, version)])
                wins.append(version)
            except IntegrityError:
                pass

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(race, range(6)))
    assert sorted(wins) == list(range(1, 11))


def _write_from_another_process(url: str, stream: UUID, count: int) -> None:
    other = LedgerLog.open(url, busy_seconds=30)
    for version in range(1, count + 1):
        other.insert_events([renamed(stream, version)])
    other.close()


def test_processes_append_side_by_side(log: LedgerLog, database_url: str) -> None:
    streams = [uuid4(), uuid4()]
    context = multiprocessing.get_context("spawn")
    workers = [
        context.Process(target=_write_from_another_process, args=(database_url, s, 30)) for s in streams
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert [row.position for row in log.read()] == list(range(1, 61))


def test_a_subscriber_sees_what_another_process_inserts_within_a_second(
    log: LedgerLog, database_url: str
) -> None:
    seen: list[tuple[int, datetime]] = []
    subscription = log.subscribe()

    def follow() -> None:
        for notification in subscription:
            seen.append((notification.id, datetime.now(UTC)))

    reader = threading.Thread(target=follow)
    reader.start()
    writer = LedgerLog.open(database_url)
    for version in range(1, 4):
        writer.insert_events([renamed(UUID(int=5), version)])
    written = datetime.now(UTC)
    deadline = written + timedelta(seconds=5)
    while len(seen) < 3 and datetime.now(UTC) < deadline:
        threading.Event().wait(0.01)
    subscription.stop()
    reader.join(5)
    writer.close()
    assert [position for position, _ in seen] == [1, 2, 3]
    assert seen[-1][1] - written < timedelta(seconds=1)
    assert not reader.is_alive()


def test_a_subscription_filters_topics_and_starts_after_a_position(log: LedgerLog) -> None:
    log.insert_events([renamed(UUID(int=5), n) for n in range(1, 5)])
    with log.subscribe(gt=2) as later:
        assert [next(later).id, next(later).id] == [3, 4]
    assert log.select_notifications(None, 10, topics=["unit.moved"]) == []
    assert [n.id for n in log.select_notifications(2, 10, stop=3)] == [2, 3]
    assert [n.id for n in log.select_notifications(2, 1, inclusive_of_start=False)] == [3]


def test_the_position_at_a_time_is_the_last_one_recorded_by_then(log: LedgerLog) -> None:
    stream = uuid4()
    for n in range(1, 6):
        log.insert_events([renamed(stream, n, START + timedelta(hours=n))])
    assert log.position_at(START) == 0
    assert log.position_at(START + timedelta(hours=3)) == 3
    assert log.position_at(START + timedelta(hours=3, minutes=59)) == 3
    assert log.position_at(START + timedelta(days=9)) == 5


def test_time_never_runs_backwards_in_the_log(log: LedgerLog) -> None:
    stream = uuid4()
    log.insert_events([renamed(stream, 1, START + timedelta(hours=1))])
    with pytest.raises(IntegrityError):
        log.insert_events([renamed(stream, 2, START)])
    assert log.head().size == 1


def test_an_outcome_is_kept_with_its_facts_or_not_at_all(log: LedgerLog) -> None:
    person = uuid4()

    class Remember(Job[Outcome | None]):
        key = (person, "k")

        def __init__(self, fail: bool) -> None:
            self.fail = fail
            self.known: Outcome | None = None

        def prepare(self, tx: Transaction) -> None:
            self.known = tx.outcome(person, "k")
            if self.fail:
                raise ValueError("refused")
            if self.known is None:
                tx.append([renamed(UUID(int=1), 1)], tx.recorded_at, expect_versions=True)
                tx.remember(Outcome(person, "k", b"d", UUID(int=2), 1, 1))

        def committed(self) -> Outcome | None:
            return self.known

    with pytest.raises(ValueError, match="refused"):
        log.submit(Remember(fail=True))
    assert log.submit(Remember(fail=False)) is None
    assert log.submit(Remember(fail=False)) == Outcome(person, "k", b"d", UUID(int=2), 1, 1)


@pytest.mark.parametrize(
    "attack",
    [
        "UPDATE facts SET topic = 'unit.moved'",
        "DELETE FROM facts WHERE position = 1",
        "UPDATE command_outcomes SET last_position = 9",
        "DELETE FROM command_outcomes",
        "UPDATE ledger_identity SET kind = 'production'",
        "DELETE FROM ledger_head",
        "UPDATE ledger_head SET size = 0",
        "INSERT INTO facts SELECT 9, stream_id, 9, topic, state, leaf_hash FROM facts WHERE position = 1",
        "TRUNCATE facts",
        "INSERT OR REPLACE INTO facts SELECT 1, stream_id, 1, topic, 'x', leaf_hash FROM facts WHERE position = 1",
    ],
)
def test_the_database_itself_refuses_to_change_history(log: LedgerLog, attack: str) -> None:
    class WithOutcome(Job[None]):
        def prepare(self, tx: Transaction) -> None:
            tx.append([renamed(uuid4(), 1), renamed(uuid4(), 1)], tx.recorded_at, expect_versions=True)
            tx.remember(Outcome(uuid4(), "k", b"d", uuid4(), 1, 2))

        def committed(self) -> None:
            return None

    log.submit(WithOutcome())
    before = list(log.read())
    with pytest.raises(DBAPIError), log.engine.begin() as connection:
        connection.execute(text(attack))
    assert list(log.read()) == before


def test_on_postgresql_the_application_may_not_touch_the_guards(postgres_url: str) -> None:
    log = LedgerLog.create(postgres_url, ledger_id=uuid4(), kind="demo", created_at=START)
    for attack in (
        "DROP TRIGGER facts_keep ON facts",
        "ALTER TABLE facts DISABLE TRIGGER ALL",
        "DROP TABLE facts",
    ):
        with pytest.raises(DBAPIError), log.engine.begin() as connection:
            connection.execute(text(attack))
    log.close()


def test_a_ledger_is_made_once_and_opened_only_if_it_is_one(database_url: str) -> None:
    with pytest.raises(LedgerMissingError):
        LedgerLog.open(database_url)
    made = LedgerLog.create(database_url, ledger_id=UUID(int=9), kind="production", created_at=START)
    made.close()
    with pytest.raises(LedgerExistsError):
        LedgerLog.create(database_url, ledger_id=uuid4(), kind="demo", created_at=START)
    opened = LedgerLog.open(database_url)
    assert (opened.identity.ledger_id, opened.identity.kind) == (UUID(int=9), "production")
    opened.close()


def test_a_database_of_somebody_else_is_refused(sqlite_url: str) -> None:
    foreign = create_engine(sqlite_url)
    with foreign.begin() as connection:
        connection.execute(text("CREATE TABLE customers (id INTEGER)"))
    foreign.dispose()
    with pytest.raises(NotALedgerError):
        LedgerLog.open(sqlite_url)
    with pytest.raises(NotALedgerError):
        LedgerLog.create(sqlite_url, ledger_id=uuid4(), kind="demo", created_at=START)


def test_a_file_that_is_no_database_is_refused(sqlite_url: str) -> None:
    path = sqlite_url.removeprefix("sqlite:///")
    with open(path, "wb") as file:
        file.write(b"this is a letter, not a ledger\n" * 400)
    with pytest.raises(NotALedgerError):
        LedgerLog.open(sqlite_url)


def test_another_schema_is_refused(sqlite_url: str) -> None:
    LedgerLog.create(sqlite_url, ledger_id=uuid4(), kind="demo", created_at=START).close()
    raw = create_engine(sqlite_url)
    with raw.begin() as connection:
        connection.execute(text("DROP TRIGGER identity_keeps"))
        connection.execute(text("UPDATE ledger_identity SET schema_version = 0"))
    raw.dispose()
    with pytest.raises(SchemaMismatchError):
        LedgerLog.open(sqlite_url)


def test_a_held_ledger_answers_busy_and_writes_nothing_then_the_same_call_succeeds(database_url: str) -> None:
    LedgerLog.create(database_url, ledger_id=uuid4(), kind="demo", created_at=START).close()
    log = LedgerLog.open(database_url, busy_seconds=0.3)
    holder = LedgerLog.open(database_url)
    event = renamed(uuid4(), 1)
    with holder.engine.connect() as plain:
        connection = plain.execution_options(writes=True)
        with connection.begin():
            if log.dialect == "postgresql":
                connection.execute(text("SELECT * FROM ledger_lock_head()"))
            with pytest.raises(LedgerBusyError):
                log.insert_events([event])
    assert log.head().size == 0
    assert list(log.insert_events([event])) == [1]
    log.close()
    holder.close()


@pytest.mark.parametrize(
    "damage",
    [
        "UPDATE ledger_identity SET kind = 'x'",
        "UPDATE ledger_identity SET created_at = 'yesterday'",
        "UPDATE ledger_identity SET ledger_id = 'nobody'",
        "ALTER TABLE ledger_identity DROP COLUMN created_at",
        "DROP TABLE ledger_identity",
    ],
)
def test_a_damaged_identity_is_refused_in_our_own_words(sqlite_url: str, damage: str) -> None:
    LedgerLog.create(sqlite_url, ledger_id=uuid4(), kind="demo", created_at=START).close()
    engine = create_engine(sqlite_url)
    with engine.begin() as connection:
        connection.exec_driver_sql("PRAGMA ignore_check_constraints = ON")
        for trigger in ("identity_keeps", "identity_stays", "identity_is_one"):
            connection.exec_driver_sql(f"DROP TRIGGER IF EXISTS {trigger}")
        connection.exec_driver_sql(damage)
    engine.dispose()
    with pytest.raises(NotALedgerError):
        LedgerLog.open(sqlite_url)
