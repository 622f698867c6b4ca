"""The real ledger and the plain one, given the same commands; any difference between them is an assertion that fails.

Knows both, and reads figures from the raw facts in the log. What to ask for stands in `wishes`.
"""

import hashlib
import hmac
import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from itertools import permutations
from typing import Any
from uuid import UUID

from ledger.application import Answer, Ledger, Request
from ledger.errors import ExpectedError, Offences
from ledger.log import LedgerLog
from tests.model.plain import Entry, PlainLedger

START = datetime(2026, 2, 27, 1, 0, tzinfo=UTC)
"""A Friday morning in the county; the Saturday after it is worked in exchange for a holiday."""
LEDGER_ID = UUID("5f0c1c3e-6a55-4a1d-9d6a-3f2f4f1f0a02")
Outcome = Answer | ExpectedError
Raw = tuple[str, UUID, dict[str, Any]]
"""Topic, stream and fields of one fact, as plain JSON."""


def digest(body: bytes) -> bytes:
    return hmac.new(b"a key for tests", body, hashlib.sha256).digest()


def codes_of(error: ExpectedError) -> set[str]:
    """Every reason a refusal names."""
    if isinstance(error, Offences):
        return {refusal.code for refusal in error.refusals}
    return {error.code}


@dataclass
class Memory:
    """What is expected of the ledger: the plain one, what each key was used for, and how many facts there are."""

    plain: PlainLedger
    keys: dict[tuple[UUID, str], tuple[Request, Answer]]
    size: int = 0

    def objection(self, request: Request, outcome: Outcome, now: datetime) -> str | None:
        """What is wrong with ``outcome`` at this moment; None if nothing is, and then it is remembered."""
        key = (request.caller.person_id, request.key) if request.key is not None else None
        if key in self.keys:
            return self._second_time(request, outcome, *self.keys[key])
        reasons, effect = self.plain.judge(request.command, request.caller, now)
        if isinstance(outcome, ExpectedError):
            unjust = codes_of(outcome) - reasons
            return f"refused with {unjust}, the reasons are {reasons or 'none'}" if unjust else None
        if reasons:
            return f"accepted, but {reasons} speak against it"
        return self._remember(request, outcome, effect, key)

    def _second_time(self, request: Request, outcome: Outcome, first: Request, answer: Answer) -> str | None:
        if request.command != first.command:
            reused = isinstance(outcome, ExpectedError) and outcome.code == "KEY_REUSED"
            return None if reused else f"a used key for something else led to {outcome!r}"
        same = isinstance(outcome, Answer) and (
            outcome.replayed
            and (outcome.command_id, outcome.facts) == (answer.command_id, answer.facts)
            and (outcome.first_position, outcome.last_position)
            == (answer.first_position, answer.last_position)
        )
        return None if same else f"a retry of {answer!r} led to {outcome!r}"

    def _remember(
        self,
        request: Request,
        answer: Answer,
        effect: Callable[[UUID], None] | None,
        key: tuple[UUID, str] | None,
    ) -> str | None:
        positions = (self.size + 1, self.size + len(answer.facts))
        if (answer.first_position, answer.last_position) != positions or answer.replayed:
            return f"its facts are at {answer.first_position}…{answer.last_position}, not {positions}"
        if (effect is None) != (not answer.facts):
            return f"it led to {len(answer.facts)} facts"
        if effect is not None:
            effect(answer.facts[0].originator_id)
        if key is not None:
            self.keys[key] = (request, answer)
        self.size += len(answer.facts)
        return None


