"""Feeds a store's figures from the events topic: each process is one worker of the store's consumer group.

Kafka shares out partitions and no more. Where a partition goes on is what the store says, its rows and offsets move in
one transaction by compare-and-set (`worker_store`), and what is committed to Kafka afterwards is for looking at. So a
worker that was killed, or slept until others had its partitions, neither loses nor doubles anything. The facts run
through the same SELECTs as everywhere else.
"""

import logging
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from typing import Any
from uuid import UUID

import orjson
import pyarrow as pa
from kafka import KafkaConsumer, TopicPartition
from kafka.consumer.subscription_state import ConsumerRebalanceListener
from kafka.coordinator.assignors.cooperative_sticky import CooperativeStickyAssignor
from kafka.errors import KafkaError, LogTruncationError, NoOffsetForPartitionError, OffsetOutOfRangeError
from kafka.structs import OffsetAndMetadata
from sqlalchemy.exc import SQLAlchemyError

from ledger.brokers import Brokers
from ledger.cloudevents import received
from ledger.codec import EVENTS_BY_TOPIC, decode, encode
from ledger.errors import (
    ExpectedError,
    KafkaUnreachableError,
    LedgerError,
    MessageMalformedError,
    UnreadableFactError,
)
from ledger.groupcommit import Row as Fact
from projections.engine import Columns, ahead, no_garbage_collection
from projections.figures import all_figures
from projections.follower import RETRY_SECONDS, MovedMeanwhileError
from projections.projection import Projection
from projections.worker_store import Place, WorkerStore

BATCH_MESSAGES = 20_000
"""Messages in one transaction at most: every batch pays a fixed cost, and all of one is in memory …"""
POLL_MESSAGES = 2_000
"""… without their headers, of which so many are in memory."""
WAIT_SECONDS = 0.5
"""How long a worker waits for the first message of a batch …"""
MORE_SECONDS = 0.05
"""… and for each further answer of the broker."""

SESSION_SECONDS = 15.0
"""How soon a worker that is gone without a word is missed: its partitions rest until then."""
READER: Mapping[str, Any] = {
    "auto_offset_reset": "none",  # where to go on is for the store to say, and what is gone must not be passed over
    "partition_assignment_strategy": (CooperativeStickyAssignor,),
    "max_partition_fetch_bytes": 8 << 20,
    "metrics_enabled": False,
    "client_id": "wenming-worker",
}
"""How a worker reads."""

logger = logging.getLogger("wenming.worker")


class TopicCutError(LedgerError):
    """Messages that were not taken yet are gone."""

    code = "TOPIC_CUT"
    zh = (
        "主题 {topic} 的分区 {partition} 现有第 {first} 至 {last} 条，而统计要从第 {wanted} 条继续："
        "中间的消息已被删除。请恢复该主题，或从完整的主题另建统计库。"
    )
    en = (
        "Partition {partition} of {topic} holds offsets {first} to {last}, and the figures go on from {wanted}: "
        "messages in between are gone. Restore the topic, or make another store from one that is whole."
    )


class MessageInTheWayError(LedgerError):
    """A message that cannot be counted, before which the store stops. ``reason`` is the code of what is wrong."""

    code = "MESSAGE_IN_THE_WAY"
    zh = (
        "主题 {topic} 分区 {partition} 的第 {offset} 条消息（账本位置 {position}）无法计入：{problem}"
        " 统计停在它之前，没有遗漏。请查明来源；若是新程序写的，请升级本程序。"
    )
    en = (
        "The message at partition {partition}, offset {offset} of {topic} (position {position}) cannot be counted: "
        "{problem} The figures stop before it, and nothing was left out. Find out where it came from; if a "
        "newer program wrote it, use that program."
    )


# --- what messages add -----------------------------------------------------------------------------------------------


