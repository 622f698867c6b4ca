"""Relays are killed at any moment while others take over: every fact leaves once, and nothing leaves twice."""

import random
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.broker import KafkaBroker
from tests.faults import chances, times
from tests.relay.processes import Outlet, RelayProcess, outlet
from tests.relay.reader import require_exactly_once

pytestmark = pytest.mark.timeout(900)
FENCED = "RELAY_FENCED"


# -- relays are killed --


@pytest.mark.slow
@pytest.mark.parametrize(
    ("database_url", "facts"), [("sqlite", 30_000), ("postgresql", 12_000)], indirect=["database_url"]
)
def test_relays_killed_while_others_take_over(
    database_url: str, facts: int, own_broker: KafkaBroker, tmp_path: Path
) -> None:
    chance, kills = chances(f"kills of relays, {database_url.partition(':')[0]}"), times(26)
    with outlet(database_url, own_broker.address, tmp_path) as out:
        out.grow(facts // 3)
        with growing(out, facts - facts // 3, chance):
            ends = kill_relays(out, kills, chance)
        last = out.begin("--once")
        assert last.ended(120) == 0, last.said()
        found = require_exactly_once(out.log, out.brokers)
    print(f"{kills} killed, ends of the others {dict(ends)}; {found}")
    assert found.facts == facts


def kill_relays(out: Outlet, kills: int, chance: random.Random) -> Counter[str]:
    """Two or three at a time; one that is alive is killed, and those that were fenced meanwhile are counted."""
    alive: list[RelayProcess] = [out.begin()]
    ends: Counter[str] = Counter()
    killed = 0
    while killed < kills:
        alive.append(out.begin())
        time.sleep(chance.uniform(0, 2.5))
        for one in [one for one in alive if not one.is_alive]:
            alive.remove(one)
            assert (one.ended(), FENCED in one.said()) == (1, True), one.said()
            ends[FENCED] += 1
        if len(alive) > 1 and chance.random() < 0.9:
            one = alive.pop(chance.randrange(len(alive)))
            if one.is_alive:
                one.kill()
                killed += 1
            else:
                ends[FENCED] += 1
    for one in alive:
        one.kill()
    return ends


@contextmanager
def growing(out: Outlet, facts: int, chance: random.Random) -> Iterator[None]:
    """So many facts are appended meanwhile, in small and large portions; all of them are there in the end."""
    left, done = facts, threading.Event()
    portions = random.Random(chance.random())

    def grow() -> None:
        nonlocal left
        while left:
            some = min(left, portions.randrange(1, 300))
            out.grow(some)
            left -= some
            done.wait(portions.uniform(0, 0.6))

    thread = threading.Thread(target=grow)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
