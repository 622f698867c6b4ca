"""Every fact leaves once and in order, and never from a ledger that is not the one it left before."""

import shutil
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import timedelta
from pathlib import Path
from uuid import uuid4

import httpx2
import pytest
from kafka import TopicPartition
from kafka.admin import KafkaAdminClient
from prometheus_client.parser import text_string_to_metric_families

from api.relay_metrics import serving_metrics
from ledger.brokers import Brokers
from ledger.errors import (
    LedgerDamagedError,
    RelayFencedError,
    RelayLedgerDiffersError,
    RelayPositionLostError,
    RelayTopicHoleError,
    TopicMissingError,
    TopicReplacedError,
    TopicWrongError,
)
from ledger.log import LedgerLog
from ledger.relay import Relay, partition_of
from ledger.relay_position import PositionTopic, RelayPosition
from tests.county import County, sample_steps
from tests.relay.topic import brokers_at, read_topic, require_exactly_the_log


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.slow)])
def county(request: pytest.FixtureRequest) -> Iterator[County]:
    made = County(request.getfixturevalue("sqlite_url" if request.param == "sqlite" else "postgres_url"))
    made.tell(sample_steps())
    yield made
    made.close()


@pytest.fixture
def small(sqlite_url: str) -> Iterator[County]:
    """Some twenty facts on SQLite."""
    made = County(sqlite_url)
    yield made
    made.close()


@pytest.fixture
def brokers(kafka: str) -> Brokers:
    return brokers_at(kafka)


@contextmanager
def relaying(log: LedgerLog, brokers: Brokers) -> Iterator[Relay]:
    """A relay that runs beside the test; what it raises, the test gets."""
    relay, stop = Relay(log, brokers), threading.Event()
    failed: list[BaseException] = []

    def run() -> None:
        try:
            relay.run(stop)
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=run, name=str(relay.relay_id))
    thread.start()
    try:
        yield relay
    finally:
        stop.set()
        thread.join(30)
    if failed:
        raise failed[0]


