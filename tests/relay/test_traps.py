"""What kafka-python's transactions say and what is true on a real broker: where commit lies, and how a relay lives."""

import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from kafka import KafkaProducer, TopicPartition
from kafka.admin import AbortTransactionSpec, ConfigResource, KafkaAdminClient
from kafka.errors import InvalidProducerEpochError, KafkaError, KafkaTimeoutError, ProducerFencedError

from ledger.brokers import Brokers
from ledger.errors import RelayTransactionHangsError
from tests.broker import KafkaBroker
from tests.faults import chances, times
from tests.relay.processes import outlet, run_to_head
from tests.relay.proxy import (
    ADD_PARTITIONS,
    END_TXN,
    FIND_COORDINATOR,
    INIT_PRODUCER_ID,
    PRODUCE,
    Fate,
    proxy_at,
)
from tests.relay.reader import require_exactly_once

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
ABORT_SECONDS = 12.0
"""Until the broker, which looks every 10 s, has ended a transaction that may be open for one."""


@contextmanager
def producing(address: str, name: str | None = None, **more: Any) -> Iterator[KafkaProducer]:
    """A plain transactional producer, in its first transaction."""
    options = {
        "transaction_timeout_ms": 60_000,
        "delivery_timeout_ms": 60_000,
        "request_timeout_ms": 1_000,
        "max_block_ms": 20_000,
        "retry_backoff_ms": 20,
    }
    producer = KafkaProducer(
        bootstrap_servers=address, transactional_id=name or uuid4().hex, **(options | more)
    )
    try:
        producer.init_transactions()
        producer.begin_transaction()
        yield producer
    finally:
        with suppress(KafkaError):
            producer.close(timeout=1)
        producer._sender.force_close()


@pytest.fixture
def topic(own_broker: KafkaBroker) -> str:
    """A topic of one partition."""
    name = f"traps-{uuid4().hex[:12]}"
    admin = KafkaAdminClient(bootstrap_servers=own_broker.address)
    admin.create_topics({name: {"num_partitions": 1, "replication_factor": 1}}, wait_for_metadata=True)
    admin.close()
    return name


def committed(broker: KafkaBroker, topic: str) -> list[bytes]:
    """What whoever reads committed records sees."""
    consumer = Brokers(broker.address).consumer()
    partition = TopicPartition(topic, 0)
    try:
        consumer.assign([partition])
        consumer.seek_to_beginning(partition)
        (end,) = consumer.end_offsets([partition]).values()
        values = []
        while consumer.position(partition) < end:
            values += [
                record.value for records in consumer.poll(timeout_ms=300).values() for record in records
            ]
        return values
    finally:
        consumer.close()


# -- where commit lies --


def test_commit_succeeds_without_a_record_that_expired(own_broker: KafkaBroker, topic: str) -> None:
    """Real. The record's future fails, the transaction is not told; what comes later is committed without it."""
    with (
        proxy_at(own_broker.proxied_address, own_broker.behind_proxy) as proxy,
        producing(own_broker.proxied_address, delivery_timeout_ms=2_000) as producer,
    ):
        producer.send(topic, b"first", partition=0).get(5)
        proxy.decide = lambda key: Fate.IS_LOST if key == PRODUCE else Fate.PASSES
        expires = producer.send(topic, b"second", partition=0)
        producer.flush(10)  # says nothing either
        with pytest.raises(KafkaTimeoutError):
            expires.get(0)
        proxy.decide = lambda _: Fate.PASSES
        producer.commit_transaction()
        assert committed(own_broker, topic) == [b"first"]


def test_a_record_whose_future_failed_may_be_committed(own_broker: KafkaBroker, topic: str) -> None:
    """Real. A frozen broker takes the record once it thaws: a future that fails says nothing of the record's fate."""
    with producing(own_broker.address, delivery_timeout_ms=2_000) as producer:
        producer.send(topic, b"first", partition=0).get(5)
        own_broker.freeze()
        expires = producer.send(topic, b"second", partition=0)
        producer.flush(10)
        own_broker.thaw()
        with pytest.raises(KafkaTimeoutError):
            expires.get(0)
        time.sleep(1)
        producer.commit_transaction()
        assert committed(own_broker, topic) == [b"first", b"second"]


def test_commit_succeeds_for_a_transaction_that_timed_out_if_nothing_was_flushed(
    own_broker: KafkaBroker, topic: str
) -> None:
    """Real. Its last record is refused, the epoch is raised, and the commit that waits finds nothing left to do."""
    with producing(own_broker.address, transaction_timeout_ms=1_000) as producer:
        producer.send(topic, b"first", partition=0).get(5)
        time.sleep(ABORT_SECONDS)
        refused = producer.send(topic, b"second", partition=0)
        producer.commit_transaction()
        with pytest.raises(InvalidProducerEpochError):
            refused.get(0)
        assert committed(own_broker, topic) == []


