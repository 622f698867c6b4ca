"""Group commit: of the callers waiting to write, one writes for all of them in one transaction.

The caller who finds nobody writing becomes the leader and takes what waits, up to 256 jobs; the others sleep until
their answer is there, or until one of them is asked to lead the next batch. A lone caller pays no hand-over.
A job that refuses hurts only itself: nothing of it is in the transaction yet.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Generic, Protocol, TypeVar, cast
from uuid import UUID

from eventsourcing.persistence import IntegrityError, StoredEvent

from ledger.errors import KeyInFlightError
from ledger.merkle import Frontier, leaf_hash

BATCH_JOBS = 256
IN_FLIGHT_SECONDS = 2.0
"""How long a second request under the same key waits for the first one."""

T = TypeVar("T")
Key = tuple[UUID, str]
"""The scope of an idempotency key: the person who sent it, and the key."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a command with a key led to; ``last_position`` is ``first_position − 1`` if there was nothing to do."""

    person_id: UUID
    command_key: str
    digest: bytes
    command_id: UUID
    first_position: int
    last_position: int


@dataclass(frozen=True, slots=True)
class Row:
    """A fact as the log stores it."""

    position: int
    stream_id: UUID
    version: int
    topic: str
    state: bytes
    leaf_hash: bytes


class Session(Protocol):
    """What a transaction asks of the database, on the connection that holds the head."""

    def versions(self, stream_ids: Sequence[UUID]) -> dict[UUID, int]: ...
    def outcomes(self, keys: Sequence[Key]) -> list[Outcome]: ...
    def events(self, stream_id: UUID) -> list[StoredEvent]: ...
    def streams_after(self, position: int) -> list[UUID]: ...


class Transaction:
    """One append transaction while the head is locked: what is known, and what will be written at its end."""

    def __init__(self, session: Session, frontier: Frontier, recorded_at: datetime) -> None:
        self.committed_size = frontier.size
        self.recorded_at = recorded_at
        """The newest ``recorded_at`` so far, this transaction included."""
        self.frontier = frontier
        self.rows: list[Row] = []
        self.new_outcomes: list[Outcome] = []
        self._session = session
        self._versions: dict[UUID, int] = {}
        self._outcomes: dict[Key, Outcome | None] = {}

    @property
    def size(self) -> int:
        """Facts in the log, those of this transaction included."""
        return self.frontier.size

    def prefetch(self, streams: Iterable[UUID], keys: Iterable[Key]) -> None:
        """Look up versions and outcomes that the jobs of this batch will ask for, in one SELECT each."""
        wanted = list({stream for stream in streams if stream not in self._versions})
        if wanted:
            found = self._session.versions(wanted)
            self._versions.update({stream: found.get(stream, 0) for stream in wanted})
        keys = list(set(keys))
        if keys:
            self._outcomes.update(dict.fromkeys(keys))
            known = self._session.outcomes(keys)
            self._outcomes.update({(o.person_id, o.command_key): o for o in known})

    def version(self, stream_id: UUID) -> int:
        """How many facts the stream has, this transaction included."""
        if stream_id not in self._versions:
            self.prefetch([stream_id], [])
        return self._versions[stream_id]

    def events(self, stream_id: UUID) -> list[StoredEvent]:
        """The stream's committed facts, and those appended in this transaction."""
        pending = [
            StoredEvent(row.stream_id, row.version, row.topic, row.state)
            for row in self.rows
            if row.stream_id == stream_id
        ]
        return [*self._session.events(stream_id), *pending]

    def changed_since(self, position: int) -> list[UUID]:
        """The streams of committed facts after ``position``: what a reader who stopped there does not know."""
        return self._session.streams_after(position)

    def outcome(self, person_id: UUID, command_key: str) -> Outcome | None:
        """What the key led to before, this transaction included."""
        key = (person_id, command_key)
        if key not in self._outcomes:
            self.prefetch([], [key])
        return self._outcomes[key]

    def remember(self, outcome: Outcome) -> None:
        """Keep an outcome for ever, in the transaction of its facts."""
        self._outcomes[(outcome.person_id, outcome.command_key)] = outcome
        self.new_outcomes.append(outcome)

    def append(self, events: Sequence[StoredEvent], recorded_at: datetime, *, expect_versions: bool) -> range:
        """Take facts into the log; their positions. All or nothing: a wrong version or time takes none of them.

        ``expect_versions`` False is for a caller that folded the streams under this very lock and cannot be wrong.
        """
        if recorded_at < self.recorded_at:
            raise IntegrityError("recorded before the newest fact of the log")
        if expect_versions:
            self._check_versions(events)
        first = self.frontier.size + 1
        for event in events:
            stream_id = cast(UUID, event.originator_id)
            leaf = leaf_hash(stream_id.bytes, event.originator_version, event.topic.encode(), event.state)
            self.frontier.append(leaf)
            self.rows.append(
                Row(self.frontier.size, stream_id, event.originator_version, event.topic, event.state, leaf)
            )
            self._versions[stream_id] = event.originator_version
        self.recorded_at = recorded_at
        return range(first, self.frontier.size + 1)

    def _check_versions(self, events: Sequence[StoredEvent]) -> None:
        expected: dict[UUID, int] = {}
        for event in events:
            stream_id = cast(UUID, event.originator_id)
            if stream_id not in expected:
                expected[stream_id] = self.version(stream_id)
            expected[stream_id] += 1
            if event.originator_version != expected[stream_id]:
                raise IntegrityError(
                    f"stream {stream_id} is at version {expected[stream_id] - 1}, not {event.originator_version - 1}"
                )


