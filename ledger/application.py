"""The only writer: load what a rule needs, let it decide, append what it says, all or nothing.

A command is decided by the group-commit leader while it holds the head of the log (`ledger.groupcommit`). So the states
it sees are the newest there are, nothing can change between reading and appending, and `recorded_at` never runs back.
States are kept folded between commands; what another process wrote meanwhile is dropped from memory before deciding.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

from eventsourcing.application import Application, LRUCache
from eventsourcing.persistence import (
    AggregateRecorder,
    ApplicationRecorder,
    InfrastructureFactory,
    ProcessRecorder,
    StoredEvent,
    Transcoder,
)
from eventsourcing.utils import Environment

from ledger import ids
from ledger.codec import FactMapper, FactTranscoder, canonical_json, decode
from ledger.commands import Command
from ledger.errors import ClockBehindError, KeyReusedError, Refusal, VersionMismatchError
from ledger.events import Fact
from ledger.groupcommit import Job, Outcome, Transaction
from ledger.log import LedgerLog
from ledger.rules import Caller, Case, State, decide, evolve, fold

CLOCK_TOLERANCE_SECONDS = 5
"""How far this machine's clock may lie behind the newest record before it is refused (design, decision 5)."""

CACHED_STATES = 100_000


def utc_now() -> datetime:
    """The clock of a real ledger; demos and tests inject their own."""
    return datetime.now(UTC)


@dataclass(frozen=True)
class Request:
    """A command with who asks and how.

    ``key`` makes it idempotent for ever within (ledger, person); ``expected`` pins streams to versions (If-Match);
    ``body`` is what the key stands for, if not the command itself (an edge seals anew on every attempt);
    ``dry_run`` decides and records nothing.
    """

    command: Command
    caller: Caller
    key: str | None = None
    expected: Mapping[UUID, int] = field(default_factory=dict)
    body: bytes | None = None
    dry_run: bool = False


@dataclass(frozen=True)
class Answer:
    """What a command led to: its facts and their positions (``last < first`` if there was nothing to do)."""

    command_id: UUID
    facts: tuple[Fact, ...]
    first_position: int
    last_position: int
    replayed: bool = False


class Ledger(Application[UUID]):
    """The volunteer-hours ledger over one `LedgerLog`.

    ``digest`` turns a request into a keyed digest (`ledger.sealing.KeyStore.request_digest`), so that an idempotency
    record never gives a request away; ``clock`` answers UTC instants.
    """

    def __init__(
        self,
        log: LedgerLog,
        *,
        digest: Callable[[bytes], bytes],
        clock: Callable[[], datetime] = utc_now,
    ) -> None:
        self.ledger_log = log
        self.digest = digest
        self.clock = clock
        self._states: LRUCache[UUID, State] = LRUCache(CACHED_STATES)
        self._known_size: int | None = None
        super().__init__()

    @property
    def ledger_id(self) -> UUID:
        """The id every derived id starts from."""
        return self.ledger_log.identity.ledger_id

    def handle(
        self,
        command: Command,
        caller: Caller,
        *,
        key: str | None = None,
        expected: Mapping[UUID, int] | None = None,
        body: bytes | None = None,
        dry_run: bool = False,
    ) -> Answer:
        """Decide one command and record its facts durably; raises the `Refusal` if it may not be done.

        A repeated key gets the first answer; the same key for another request is refused with KEY_REUSED.
        """
        request = Request(command, caller, key, expected or {}, body, dry_run)
        return self.ledger_log.submit(_Decision(self, request))

    def handle_many(self, requests: Sequence[Request]) -> list[Answer | Refusal]:
        """Up to 256 commands in one transaction, each judged and idempotent by itself; answers in their order."""
        results = self.ledger_log.submit_many([_Decision(self, request) for request in requests])
        answers: list[Answer | Refusal] = []
        for result in results:
            if isinstance(result, BaseException) and not isinstance(result, Refusal):
                raise result
            answers.append(result)
        return answers

    def state(self, stream_id: UUID) -> State | None:
        """A stream as it stands now, read from the log; None if it has no facts."""
        return fold(self.mapper.to_domain_event(e) for e in self.recorder.select_events(stream_id))  # type: ignore[misc]

    # -- called by decisions, under the locked head only --

    def states_for(self, transaction: Transaction) -> _LazyStates:
        """The states as of this moment of the transaction."""
        if self._known_size is None:
            self._known_size = transaction.size
        elif self._known_size < transaction.committed_size:
            for stream_id in transaction.changed_since(self._known_size):
                self._states.put(stream_id, None)
            self._known_size = transaction.size
        return _LazyStates(self._states, transaction)

    def keep(self, states: _LazyStates, facts: Sequence[Fact], size: int) -> None:
        """Fold what was just appended into the states in memory."""
        changed: dict[UUID, State | None] = {}
        for fact in facts:
            stream_id = fact.originator_id
            before = changed[stream_id] if stream_id in changed else states[stream_id]
            changed[stream_id] = evolve(before, fact)
        for stream_id, state in changed.items():
            self._states.put(stream_id, state)
        self._known_size = size

    def forget_states(self) -> None:
        """After a failed transaction nothing in memory is sure."""
        self._states = LRUCache(CACHED_STATES)  # the package's clear() leaves its entries findable
        self._known_size = None

    # -- the package's construction hooks --

    def construct_factory(self, env: Environment) -> InfrastructureFactory:
        return _LogFactory(env, self.ledger_log)

    def construct_mapper(self) -> FactMapper:
        return FactMapper(self.construct_transcoder())

    def construct_transcoder(self) -> Transcoder:
        return FactTranscoder()


