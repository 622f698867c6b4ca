"""Progress of long work: a bar on a terminal, a line now and then elsewhere; errors are never hidden behind it."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

LINE_SECONDS = 2.0

Report = Callable[[str, int, int], None]
"""Called with what is done, how far, and of how much."""


@contextmanager
def progress() -> Iterator[Report]:
    """A reporter that writes to stderr, so that stdout stays clean for results."""
    if sys.stderr.isatty():
        with Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            console=Console(stderr=True),
            transient=True,
        ) as bar:
            yield _bar(bar)
    else:
        yield _lines()


def _bar(bar: Progress) -> Report:
    task = bar.add_task("", total=None)

    def report(what: str, done: int, whole: int) -> None:
        bar.update(task, description=what, completed=done, total=whole)

    return report


def _lines() -> Report:
    started = last = time.monotonic()

    def report(what: str, done: int, whole: int) -> None:
        nonlocal last
        now = time.monotonic()
        if done >= whole or now - last >= LINE_SECONDS:
            last = now
            share = 100 * done // whole if whole else 100
            print(
                f"{what}: {done:,} of {whole:,} ({share} %, {now - started:.1f} s)",
                file=sys.stderr,
                flush=True,
            )

    return report
