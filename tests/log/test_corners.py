"""What the log does where nothing usual happens: empty calls, other people's databases, readers stopped half-way."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import OperationalError

from ledger import log as log_module
from ledger import log_sqlite
from ledger.errors import LedgerDamagedError, LedgerMissingError, NotALedgerError
from ledger.groupcommit import Job, Outcome, Transaction
from ledger.log import LedgerLog
from tests.signer.conftest import LEDGER_ID, START, fact


@pytest.fixture
def log(database_url: str) -> Iterator[LedgerLog]:
    """Five facts, each of a stream of its own."""
    made = LedgerLog.create(database_url, ledger_id=LEDGER_ID, kind="demo", created_at=START)
    made.insert_events([fact(number) for number in range(5)])
    yield made
    made.close()


def behind_its_back(url: str, *statements: str) -> None:
    """What the owner of a database in a file may do."""
    engine = create_engine(url)
    with engine.begin() as connection:
        for name in log_sqlite.GUARDS:
            connection.execute(text(f"DROP TRIGGER {name}"))
        for statement in statements:
            connection.execute(text(statement))
    engine.dispose()


# --- reading ---------------------------------------------------------------------------------------------------------


def test_pages_and_windows_of_any_size_read_the_same(log: LedgerLog, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = list(log.read())
    monkeypatch.setattr(log_module, "READ_ROWS", 2)
    assert list(log.read()) == whole
    assert list(log.read(2, 4)) == whole[1:4]
    assert list(log.read(4, 3)) == []
    with log.subscribe(gt=0) as subscription:
        assert [next(subscription).id for _ in range(5)] == [1, 2, 3, 4, 5]


def test_a_stream_is_read_between_two_versions(log: LedgerLog) -> None:
    stream = fact(0).originator_id
    assert len(log.select_events(stream, gt=0, lte=1)) == 1
    assert log.select_events(stream, gt=1) == log.select_events(stream, lte=0) == []


def test_a_reader_that_was_stopped_ends(log: LedgerLog) -> None:
    with log.subscribe(gt=0) as subscription:
        assert next(subscription).id == 1
        subscription.stop()
        with pytest.raises(StopIteration):
            next(subscription)


@pytest.mark.parametrize("found", [True, False])
def test_a_reader_that_is_stopped_while_it_reads_gives_nothing_more(
    log: LedgerLog, monkeypatch: pytest.MonkeyPatch, found: bool
) -> None:
    """As by another thread, at that very moment."""
    select = log.select_notifications
    subscription = log.subscribe(gt=0)

    def stopped_meanwhile(*given: Any, **named: Any) -> Any:
        subscription.stop()
        return select(*given, **named) if found else []

    monkeypatch.setattr(log, "select_notifications", stopped_meanwhile)
    with subscription, pytest.raises(StopIteration):
        next(subscription)


# --- writing ---------------------------------------------------------------------------------------------------------


def test_no_facts_are_appended_without_a_transaction(log: LedgerLog) -> None:
    assert log.insert_events([]) == []
    assert log.head().size == 5


def test_facts_of_one_call_come_in_the_order_of_their_time(log: LedgerLog) -> None:
    with pytest.raises(ValueError, match="order"):
        log.insert_events([fact(9), fact(8)])
    assert log.head().size == 5


class Nothing(Job[None]):
    """A command that had nothing to do, and whose answer is kept all the same."""

    def __init__(self, outcome: Outcome) -> None:
        self.outcome = outcome

    def prepare(self, tx: Transaction) -> None:
        tx.remember(self.outcome)

    def committed(self) -> None:
        return None


def test_an_answer_without_facts_is_kept_and_the_head_stays(log: LedgerLog) -> None:
    before = log.head()
    log.submit(Nothing(Outcome(uuid4(), "key", bytes(32), uuid4(), 6, 5)))
    with log.engine.connect() as connection:
        assert connection.execute(text("SELECT count(*) FROM command_outcomes")).scalar_one() == 1
    assert (log.head().size, log.head().recorded_at) == (before.size, before.recorded_at)


# --- databases that are not as they should be ------------------------------------------------------------------------


@pytest.mark.parametrize("url", ["mysql://somewhere/else", "sqlite://", "sqlite:///:memory:"])
def test_a_ledger_is_a_file_or_on_postgresql(url: str) -> None:
    with pytest.raises(NotALedgerError):
        LedgerLog.open(url)


def test_a_setting_that_would_lose_facts_is_refused(log: LedgerLog, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POSTGRES_ENABLE_DB_FUNCTIONS", "y")
    with pytest.raises(NotALedgerError, match="POSTGRES_ENABLE_DB_FUNCTIONS"):
        LedgerLog.open(log.url.render_as_string(hide_password=False))


def test_an_empty_file_is_no_ledger(tmp_path: Path) -> None:
    (tmp_path / "empty.db").touch()
    with pytest.raises(LedgerMissingError):
        LedgerLog.open(f"sqlite:///{tmp_path / 'empty.db'}")


def test_a_ledger_without_its_name_or_with_a_torn_head_is_told(sqlite_url: str) -> None:
    log = LedgerLog.create(sqlite_url, ledger_id=LEDGER_ID, kind="demo", created_at=START)
    behind_its_back(sqlite_url, "UPDATE ledger_head SET frontier = x'00'", "DELETE FROM ledger_identity")
    with pytest.raises(LedgerDamagedError):
        log.head()
    with pytest.raises(NotALedgerError, match="empty"):
        LedgerLog.open(sqlite_url)
    log.close()


def test_roles_that_are_there_already_are_taken_and_programs_may_have_a_login(postgres_url: str) -> None:
    database = make_url(postgres_url).database
    with psycopg.connect(postgres_url, autocommit=True) as owner:
        for role in (f"{database}_ledger_owner", f"{database}_ledger_app"):
            owner.execute(f'CREATE ROLE "{role}" NOLOGIN')
    LedgerLog.create(
        postgres_url, ledger_id=LEDGER_ID, kind="demo", created_at=START, app_login="postgres"
    ).close()
    log = LedgerLog.open(postgres_url)
    log.insert_events([fact(0)])
    assert log.head().size == 1
    log.close()


def test_a_listener_whose_connection_is_lost_says_so_as_any_trouble_with_the_database(
    postgres_url: str,
) -> None:
    """Whoever follows waits for what SQLAlchemy raises, and tries again."""
    made = LedgerLog.create(postgres_url, ledger_id=LEDGER_ID, kind="demo", created_at=START)
    with made.waiting() as wait, psycopg.connect(postgres_url, autocommit=True) as other:
        listening = "query LIKE 'LISTEN%' AND datname = current_database() AND pid <> pg_backend_pid()"
        other.execute(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {listening}")
        with pytest.raises(OperationalError):
            wait(0, 5)
    made.close()


def test_a_listener_does_not_wait_for_what_is_there_already(postgres_url: str) -> None:
    made = LedgerLog.create(postgres_url, ledger_id=LEDGER_ID, kind="demo", created_at=START)
    with made.waiting() as wait:
        began = time.monotonic()
        wait(-1, 30)
        assert time.monotonic() - began < 10
    made.close()


def test_a_listener_that_gets_a_connection_which_is_lost_already_says_so_too(postgres_url: str) -> None:
    """As after a restart of the server: the connections that lie ready are all dead. It once ended a signer."""
    made = LedgerLog.create(postgres_url, ledger_id=LEDGER_ID, kind="demo", created_at=START)
    made.head()
    with psycopg.connect(postgres_url, autocommit=True) as other:
        mine = "datname = current_database() AND pid <> pg_backend_pid()"
        other.execute(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {mine}")
    with pytest.raises(OperationalError), made.waiting():
        pass
    with made.waiting() as wait:
        wait(0, 0)
    made.close()