class Batch:
    """What some messages add: facts as columns, and the place to which they bring each partition."""

    def __init__(self, ledger_id: UUID, topic: str, places: Mapping[int, Place]) -> None:
        self.before = dict(places)
        self.after = dict(places)
        self.stopped: MessageInTheWayError | None = None
        """Of the first partition that has one: the message before which it stopped."""
        self._ledger_id, self._topic = ledger_id, topic
        self._facts: list[Fact] = []
        self._origins: list[tuple[int, int]] = []
        """Partition and offset of each fact."""

    def __len__(self) -> int:
        return len(self._facts)

    def take(self, partition: int, messages: Sequence[tuple[int, bytes | None]], next_offset: int) -> None:
        """The messages of one partition, by offset and in order, behind which it goes on at ``next_offset``.

        Those of other ledgers are passed over. It stops before the first that cannot be counted (`stopped`).
        """
        place = self.after[partition]
        last, facts, others = place.last_sequence, place.facts, place.others
        for offset, value in messages:
            try:
                found = received(value or b"")
                if found.ledger_id != self._ledger_id:
                    others += 1
                    continue
                fact = _current(found.fact, after=last)
            except (MessageMalformedError, UnreadableFactError) as error:
                self.stopped = self.stopped or self._in_the_way(error, partition, offset)
                next_offset = offset
                break
            self._facts.append(fact)
            self._origins.append((partition, offset))
            last, facts = fact.position, facts + 1
        self.after[partition] = Place(partition, next_offset, facts, last, others)

    def _in_the_way(self, error: ExpectedError, partition: int, offset: int) -> MessageInTheWayError:
        return MessageInTheWayError(
            topic=self._topic,
            partition=partition,
            offset=offset,
            position=error.details.get("position", "–"),
            problem=error.sentence_en,
            reason=error.code,
        )

    def moves(self, share: int) -> list[tuple[Place, Place]]:
        """The partitions that go on, and the one that the share is named for."""
        return [
            (before, self.after[partition])
            for partition, before in self.before.items()
            if partition == share or self.after[partition] != before
        ]

    @property
    def is_nothing(self) -> bool:
        return self.after == self.before

    def columns(self) -> pa.Table:
        """The facts as `engine.Columns.feed` takes them."""
        facts = self._facts
        return pa.table(
            {
                "position": pa.array([fact.position for fact in facts], pa.int64()),
                "stream_id": pa.array([str(fact.stream_id) for fact in facts], pa.string()),
                "topic": pa.array([fact.topic for fact in facts], pa.string()),
                "version": pa.array([fact.version for fact in facts], pa.int64()),
                "state": pa.array([fact.state for fact in facts], pa.large_string()),
            }
        )

    @property
    def topics(self) -> set[str]:
        return {fact.topic for fact in self._facts}

    def first_unreadable(self) -> MessageInTheWayError | None:
        """The first fact that the codec refuses; None if the facts are not to blame."""
        for fact, (partition, offset) in zip(self._facts, self._origins, strict=True):
            try:
                decode(fact.topic, fact.stream_id, fact.version, fact.state)
            except UnreadableFactError as error:
                named = UnreadableFactError(**{**error.details, "position": fact.position})
                return self._in_the_way(named, partition, offset)
        return None


def _current(fact: Fact, after: int) -> Fact:
    """The fact with its text in the newest class version: an older one goes through the codec, for DuckDB cannot.

    A position that is not behind the last one was counted already, or is out of order: MESSAGE_MALFORMED.
    """
    if fact.position <= after:
        problem = f"its position {fact.position} does not come after {after}"
        raise MessageMalformedError(position=fact.position, problem=problem)
    event = EVENTS_BY_TOPIC.get(fact.topic)
    if event is None:
        raise UnreadableFactError(topic=fact.topic, position=fact.position, problem="unknown topic")
    if orjson.loads(fact.state).get("class_version") == event.class_version:
        return fact
    try:
        newest = decode(fact.topic, fact.stream_id, fact.version, fact.state)
    except UnreadableFactError as error:
        raise UnreadableFactError(**{**error.details, "position": fact.position}) from None
    return replace(fact, state=encode(newest))


