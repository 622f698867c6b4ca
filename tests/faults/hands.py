"""What the processes do that are killed: append, follow and sign, and tell each thing only once it is done.

They are forked from one that has all of this imported: see `tests.faults.Hand`.
"""

import ctypes
import hashlib
import os
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TypeVar
from uuid import UUID, uuid4

from sqlalchemy.exc import DBAPIError

from ledger import audit, ids, rotation  # noqa: F401  (imported once, for all)
from ledger import commands as c
from ledger.application import Answer, Ledger
from ledger.checkpoint import SignerKey
from ledger.errors import ExpectedError, LedgerBusyError
from ledger.events import UnitRenamed
from ledger.log import LedgerLog
from ledger.rules import Caller
from ledger.signer import Signer
from projections import follower
from tests.county import DIVISIONS, LEDGER_ID, SEALED, START, name

ORIGIN = "ledger.example/faults"
KEY = SignerKey(ORIGIN, bytes(range(32)))
BEGAN = START + timedelta(days=2)
"""When the hands begin their work, by the ledger's clock."""
MINUTES = 60
"""What each volunteer serves."""
STATION = ids.unit_id(LEDGER_ID, "station", DIVISIONS[0] + "001")
ASKING = Caller(name("person", "clerk"), "organiser")
DECIDING = Caller(name("person", "checker"), "organiser")

PR_SET_PTRACER = 0x59616D61
T = TypeVar("T")

Told = tuple[str, UUID, int, int, bool]
"""Of an answer: its key, command, first and last position, and whether it was the answer to an earlier request."""


def clock_from(began: float) -> Callable[[], datetime]:
    """A clock that every process shares: it stood at `BEGAN` when the machine's stood at ``began``."""
    return lambda: BEGAN + timedelta(seconds=time.time() - began)


def ledger_at(url: str, began: float, busy_seconds: float = 30) -> Ledger:
    log = LedgerLog.open(url, busy_seconds=busy_seconds)
    return Ledger(log, digest=lambda body: hashlib.sha256(body).digest(), clock=clock_from(began))


