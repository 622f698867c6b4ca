"""Facts leave exactly once: the log is the outbox, and the position moves in the same transaction as the facts.

A relay that starts first fences whoever was there and settles their transaction, and only then reads how far it came.
It compares that with the log and publishes nothing from a ledger that was restored or rewritten meanwhile. Each
transaction is flushed, every record's fate looked at, then committed, and then read back before the next one begins: a
commit that reports success for a transaction that is lost costs a repetition, never a fact.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any
from uuid import uuid4

from kafka import KafkaProducer, TopicPartition
from kafka.errors import (
    AuthorizationError,
    InvalidProducerEpochError,
    KafkaError,
    KafkaTimeoutError,
    MessageSizeTooLargeError,
    ProducerFencedError,
    RecordListTooLargeError,
    UnknownError,
)
from kafka.partitioner.default import murmur2
from sqlalchemy.exc import SQLAlchemyError

from ledger.brokers import Brokers, Topic
from ledger.cloudevents import message_of
from ledger.errors import (
    EventTooLargeError,
    ExpectedError,
    KafkaUnreachableError,
    LedgerBusyError,
    LedgerDamagedError,
    RelayFencedError,
    RelayLedgerDiffersError,
    RelayPositionLostError,
    RelayTopicHoleError,
    RelayTransactionHangsError,
    TopicReplacedError,
)
from ledger.groupcommit import Row
from ledger.log import LedgerLog
from ledger.merkle import leaf_hash
from ledger.relay_position import PositionTopic, Progress, RelayPosition, sent_so_far

BATCH_FACTS = 2_000
TRANSACTION_SECONDS = 15.0
"""After so long the brokers abort a transaction that nobody ended."""
RETRY_SECONDS = 0.5
RETRY_SECONDS_MAX = 10.0
IDLE_SECONDS = 0.25
LOOK_SECONDS = 60.0
"""How often the topics are looked at again: somebody may have deleted one and made it anew."""

logger = logging.getLogger("wenming.relay")


@dataclass(frozen=True)
class Lag:
    """How far the topic is behind the log: facts, and seconds since the oldest of them was recorded."""

    facts: int
    seconds: float


@dataclass
class RelayState:
    """What a relay has done so far, for whoever watches it."""

    position: int = 0
    published: int = 0
    transactions: int = 0
    retries: int = 0
    trouble: str | None = None


@dataclass(frozen=True)
class _Session:
    """One producer, from its fencing of the one before to its end. ``newest`` is what was read back last."""

    producer: KafkaProducer
    positions: PositionTopic
    topic: Topic


class _LostTransactionError(KafkaError):  # type: ignore[misc]
    """A commit was reported as done, and is not to be found."""


class Relay:
    """Publishes one ledger's log. Only one at a time does: a newer one fences an older one."""

    def __init__(
        self,
        log: LedgerLog,
        brokers: Brokers,
        *,
        batch_facts: int = BATCH_FACTS,
        transaction_seconds: float = TRANSACTION_SECONDS,
    ) -> None:
        self.log, self.brokers = log, brokers
        self.ledger_id = log.identity.ledger_id
        self.relay_id = uuid4()
        self.state = RelayState()
        self._batch_facts, self._seconds = batch_facts, transaction_seconds
        self._has_claimed = False

    @property
    def transactional_id(self) -> str:
        """The one name under which relays of this ledger fence each other."""
        return f"{self.ledger_id}.relay"

    # -- from outside --

    def run(
        self, stop: threading.Event, *, from_topic: bool = False, progress: Progress | None = None
    ) -> None:
        """Publish what there is and what comes, until ``stop`` is set.

        Brokers or a database that are away are tried again, once there was a first time. What needs a person is raised:
        `RelayFencedError`, `RelayLedgerDiffersError`, a topic that is missing or wrong, a fact too large.
        """
        pause = RETRY_SECONDS
        while not stop.is_set():
            before = self.state.transactions
            try:
                with self._session(from_topic, progress) as session:
                    self._publish_until(session, stop, progress)
            except Exception as error:
                self._require_passing(error)
                pause = RETRY_SECONDS if self.state.transactions > before else pause
                self.state.retries += 1
                self.state.trouble = type(error).__name__
                logger.warning("the relay waits %.1f s: %s", pause, error)
                stop.wait(pause)
                pause = min(pause * 2, RETRY_SECONDS_MAX)

    def once(self, *, from_topic: bool = False, progress: Progress | None = None) -> int:
        """Publish what there is now; the position reached. Trouble that `run` would wait out is raised here."""
        head = self.log.head().size
        try:
            with self._session(from_topic, progress) as session:
                while self._position(session).position < head:
                    self._publish_next(session)
                    if progress:
                        progress("publishing", self.state.position, head)
                return self._position(session).position
        except KafkaError as error:
            raise self._as_ours(error) from None

    def lag(self) -> Lag:
        """How far behind it is now."""
        return lag_behind(self.log, self.state.position)

    # -- a session --

    @contextmanager
    def _session(self, from_topic: bool, progress: Progress | None) -> Iterator[_Session]:
        topic = self.brokers.require_topics(self.ledger_id)
        with PositionTopic(self.brokers, self.ledger_id) as positions:
            if self._has_claimed:
                self._require_not_fenced(self._newest(positions, topic))
            producer = self.brokers.producer(self.transactional_id, self._seconds)
            try:
                producer.init_transactions()  # whoever was there is fenced, and what they left open is settled
                self._require_nothing_hangs(topic, may_abort=from_topic)
                session = _Session(producer, positions, topic)
                self._claim(session, self._start(session, from_topic, progress))
                yield session
            finally:
                _close(producer)

    def _require_not_fenced(self, newest: RelayPosition | None) -> None:
        """One that comes back must not fence the one that took over, nor go on where that one was fenced after all."""
        if self._has_claimed and (newest is None or newest.relay_id != self.relay_id):
            raise RelayFencedError(transactional_id=self.transactional_id)

    def _newest(self, positions: PositionTopic, topic: Topic) -> RelayPosition | None:
        """The newest position; where it does not settle, a transaction that hangs is told as such."""
        try:
            return positions.read(self._seconds)
        except KafkaTimeoutError:
            if self.brokers.has_ended(self.transactional_id):
                self._require_nothing_hangs(topic)
            raise

    def _require_nothing_hangs(self, topic: Topic, *, may_abort: bool = False) -> None:
        """What was fenced is settled now, unless a broker that was killed lost the end of a transaction (it happens).

        Our next commit would then commit, in such a partition, also what hangs there and was taken back. Whoever goes
        on from what the topic holds may take it back for good first.
        """
        partitions = [TopicPartition(topic.name, number) for number in range(topic.partitions)]
        partitions.append(TopicPartition(self.brokers.positions(self.ledger_id), 0))
        hanging = self.brokers.open_transactions(self.transactional_id, partitions)
        if hanging and may_abort:
            self.brokers.abort_open(self.transactional_id, hanging)
        elif hanging:
            where = ", ".join(f"{one.topic}-{one.partition}" for one in hanging)
            raise RelayTransactionHangsError(transactional_id=self.transactional_id, where=where)

    def _start(self, session: _Session, from_topic: bool, progress: Progress | None) -> Row | None:
        """The last fact that was sent, which the log still has; None if none was. Then it is known where to go on."""
        newest = session.positions.read(2 * self._seconds)
        self._require_not_fenced(newest)
        if newest is None or (from_topic and not self._has_claimed):
            return self._found_in_topic(session.topic, newest is None and not from_topic, progress)
        if (newest.topic_id, newest.partitions) != (session.topic.topic_id, session.topic.partitions):
            raise TopicReplacedError(topic=session.topic.name)
        return self._last_sent(newest)

    def _found_in_topic(self, topic: Topic, must_be_none: bool, progress: Progress | None) -> Row | None:
        """Without a position that holds, only the topic itself tells what was sent."""
        sent = sent_so_far(self.brokers, self.ledger_id, progress)
        if sent.last is None:
            return None
        last = sent.last.position
        if must_be_none:
            raise RelayPositionLostError(topic=topic.name, count=sent.count, last=last)
        if sent.count != last:
            raise RelayTopicHoleError(topic=topic.name, count=sent.count, last=last)
        self._require_as_sent(last, sent.last.leaf_hash)
        return sent.last

    def _last_sent(self, newest: RelayPosition) -> Row | None:
        if newest.position == 0 or newest.leaf_hash is None:
            return None
        return self._require_as_sent(newest.position, newest.leaf_hash)

    def _require_as_sent(self, position: int, leaf: bytes) -> Row:
        """The log's fact at a position that was sent, which must be the one that was sent."""
        row = next(self.log.read(position, position), None)
        if row is None:
            raise self._cut_off(position)
        self._require_same(row, position, leaf)
        return row

    def _require_same(self, row: Row, position: int, leaf: bytes | None) -> None:
        if row.position != position or row.leaf_hash != leaf or _leaf_of(row) != leaf:
            raise RelayLedgerDiffersError(position=position, problem="another fact stands there")

    def _cut_off(self, position: int) -> RelayLedgerDiffersError:
        size = self.log.head().size
        return RelayLedgerDiffersError(position=position, problem=f"there are only {size} facts")

    def _claim(self, session: _Session, last: Row | None) -> None:
        """Say whose turn it is, and from where: the first transaction of every session."""
        self._transact(session, [], last)
        self._has_claimed = True
        self.state.trouble = None

    # -- publishing --

    def _publish_until(self, session: _Session, stop: threading.Event, progress: Progress | None) -> None:
        looked_at = time.monotonic()
        with self.log.waiting() as wait:
            while not stop.is_set():
                if time.monotonic() - looked_at > LOOK_SECONDS:
                    looked_at = time.monotonic()
                    if self.brokers.require_topics(self.ledger_id) != session.topic:
                        raise TopicReplacedError(topic=session.topic.name)
                if self._publish_next(session):
                    if progress:
                        progress("publishing", self.state.position, self.log.head().size)
                else:
                    wait(self.state.position, IDLE_SECONDS)

    def _publish_next(self, session: _Session) -> bool:
        """One transaction with the next facts; False if there are none."""
        position = self._position(session).position
        found = list(self.log.read(max(position, 1), position + self._batch_facts))
        if position:
            if not found:
                raise self._cut_off(position)
            last, found = found[0], found[1:]
            self._require_same(last, position, self._position(session).leaf_hash)
        for expected, row in enumerate(found, position + 1):
            _require_whole(row, expected)
        if found:
            self._transact(session, found, found[-1])
        return bool(found)

    def _position(self, session: _Session) -> RelayPosition:
        assert session.positions.newest is not None  # claimed
        return session.positions.newest

    def _transact(self, session: _Session, facts: Sequence[Row], last: Row | None) -> None:
        """Facts and position become visible together, or neither; then they are seen to be there."""
        producer, seconds = session.producer, self._seconds
        position = RelayPosition.behind(self.ledger_id, last, session.topic, self.relay_id)
        producer.begin_transaction()
        sent = [_Sending(fact.position, *self._send(producer, session.topic, fact)) for fact in facts]
        own = producer.send(
            self.brokers.positions(self.ledger_id),
            position.to_bytes(),
            str(self.ledger_id).encode(),
            partition=0,
        )
        deadline = time.monotonic() + seconds
        _flush(producer, deadline)
        for one in sent:
            self._require_sent(one, deadline)
        own.get(max(0.0, deadline - time.monotonic()))
        within(seconds, producer.commit_transaction)
        if not session.positions.confirm(position, seconds):
            raise _LostTransactionError("a transaction that was reported as committed is not there")
        self.state.position = position.position
        self.state.published += len(facts)
        self.state.transactions += 1

    def _send(self, producer: KafkaProducer, topic: Topic, fact: Row) -> tuple[int, Any]:
        message = message_of(self.ledger_id, fact)
        try:
            return len(message.value), producer.send(
                topic.name,
                message.value,
                message.key,
                message.headers,
                partition=partition_of(message.key, topic.partitions),
            )
        except MessageSizeTooLargeError:
            raise EventTooLargeError(
                position=fact.position, size=len(message.value), topic=topic.name
            ) from None
        except (
            ValueError
        ) as error:  # the partition is gone from what the client knows: the next session looks again
            raise KafkaError(str(error)) from None

    def _require_sent(self, sending: "_Sending", deadline: float) -> None:
        """A record that expired or was refused fails here, where commit might still report success."""
        try:
            sending.future.get(max(0.0, deadline - time.monotonic()))
        except (MessageSizeTooLargeError, RecordListTooLargeError):
            raise EventTooLargeError(
                position=sending.position, size=sending.size, topic=self.brokers.events
            ) from None

    # -- trouble --

    def _require_passing(self, error: Exception) -> None:
        """Raise what no waiting mends; say of the rest that it may pass."""
        if isinstance(error, AuthorizationError):
            raise self._as_ours(error) from None
        if isinstance(error, KafkaUnreachableError | LedgerBusyError | RelayTransactionHangsError):
            if not self._has_claimed:
                raise error
        elif isinstance(error, ExpectedError):
            raise error
        elif isinstance(error, KafkaError):
            if not self._has_claimed:
                raise self._as_ours(error) from None
        elif not isinstance(error, SQLAlchemyError | OSError):
            raise error

    def _as_ours(self, error: KafkaError) -> Exception:
        if isinstance(
            error, ProducerFencedError | InvalidProducerEpochError
        ):  # the coordinator's word, or a partition's
            return RelayFencedError(transactional_id=self.transactional_id)
        return self.brokers.as_ours(error) or error