def take(store: WorkerStore, batch: Batch) -> None:
    """Bring the store over a batch: its rows and places in one transaction.

    `MovedMeanwhileError` if others took some of it, MESSAGE_IN_THE_WAY if a fact cannot be read: nothing is written.
    """
    share = min(batch.before)
    topics = batch.topics
    figures = [figure for figure in all_figures() if not topics.isdisjoint(figure.relation.topics)]
    if not figures:
        store.write(batch.moves(share), share)
        return
    try:
        with closing(Columns(figures)) as columns:
            columns.feed(batch.columns())
            made: Iterator[tuple[Projection, pa.Table]] = ((f, columns.arrow(f)) for f in figures)
            with closing(ahead(made)) as rows:
                store.write(batch.moves(share), share, rows)
    except MovedMeanwhileError:
        raise
    except Exception as error:
        raise batch.first_unreadable() or error from error


# --- one worker of a group -------------------------------------------------------------------------------------------


class _Arrivals(ConsumerRebalanceListener):  # type: ignore[misc]
    """Remembers that partitions came or went. The client's own thread calls it, where nothing else may be done."""

    def __init__(self) -> None:
        self.any = True

    def on_partitions_assigned(self, assigned: object) -> None:
        del assigned
        self.any = True

    def on_partitions_revoked(self, revoked: object) -> None:
        del revoked
        self.any = True


class Worker:
    """One member of the store's group, while it is joined (`joined`)."""

    def __init__(self, store: WorkerStore, brokers: Brokers, consumer: KafkaConsumer) -> None:
        self._store, self._brokers, self._consumer = store, brokers, consumer
        self._topic = store.topic.name
        self._arrivals = _Arrivals()
        self._places: dict[int, Place] = {}
        consumer.partitions_for_topic(self._topic)  # or the group is joined without partitions, for ever
        consumer.subscribe([self._topic], listener=self._arrivals)

    def step(self, stop: threading.Event) -> int:
        """Take what there is, up to a batch; how many facts that were.

        0 after a wait, after partitions came or went, and where another worker was faster.
        """
        with no_garbage_collection():
            found = self._gathered(stop)
        if self._arrivals.any:
            self._take_over()
            return 0
        if not self._places:
            return 0
        batch = Batch(self._store.ledger_id, self._topic, self._places)
        with no_garbage_collection():
            for partition in self._places:
                there = TopicPartition(self._topic, partition)
                batch.take(partition, found.get(there, []), self._consumer.position(there, timeout_ms=5_000))
        if not batch.is_nothing:
            try:
                take(self._store, batch)
            except MovedMeanwhileError:
                logger.info("another worker was faster; going on from where the store stands")
                self._take_over()
                return 0
            self._places = batch.after
            self._tell_kafka()
        if batch.stopped:
            raise batch.stopped
        return len(batch)

    def _gathered(self, stop: threading.Event) -> dict[TopicPartition, list[tuple[int, bytes | None]]]:
        """Messages by partition; whatever was fetched is worth nothing once partitions came or went."""
        found: dict[TopicPartition, list[tuple[int, bytes | None]]] = {}
        left, wait = BATCH_MESSAGES, WAIT_SECONDS
        while left > 0 and not stop.is_set():
            try:
                got = self._consumer.poll(timeout_ms=int(wait * 1000), max_records=min(left, POLL_MESSAGES))
            except (NoOffsetForPartitionError, OffsetOutOfRangeError, LogTruncationError):
                # Just assigned, and Kafka knows no offset or one that is gone; or messages are: `_take_over` tells.
                self._arrivals.any = True
                break
            if self._arrivals.any or not got:
                break
            for there, records in got.items():
                found.setdefault(there, []).extend((record.offset, record.value) for record in records)
                left -= len(records)
            wait = MORE_SECONDS
        return found

    def _take_over(self) -> None:
        """Go on where the store stands, in every partition this worker has now.

        WORKER_STORE_OTHER for a topic that was made anew or has other partitions, TOPIC_CUT where messages are
        gone that were not taken.
        """
        self._arrivals.any = False
        self._store.require(topic=self._brokers.events_topic())
        mine = sorted(self._consumer.assignment())
        places = self._store.places()
        first, last = self._consumer.beginning_offsets(mine), self._consumer.end_offsets(mine)
        for there in mine:
            wanted = places[there.partition].next_offset
            if not first[there] <= wanted <= last[there]:
                raise TopicCutError(
                    topic=self._topic,
                    partition=there.partition,
                    first=first[there],
                    last=last[there],
                    wanted=wanted,
                )
            self._consumer.seek(there, wanted)
        self._places = {there.partition: places[there.partition] for there in mine}
        logger.info("working on partitions %s", sorted(self._places))

    def _tell_kafka(self) -> None:
        """For those who look at the group with Kafka's own tools; nobody goes by it."""
        offsets = {
            TopicPartition(self._topic, partition): OffsetAndMetadata(place.next_offset, "", -1)
            for partition, place in self._places.items()
        }
        self._consumer.commit_async(offsets)


