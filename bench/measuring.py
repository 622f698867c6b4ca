"""How a time is taken: one clock, one way to run many callers at once, one way to read a percentile."""

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")
CALLERS = 16


def seconds(work: Callable[[], object]) -> float:
    """How long it took."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def rate(count: int, work: Callable[[], object]) -> float:
    """How many a second, if ``work`` does ``count``."""
    return count / seconds(work)


def best_rate(count: int, work: Callable[[], object], times: int = 3) -> float:
    """The median rate of a few runs."""
    return statistics.median(rate(count, work) for _ in range(times))


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