class SideBySide:
    """Both ledgers, and a clock that only `wait` moves. Two desks write the same log, as two processes would."""

    def __init__(self, url: str) -> None:
        self.now = START
        self.logs = [LedgerLog.create(url, ledger_id=LEDGER_ID, kind="demo", created_at=START)]
        self.logs.append(LedgerLog.open(url))
        self.desks = [Ledger(log, digest=digest, clock=lambda: self.now) for log in self.logs]
        self.memory = Memory(PlainLedger(START), {})
        self.seen: Counter[str] = Counter()

    @property
    def plain(self) -> PlainLedger:
        return self.memory.plain

    def close(self) -> None:
        for log in self.logs:
            log.close()

    def wait(self, **time: float) -> None:
        self.now += timedelta(**time)

    # -- asking both --

    def ask(self, request: Request, desk: int = 0) -> Outcome:
        """One command to both; fails if they differ."""
        outcome = self._handle(request, desk)
        self._compare([request], [outcome])
        return outcome

    def ask_in_one_batch(self, requests: Sequence[Request], desk: int = 0) -> list[Outcome]:
        """Several in one transaction: each is judged after those before it."""
        outcomes: list[Outcome] = [*self.desks[desk].handle_many(requests)]
        self._compare(requests, outcomes)
        return outcomes

    def ask_at_once(self, requests: Sequence[Request]) -> list[Outcome]:
        """Several from as many threads, at both desks; some order of them must explain what came of each."""
        with ThreadPoolExecutor(len(requests)) as pool:
            outcomes = list(pool.map(self._handle, requests, [n % 2 for n in range(len(requests))]))
        objections: list[list[str]] = []
        for order in permutations(range(len(requests))):
            trial = deepcopy(self.memory)
            found = [trial.objection(requests[n], outcomes[n], self.now) for n in order]
            if not any(found):
                self.memory = trial
                self._count(requests, outcomes)
                return outcomes
            objections.append(
                [f"{requests[n].command!r}: {o}" for n, o in zip(order, found, strict=True) if o]
            )
        raise AssertionError(f"no order explains these outcomes: {objections}")

    def _handle(self, request: Request, desk: int) -> Outcome:
        try:
            return self.desks[desk].handle(request.command, request.caller, key=request.key)
        except ExpectedError as error:
            return error

    def _compare(self, requests: Sequence[Request], outcomes: Sequence[Outcome]) -> None:
        for request, outcome in zip(requests, outcomes, strict=True):
            objection = self.memory.objection(request, outcome, self.now)
            assert objection is None, f"{request.command!r} of {request.caller}: {objection}"
        self._count(requests, outcomes)
        assert self.logs[0].head().size == self.memory.size

    def _count(self, requests: Sequence[Request], outcomes: Sequence[Outcome]) -> None:
        for request, outcome in zip(requests, outcomes, strict=True):
            name = type(request.command).__name__
            self.seen[f"{name}: {'done' if isinstance(outcome, Answer) else outcome.code}"] += 1

    # -- comparing what came of it --

    def check(self) -> None:
        """Every figure from the raw facts equals the plain ledger's, and the log keeps its own promises."""
        facts = self.facts()
        assert minutes_of(facts) == nonzero(self.plain.entries())
        assert services_of(facts) == nonzero(self.plain.services())
        assert sessions_of(facts) == self.plain.sessions()
        assert rosters_of(facts) == self.plain.rosters()
        assert ratings_of(facts) == {who: sums for who, sums in self.plain.ratings().items() if any(sums)}
        assert self._order_states() == self.plain.order_states()
        check_entries(facts)
        self._check_log()
        self._check_states_in_memory()

    def facts(self) -> list[Raw]:
        """All there is in the log, as plain JSON."""
        return [(row.topic, row.stream_id, json.loads(row.state)) for row in self.logs[0].read()]

    def _order_states(self) -> dict[UUID, str]:
        return {order_id: self.desks[0].state(order_id).status for order_id in self.plain.orders}  # type: ignore[union-attr]

    def _check_log(self) -> None:
        versions: Counter[UUID] = Counter()
        recorded_at = ""
        for position, row in enumerate(self.logs[0].read(), 1):
            versions[row.stream_id] += 1
            assert (row.position, row.version) == (position, versions[row.stream_id])
            now = json.loads(row.state)["recorded_at"]
            assert recorded_at <= now
            recorded_at = now

    def _check_states_in_memory(self) -> None:
        """What a desk that has seen everything remembers is what the log says."""
        for desk in self.desks:
            if desk._known_size == self.memory.size:
                for stream_id in [*desk._states.cache]:
                    remembered = desk._states.get(stream_id)
                    assert remembered is None or remembered == desk.state(stream_id)