@contextmanager
def joined(
    store: WorkerStore, brokers: Brokers, session_seconds: float = SESSION_SECONDS
) -> Iterator[Worker]:
    """A member of the store's group, which it leaves in the end. KAFKA_UNREACHABLE, KAFKA_REFUSED."""
    session = int(session_seconds * 1000)
    times: dict[str, Any] = {"session_timeout_ms": session, "heartbeat_interval_ms": session // 5}
    consumer = brokers.consumer(store.group, **READER, **times)
    try:
        yield Worker(store, brokers, consumer)
    except KafkaError as error:
        raise brokers.as_ours(error) or error from error
    finally:
        consumer.close(autocommit=False, timeout_ms=5_000)


def work(
    store: WorkerStore,
    brokers: Brokers,
    stop: threading.Event,
    *,
    once: bool = False,
    session_seconds: float = SESSION_SECONDS,
) -> None:
    """Feed the store until ``stop`` is set; with ``once``, until all that is in the topic now was taken by somebody.

    A broker or database that is away is waited for. It stops at what waiting does not mend: KAFKA_REFUSED, a topic that
    is not the store's, or a message that cannot be counted (MESSAGE_IN_THE_WAY).
    """
    pause, ends = RETRY_SECONDS, dict[int, int]()
    while not stop.is_set():
        try:
            with joined(store, brokers, session_seconds) as worker:
                ends = ends or (ends_of(store, brokers) if once else {})
                while not stop.is_set() and not (ends and _is_behind_all(store, ends)):
                    if worker.step(stop):
                        pause = RETRY_SECONDS
            return
        except (KafkaUnreachableError, SQLAlchemyError, OSError) as trouble:
            logger.warning("the worker waits %.1f s: %s", pause, trouble)
            stop.wait(pause)
            pause = min(pause * 2, 30.0)


# --- how far they are ------------------------------------------------------------------------------------------------


def ends_of(store: WorkerStore, brokers: Brokers) -> dict[int, int]:
    """The offset behind the last committed message, by partition. WORKER_STORE_OTHER, TOPIC_MISSING."""
    topic = brokers.events_topic()
    store.require(topic=topic)
    with closing(brokers.consumer(metrics_enabled=False)) as consumer:
        partitions = [TopicPartition(topic.name, number) for number in range(topic.partitions)]
        try:
            return {there.partition: end for there, end in consumer.end_offsets(partitions).items()}
        except KafkaError as error:
            raise brokers.as_ours(error) or error from error


def _is_behind_all(store: WorkerStore, ends: Mapping[int, int]) -> bool:
    return all(place.next_offset >= ends[number] for number, place in store.places().items())


@dataclass(frozen=True)
class Lag:
    """One partition's place, and how many offsets it is behind (Kafka counts a transaction's end as one)."""

    place: Place
    end_offset: int

    @property
    def offsets(self) -> int:
        return max(0, self.end_offset - self.place.next_offset)


def status(store: WorkerStore, brokers: Brokers) -> list[Lag]:
    """How far every partition was taken."""
    ends = ends_of(store, brokers)
    return [Lag(place, ends[number]) for number, place in store.places().items()]