def test_a_commit_that_fails_may_have_been_done(own_broker: KafkaBroker, topic: str) -> None:
    """Real. Its answer comes too late, which kafka-python takes for the end of everything."""
    with (
        proxy_at(own_broker.proxied_address, own_broker.behind_proxy) as proxy,
        producing(own_broker.proxied_address, request_timeout_ms=2_000) as producer,
    ):
        producer.send(topic, b"first", partition=0).get(5)
        proxy.decide = lambda key: slow(key == END_TXN)
        with pytest.raises(KafkaError, match="unknown reasons"):
            producer.commit_transaction()
        time.sleep(3)
        assert committed(own_broker, topic) == [b"first"]


def slow(is_slow: bool) -> Fate:
    """It passes; perhaps after a while."""
    time.sleep(3 if is_slow else 0)
    return Fate.PASSES


def test_what_hangs_in_a_partition_is_committed_with_the_next_transaction(
    own_broker: KafkaBroker, topic: str
) -> None:
    """Real: it was taken back, the partition was not told, and whoever comes next under that name commits it too."""
    name = uuid4().hex
    leave_hanging(own_broker, name, topic, b"taken back")
    with producing(own_broker.address, name) as producer:
        producer.send(topic, b"next", partition=0).get(5)
        producer.commit_transaction()
    assert committed(own_broker, topic) == [b"taken back", b"next"]


def test_a_relay_commits_nothing_that_hangs(own_broker: KafkaBroker, sqlite_url: str, tmp_path: Path) -> None:
    with outlet(sqlite_url, own_broker.address, tmp_path) as out:
        out.grow(200)
        relay = out.relay()
        leave_hanging(own_broker, relay.transactional_id, out.brokers.events, b"taken back")
        with pytest.raises(RelayTransactionHangsError, match="hangs in"):
            relay.once()
        end_hanging(own_broker, out.brokers.events)
        assert relay.once() == 200
        require_exactly_once(out.log, out.brokers)


def test_what_hangs_is_taken_back_by_a_relay_that_goes_on_from_the_topic(
    own_broker: KafkaBroker, sqlite_url: str, tmp_path: Path
) -> None:
    with outlet(sqlite_url, own_broker.address, tmp_path) as out:
        out.grow(200)
        relay = out.relay()
        leave_hanging(own_broker, relay.transactional_id, out.brokers.events, b"taken back")
        with pytest.raises(RelayTransactionHangsError, match="hangs in"):
            relay.once()
        assert relay.once(from_topic=True) == 200
        require_exactly_once(out.log, out.brokers)


def leave_hanging(broker: KafkaBroker, name: str, topic: str, value: bytes) -> None:
    """A record in partition 0 whose transaction was aborted and which does not know it.

    As brokers leave it that are killed at the wrong moment: the coordinator has written that the transaction is
    complete, and its end was not written to the partition.
    """
    with closing(KafkaAdminClient(bootstrap_servers=broker.address)) as admin:
        verify_partitions(admin, False)
        with producing(broker.address, name) as producer:
            producer._transaction_manager._partitions_in_transaction.add(TopicPartition(topic, 0))
            producer.send(topic, value, partition=0).get(5)
            producer.abort_transaction()
        verify_partitions(admin, True)


def verify_partitions(admin: KafkaAdminClient, verify: bool) -> None:
    """Whether the broker asks the coordinator before it takes a record for a transaction."""
    setting = {"transaction.partition.verification.enable": str(verify).lower()}
    admin.alter_configs([ConfigResource("broker", "1", setting)])


def end_hanging(broker: KafkaBroker, topic: str) -> None:
    """As `kafka-transactions.sh abort` does."""
    partition = TopicPartition(topic, 0)
    with closing(KafkaAdminClient(bootstrap_servers=broker.address)) as admin:
        (state,) = admin.describe_producers([partition]).values()
        for one in state.active_producers:
            admin.abort_transaction(AbortTransactionSpec(partition, one.producer_id, one.producer_epoch))


# -- where it does not --


def test_a_flush_before_it_keeps_commit_honest(own_broker: KafkaBroker, topic: str) -> None:
    with producing(own_broker.address, transaction_timeout_ms=1_000) as producer:
        producer.send(topic, b"first", partition=0).get(5)
        time.sleep(ABORT_SECONDS)
        refused = producer.send(topic, b"second", partition=0)
        producer.flush(10)
        with pytest.raises(InvalidProducerEpochError):
            refused.get(0)
        with pytest.raises(KafkaError):
            producer.commit_transaction()
        assert committed(own_broker, topic) == []


