"""Workers are killed, put to sleep and woken, and lose broker and database: no fact is lost or counted twice."""

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from random import Random

import pytest

from bench import facts as invented
from ledger.brokers import Brokers
from ledger.cloudevents import message_of
from ledger.groupcommit import Row as Fact
from ledger.log import LedgerLog
from projections.worker_store import WorkerStore, stands_at
from tests import services
from tests.broker import KafkaBroker
from tests.faults import Hand, chances, times
from tests.workers import OTHER_LEDGER, Tables, chunked, followed, new_topic, send, send_open, sender, tables
from tests.workers.hands import feed

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
FACTS = 30_000
SLEEPERS = 10
"""At most: two that were overtaken are enough."""
KILLS = {"sqlite": 10, "postgresql": 26}
PATIENCE_SECONDS = 120


@dataclass
class History:
    """A ledger's facts, and the tables that a follower makes of them."""

    facts: list[Fact]
    expected: Tables


@pytest.fixture(scope="module")
def history(tmp_path_factory: pytest.TempPathFactory) -> Iterator[History]:
    url = f"sqlite:///{tmp_path_factory.mktemp('kills') / 'ledger.db'}"
    log = LedgerLog.create(url, ledger_id=invented.LEDGER_ID, kind="demo", created_at=invented.START)
    invented.write(log, FACTS)
    yield History(list(log.read(1, FACTS)), followed(log))
    log.close()


class Crew:
    """Some workers of one store, each a process."""

    def __init__(self, url: str, broker: KafkaBroker, partitions: int, batch: int) -> None:
        topic = new_topic(broker.address, partitions)
        self.brokers = Brokers(broker.address, topic)
        self.store = WorkerStore.make(url, invented.LEDGER_ID, self.brokers.events_topic())
        self._given = url, broker.address, topic, batch
        self.hands: list[Hand] = []

    def grow(self, size: int) -> None:
        while len(self.hands) < size:
            self.hands.append(Hand(feed, *self._given))

    def kill(self, hand: Hand) -> None:
        self.hands.remove(hand)
        hand.kill()

    def taken(self) -> int:
        return stands_at(self.store.places().values())[0]

    def wait(self, until: Callable[[], bool]) -> None:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not until():
            assert time.monotonic() < deadline, self.store.places()
            assert all(hand.exit_code is None for hand in self.hands), "a worker ended by itself"
            time.sleep(0.05)

    def finish(self, history: History, count: int) -> None:
        """All are taken, and the tables are right."""
        self.wait(lambda: self.taken() >= count)
        assert stands_at(self.store.places().values()) == (count, count)
        for hand in list(self.hands):
            self.kill(hand)
        if count == FACTS:
            assert tables(self.store) == history.expected
        self.store.close()


def _send_some(producer: object, topic: str, some: list[Fact], random: Random) -> None:
    """In two transactions; now and then one that is aborted, and another ledger's facts in between."""
    messages = [message_of(invented.LEDGER_ID, fact) for fact in some]
    half = len(some) // 2
    send(producer, topic, messages[:half])  # type: ignore[arg-type]
    if random.random() < 0.5:
        producer.begin_transaction()  # type: ignore[attr-defined]
        send_open(producer, topic, messages[half : half + 50])  # type: ignore[arg-type]
        producer.abort_transaction()  # type: ignore[attr-defined]
        send(producer, topic, [message_of(OTHER_LEDGER, fact) for fact in some[:20]])  # type: ignore[arg-type]
    send(producer, topic, messages[half:])  # type: ignore[arg-type]


def test_workers_killed_at_any_moment_lose_and_double_nothing(
    database_url: str, kafka_broker: KafkaBroker, history: History
) -> None:
    kills = times(KILLS[database_url.partition(":")[0]])
    random = chances("kills of workers")
    crew = Crew(database_url, kafka_broker, partitions=8, batch=400)
    sizes = []
    with sender(kafka_broker.address) as producer:
        for some in chunked(history.facts, -(-FACTS // kills)):
            before = crew.taken()
            crew.grow(random.randint(1, 4))
            sizes.append(len(crew.hands))
            _send_some(producer, crew.brokers.events, some, random)
            crew.wait(lambda: crew.taken() > before)  # noqa: B023
            time.sleep(random.uniform(0, 0.3))
            crew.kill(random.choice(crew.hands))
    crew.grow(2)
    crew.finish(history, FACTS)
    print(f"{len(sizes)} kills with {min(sizes)} to {max(sizes)} workers over {FACTS:,} facts")


def test_a_worker_that_slept_while_others_went_on_harms_nothing(
    postgres_url: str, kafka_broker: KafkaBroker, history: History
) -> None:
    """It is stopped anywhere, loses its partitions, and wakes with a batch in hand."""
    random = chances("sleepers")
    crew = Crew(postgres_url, kafka_broker, partitions=6, batch=300)
    crew.grow(2)
    sleepers = overtaken = 0
    with sender(kafka_broker.address) as producer:
        for some in chunked(history.facts, FACTS // SLEEPERS):
            before = crew.taken()
            if overtaken >= 2:
                _send_some(producer, crew.brokers.events, some, random)
                continue
            sleepers += 1
            _send_some(producer, crew.brokers.events, some, random)
            crew.wait(lambda: crew.taken() > before)  # noqa: B023
            time.sleep(random.uniform(0, 0.2))
            asleep = crew.hands[random.randint(0, 1)]
            pid = asleep._process.pid
            assert pid is not None
            os.kill(pid, signal.SIGSTOP)
            try:
                reached = before + len(some)
                deadline = time.monotonic() + 15
                # Stopped in the midst of a write, it holds up who has its partitions now, until it wakes.
                while crew.taken() < reached and time.monotonic() < deadline:
                    time.sleep(0.05)
                overtaken += crew.taken() >= reached
            finally:
                os.kill(pid, signal.SIGCONT)
            crew.wait(lambda: crew.taken() >= reached)  # noqa: B023
    crew.finish(history, FACTS)
    print(f"{overtaken} of {sleepers} sleepers found all their work done by others")
    assert overtaken > 0


def test_a_broker_and_a_database_that_go_away_are_waited_for(
    kafka_broker: KafkaBroker, history: History
) -> None:
    random = chances("broker and database away")
    with ExitStack() as stack:
        try:
            server = stack.enter_context(services.private_server())
        except services.ServiceMissingError as missing:
            if services.required():
                pytest.fail(f"PostgreSQL is required here: {missing}")
            pytest.skip(f"PostgreSQL: {missing}")
        url = stack.enter_context(services.fresh_database(server.address, "away"))
        crew = Crew(url, kafka_broker, partitions=4, batch=500)
        with sender(kafka_broker.address) as producer:
            for some in chunked(history.facts[:12_000], 3_000):
                _send_some(producer, crew.brokers.events, some, random)
        crew.grow(2)
        crew.wait(lambda: crew.taken() > 1_000)
        server.kill()
        time.sleep(1)
        server.start()
        crew.store.engine.dispose()  # its connections are of the server that was killed
        reached = crew.taken()
        crew.wait(lambda: crew.taken() > reached)
        kafka_broker.kill()
        time.sleep(1)
        kafka_broker.start()
        crew.finish(history, 12_000)
