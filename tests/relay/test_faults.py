"""Relays frozen and stopped, ledgers put back from a backup, topics deleted: nothing is lost, nothing leaves twice."""

import signal
import sqlite3
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from kafka import KafkaProducer
from kafka.admin import KafkaAdminClient

from ledger.brokers import Brokers
from ledger.errors import (
    RelayFencedError,
    RelayLedgerDiffersError,
    RelayPositionLostError,
    TopicMissingError,
    TopicReplacedError,
    TopicWrongError,
)
from ledger.merkle import leaf_hash
from ledger.relay import Relay
from tests.broker import KafkaBroker
from tests.faults import chances, times
from tests.relay.processes import SECONDS, Outlet, RelayProcess, newest, outlet, running, turns, until
from tests.relay.reader import is_held_up, require_exactly_once, sent_in_all

pytestmark = pytest.mark.timeout(600)


# -- one takes over from another --


@pytest.mark.slow
def test_a_newer_relay_takes_over_and_the_older_one_stops(
    kafka: str, sqlite_url: str, tmp_path: Path
) -> None:
    with outlet(sqlite_url, kafka, tmp_path) as out:
        out.grow(300)
        older, newer = out.relay(), out.relay()
        with ExitStack() as until_the_end, running(older, until_refused=RelayFencedError):
            until(lambda: older.state.position == 300)
            until_the_end.enter_context(running(newer))
            until(lambda: newer.state.transactions)
            out.grow(300)
            until(lambda: newer.state.position == 600)
        assert (newer.state.retries, newer.state.trouble) == (0, None), "and left the newer one alone"
        assert require_exactly_once(out.log, out.brokers).sessions == 2


@pytest.mark.slow
def test_a_frozen_relay_wakes_up_and_stops(own_broker: KafkaBroker, sqlite_url: str, tmp_path: Path) -> None:
    """SIGSTOP in the middle of a transaction; another takes over; SIGCONT."""
    with outlet(sqlite_url, own_broker.address, tmp_path) as out:
        out.grow(12_000)
        zombie = out.begin()
        freeze_in_transaction(zombie, out)
        newer = out.begin()
        until(lambda: turns(out) == 2)
        zombie.send(signal.SIGCONT)
        out.grow(2_000)
        assert zombie.ended(60) == 1
        assert "RELAY_FENCED" in zombie.said()
        out.grow(100)
        until(lambda: newest(out) == 14_100)
        assert newer.terminated() == 0, newer.said()
        found = require_exactly_once(out.log, out.brokers)
        assert found.sessions == 2, "the zombie took no further turn"
        print(found)


@pytest.mark.slow
def test_a_relay_frozen_for_long_goes_on_if_nobody_took_over(
    own_broker: KafkaBroker, sqlite_url: str, tmp_path: Path
) -> None:
    """The brokers end its transaction meanwhile."""
    with outlet(sqlite_url, own_broker.address, tmp_path) as out:
        out.grow(12_000)
        relay = out.begin()
        freeze_in_transaction(relay, out)
        until(lambda: transaction_state(out) != "ONGOING", SECONDS + 15)
        relay.send(signal.SIGCONT)
        until(lambda: newest(out) == 12_000)
        assert relay.terminated() == 0, relay.said()
        found = require_exactly_once(out.log, out.brokers)
        assert (found.sessions, found.aborted > 0) == (1, True)
        print(found)


@pytest.mark.slow
def test_one_that_begins_anew_does_not_fence_the_one_that_took_over_just_then(
    own_broker: KafkaBroker, sqlite_url: str, tmp_path: Path
) -> None:
    """The other one takes over between its look at the position and its own fencing: it stops, the other goes on."""
    with outlet(sqlite_url, own_broker.address, tmp_path) as out:
        out.grow(100)
        other = out.relay()
        late = LateBrokers(**out.brokers.__dict__)
        relay = Relay(out.log, late, transaction_seconds=SECONDS)
        assert relay.once() == 100
        with running(other):
            object.__setattr__(late, "before_producing", lambda: until(lambda: other.state.transactions))
            with pytest.raises(RelayFencedError):
                relay.once()
            out.grow(100)
            until(lambda: other.state.position == 200)
        require_exactly_once(out.log, out.brokers)


@dataclass(frozen=True)
class LateBrokers(Brokers):
    """Something happens before a producer is made."""

    before_producing: Any = None

    def producer(self, transactional_id: str, transaction_seconds: float) -> KafkaProducer:
        if self.before_producing:
            self.before_producing()
        return super().producer(transactional_id, transaction_seconds)


# -- the ledger is not what was sent --


@pytest.mark.slow
def test_nothing_leaves_a_ledger_that_was_put_back_from_a_backup(
    kafka: str, sqlite_url: str, tmp_path: Path
) -> None:
    with outlet(sqlite_url, kafka, tmp_path) as out:
        out.grow(200)
        put_back = backup(out)
        out.grow(200)
        assert out.relay().once() == 400
        put_back()
        out.grow(100)
        require_nothing_leaves(out, lambda: out.relay().once())
        out.grow(200)  # as many as were sent, and more: but others
        require_nothing_leaves(out, lambda: out.relay().once())


