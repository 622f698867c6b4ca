"""Our side: the log, the rules, the figures, the audit and time travel, each through its public interface."""

import hashlib
import statistics
import time
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime
from functools import partial
from uuid import UUID, uuid4

from eventsourcing.persistence import StoredEvent

from bench import facts
from bench.measuring import Measure, at_once, in_batches, milliseconds, one_by_one, rate, seconds
from ledger import commands, ids
from ledger.application import Ledger, Request
from ledger.codec import decode
from ledger.errors import Refusal
from ledger.log import LedgerLog
from ledger.rulebook import default_rulebook, local_day
from ledger.rules import Caller
from projections import engine, follower, replay
from projections.figures import all_figures
from projections.hours import volunteer_hours

ADMIN = Caller(UUID("5f0c1c3e-6a55-4a1d-9d6a-3f2f4f1f0b02"), "admin")
UNITS = 320
ONE_BY_ONE, AT_ONCE, IN_BATCHES, COMMANDS, READ = 400, 3_000, 10_000, 3_000, 50_000
"""How many facts or commands a round takes, at most; of the package's own a part where it is slower."""
WARM_UP = 20
Said = Callable[[str], None]
"""Told what is being measured."""


class Ours:
    """Two ledgers: a new one to write on, and one of ``count`` facts to read."""

    def __init__(self, write_url: str, read_url: str, count: int, said: Said) -> None:
        self._count = count
        self._said = said
        self._writing = _created(write_url)
        self._ledger = Ledger(self._writing, digest=lambda body: hashlib.sha256(body).digest())
        self._units = _founded(self._ledger)
        self._renamed = 0
        at_once(self._entries(64), self._append)()  # connections are made once
        said(f"writing {count} facts")
        self._log = _created(read_url)
        facts.write(self._log, count)
        follower.prepare(self._log)

    def close(self) -> None:
        self._writing.close()
        self._log.close()

    def compared(self) -> dict[str, Measure]:
        """What the package does too."""
        return {
            "append_one": self._append_one,
            "append_16": self._append_16,
            "append_100": self._append_100,
            "handle_16": self._handle_16,
            "read": self._read,
            "rebuild_one": self._rebuild_one,
        }

    def alone(self) -> dict[str, float]:
        """What it does not."""
        self._said("rebuilding every figure")
        found = _rebuilding(self._log)
        self._said("following")
        found |= following(self._log, min(500, max(40, self._count // 20)))
        self._said("verifying")
        found["verify"] = _verifying(self._log)
        self._said("going back")
        return found | _going_back(self._log)

    def _entries(self, most: int) -> list[StoredEvent]:
        return facts.entries(min(self._count, most), self._writing.head().recorded_at)

    def _append(self, event: StoredEvent) -> None:
        self._writing.insert_events([event])

    def _append_one(self) -> float:
        some = self._entries(ONE_BY_ONE)
        return rate(len(some), one_by_one(some, self._append))

    def _append_16(self) -> float:
        some = self._entries(AT_ONCE)
        return rate(len(some), at_once(some, self._append))

    def _append_100(self) -> float:
        some = self._entries(IN_BATCHES)
        return rate(len(some), one_by_one(list(in_batches(some, 100)), self._writing.insert_events))

    def _handle_16(self) -> float:
        """16 callers rename units, each command deciding on a stream that exists and adding a fact to it."""
        renames = []
        for _ in range(min(self._count, COMMANDS)):
            self._renamed += 1
            unit = self._units[self._renamed % UNITS]
            renames.append(commands.RenameUnit(unit_id=unit, name=f"第{self._renamed}所"))
        return rate(len(renames), at_once(renames, lambda command: self._ledger.handle(command, ADMIN)))

    def _read(self) -> float:
        some = min(self._count, READ)

        def read() -> None:
            for row in self._log.read(1, some):
                decode(row.topic, row.stream_id, row.version, row.state)

        return rate(some, read)

    def _rebuild_one(self) -> float:
        return rate(self._count, lambda: follower.rebuild(self._log, [volunteer_hours.name]))


def durability(url: str) -> str:
    """What a commit waits for, as the database says it."""
    with closing(LedgerLog.open(url)) as log, log.engine.connect() as connection:
        if log.dialect == "postgresql":
            return f"synchronous_commit={connection.exec_driver_sql('SHOW synchronous_commit').scalar()}"
        journal = connection.exec_driver_sql("PRAGMA journal_mode").scalar()
        return (
            f"journal_mode={journal} synchronous={connection.exec_driver_sql('PRAGMA synchronous').scalar()}"
        )


def _created(url: str) -> LedgerLog:
    return LedgerLog.create(url, ledger_id=facts.LEDGER_ID, kind="demo", created_at=facts.START)


def _founded(ledger: Ledger) -> list[UUID]:
    """A rule book, a centre and its institutes; their ids."""
    book = commands.PublishRuleBook(
        version=1, effective_on=local_day(datetime.now(UTC)), book=default_rulebook()
    )
    ledger.handle(book, ADMIN)
    ledger.handle(commands.EstablishUnit(kind="centre", name="中心", division_code="620523"), ADMIN)
    codes = [f"{620523100 + number}" for number in range(UNITS)]
    centre = ids.unit_id(facts.LEDGER_ID, "centre", None)
    for some in in_batches(codes, 256):
        for answer in ledger.handle_many([Request(_institute(code, centre), ADMIN) for code in some]):
            if isinstance(answer, Refusal):
                raise answer
    return [ids.unit_id(facts.LEDGER_ID, "institute", code) for code in codes]


def _institute(code: str, centre: UUID) -> commands.EstablishUnit:
    return commands.EstablishUnit(kind="institute", name="所", division_code=code, parent_id=centre)


def _rebuilding(log: LedgerLog) -> dict[str, float]:
    """The whole is timed; writing is what is left of it after reading and computing, timed by themselves."""
    head = log.head().size
    figures = all_figures()

    def computed() -> None:
        with closing(engine.compute(log, figures, 0, head)) as columns:
            for figure in figures:
                columns.arrow(figure)

    computing = statistics.median(seconds(computed) for _ in range(2))
    rows, rebuilding = 0, []
    for _ in range(2):
        started = time.perf_counter()
        rows = sum(follower.rebuild(log).values())
        rebuilding.append(time.perf_counter() - started)
    whole = statistics.median(rebuilding)
    return {
        "rebuild_all": head / whole,
        "compute_all": head / computing,
        "write_rows": rows / max(whole - computing, 0.001),
    }


def following(log: LedgerLog, count: int) -> dict[str, float]:
    """One fact at a time: appended, then in every figure."""
    follower.catch_up(log)
    after_commit, whole = [], []
    for fact in facts.renewed(count + WARM_UP, log.head().recorded_at):
        started = time.perf_counter()
        log.insert_events([fact])
        committed = time.perf_counter()
        follower.catch_up(log)
        ended = time.perf_counter()
        after_commit.append(ended - committed)
        whole.append(ended - started)
    return {
        "live_p50": milliseconds(whole[WARM_UP:], 50),
        "live_p99": milliseconds(whole[WARM_UP:], 99),
        "follow_p50": milliseconds(after_commit[WARM_UP:], 50),
    }


def _verifying(log: LedgerLog) -> float:
    from ledger.audit import verify

    size = log.head().size
    started = time.perf_counter()
    report = verify(log)
    if not report.ok:
        raise AssertionError(f"the measured ledger is not sound: {report.to_json()[:2000]}")
    return size / (time.perf_counter() - started)


def _going_back(log: LedgerLog) -> dict[str, float]:
    middle = log.head().size // 2
    rows = replay.as_of(log, volunteer_hours, middle)
    people = [row["volunteer_id"] for row in rows[:: max(1, len(rows) // 40)]] or [str(uuid4())]
    one = [
        seconds(partial(replay.as_of, log, volunteer_hours, middle, where={"volunteer_id": person}))
        for person in people
    ]
    whole = [seconds(lambda: replay.as_of(log, volunteer_hours, middle)) for _ in range(3)]
    return {
        "as_of_key_p50": milliseconds(one, 50),
        "as_of_key_p95": milliseconds(one, 95),
        "as_of_figure": milliseconds(whole, 50),
    }