# -- figures from raw facts --


def nonzero(sums: Mapping[Any, int]) -> dict[Any, int]:
    return {key: value for key, value in sums.items() if value}


def entries_in(facts: Sequence[Raw]) -> Iterator[tuple[UUID, dict[str, Any]]]:
    return ((stream, fact) for topic, stream, fact in facts if topic == "entry.posted")


def minutes_of(facts: Sequence[Raw]) -> dict[Entry, int]:
    minutes: Counter[Entry] = Counter()
    for volunteer_id, entry in entries_in(facts):
        day, unit_id = date.fromisoformat(entry["served_on"]), UUID(entry["unit_id"])
        said = (entry["activity_kind"], entry["source_class"], entry["inferred"], entry["late"])
        minutes[volunteer_id, day, unit_id, *said, entry["rulebook_version"]] += entry["minutes"]
    return nonzero(minutes)


def services_of(facts: Sequence[Raw]) -> dict[tuple[UUID, str], int]:
    services: Counter[tuple[UUID, str]] = Counter()
    for volunteer_id, entry in entries_in(facts):
        services[volunteer_id, entry["source_class"]] += entry["services"]
    return nonzero(services)


def sessions_of(facts: Sequence[Raw]) -> dict[tuple[UUID, UUID], tuple[datetime, datetime, int, str]]:
    """The sessions that stand, from their records, corrections and reversals alone."""
    standing: dict[tuple[UUID, UUID], tuple[datetime, datetime, int, str]] = {}
    for topic, stream, fact in facts:
        if topic in ("session.recorded", "session.corrected"):
            since, until = (datetime.fromisoformat(fact[at]) for at in ("started_at", "ended_at"))
            known = (since, until, fact["break_minutes"], fact["source_class"])
            standing[stream, UUID(fact["session_id"])] = known
        elif topic == "session.reversed":
            del standing[stream, UUID(fact["session_id"])]
    return standing


def rosters_of(facts: Sequence[Raw]) -> dict[UUID, set[UUID]]:
    rosters: dict[UUID, set[UUID]] = {}
    for topic, stream, fact in facts:
        if topic == "team.formed":
            rosters[stream] = set()
        elif topic == "team.member_joined":
            assert UUID(fact["volunteer_id"]) not in rosters[stream], "a member joined twice"
            rosters[stream].add(UUID(fact["volunteer_id"]))
        elif topic == "team.member_left":
            rosters[stream].remove(UUID(fact["volunteer_id"]))
    return rosters


def ratings_of(facts: Sequence[Raw]) -> dict[UUID, tuple[int, int]]:
    found: dict[UUID, tuple[int, int]] = {}
    for topic, stream, fact in facts:
        if topic == "rating.credited":
            points, count = found.get(stream, (0, 0))
            found[stream] = (points + fact["score"], count + fact["ratings"])
    return {who: sums for who, sums in found.items() if any(sums)}


def check_entries(facts: Sequence[Raw]) -> None:
    """An entry has an id of its own, and is reversed at most once, by its exact negative (T38)."""
    known: dict[str, tuple[UUID, dict[str, Any]]] = {}
    reversed_ids: set[str] = set()
    for volunteer_id, entry in entries_in(facts):
        assert entry["entry_id"] not in known, "two entries have one id"
        known[entry["entry_id"]] = (volunteer_id, entry)
        first_id = entry["reverses_entry_id"]
        if first_id is None:
            assert entry["minutes"] > 0
            continue
        assert first_id not in reversed_ids, "an entry is reversed twice"
        reversed_ids.add(first_id)
        owner, first = known[first_id]
        assert owner == volunteer_id
        assert [entry[f] for f in CARRIED] == [first[f] for f in CARRIED]
        assert (entry["minutes"], entry["services"]) == (-first["minutes"], -first["services"])


CARRIED = (
    "session_id",
    "served_on",
    "source_class",
    "unit_id",
    "activity_kind",
    "order_id",
    "rulebook_version",
)
"""What an entry that reverses another says as the other did."""