@pytest.mark.slow
def test_a_running_relay_stops_when_a_backup_is_put_back(
    own_broker: KafkaBroker, sqlite_url: str, tmp_path: Path
) -> None:
    with outlet(sqlite_url, own_broker.address, tmp_path) as out:
        out.grow(200)
        put_back = backup(out)
        out.grow(200)
        relay = out.begin()
        until(lambda: newest(out) == 400)
        put_back()
        require_nothing_leaves(out, lambda: refused(relay))


@pytest.mark.slow
@pytest.mark.parametrize("with_its_hash", [True, False])
@pytest.mark.parametrize("runs", [True, False])
def test_nothing_leaves_a_ledger_that_was_rewritten(
    with_its_hash: bool, runs: bool, own_broker: KafkaBroker, sqlite_url: str, tmp_path: Path
) -> None:
    """The last fact that was sent says something else, whether or not its hash was made to fit."""
    with outlet(sqlite_url, own_broker.address, tmp_path) as out:
        out.grow(200)
        relay = out.begin(*([] if runs else ["--once"]))
        until(lambda: newest(out) == 200)
        if not runs:
            assert relay.ended() == 0
        rewrite(out, 200, with_its_hash)
        out.grow(50)
        if not runs:
            relay = out.begin("--once")
        require_nothing_leaves(out, lambda: refused(relay))


def refused(relay: RelayProcess) -> None:
    """It ends, and says why."""
    assert relay.ended() == 1
    assert "RELAY_LEDGER_DIFFERS" in relay.said(), relay.said()
    raise RelayLedgerDiffersError(position=0, problem="")


def require_nothing_leaves(out: Outlet, try_it: Any) -> None:
    before = sent_in_all(out.brokers), newest(out)
    with pytest.raises(RelayLedgerDiffersError):
        try_it()
    assert (sent_in_all(out.brokers), newest(out)) == before


def backup(out: Outlet) -> Any:
    """A copy of the SQLite ledger with its 200 facts; what puts it back, under whoever uses it."""
    path = out.url.removeprefix("sqlite:///")
    with closing(sqlite3.connect(path)) as live, closing(sqlite3.connect(f"{path}.backup")) as copy:
        live.backup(copy)

    def put_back() -> None:
        with closing(sqlite3.connect(f"{path}.backup")) as copy, closing(sqlite3.connect(path)) as live:
            copy.backup(live)
        out.go_on_differently(200)

    return put_back


def rewrite(out: Outlet, position: int, with_its_hash: bool) -> None:
    """As somebody might who has the file."""
    (row,) = out.log.read(position, position)
    state = row.state.replace(b'"caller_id":"', b'"caller_id":"f', 1).replace(b"-", b"", 1)
    anew = leaf_hash(row.stream_id.bytes, row.version, row.topic.encode(), state)
    leaf = anew if with_its_hash else row.leaf_hash
    with closing(sqlite3.connect(out.url.removeprefix("sqlite:///"))) as database:
        for (trigger,) in database.execute(
            "SELECT name FROM sqlite_master WHERE type = 'trigger'"
        ).fetchall():
            database.execute(f'DROP TRIGGER "{trigger}"')
        changed = (state.decode(), leaf, position)
        database.execute("UPDATE facts SET state = ?, leaf_hash = ? WHERE position = ?", changed)
        database.commit()


# -- the end of a relay, and of its topics --


@pytest.mark.slow
def test_a_relay_that_is_stopped_leaves_nothing_open(kafka: str, sqlite_url: str, tmp_path: Path) -> None:
    with outlet(sqlite_url, kafka, tmp_path) as out:
        out.grow(3_000)
        relay = out.relay(batch_facts=20)
        with running(relay) as stop:
            until(lambda: relay.state.position >= 100)
            stop.set()
            began = time.monotonic()
        assert time.monotonic() - began < 5
        assert 0 < relay.state.position < 3_000
        assert not is_held_up(out.brokers, out.brokers.events)
        assert out.relay().once() == 3_000
        require_exactly_once(out.log, out.brokers)


@pytest.mark.slow
def test_sigterm_in_the_middle_of_a_backlog(own_broker: KafkaBroker, sqlite_url: str, tmp_path: Path) -> None:
    chance = chances("SIGTERM in a backlog")
    with outlet(sqlite_url, own_broker.address, tmp_path) as out:
        out.grow(20_000)
        took = []
        for _ in range(times(3)):
            relay, before = out.begin(), newest(out)
            until(lambda: newest(out) > before)  # noqa: B023
            time.sleep(chance.uniform(0, 0.2))
            began = time.monotonic()
            assert relay.terminated(10) == 0, relay.said()
            took.append(time.monotonic() - began)
            assert not is_held_up(out.brokers, out.brokers.events)
            assert transaction_state(out) == "COMPLETE_COMMIT"
        print(f"stopped within {max(took):.2f} s, at {newest(out)}")
        assert out.begin("--once").ended(60) == 0
        require_exactly_once(out.log, out.brokers)


