"""How far a ledger's facts were sent, as the topics themselves say it: one record, written in the same transaction.

Nothing else knows it: no second table, no file. What a relay believes of its own past it reads here.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Any
from uuid import UUID

import orjson
from kafka import TopicPartition
from kafka.errors import KafkaError, KafkaTimeoutError

from ledger.brokers import Brokers, Topic
from ledger.cloudevents import received, source_of
from ledger.codec import canonical_json
from ledger.errors import MessageMalformedError
from ledger.groupcommit import Row

POLL_MILLISECONDS = 500
ENDS_SECONDS = 30.0
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class RelayPosition:
    """The facts up to ``position`` stand in the topic; the last one is known by its event id and leaf hash.

    ``topic_id`` and ``partitions`` are the topic's, ``relay_id`` the process that wrote this: each one that starts
    writes the position it found under its own id, so that whoever was there before can see it.
    """

    ledger_id: UUID
    position: int
    event_id: str | None
    leaf_hash: bytes | None
    topic_id: UUID
    partitions: int
    relay_id: UUID

    @classmethod
    def behind(cls, ledger_id: UUID, last: Row | None, topic: Topic, relay_id: UUID) -> "RelayPosition":
        """The position behind ``last``; at the very beginning if there is none."""
        if last is None:
            return cls(ledger_id, 0, None, None, topic.topic_id, topic.partitions, relay_id)
        event_id = f"{last.stream_id}.{last.version}"
        return cls(
            ledger_id, last.position, event_id, last.leaf_hash, topic.topic_id, topic.partitions, relay_id
        )

    def to_bytes(self) -> bytes:
        """As the record's value."""
        leaf = None if self.leaf_hash is None else self.leaf_hash.hex()
        return canonical_json({**self.__dict__, "leaf_hash": leaf})

    @classmethod
    def from_bytes(cls, value: bytes) -> "RelayPosition":
        """MESSAGE_MALFORMED for anything that `to_bytes` did not write."""
        try:
            fields = orjson.loads(value)
            for name in ("ledger_id", "topic_id", "relay_id"):
                fields[name] = UUID(fields[name])
            if fields["leaf_hash"] is not None:
                fields["leaf_hash"] = bytes.fromhex(fields["leaf_hash"])
            found = cls(**fields)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            problem = f"the relay's position cannot be read ({type(error).__name__})"
            raise MessageMalformedError(problem=problem) from None
        if type(found.position) is not int or found.to_bytes() != value:
            raise MessageMalformedError(problem="the relay's position is not as a relay writes it")
        return found


class PositionTopic:
    """Reads one ledger's position topic, from its beginning and then on."""

    def __init__(self, brokers: Brokers, ledger_id: UUID) -> None:
        self._brokers = brokers
        self._partition = TopicPartition(brokers.positions(ledger_id), 0)
        self._consumer = brokers.consumer()
        self._consumer.assign([self._partition])
        self._consumer.seek_to_beginning(self._partition)
        self.newest: RelayPosition | None = None

    def __enter__(self) -> "PositionTopic":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with suppress(KafkaError):
            self._consumer.close()

    def read(self, seconds: float) -> RelayPosition | None:
        """The newest committed position there is now; None if there never was one.

        Raises KafkaTimeoutError while records that are not settled yet, committed or aborted, stand before the end.
        """
        deadline = time.monotonic() + seconds
        (end,) = ends_of(self._brokers, [self._partition], seconds).values()
        while (self._consumer.position(self._partition, timeout_ms=100) or 0) < end:
            if time.monotonic() > deadline:
                raise KafkaTimeoutError("the relay's position is not settled")
            self._poll(100)
        return self.newest

    def confirm(self, wanted: RelayPosition, seconds: float) -> bool:
        """Whether ``wanted`` is the newest committed position, at once or within some time."""
        deadline = time.monotonic() + seconds
        while self.newest != wanted and time.monotonic() < deadline:
            self._poll(POLL_MILLISECONDS)
        return self.newest == wanted

    def _poll(self, milliseconds: int) -> None:
        for records in self._consumer.poll(timeout_ms=milliseconds).values():
            self.newest = RelayPosition.from_bytes(records[-1].value)


@dataclass(frozen=True)
class Sent:
    """What a topic holds of one ledger: how many facts, each counted once, and the last of them."""

    count: int
    last: Row | None


def sent_so_far(brokers: Brokers, ledger_id: UUID, progress: Progress | None = None) -> Sent:
    """Read the whole events topic for one ledger's facts; MESSAGE_MALFORMED stops it."""
    source = source_of(ledger_id).encode()
    positions: set[int] = set()
    last: Row | None = None
    for record in _everything(brokers, progress):
        if dict(record.headers).get("ce_source") != source:
            continue
        fact = received(record.value).fact
        positions.add(fact.position)
        if last is None or fact.position > last.position:
            last = fact
    return Sent(len(positions), last)


def _everything(brokers: Brokers, progress: Progress | None) -> Iterator[Any]:
    """Every committed record of the events topic up to its present end, whatever is open there settled first."""
    consumer = brokers.consumer()
    try:
        found = sorted(consumer.partitions_for_topic(brokers.events) or ())
        partitions = [TopicPartition(brokers.events, number) for number in found]
        ends = ends_of(brokers, partitions)
        consumer.assign(partitions)
        consumer.seek_to_beginning(*partitions)
        whole, done = sum(ends.values()), 0
        while any((consumer.position(one, timeout_ms=100) or 0) < ends[one] for one in partitions):
            for records in consumer.poll(timeout_ms=POLL_MILLISECONDS).values():
                yield from records
                done += len(records)
            if progress:
                progress("reading the topic", min(done, whole), whole)
    finally:
        consumer.close()


def ends_of(
    brokers: Brokers, partitions: list[TopicPartition], seconds: float = ENDS_SECONDS
) -> dict[TopicPartition, int]:
    """The offset behind the last record of each partition, those of open transactions included. KafkaTimeoutError."""
    consumer = brokers.consumer(committed=False)
    try:
        ends: dict[TopicPartition, int] = consumer.end_offsets(partitions, timeout_ms=int(seconds * 1000))
        return ends
    finally:
        consumer.close()