class _LazyStates(dict[UUID, "State | None"]):
    """States by stream id, from memory or else folded from the log on the writer's own connection."""

    def __init__(self, cache: LRUCache[UUID, State], transaction: Transaction) -> None:
        super().__init__()
        self._cache = cache
        self._transaction = transaction

    def __missing__(self, stream_id: UUID) -> State | None:
        try:
            state: State | None = self._cache.get(stream_id)
        except KeyError:
            state = None
        if state is None:
            state = fold(_decoded(e) for e in self._transaction.events(stream_id))
            if state is not None:
                self._cache.put(stream_id, state)
        self[stream_id] = state
        return state


def _decoded(stored: StoredEvent) -> Fact:
    assert isinstance(stored.originator_id, UUID)
    return decode(stored.topic, stored.originator_id, stored.originator_version, stored.state)


class _Decision(Job[Answer]):
    """One request on its way through the group commit."""

    def __init__(self, ledger: Ledger, request: Request) -> None:
        self.ledger = ledger
        self.request = request
        self.key = (request.caller.person_id, request.key) if request.key is not None else None
        self.answer: Answer | None = None
        self._digest: bytes | None = None

    def prepare(self, tx: Transaction) -> None:
        request, ledger = self.request, self.ledger
        if self.key is not None and not request.dry_run:
            known = tx.outcome(*self.key)
            if known is not None:
                self._replay(known)
                return
        now = self._now(tx)
        command_id = self._command_id()
        states = ledger.states_for(tx)
        self._check_pins(states)
        case = Case(ledger.ledger_id, command_id, request.caller, now, tx.size, states)
        facts = decide(request.command, case)
        first = tx.size + 1
        self.answer = Answer(command_id, tuple(facts), first, first + len(facts) - 1)
        if request.dry_run:
            return
        if facts:
            tx.append([ledger.mapper.to_stored_event(fact) for fact in facts], now, expect_versions=False)
        if self.key is not None:
            tx.remember(Outcome(*self.key, self.request_digest(), command_id, first, first + len(facts) - 1))
        ledger.keep(states, facts, tx.size)

    def committed(self) -> Answer:
        answer = self.answer
        assert answer is not None
        if not answer.replayed or answer.facts:
            return answer
        rows = self.ledger.ledger_log.read(answer.first_position, answer.last_position)
        facts = tuple(decode(row.topic, row.stream_id, row.version, row.state) for row in rows)
        return Answer(answer.command_id, facts, answer.first_position, answer.last_position, True)

    def rolled_back(self) -> None:
        self.ledger.forget_states()

    def request_digest(self) -> bytes:
        """Keyed digest of what the idempotency key stands for."""
        if self._digest is None:
            body = self.request.body
            if body is None:
                command = self.request.command
                body = canonical_json({"type": type(command).__name__, "command": command})
            self._digest = self.ledger.digest(body)
        return self._digest

    def _replay(self, known: Outcome) -> None:
        if known.digest != self.request_digest():
            raise KeyReusedError()
        self.answer = Answer(known.command_id, (), known.first_position, known.last_position, replayed=True)

    def _now(self, tx: Transaction) -> datetime:
        now, newest = self.ledger.clock(), tx.recorded_at
        behind = (newest - now).total_seconds()
        if behind > CLOCK_TOLERANCE_SECONDS:
            raise ClockBehindError(seconds=int(behind))
        return max(now, newest)

    def _command_id(self) -> UUID:
        if self.request.key is None:
            return uuid4()
        return ids.command_id(self.ledger.ledger_id, self.request.caller.person_id, self.request.key)

    def _check_pins(self, states: _LazyStates) -> None:
        for stream_id, version in self.request.expected.items():
            state = states[stream_id]
            current = state.version if state is not None else 0
            if current != version:
                raise VersionMismatchError(
                    stream_id=stream_id, current_version=current, expected_version=version
                )


class _LogFactory(InfrastructureFactory[Any]):
    """Hands our one log to the package wherever it asks for a recorder."""

    def __init__(self, env: Environment, log: LedgerLog) -> None:
        super().__init__(env)
        self._log = log

    def application_recorder(self) -> ApplicationRecorder:
        return self._log

    def aggregate_recorder(self, purpose: str = "events") -> AggregateRecorder:
        if purpose != "events":
            raise NotImplementedError("this ledger keeps facts only; states are folded, not stored")
        return self._log

    def tracking_recorder(self, tracking_recorder_class: Any = None) -> Any:
        raise NotImplementedError("figures keep their own position: see projections.follower")

    def process_recorder(self) -> ProcessRecorder:
        raise NotImplementedError("figures keep their own position: see projections.follower")