@pytest.mark.slow
def test_a_topic_deleted_or_made_anew_while_a_relay_runs(
    own_broker: KafkaBroker, sqlite_url: str, tmp_path: Path
) -> None:
    with outlet(sqlite_url, own_broker.address, tmp_path) as out:
        out.grow(100)
        relay = out.relay()
        refused = (TopicReplacedError, TopicMissingError, TopicWrongError)
        with (
            closing(KafkaAdminClient(bootstrap_servers=own_broker.address)) as admin,
            running(relay, until_refused=refused),
        ):
            until(lambda: relay.state.position == 100)
            admin.delete_topics([out.brokers.events])
            made_anew = {out.brokers.events: {"num_partitions": 1, "replication_factor": 1}}
            until(lambda: made(admin, made_anew))
            out.grow(500)
        assert sent_in_all(out.brokers) == 0


def made(admin: KafkaAdminClient, topic: Any) -> bool:
    try:
        admin.create_topics(topic, wait_for_metadata=True)
    except Exception:  # still being deleted
        return False
    return True


# -- another ledger in the same topic --


@pytest.mark.slow
def test_a_transaction_that_another_ledger_left_open(
    own_broker: KafkaBroker, sqlite_url: str, tmp_path: Path
) -> None:
    """It holds up whoever reads the events; the relay does not read them, unless it is told to go by them."""
    with outlet(sqlite_url, own_broker.address, tmp_path) as out:
        out.grow(1_000)
        assert out.begin("--once").ended(60) == 0
        with left_open(out) as other:
            out.grow(1_000)
            began = time.monotonic()
            assert out.begin("--once").ended(60) == 0
            took = time.monotonic() - began
            assert newest(out) == 2_000
            assert is_held_up(out.brokers, out.brokers.events)
            with closing(KafkaAdminClient(bootstrap_servers=own_broker.address)) as admin:
                admin.delete_topics([out.brokers.positions(out.ledger_id)])
                until(lambda: out.brokers.create_topics(out.ledger_id))
            out.grow(100)
            waiting = out.begin("--once", "--from-topic")
            time.sleep(4)
            assert waiting.is_alive, waiting.said()
            other.abort_transaction()
            assert waiting.ended(60) == 0, waiting.said()
        assert newest(out) == 2_100
        print(
            f"beside the open transaction it took {took:.1f} s;", require_exactly_once(out.log, out.brokers)
        )


@pytest.mark.slow
def test_without_its_position_a_relay_sends_nothing_twice(
    own_broker: KafkaBroker, sqlite_url: str, tmp_path: Path
) -> None:
    with outlet(sqlite_url, own_broker.address, tmp_path) as out:
        out.grow(300)
        assert out.relay().once() == 300
        with closing(KafkaAdminClient(bootstrap_servers=own_broker.address)) as admin:
            admin.delete_topics([out.brokers.positions(out.ledger_id)])
        until(lambda: out.brokers.create_topics(out.ledger_id))
        with pytest.raises(RelayPositionLostError):
            out.relay().once()
        assert out.relay().once(from_topic=True) == 300
        require_exactly_once(out.log, out.brokers)


@contextmanager
def left_open(out: Outlet) -> Iterator[KafkaProducer]:
    """A record in every partition that nobody commits."""
    other = KafkaProducer(
        bootstrap_servers=out.brokers.bootstrap,
        transactional_id=f"{uuid4()}.relay",
        transaction_timeout_ms=60_000,
    )
    try:
        other.init_transactions()
        other.begin_transaction()
        for partition in range(out.brokers.partitions):
            other.send(out.brokers.events, b"{}", b"other", [("ce_source", b"other")], partition).get(10)
        yield other
    finally:
        other.close(timeout=5)


# -- what Kafka says of a relay --


def transaction_state(out: Outlet) -> str:
    """What the brokers say of the transaction of this ledger's relay."""
    name = f"{out.ledger_id}.relay"
    with closing(KafkaAdminClient(bootstrap_servers=out.brokers.bootstrap)) as admin:
        return str(admin.describe_transactions([name])[name].state.name)


def freeze_in_transaction(relay: RelayProcess, out: Outlet) -> None:
    """SIGSTOP while facts are sent and not yet committed."""
    until(lambda: is_known(out))
    for _ in range(2_000):
        relay.send(signal.SIGSTOP)
        if transaction_state(out) == "ONGOING" and is_held_up(out.brokers, out.brokers.events):
            return
        relay.send(signal.SIGCONT)
        time.sleep(0.003)
    raise TimeoutError("never in the middle of a transaction")


def is_known(out: Outlet) -> bool:
    try:
        return bool(transaction_state(out))
    except Exception:  # no relay has begun yet
        return False
