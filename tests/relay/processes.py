"""`wenming relay` in processes that are killed, frozen and stopped: the real command, forked where it is imported."""

import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from uuid import uuid4

from bench.facts import START, stored_facts
from ledger.brokers import Brokers
from ledger.log import LedgerLog
from ledger.relay import Relay
from ledger.relay_position import PositionTopic, RelayPosition
from tests.relay.reader import records

_forks = multiprocessing.get_context("forkserver")
_forks.set_forkserver_preload(["api.cli", "tests.faults.hands", "ledger.rotation"])
SECONDS = 3.0
"""How long a transaction may stay open here: short, for tests that wait for its end."""


def _wenming(arguments: Sequence[str], environment: dict[str, str], output: Path) -> None:
    """The command, with what it says in a file."""
    with output.open("ab") as written:
        for number in (1, 2):
            os.dup2(written.fileno(), number)
    os.environ.update(environment)
    sys.argv = ["wenming", *arguments]
    from api.cli import main

    main()


class RelayProcess:
    """One `wenming relay`."""

    def __init__(self, url: str, brokers: Brokers, folder: Path, *arguments: str) -> None:
        self._output = folder / f"relay-{uuid4().hex}"
        environment = {
            "WENMING_DATABASE": url,
            "WENMING_KAFKA_BOOTSTRAP": brokers.bootstrap,
            "WENMING_KAFKA_TOPIC": brokers.events,
            "WENMING_KAFKA_PARTITIONS": str(brokers.partitions),
            "WENMING_KAFKA_TRANSACTION_SECONDS": str(SECONDS),
        }
        given = (["relay", *arguments], environment, self._output)
        self._process = _forks.Process(target=_wenming, args=given, daemon=True)
        self._process.start()

    @property
    def is_alive(self) -> bool:
        return self._process.is_alive()

    def send(self, number: signal.Signals) -> None:
        """A signal; SIGSTOP freezes it, SIGCONT thaws it, SIGTERM stops it."""
        assert self._process.pid is not None
        os.kill(self._process.pid, number)

    def kill(self) -> None:
        """SIGKILL; it is gone when this returns."""
        self._process.kill()
        self._process.join()

    def ended(self, seconds: float = 30) -> int:
        """How it ended of its own accord; TimeoutError if it does not."""
        self._process.join(seconds)
        code = self._process.exitcode
        if code is None:
            raise TimeoutError(f"the relay does not end: {self.said()}")
        return code

    def terminated(self, seconds: float = 30) -> int:
        """SIGTERM; how it ended."""
        self.send(signal.SIGTERM)
        return self.ended(seconds)

    def said(self) -> str:
        """What it told whoever looked."""
        return self._output.read_text() if self._output.exists() else ""


@dataclass
class Outlet:
    """A ledger, and where its facts leave."""

    url: str
    brokers: Brokers
    folder: Path
    log: LedgerLog
    processes: list[RelayProcess] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.ledger_id = self.log.identity.ledger_id
        self.brokers.create_topics(self.ledger_id)
        self._facts = stored_facts(100_000)

    def go_on_differently(self, position: int) -> None:
        """What is appended from now on are other facts than those that were, behind ``position``."""
        self._facts = (
            replace(fact, state=fact.state.replace(b'"command_id":"', b'"command_id":"0', 1))
            for fact in islice(stored_facts(100_000), position, None)
        )

    def grow(self, number: int) -> None:
        """That many more facts."""
        while some := list(islice(self._facts, min(number, 2_000))):
            self.log.insert_events(some)
            number -= len(some)

    def relay(self, **how: float) -> Relay:
        """A relay in this process."""
        return Relay(self.log, self.brokers, transaction_seconds=SECONDS, **how)  # type: ignore[arg-type]

    def begin(self, *arguments: str) -> RelayProcess:
        """A relay in a process of its own, from now on."""
        process = RelayProcess(self.url, self.brokers, self.folder, *arguments)
        self.processes.append(process)
        return process

    def close(self) -> None:
        for process in self.processes:
            process.kill()
        self.log.close()


@contextmanager
def outlet(
    url: str, address: str, folder: Path, partitions: int = 4, log: LedgerLog | None = None
) -> Iterator[Outlet]:
    """A ledger, an empty one if none is given, with topics of its own on the broker at ``address``."""
    brokers = Brokers(address, f"kills-{uuid4().hex[:12]}", partitions, 1)
    log = log or LedgerLog.create(url, ledger_id=uuid4(), kind="demo", created_at=START)
    made = Outlet(url, brokers, folder, log)
    try:
        yield made
    finally:
        made.close()


def until(holds: Callable[[], object], seconds: float = 60, what: str = "it does not happen") -> None:
    """Wait for something; TimeoutError if it does not come."""
    deadline = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > deadline:
            raise TimeoutError(what)
        time.sleep(0.01)


@contextmanager
def running(
    relay: Relay, until_refused: type[BaseException] | tuple[type[BaseException], ...] = ()
) -> Iterator[threading.Event]:
    """A relay that runs in a thread, until the end or until the event is set; or until it ends itself, if it must."""
    stop, raised = threading.Event(), list[BaseException]()

    def run() -> None:
        try:
            relay.run(stop)
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=run, name="relay-under-test")
    thread.start()
    try:
        yield stop
        if until_refused:
            thread.join(60)
            assert not thread.is_alive(), f"it goes on: {relay.state}"
    finally:
        stop.set()
        thread.join(60)
        assert not thread.is_alive()
    if until_refused:
        assert isinstance(raised[0], until_refused), raised
    elif raised:
        raise raised[0]


def run_to_head(relay: Relay, seconds: float = 60) -> None:
    """Let it run until everything is published."""
    with running(relay):
        until(lambda: relay.state.position == relay.log.head().size, seconds, f"stuck: {relay.state}")


def newest(out: Outlet) -> int:
    """The position as the topic tells it."""
    with PositionTopic(out.brokers, out.ledger_id) as positions:
        found = positions.read(60)
    return 0 if found is None else found.position


def turns(out: Outlet) -> int:
    """How many relays have said that it is their turn."""
    topic = out.brokers.positions(out.ledger_id)
    return len({RelayPosition.from_bytes(one.value).relay_id for one in records(out.brokers, topic)})
