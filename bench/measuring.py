"""How a time is taken: one clock, one way to run many callers at once, one way to compare two sides.

Disks and neighbours change from minute to minute, so what is to be compared is measured in turns (`in_turns`): a ratio
of two figures taken minutes apart says more about the machine than about either side.
"""

import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")
CALLERS = 16
ROUNDS = 5
Measure = Callable[[], float]
"""Takes one figure, now."""


def seconds(work: Callable[[], object]) -> float:
    """How long it took."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def rate(count: int, work: Callable[[], object]) -> float:
    """How many a second, if ``work`` does ``count``."""
    return count / seconds(work)


def in_turns(pairs: Sequence[tuple[Measure, Measure]]) -> list[tuple[list[float], list[float]]]:
    """Each pair's figures, one a round: in every round one side right after the other."""
    found: list[tuple[list[float], list[float]]] = [([], []) for _ in pairs]
    for _ in range(ROUNDS):
        for (first, second), (firsts, seconds_) in zip(pairs, found, strict=True):
            firsts.append(first())
            seconds_.append(second())
    return found


def syncs(folder: Path, count: int = 300) -> float:
    """How many small writes a second this disk makes durable, one after the other, right now."""
    with tempfile.NamedTemporaryFile(dir=folder) as file:

        def write() -> None:
            for _ in range(count):
                os.write(file.fileno(), bytes(4096))
                os.fsync(file.fileno())

        return rate(count, write)


def one_by_one(things: Sequence[T], work: Callable[[T], object]) -> Callable[[], None]:
    """``work`` on every thing, by one caller."""

    def run() -> None:
        for thing in things:
            work(thing)

    return run


def at_once(things: Sequence[T], work: Callable[[T], object]) -> Callable[[], None]:
    """``work`` on every thing, by 16 callers who share them out."""

    def run() -> None:
        def share(caller: int) -> None:
            for thing in things[caller::CALLERS]:
                work(thing)

        with ThreadPoolExecutor(CALLERS) as pool:
            list(pool.map(share, range(CALLERS)))

    return run


def in_batches(things: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    """Slices of at most ``size``."""
    return (things[first : first + size] for first in range(0, len(things), size))


def milliseconds(times: Sequence[float], percent: int) -> float:
    """A percentile of times in seconds, as milliseconds."""
    ordered = sorted(times)
    return 1000 * ordered[min(len(ordered) - 1, len(ordered) * percent // 100)]
