"""Brokers and databases are killed and frozen under a relay: it waits and goes on, and nobody else notices."""

import random
import statistics
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from kafka import TopicPartition
from kafka.errors import KafkaTimeoutError

from ledger.brokers import Brokers
from ledger.errors import RelayTopicHoleError
from ledger.relay import Relay
from tests import services
from tests.broker import KafkaBroker
from tests.county import County
from tests.faults import chances, times
from tests.relay.processes import SECONDS, Outlet, RelayProcess, newest, outlet, running, turns, until
from tests.relay.reader import require_exactly_once

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def test_brokers_killed_and_frozen(own_broker: KafkaBroker, sqlite_url: str, tmp_path: Path) -> None:
    """One relay lives through all of it; commands are answered as fast as ever meanwhile."""
    chance, took = chances("brokers killed and frozen"), list[float]()
    county = County(sqlite_url)
    with outlet(sqlite_url, own_broker.address, tmp_path, log=county.log) as out:
        relay = out.begin()
        until(lambda: turns(out) == 1)
        with asking(county) as answers:
            for number in range(times(6)):
                time.sleep(chance.uniform(0.5, 1.5))
                hurt(own_broker, number % 3, chance)
                began, head = time.monotonic(), county.log.head().size
                lost = lost_ends(out, head, relay)
                if lost:
                    break
                took.append(time.monotonic() - began)
                assert relay.is_alive, relay.said()
        if lost:
            assert relay.terminated() == 0, relay.said()
            print(f"as an operator would, after {len(took)}:", require_exactly_once(out.log, healed(out)))
            return
        until(lambda: newest(out) == county.log.head().size, 60, relay.said())
        assert relay.terminated() == 0, relay.said()
        print(f"hurt {len(took)} times, well again after {', '.join(f'{one:.1f}' for one in took)} s")
        print(f"tried again {relay.said().count('waits')} times;", require_exactly_once(out.log, out.brokers))
        usual, meanwhile = ([seconds for away, seconds in answers if away is one] for one in (False, True))
        median, slower = statistics.median(usual) * 1000, statistics.median(meanwhile) * 1000
        print(f"{len(answers)} commands, in {median:.1f} ms, without a broker in {slower:.1f} ms")
        assert len(meanwhile) > 100
        assert slower < 3 * median + 5


def lost_ends(out: Outlet, head: int, relay: RelayProcess) -> list[TopicPartition]:
    """Nothing once all stands on the topic; else where Kafka, killed, lost the end of a transaction (DECISIONS 41).

    It does so now and then: the coordinator calls it over, and the partition keeps it open, as both say themselves. The
    relay then sends nothing more, goes on waiting, and says so.
    """
    try:
        until(lambda: newest(out) >= head, 90, relay.said())
        return []
    except (KafkaTimeoutError, TimeoutError):
        name = f"{out.ledger_id}.relay"
        partitions = [TopicPartition(out.brokers.events, number) for number in range(out.brokers.partitions)]
        partitions.append(TopicPartition(out.brokers.positions(out.ledger_id), 0))
        lost = out.brokers.open_transactions(name, partitions)
        assert lost, relay.said()
        assert out.brokers.has_ended(name)
        until(lambda: "hangs in" in relay.said(), 60, relay.said())
        assert relay.is_alive, relay.said()
        return lost


def healed(out: Outlet) -> Brokers:
    """A topic that holds everything once more: the same one, or a new one where a commit's end was lost."""
    try:
        Relay(out.log, out.brokers).once(from_topic=True)
        return out.brokers
    except RelayTopicHoleError:
        anew = replace(out.brokers, events=f"{out.brokers.events}.anew")
        anew.create_topics(out.ledger_id)
        Relay(out.log, anew).once()
        return anew


IS_AWAY = threading.Event()
"""Set while the broker does not answer."""


def hurt(broker: KafkaBroker, how: int, chance: random.Random) -> None:
    """Killed and at once begun again, killed and away for a while, or frozen for longer than a transaction is open."""
    IS_AWAY.set()
    if how == 2:
        broker.freeze()
        time.sleep(SECONDS + chance.uniform(1, 3))
        broker.thaw()
    else:
        broker.kill()
        time.sleep(how * chance.uniform(1, 4))
        broker.start()
    IS_AWAY.clear()


@contextmanager
def asking(county: County) -> Iterator[list[tuple[bool, float]]]:
    """Orders are placed all the time meanwhile; whether the broker was away, and how long each took, in seconds."""
    answers, done = list[tuple[bool, float]](), threading.Event()

    def ask() -> None:
        while not done.wait(0.004):
            away, began = IS_AWAY.is_set(), time.perf_counter()
            county.place(county.station)
            answers.append((away, time.perf_counter() - began))

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        yield answers
    finally:
        done.set()
        thread.join()


def test_nothing_is_left_of_a_session_whose_broker_froze(
    own_broker: KafkaBroker, sqlite_url: str, tmp_path: Path
) -> None:
    with outlet(sqlite_url, own_broker.address, tmp_path) as out:
        relay = out.relay()
        with running(relay):
            until(lambda: relay.state.transactions)
            for _ in range(2):
                retries = relay.state.retries
                own_broker.freeze()
                out.grow(1_000)
                until(lambda: relay.state.retries > retries)  # noqa: B023
                own_broker.thaw()
                head = out.log.head().size
                until(lambda: relay.state.position == head)  # noqa: B023
        until(lambda: not [one for one in threading.enumerate() if one.name.endswith("-network-thread")], 20)
        require_exactly_once(out.log, out.brokers)


def test_the_database_killed_while_a_relay_waits_for_facts(own_broker: KafkaBroker, tmp_path: Path) -> None:
    with (
        own_database() as server,
        services.fresh_database(server.address, "relayed") as url,
        outlet(url, own_broker.address, tmp_path) as out,
    ):
        out.grow(500)
        relay = out.begin()
        for number in range(3):
            until(lambda: newest(out) == out.log.head().size)
            time.sleep(0.2 * number)
            server.kill()
            time.sleep(0.3)
            assert relay.is_alive, relay.said()
            server.start()
            out.log.engine.dispose()
            out.grow(100)
        until(lambda: newest(out) == 800, what=relay.said())
        assert relay.terminated() == 0, relay.said()
        require_exactly_once(out.log, out.brokers)


@contextmanager
def own_database() -> Iterator[services.PostgresServer]:
    try:
        with services.private_server() as server:
            yield server
    except services.ServiceMissingError as missing:
        if services.required():
            pytest.fail(f"PostgreSQL is required here: {missing}")
        pytest.skip(f"PostgreSQL: {missing}")