def reach(relay: Relay, position: int, seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while relay.state.position < position:
        assert time.monotonic() < deadline, relay.state
        time.sleep(0.01)


def position_of(brokers: Brokers, log: LedgerLog) -> RelayPosition | None:
    with PositionTopic(brokers, log.identity.ledger_id) as positions:
        return positions.read(10)


# --- it happens ------------------------------------------------------------------------------------------------------


def test_every_fact_leaves_once_and_in_order(county: County, brokers: Brokers) -> None:
    brokers.create_topics(county.log.identity.ledger_id)
    assert Relay(county.log, brokers, batch_facts=7).once() == county.log.head().size
    require_exactly_the_log(brokers, county.log)


def test_the_next_relay_goes_on_where_the_last_one_was(small: County, brokers: Brokers) -> None:
    brokers.create_topics(small.log.identity.ledger_id)
    Relay(small.log, brokers).once()
    small.tell(sample_steps()[:4])
    assert Relay(small.log, brokers).once() == Relay(small.log, brokers).once() == small.log.head().size
    require_exactly_the_log(brokers, small.log)


@pytest.mark.slow
def test_a_running_relay_sends_what_is_recorded_meanwhile(county: County, brokers: Brokers) -> None:
    brokers.create_topics(county.log.identity.ledger_id)
    with relaying(county.log, brokers) as relay:
        reach(relay, county.log.head().size)
        county.place(county.station)
        reach(relay, county.log.head().size)
        assert relay.lag().facts == 0
    require_exactly_the_log(brokers, county.log)


@pytest.mark.slow
def test_the_position_says_which_fact_was_last_in_which_topic(small: County, brokers: Brokers) -> None:
    brokers.create_topics(small.log.identity.ledger_id)
    relay = Relay(small.log, brokers)
    relay.once()
    found, (last,) = position_of(brokers, small.log), small.log.read(small.log.head().size)
    assert found == RelayPosition.behind(
        small.log.identity.ledger_id,
        last,
        brokers.require_topics(small.log.identity.ledger_id),
        relay.relay_id,
    )


@pytest.mark.slow
def test_an_empty_ledger_has_a_position_too(sqlite_url: str, brokers: Brokers) -> None:
    now = County.now + timedelta(0)
    log = LedgerLog.create(sqlite_url, ledger_id=uuid4(), kind="demo", created_at=now)
    with closing(log):
        brokers.create_topics(log.identity.ledger_id)
        assert Relay(log, brokers).once() == 0
        found = position_of(brokers, log)
        assert found is not None
        assert (found.position, found.event_id, found.leaf_hash) == (0, None, None)


@pytest.mark.slow
def test_several_ledgers_share_a_topic(small: County, brokers: Brokers, tmp_path: Path) -> None:
    other = LedgerLog.create(
        f"sqlite:///{tmp_path / 'other.db'}", ledger_id=uuid4(), kind="demo", created_at=small.now
    )
    with closing(other):
        other.insert_events(
            [event for s in (small.centre, small.corps) for event in small.log.select_events(s)]
        )
        for log in (small.log, other):
            brokers.create_topics(log.identity.ledger_id)
            Relay(log, brokers).once()
        for log in (small.log, other):
            require_exactly_the_log(brokers, log)


def test_facts_of_a_key_go_where_every_kafka_client_would_send_them() -> None:
    """Values of Kafka's own UtilsTest, and of the two forms that keys have here."""
    assert [partition_of(key, 2**31 - 1) for key in (b"21", b"foobar", b"a-little-bit-long-string")] == [
        (hashed & 0x7FFFFFFF) % (2**31 - 1) for hashed in (-973932308, -790332482, -985981536)
    ]


# --- it is refused ---------------------------------------------------------------------------------------------------


def rewound(log: LedgerLog) -> str:
    """The address of a copy that ends before its log's last three facts, as an older backup would."""
    file = Path(str(log.url.database))
    older = file.with_name("older.db")
    with closing(sqlite3.connect(file)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    shutil.copy(file, older)
    return f"sqlite:///{older}"


def test_a_ledger_restored_from_an_older_backup_sends_nothing(small: County, brokers: Brokers) -> None:
    brokers.create_topics(small.log.identity.ledger_id)
    older = rewound(small.log)
    small.place(small.station)
    Relay(small.log, brokers).once()
    before = read_topic(brokers)
    with closing(LedgerLog.open(older)) as restored, pytest.raises(RelayLedgerDiffersError) as refused:
        Relay(restored, brokers).once()
    assert refused.value.details["position"] == small.log.head().size
    assert read_topic(brokers) == before


@pytest.mark.slow
def test_a_ledger_that_went_another_way_sends_nothing(small: County, brokers: Brokers) -> None:
    brokers.create_topics(small.log.identity.ledger_id)
    older = rewound(small.log)
    small.place(small.station)
    Relay(small.log, brokers).once()
    with closing(LedgerLog.open(older)) as restored:
        taken = [small.log.select_events(small.volunteer(1))[0]]
        event = taken[0]
        for number in range(30):
            restored.insert_events([type(event)(uuid4(), 1, event.topic, _later(event.state, number))])
        with pytest.raises(RelayLedgerDiffersError):
            Relay(restored, brokers).once()


def _later(state: bytes, number: int) -> bytes:
    head, mark, rest = state.partition(b'"recorded_at":"')
    return head + mark + f"2026-12-31T00:00:00.{number:06d}Z".encode() + rest[27:]


def _alter(log: LedgerLog, statement: str) -> None:
    """What somebody does who has the file, and no respect."""
    with closing(sqlite3.connect(str(log.url.database))) as connection, connection:
        for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall():
            connection.execute(f"DROP TRIGGER {name}")
        connection.execute(statement)


def test_a_fact_that_was_changed_in_the_file_is_not_sent(small: County, brokers: Brokers) -> None:
    brokers.create_topics(small.log.identity.ledger_id)
    _alter(small.log, "UPDATE facts SET state = replace(state, '总队', '分队') WHERE topic = 'team.formed'")
    with pytest.raises(LedgerDamagedError):
        Relay(small.log, brokers, batch_facts=3).once()
    assert all("分队" not in one.value.decode() for one in read_topic(brokers))


def test_a_gap_in_the_log_is_not_passed_over(small: County, brokers: Brokers) -> None:
    brokers.create_topics(small.log.identity.ledger_id)
    _alter(small.log, "DELETE FROM facts WHERE position = 5")
    with pytest.raises(LedgerDamagedError) as refused:
        Relay(small.log, brokers).once()
    assert refused.value.details["position"] == 5
    assert read_topic(brokers) == []


@pytest.mark.slow
def test_the_last_fact_that_was_sent_must_still_be_whole(small: County, brokers: Brokers) -> None:
    brokers.create_topics(small.log.identity.ledger_id)
    Relay(small.log, brokers).once()
    last = small.log.head().size
    _alter(small.log, f"UPDATE facts SET state = replace(state, '2026-', '2027-') WHERE position = {last}")
    with pytest.raises(RelayLedgerDiffersError):
        Relay(small.log, brokers).once()


def test_an_older_relay_stops_when_a_newer_one_has_taken_over(small: County, brokers: Brokers) -> None:
    brokers.create_topics(small.log.identity.ledger_id)
    with pytest.raises(RelayFencedError):
        _overtaken(small, brokers)
    require_exactly_the_log(brokers, small.log)


def _overtaken(county: County, brokers: Brokers) -> None:
    """One relay runs, and another one is started beside it: the newer one goes on, the older one raises."""
    with relaying(county.log, brokers) as older:
        reach(older, county.log.head().size)
        with relaying(county.log, brokers) as newer:
            for _ in range(3):
                reach(newer, county.log.head().size)
                county.place(county.station)
            reach(newer, county.log.head().size)
            assert newer.state.retries <= 1
            deadline = time.monotonic() + 20
            while any(one.name == str(older.relay_id) for one in threading.enumerate()):
                assert time.monotonic() < deadline
                time.sleep(0.05)


# --- topics and positions that are not as they were ------------------------------------------------------------------


def admin_at(brokers: Brokers) -> KafkaAdminClient:
    return KafkaAdminClient(bootstrap_servers=brokers.bootstrap)


def delete(brokers: Brokers, *topics: str) -> None:
    with closing(admin_at(brokers)) as admin:
        admin.delete_topics(list(topics))
        deadline = time.monotonic() + 10
        while set(topics) & set(admin.list_topics()):
            assert time.monotonic() < deadline
            time.sleep(0.05)


def test_without_topics_nothing_is_sent_and_nothing_is_made(small: County, brokers: Brokers) -> None:
    with pytest.raises(TopicMissingError):
        Relay(small.log, brokers).once()
    with closing(admin_at(brokers)) as admin:
        assert brokers.events not in admin.list_topics()


def test_topics_are_made_once_and_then_left_as_they_are(small: County, brokers: Brokers) -> None:
    ledger_id = small.log.identity.ledger_id
    assert brokers.create_topics(ledger_id) == [brokers.events, brokers.positions(ledger_id)]
    assert brokers.create_topics(ledger_id) == []
    assert brokers.require_topics(ledger_id).partitions == brokers.partitions


@pytest.mark.slow
@pytest.mark.parametrize(
    ("which", "options", "told"),
    [
        ("events", {"num_partitions": 2}, "2 partitions, not 3"),
        ("events", {"configs": {"cleanup.policy": "compact"}}, "cleanup.policy is compact, not delete"),
        ("events", {"configs": {"cleanup.policy": "compact,delete"}}, "cleanup.policy is compact,delete"),
        ("events", {"configs": {"retention.ms": "604800000"}}, "retention.ms is 604800000, not -1"),
        ("events", {"configs": {"max.message.bytes": "1000"}}, "max.message.bytes is 1000, below 1048588"),
        ("position", {"num_partitions": 2}, "2 partitions, not 1"),
        ("position", {"configs": {"cleanup.policy": "delete"}}, "cleanup.policy is delete, not compact"),
    ],
)
def test_a_topic_that_is_not_as_it_must_be_is_refused_and_says_why(
    small: County, brokers: Brokers, which: str, options: dict[str, object], told: str
) -> None:
    ledger_id = small.log.identity.ledger_id
    name = brokers.events if which == "events" else brokers.positions(ledger_id)
    right = {"retention.ms": "-1"} if which == "events" else {"cleanup.policy": "compact"}
    configs = {**right, **options.get("configs", {})}  # type: ignore[dict-item]
    partitions = options.get("num_partitions", 3 if which == "events" else 1)
    with closing(admin_at(brokers)) as admin:
        admin.create_topics(
            {name: {"num_partitions": partitions, "replication_factor": 1, "configs": configs}},
            wait_for_metadata=True,
        )
    brokers.create_topics(ledger_id)
    with pytest.raises(TopicWrongError) as refused:
        Relay(small.log, brokers).once()
    assert refused.value.details["topic"] == name
    assert told in str(refused.value.details["problem"])
    assert read_topic(Brokers(brokers.bootstrap, brokers.events, 2)) == []


@pytest.mark.slow
def test_a_topic_that_is_deleted_under_a_running_relay_ends_it(small: County, brokers: Brokers) -> None:
    brokers.create_topics(small.log.identity.ledger_id)
    with pytest.raises(TopicMissingError):
        _robbed(small, brokers)


def _robbed(county: County, brokers: Brokers) -> None:
    with relaying(county.log, brokers) as relay:
        reach(relay, county.log.head().size)
        delete(brokers, brokers.events)
        county.place(county.station)
        deadline = time.monotonic() + 60
        while any(one.name == str(relay.relay_id) for one in threading.enumerate()):
            assert time.monotonic() < deadline
            time.sleep(0.05)


@pytest.mark.slow
def test_a_topic_made_anew_is_noticed_and_filled_only_when_asked(small: County, brokers: Brokers) -> None:
    ledger_id = small.log.identity.ledger_id
    brokers.create_topics(ledger_id)
    Relay(small.log, brokers).once()
    delete(brokers, brokers.events)
    brokers.create_topics(ledger_id)
    with pytest.raises(TopicReplacedError):
        Relay(small.log, brokers).once()
    assert read_topic(brokers) == []
    Relay(small.log, brokers).once(from_topic=True)
    require_exactly_the_log(brokers, small.log)


def test_a_lost_position_doubles_nothing(small: County, brokers: Brokers) -> None:
    ledger_id = small.log.identity.ledger_id
    brokers.create_topics(ledger_id)
    Relay(small.log, brokers).once()
    delete(brokers, brokers.positions(ledger_id))
    brokers.create_topics(ledger_id)
    small.place(small.station)
    with pytest.raises(RelayPositionLostError) as refused:
        Relay(small.log, brokers).once()
    assert refused.value.details["count"] == refused.value.details["last"]
    Relay(small.log, brokers).once(from_topic=True)
    require_exactly_the_log(brokers, small.log)


@pytest.mark.slow
def test_a_topic_with_a_hole_is_not_gone_on_with(small: County, brokers: Brokers) -> None:
    ledger_id = small.log.identity.ledger_id
    brokers.create_topics(ledger_id)
    Relay(small.log, brokers).once()
    with closing(admin_at(brokers)) as admin:
        fullest = max(read_topic(brokers), key=lambda one: one.offset)
        admin.delete_records({TopicPartition(brokers.events, fullest.partition): 2})
    with pytest.raises(RelayTopicHoleError):
        Relay(small.log, brokers).once(from_topic=True)


# --- metrics ---------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_metrics_say_how_far_the_topic_is_behind(small: County, brokers: Brokers) -> None:
    brokers.create_topics(small.log.identity.ledger_id)
    relay = Relay(small.log, brokers)
    with serving_metrics(relay, "127.0.0.1", 0) as port:
        relay.once()
        small.place(small.station)
        answer = httpx2.get(f"http://127.0.0.1:{port}/metrics").text
    found = {
        sample.name: sample.value
        for family in text_string_to_metric_families(answer)
        for sample in family.samples
    }
    behind = small.log.head().size - relay.state.position
    assert found["wenming_relay_position"] == relay.state.position
    assert found["wenming_relay_lag_facts"] == behind > 0
    assert found["wenming_relay_lag_seconds"] > 0
    assert found["wenming_relay_facts_total"] == relay.state.published == relay.state.position
    assert found["wenming_relay_in_trouble"] == 0