def test_commit_fails_for_a_transaction_that_timed_out_once_all_was_flushed(
    own_broker: KafkaBroker, topic: str
) -> None:
    with producing(own_broker.address, transaction_timeout_ms=1_000) as producer:
        producer.send(topic, b"first", partition=0).get(5)
        time.sleep(ABORT_SECONDS)
        with pytest.raises(ProducerFencedError):
            producer.commit_transaction()
        assert committed(own_broker, topic) == []


@pytest.mark.parametrize("flushed", [True, False])
def test_one_that_was_fenced_does_not_begin_anew_by_itself(
    flushed: bool, own_broker: KafkaBroker, topic: str
) -> None:
    """kafka-python would ask for another producer id if the broker answered as before Kafka 2.7; it says "fenced"."""
    with (
        producing(own_broker.address, "the-same") as older,
        ending(lambda: older.send(topic, b"older", partition=0).get(5)),
        producing(own_broker.address, "the-same") as newer,
    ):
        if not flushed:
            older.send(topic, b"late", partition=0)
        with pytest.raises(ProducerFencedError):
            older.commit_transaction()
        newer.send(topic, b"newer", partition=0).get(5)
        newer.commit_transaction()
        assert committed(own_broker, topic) == [b"newer"]


@contextmanager
def ending(first: Any) -> Iterator[None]:
    """Something is done before whatever comes inside begins."""
    first()
    yield


@pytest.mark.parametrize("fate", [Fate.IS_LOST, Fate.LOSES_ITS_ANSWER])
@pytest.mark.parametrize("request_", [PRODUCE, ADD_PARTITIONS, END_TXN])
def test_a_request_or_an_answer_that_is_lost_once_changes_nothing(
    fate: Fate, request_: int, own_broker: KafkaBroker, topic: str
) -> None:
    with (
        proxy_at(own_broker.proxied_address, own_broker.behind_proxy) as proxy,
        producing(own_broker.proxied_address) as producer,
    ):
        proxy.decide = lambda key: fate if key == request_ and not proxy.hurt[key, fate.name] else Fate.PASSES
        sent = producer.send(topic, b"first", partition=0)
        producer.flush(10)
        sent.get(0)
        producer.commit_transaction()
        assert proxy.hurt[request_, fate.name] == 1
        assert committed(own_broker, topic) == [b"first"]


# -- and the relay --


def test_a_relay_lives_with_connections_cut_anywhere(
    own_broker: KafkaBroker, sqlite_url: str, tmp_path: Path
) -> None:
    """Every request of a transaction is lost, or its answer, one time in twelve."""
    chance = chances("connections cut")
    hurting = (PRODUCE, ADD_PARTITIONS, END_TXN, INIT_PRODUCER_ID, FIND_COORDINATOR)
    with (
        proxy_at(own_broker.proxied_address, own_broker.behind_proxy) as proxy,
        outlet(sqlite_url, own_broker.proxied_address, tmp_path) as out,
    ):
        out.grow(times(3_000))
        relay = out.relay(batch_facts=40)
        proxy.decide = lambda key: (
            Fate.PASSES
            if key not in hurting or chance.random() > 1 / 12
            else chance.choice([Fate.IS_LOST, Fate.LOSES_ITS_ANSWER])
        )
        run_to_head(relay, 200)
        proxy.decide = lambda _: Fate.PASSES
        print(dict(proxy.hurt), relay.state, require_exactly_once(out.log, out.brokers))


def test_a_commit_that_arrives_after_all_does_not_count(
    own_broker: KafkaBroker, sqlite_url: str, tmp_path: Path
) -> None:
    """Commits are held up for longer than anybody waits: the relay begins anew, and then the old one comes."""
    held = []
    with (
        proxy_at(own_broker.proxied_address, own_broker.behind_proxy) as proxy,
        outlet(sqlite_url, own_broker.proxied_address, tmp_path) as out,
    ):
        out.grow(2_000)
        relay = out.relay(batch_facts=200)

        def decide(key: int) -> Fate:
            if key == END_TXN and relay.state.transactions in (2, 5) and len(held) < 2:
                held.append(relay.state.transactions)
                time.sleep(5)
            return Fate.PASSES

        proxy.decide = decide
        run_to_head(relay, 120)
        time.sleep(5)
        found = require_exactly_once(out.log, out.brokers)
        print(relay.state, found)
        assert relay.state.retries >= 1