def volunteer_command(number: int) -> tuple[str, c.Command, Caller]:
    """The commands of many volunteers in turn: three for each, who then has an hour."""
    person, step = name("volunteer of a hand", number // 3), number % 3
    request = name("request", person)
    if step == 0:
        enrol = c.EnrolVolunteer(
            volunteer_id=person,
            volunteer_number=f"gg-{number}",
            home_unit_id=STATION,
            profile=SEALED,
            consent_document="consent-2026",
            consented_at=BEGAN,
        )
        return f"{number}", enrol, ASKING
    if step == 1:
        asked = c.RequestBackfill(
            volunteer_id=person,
            request_id=request,
            session_id=name("session", person),
            unit_id=STATION,
            activity_kind="health",
            started_at=BEGAN - timedelta(minutes=MINUTES + 60),
            ended_at=BEGAN - timedelta(minutes=60),
            reason=SEALED,
        )
        return f"{number}", asked, ASKING
    return (
        f"{number}",
        c.DecideBackfill(volunteer_id=person, request_id=request, verdict="approved"),
        DECIDING,
    )


def told(key: str, answer: Answer) -> Told:
    return key, answer.command_id, answer.first_position, answer.last_position, answer.replayed


def append(telling: Connection, url: str, began: float, first: int) -> None:
    """One command after another from number ``first`` on, for ever; a server that is away is waited for."""
    ledger = ledger_at(url, began)
    for number in range(first, 10**9):
        telling.send(told(*_until_answered(ledger, number)))
        if number % 4 == 0:
            time.sleep(0.005)  # SQLite lets nobody else in while one is always first


def _until_answered(ledger: Ledger, number: int) -> tuple[str, Answer]:
    """A command whose fate is not known is sent again under its key, until there is an answer."""
    key, command, caller = volunteer_command(number)
    while True:
        try:
            return key, ledger.handle(command, caller, key=key)
        except (DBAPIError, LedgerBusyError):
            time.sleep(0.02)


def project(telling: Connection, url: str) -> None:
    """Every figure brought to the head, for ever; each position once it is reached."""
    log = LedgerLog.open(url, busy_seconds=30)
    for position in _repeatedly(lambda: follower.catch_up(log)):
        telling.send(position)


def sign(telling: Connection, url: str, state: Path) -> None:
    """A checkpoint over all that is there, for ever; each size and root once it is published."""
    log = LedgerLog.open(url, busy_seconds=30)
    with Signer(log, state, [KEY], ORIGIN) as signer:
        for size in _repeatedly(signer.sign_once):
            telling.send((size, state.read_text()))


def _repeatedly(work: Callable[[], int]) -> Iterator[int]:
    while True:
        try:
            yield work()
        except (DBAPIError, LedgerBusyError):
            time.sleep(0.02)
        time.sleep(0.002)


def write_for(telling: Connection, url: str, began: float, hand: int, seconds: float) -> None:
    """Orders placed one after another, for some time; in the end, where each of them stands."""
    ledger = ledger_at(url, began, busy_seconds=120)
    requester, done, end = uuid4(), [], time.monotonic() + seconds
    while time.monotonic() < end:
        order = uuid4()
        wanted = BEGAN.astimezone(UTC) + timedelta(days=1)
        place = c.PlaceOrder(
            order_id=order,
            requester_id=requester,
            unit_id=STATION,
            activity_kind="health",
            wanted_from=wanted,
            wanted_until=wanted + timedelta(hours=2),
            need=SEALED,
        )
        answer = ledger.handle(place, Caller(requester, "resident"), key=f"{hand}-{len(done)}")
        done.append((answer.first_position, order))
    telling.send(done)


def tail(telling: Connection, url: str) -> None:
    """Every fact as it comes, from the first one to the first renaming of a unit; all of them told at the end."""
    log, seen = LedgerLog.open(url, busy_seconds=120), []
    with log.subscribe(gt=0) as subscription:
        telling.send("listening")
        for notification in subscription:
            seen.append((notification.id, notification.originator_id))
            if notification.topic == UnitRenamed.TOPIC:
                break
    telling.send(seen)


def work_once(telling: Connection, url: str, began: float, state: Path, first: int, volunteers: int) -> None:
    """Some volunteers: their three commands, then figures, then a checkpoint. Each thing is told, or its trouble.

    It may be traced by anybody (`strace` needs leave to attach to a process that is not its child) and waits for that.
    """
    ctypes.CDLL(None).prctl(PR_SET_PTRACER, ctypes.c_ulong(2**64 - 1), 0, 0, 0)
    telling.send(os.getpid())
    while not state.with_name("go").exists():
        time.sleep(0.002)
    ledger = _tried(telling, "open", lambda: ledger_at(url, began, busy_seconds=1))
    if ledger is None:
        return
    for number in range(first, first + 3 * volunteers):
        key, command, caller = volunteer_command(number)
        answer = _tried(telling, key, lambda: ledger.handle(command, caller, key=key))  # noqa: B023
        if answer is not None:
            telling.send(("append", told(key, answer)))
        if number % 3 == 2:
            position = _tried(telling, "project", lambda: follower.catch_up(ledger.ledger_log))
            if position is not None:
                telling.send(("project", position))
            _tried(telling, "sign", lambda: _sign_once(telling, ledger.ledger_log, state))
    telling.send(("end", None))


def _sign_once(telling: Connection, log: LedgerLog, state: Path) -> None:
    with Signer(log, state, [KEY], ORIGIN) as signer:
        size = signer.sign_once()
        telling.send(("sign", (size, state.read_text())))


def _tried(telling: Connection, what: str, work: Callable[[], T]) -> T | None:
    """None, and the trouble told, if it could not be done: only what a database, a disk or the ledger itself says."""
    try:
        return work()
    except (DBAPIError, ExpectedError, OSError) as trouble:
        telling.send(("trouble", (what, type(trouble).__name__)))
        return None