@dataclass(frozen=True, slots=True)
class _Sending:
    """A fact on its way."""

    position: int
    size: int
    future: Any


def _require_whole(row: Row, expected: int) -> None:
    """What is not as the log wrote it is never published."""
    if row.position != expected:
        raise LedgerDamagedError(position=expected, problem="the fact is missing")
    if _leaf_of(row) != row.leaf_hash:
        raise LedgerDamagedError(position=expected, problem="the fact does not fit its hash")


def _leaf_of(row: Row) -> bytes:
    return leaf_hash(row.stream_id.bytes, row.version, row.topic.encode(), row.state)


@lru_cache(maxsize=65_536)
def partition_of(key: bytes, partitions: int) -> int:
    """Where facts of a key go: as every Kafka client would say (murmur2), whatever it knows of the cluster just now."""
    hashed: int = murmur2(key)
    return (hashed & 0x7FFFFFFF) % partitions


def within(seconds: float, action: Callable[[], None]) -> None:
    """Do what kafka-python would wait for without end; KafkaTimeoutError if it takes longer."""
    failed: list[BaseException] = []

    def act() -> None:
        try:
            action()
        except BaseException as error:  # goes on in the thread that asked
            failed.append(error)

    thread = threading.Thread(target=act, name="relay-commit", daemon=True)
    thread.start()
    thread.join(seconds)
    if thread.is_alive():
        raise KafkaTimeoutError(f"no answer within {seconds:.0f} s")
    if failed:
        raise failed[0]


def _flush(producer: KafkaProducer, deadline: float) -> None:
    """Wait until each record's fate is known; KafkaTimeoutError if it is not by then."""
    while True:
        try:
            producer.flush(max(0.0, deadline - time.monotonic()))
            return
        except UnknownError:  # a batch was too large and went out again in parts: wait for these
            if time.monotonic() > deadline:
                raise KafkaTimeoutError("records are still on their way") from None


def _close(producer: KafkaProducer) -> None:
    """Give up whatever is open, so that readers need not wait until it times out."""
    with suppress(Exception):
        within(2.0, producer.abort_transaction)
    with suppress(Exception):
        producer.close(timeout=2.0)
    if producer._sender.is_alive():  # where records are stuck, `close` leaves its thread trying for ever
        producer._sender.force_close()


def lag_behind(log: LedgerLog, position: int) -> Lag:
    """How far the log is ahead of a position."""
    size = log.head().size
    if size <= position:
        return Lag(0, 0.0)
    (first,) = log.read(position + 1, position + 1)
    recorded = first.state.partition(b'"recorded_at":"')[2][:27].decode()
    seconds = (datetime.now(UTC) - datetime.fromisoformat(recorded)).total_seconds()
    return Lag(size - position, max(0.0, seconds))