class Job(Generic[T]):
    """Something to write. `prepare` runs under the locked head, in the order of arrival."""

    key: Key | None = None
    streams: Sequence[UUID] = ()
    """Streams whose versions `prepare` will ask for."""

    def prepare(self, tx: Transaction) -> None:
        """Say what to append. An exception reaches this job's caller only; it must be raised before appending."""
        raise NotImplementedError

    def committed(self) -> T:
        """The answer, once what was prepared is durable."""
        raise NotImplementedError

    def rolled_back(self) -> None:
        """The transaction failed: nothing of it happened."""


class Group:
    """The jobs one caller submitted together, and that caller asleep on them."""

    __slots__ = ("errors", "jobs", "leads", "wake")

    def __init__(self, jobs: Sequence[Job[Any]]) -> None:
        self.jobs = jobs
        self.errors: list[BaseException | None] = [None] * len(jobs)
        self.wake = threading.Event()
        self.leads = False

    def fail(self, error: BaseException) -> None:
        """The whole transaction failed: whoever had no error of their own gets this one."""
        self.errors = [own or error for own in self.errors]
        for job in self.jobs:
            job.rolled_back()


class GroupCommit:
    """Brings the jobs of many threads into few transactions; ``write`` runs one batch of groups in one transaction."""

    def __init__(self, write: Callable[[list[Group]], None]) -> None:
        self._write = write
        self._lock = threading.Lock()
        self._queue: deque[Group] = deque()
        self._leading = False
        self._in_flight: dict[Key, threading.Event] = {}

    def submit(self, job: Job[T]) -> T:
        """Write one job; its answer, or its own error."""
        (error,) = self._run([job])
        if error is not None:
            raise error
        return job.committed()

    def submit_many(self, jobs: Sequence[Job[T]]) -> list[T | BaseException]:
        """Write up to 256 jobs in one transaction; an answer or its own error for each."""
        if len(jobs) > BATCH_JOBS:
            raise ValueError(f"at most {BATCH_JOBS} jobs at once")
        errors = self._run(jobs) if jobs else []
        return [job.committed() if error is None else error for job, error in zip(jobs, errors, strict=True)]

    def _run(self, jobs: Sequence[Job[Any]]) -> list[BaseException | None]:
        keys = {job.key for job in jobs if job.key is not None}
        self._claim(keys)
        try:
            group = Group(jobs)
            self._enqueue_and_wait(group)
            return group.errors
        finally:
            self._release(keys)

    def _claim(self, keys: set[Key]) -> None:
        """Mark keys as in flight, waiting a while for whoever has them."""
        deadline = time.monotonic() + IN_FLIGHT_SECONDS
        while keys:
            with self._lock:
                taken = next((self._in_flight[key] for key in keys if key in self._in_flight), None)
                if taken is None:
                    mine = threading.Event()
                    self._in_flight.update(dict.fromkeys(keys, mine))
                    return
            if not taken.wait(max(0.0, deadline - time.monotonic())):
                raise KeyInFlightError()

    def _release(self, keys: set[Key]) -> None:
        if keys:
            with self._lock:
                for done in {self._in_flight.pop(key) for key in keys}:
                    done.set()

    def _enqueue_and_wait(self, group: Group) -> None:
        with self._lock:
            self._queue.append(group)
            lead = not self._leading
            self._leading = True
        if not lead:
            try:
                group.wake.wait()
            except BaseException:  # an interrupt: nobody may be left waiting for a leader who went away
                self._abandon(group)
                raise
            lead = group.leads
        if lead:
            self._lead()

    def _abandon(self, group: Group) -> None:
        with self._lock:
            waits = group in self._queue
            if waits and not group.leads:
                self._queue.remove(group)
        if waits and group.leads:
            self._lead()

    def _lead(self) -> None:
        """Write one batch, the leader's own group first in it, then hand over to whoever waits longest."""
        with self._lock:
            batch = [self._queue.popleft()]
            jobs = len(batch[0].jobs)
            while self._queue and jobs + len(self._queue[0].jobs) <= BATCH_JOBS:
                jobs += len(self._queue[0].jobs)
                batch.append(self._queue.popleft())
        try:
            self._write(batch)
        except BaseException as error:
            for group in batch:
                group.fail(error)
        finally:
            with self._lock:
                heir = self._queue[0] if self._queue else None
                self._leading = heir is not None
            if heir is not None:
                heir.leads = True
                heir.wake.set()
            for group in batch[1:]:
                group.wake.set()
