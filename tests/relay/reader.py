"""Reads a topic as those do who rely on it: is it what it promises, each fact once, whole, in order?"""

from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import orjson
from kafka import KafkaConsumer, TopicPartition

from ledger.brokers import Brokers
from ledger.cloudevents import message_of, received, source_of
from ledger.log import LedgerLog
from ledger.relay import partition_of
from ledger.relay_position import ends_of


@dataclass(frozen=True)
class Found:
    """What was read: committed facts, records that were sent and taken back, and how often relays took over."""

    facts: int
    aborted: int
    sessions: int


def require_exactly_once(log: LedgerLog, brokers: Brokers) -> Found:
    """The topic holds every fact of the log once, byte for byte, in order; the position is the head."""
    ledger_id = log.identity.ledger_id
    rows = {row.position: row for row in log.read()}
    source, wanted = source_of(ledger_id).encode(), {p: message_of(ledger_id, row) for p, row in rows.items()}
    seen: Counter[int] = Counter()
    sequences, partitions = defaultdict(list), defaultdict(set)
    for record in records(brokers, brokers.events):
        if dict(record.headers).get("ce_source") != source:
            continue
        fact = received(record.value).fact
        message = wanted[fact.position]
        assert (record.value, record.key, list(record.headers)) == (
            message.value,
            message.key,
            message.headers,
        )
        assert record.partition == partition_of(record.key, brokers.partitions)
        seen[fact.position] += 1
        sequences[record.partition].append(fact.position)
        partitions[record.key].add(record.partition)
    assert [position for position, times in seen.items() if times > 1] == [], "doubled"
    assert sorted(set(rows) - set(seen)) == [], "missing"
    assert all(one == sorted(one) for one in sequences.values()), "out of order"
    assert all(len(where) == 1 for where in partitions.values()), "a key moved"
    turns = _check_positions(brokers, ledger_id, rows)
    return Found(len(seen), sent_in_all(brokers) - len(list(records(brokers, brokers.events))), turns)


def _check_positions(brokers: Brokers, ledger_id: UUID, rows: dict[int, Any]) -> int:
    """They only rise, and the last one is the head; how many relays wrote them."""
    values = [orjson.loads(record.value) for record in records(brokers, brokers.positions(ledger_id))]
    positions = [value["position"] for value in values]
    assert positions == sorted(positions)
    assert positions[-1] == max(rows, default=0)
    if rows:
        head = rows[positions[-1]]
        assert values[-1]["leaf_hash"] == head.leaf_hash.hex()
        assert values[-1]["event_id"] == f"{head.stream_id}.{head.version}"
    return len({value["relay_id"] for value in values})


def sent_in_all(brokers: Brokers) -> int:
    """The records of the events topic, those included that were taken back."""
    return len(list(records(brokers, brokers.events, committed=False)))


def is_held_up(brokers: Brokers, topic: str) -> bool:
    """Whether an open transaction keeps readers of committed records from the end."""
    partitions = _partitions(brokers, topic)
    consumer: KafkaConsumer = brokers.consumer()
    try:
        return bool(consumer.end_offsets(partitions) != ends_of(brokers, partitions))
    finally:
        consumer.close()


def _partitions(brokers: Brokers, topic: str) -> list[TopicPartition]:
    consumer: KafkaConsumer = brokers.consumer()
    try:
        return [TopicPartition(topic, one) for one in sorted(consumer.partitions_for_topic(topic) or ())]
    finally:
        consumer.close()


def records(brokers: Brokers, topic: str, committed: bool = True) -> Iterator[Any]:
    """Every record up to the present end."""
    partitions = _partitions(brokers, topic)
    ends = ends_of(brokers, partitions)
    consumer: KafkaConsumer = brokers.consumer(committed=committed)
    try:
        consumer.assign(partitions)
        consumer.seek_to_beginning(*partitions)
        while any((consumer.position(one) or 0) < ends[one] for one in partitions):
            for records in consumer.poll(timeout_ms=500).values():
                yield from records
    finally:
        consumer.close()
