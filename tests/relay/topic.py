"""What a reader of the topic sees, and topics of one's own to try things on."""

from dataclasses import dataclass
from typing import Any
from uuid import uuid4

from kafka import TopicPartition

from ledger.brokers import Brokers
from ledger.cloudevents import message_of, received
from ledger.log import LedgerLog
from ledger.relay_position import ends_of


def brokers_at(address: str, *, partitions: int = 3, **more: Any) -> Brokers:
    """A topic of its own on a broker; not made yet."""
    return Brokers(address, f"t{uuid4().hex[:10]}", partitions, 1, **more)


@dataclass(frozen=True)
class Seen:
    """A record as a reader gets it."""

    partition: int
    offset: int
    key: bytes
    value: bytes


def read_topic(brokers: Brokers, *, committed: bool = True) -> list[Seen]:
    """Everything that a reader of committed records sees up to the present end."""
    consumer = brokers.consumer(committed=committed)
    partitions = [TopicPartition(brokers.events, number) for number in range(brokers.partitions)]
    try:
        ends = ends_of(brokers, partitions)
        consumer.assign(partitions)
        consumer.seek_to_beginning(*partitions)
        seen = []
        while any(consumer.position(one) < end for one, end in ends.items()):
            for records in consumer.poll(timeout_ms=500).values():
                seen += [Seen(one.partition, one.offset, one.key, one.value) for one in records]
        return seen
    finally:
        consumer.close()


def require_exactly_the_log(brokers: Brokers, log: LedgerLog, upto: int | None = None) -> None:
    """Each fact once, as it is stored, under its key, in the order of the log within its partition."""
    seen = [one for one in read_topic(brokers) if received(one.value).ledger_id == log.identity.ledger_id]
    positions = [received(one.value).fact.position for one in seen]
    assert sorted(positions) == list(range(1, (upto or log.head().size) + 1))
    for partition in range(brokers.partitions):
        own = [p for p, one in zip(positions, seen, strict=True) if one.partition == partition]
        assert own == sorted(own)
    messages = {row.position: message_of(log.identity.ledger_id, row) for row in log.read()}
    for position, one in zip(positions, seen, strict=True):
        assert (one.key, one.value) == (messages[position].key, messages[position].value)
    where: dict[bytes, set[int]] = {}
    for one in seen:
        where.setdefault(one.key, set()).add(one.partition)
    assert all(len(partitions) == 1 for partitions in where.values())
