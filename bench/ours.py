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
from bench.measuring import at_once, best_rate, in_batches, milliseconds, one_by_one, rate, seconds
from ledger import commands, ids
from ledger.application import Ledger, Request
from ledger.codec import decode
from ledger.log import LedgerLog
from ledger.rulebook import default_rulebook, local_day
from ledger.rules import Caller
from projections import engine, follower, replay
from projections.figures import all_figures
from projections.hours import volunteer_hours

ADMIN = Caller(UUID("5f0c1c3e-6a55-4a1d-9d6a-3f2f4f1f0b02"), "admin")
UNITS = 320
WARM_UP = 20
Said = Callable[[str], None]
"""Told what is being measured."""


def measure(write_url: str, read_url: str, count: int, said: Said) -> dict[str, float]:
    """Every figure: writing on one new ledger, reading on another of ``count`` facts."""
    found: dict[str, float] = {}
    with closing(_created(write_url)) as log:
        said("appending")
        found |= _appending(log, count)
        said("handling commands")
        found["handle_16"] = _handling(log, count)
    with closing(_created(read_url)) as log:
        said(f"writing {count} facts")
        facts.write(log, count)
        said("reading and rebuilding")
        found |= _reading(log, count) | _rebuilding(log)
        said("following")
        found |= _following(log, min(500, max(40, count // 20)))
        said("verifying")
        found["verify"] = _verifying(log)
        said("going back")
        found |= _going_back(log)
    return found


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


# --- writing ---------------------------------------------------------------------------------------------------------


def _appending(log: LedgerLog, count: int) -> dict[str, float]:
    one, many, batches = (facts.entries(min(count, most)) for most in (4_000, 16_000, 50_000))

    def singly(event: StoredEvent) -> None:
        log.insert_events([event])

    at_once(facts.entries(64), singly)()  # connections are made once
    return {
        "append_one": rate(len(one), one_by_one(one, singly)),
        "append_16": rate(len(many), at_once(many, singly)),
        "append_100": rate(
            len(batches), lambda: [log.insert_events(some) for some in in_batches(batches, 100)]
        ),
    }


def _handling(log: LedgerLog, count: int) -> float:
    """16 callers rename units, each command loading a stream that exists and adding a fact to it."""
    ledger = Ledger(log, digest=lambda body: hashlib.sha256(body).digest())
    book = commands.PublishRuleBook(
        version=1, effective_on=local_day(datetime.now(UTC)), book=default_rulebook()
    )
    ledger.handle(book, ADMIN)
    ledger.handle(commands.EstablishUnit(kind="centre", name="中心", division_code="620523"), ADMIN)
    codes = [f"{620523100 + number}" for number in range(UNITS)]
    centre = ids.unit_id(facts.LEDGER_ID, "centre", None)
    for some in in_batches(codes, 256):
        ledger.handle_many([Request(_institute(code, centre), ADMIN) for code in some])
    units = [ids.unit_id(facts.LEDGER_ID, "institute", code) for code in codes]
    renames = [
        commands.RenameUnit(unit_id=units[number % UNITS], name=f"第{number}所")
        for number in range(min(count, 16_000))
    ]
    return rate(len(renames), at_once(renames, lambda command: ledger.handle(command, ADMIN)))


def _institute(code: str, centre: UUID) -> commands.EstablishUnit:
    return commands.EstablishUnit(kind="institute", name="所", division_code=code, parent_id=centre)


# --- reading ---------------------------------------------------------------------------------------------------------


def _reading(log: LedgerLog, count: int) -> dict[str, float]:
    some = min(count, 200_000)

    def read() -> None:
        for row in log.read(1, some):
            decode(row.topic, row.stream_id, row.version, row.state)

    return {"read": rate(some, read)}


def _rebuilding(log: LedgerLog) -> dict[str, float]:
    """The whole is timed; writing is what is left of it after reading and computing, timed by themselves."""
    head = log.head().size
    figures = all_figures()
    follower.prepare(log)
    one = best_rate(head, lambda: follower.rebuild(log, [volunteer_hours.name]))

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
        "rebuild_one": one,
        "rebuild_all": head / whole,
        "compute_all": head / computing,
        "write_rows": rows / max(whole - computing, 0.001),
    }


def _following(log: LedgerLog, count: int) -> dict[str, float]:
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
