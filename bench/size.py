"""``python -m bench.size``: the figures of ever larger ledgers, with memory and spill, as a table and as JSON.

Each size is measured in processes of their own, so that memory is that of one thing alone. What is computed from an
archive alone (the largest sizes) has no log behind it: its columns are generated (see `bench.grown`).
"""

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

from bench import facts, grown, ours
from bench.measuring import milliseconds, seconds
from ledger import archive
from ledger.archive import Archive
from ledger.audit import verify
from ledger.log import LedgerLog
from projections import engine, follower, replay
from projections.figures import all_figures
from projections.hours import unit_months, volunteer_days, volunteer_hours

GIB = 1 << 30
KEYS = 100
"""How many keys are asked for, one after the other."""
CHANGED = 1_000
"""How many facts lie between the two moments that are compared."""


@dataclass(frozen=True)
class Line:
    """One figure: its key, what it says, its unit, and what it is to reach at which number of facts (0: at any)."""

    key: str
    text: str
    unit: str
    targets: Mapping[int, float]

    @property
    def more_is_better(self) -> bool:
        return self.unit.endswith("/s")


LINES = (
    Line("archive_bytes", "archive", "bytes/fact", {0: 45}),
    Line("archive_seconds", "all figures computed from the archive", "s", {10_000_000: 8, 100_000_000: 80}),
    Line("archive_selects", "  facts × figures", "/s", {0: 15e6}),
    Line("archive_memory", "  most memory", "GiB", {0: 4}),
    Line("archive_spill", "  most on disk besides", "GiB", {}),
    Line("archive_as_of", "  one figure as of the middle", "ms", {10_000_000: 1_000}),
    Line("archive_as_of_days", "  person × day × unit as of the middle", "ms", {10_000_000: 3_000}),
    Line("as_of_key_p95", "one volunteer as of a moment, p95", "ms", {10_000_000: 200}),
    Line("as_of_unit_p95", "one unit's months as of a moment, p95", "ms", {10_000_000: 200}),
    Line("as_of_figure", "one figure as of the middle, as rows", "ms", {10_000_000: 1_000}),
    Line("as_of_days", "person × day × unit as of the middle, as rows", "ms", {10_000_000: 3_000}),
    Line("explain_p95", "one volunteer's hours explained, p95", "ms", {0: 100}),
    Line("diff", f"what {CHANGED:,} facts changed", "ms", {0: 300}),
    Line("as_of_memory", "  most memory of these", "GiB", {0: 4}),
    Line("rebuild_archive", "all figures rebuilt from the archive, written", "facts/s", {}),
    Line("rebuild_archive_memory", "  most memory", "GiB", {}),
    Line("rebuild_log", "all figures rebuilt from the log, written", "facts/s", {0: 150_000}),
    Line("compute_log", "  of it read and computed", "facts/s", {0: 300_000}),
    Line("rebuild_log_memory", "  most memory", "GiB", {}),
    Line("verify", "verify the whole log", "facts/s", {0: 100_000}),
    Line("verify_memory", "  most memory", "GiB", {}),
    Line("live_p50", "one fact appended and in every figure, p50", "ms", {0: 3}),
    Line("live_p99", "  p99", "ms", {0: 50}),
)
WITH_A_LOG = ("archive", "as_of", "rebuild_archive", "rebuild_log", "verify", "live")
WITHOUT = ("archive",)
Figures = dict[str, float]


def main(arguments: list[str] | None = None) -> None:
    """Measure, print, write; or one part of it, in the folder of one size."""
    asked = _asked(arguments)
    if asked.part:
        print(json.dumps(_part(asked.part, Path(asked.folder), asked.facts[0])))
        return
    found: dict[str, Figures] = {}
    sizes = [(count, True) for count in asked.facts] + [(count, False) for count in asked.archive_only]
    for count, has_log in sizes:
        found[f"{count:,}{'' if has_log else ' *'}"] = _measured(count, has_log, Path(asked.folder))
    print(text(found))
    print(_footnote())
    document = {
        "command": "python -m bench.size " + " ".join(arguments or sys.argv[1:]),
        **machine(),
        "sizes": found,
    }
    Path(asked.output).write_text(json.dumps(document, ensure_ascii=False, indent=2) + "\n", "utf-8")
    print(f"written: {asked.output}")


def _asked(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser("python -m bench.size", description=__doc__)
    parser.add_argument(
        "--facts", type=int, nargs="*", default=[100_000, 1_000_000, 10_000_000], help="sizes of ledgers"
    )
    parser.add_argument(
        "--archive-only", type=int, nargs="*", default=[100_000_000], help="sizes of archives without a log"
    )
    parser.add_argument(
        "--folder", default=tempfile.gettempdir(), help="where they are made (≈ 0.6 GB a million)"
    )
    parser.add_argument("--output", default="bench-size.json", help="the JSON file")
    parser.add_argument("--part", default="", help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


def _measured(count: int, has_log: bool, beside: Path) -> Figures:
    """Every figure of one size; what was made for it is removed."""
    with tempfile.TemporaryDirectory(prefix="wenming-size-", dir=beside) as folder:
        figures = _child("make" if has_log else "make_archive", folder, count)
        for part in WITH_A_LOG if has_log else WITHOUT:
            figures |= _child(part, folder, count)
    return figures


def _child(part: str, folder: str, count: int) -> Figures:
    print(f"… {count:,} facts: {part.replace('_', ' ')}", file=sys.stderr, flush=True)
    command = [sys.executable, "-m", "bench.size", "--part", part, "--folder", folder, "--facts", str(count)]
    spill = Path(folder) / "spill"
    spill.mkdir(exist_ok=True)
    done = subprocess.run(
        command, env=os.environ | {"TMPDIR": str(spill)}, stdout=subprocess.PIPE, check=True, encoding="utf-8"
    )
    measured: Figures = json.loads(done.stdout.splitlines()[-1])
    return measured


# --- one part, in a process of its own -------------------------------------------------------------------------------


def _part(part: str, folder: Path, count: int) -> Figures:
    parts: dict[str, Callable[[Path, int], Figures]] = {
        "make": _make,
        "make_archive": _make_archive,
        "archive": _archive,
        "as_of": _as_of,
        "rebuild_archive": _rebuild_archive,
        "rebuild_log": _rebuild_log,
        "verify": _verify,
        "live": _live,
    }
    figures = parts[part](folder, count)
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / GIB
    return figures if part.startswith("make") else figures | {f"{part}_memory": memory}


def _make(folder: Path, count: int) -> Figures:
    log = _created(folder)
    grown.write_log(log, count)
    # a ledger of fewer facts than make a segment has ten small ones, so that there is something to measure
    size = min(archive.SEGMENT_POSITIONS, max(1, count // 10))
    return _bytes_per_fact(grown.write_archive(log, folder / "archive", count, size))


def _make_archive(folder: Path, count: int) -> Figures:
    return _bytes_per_fact(grown.write_archive(_created(folder), folder / "archive", count, whole=False))


def _bytes_per_fact(segments: Sequence[archive.Segment]) -> Figures:
    size = sum(file.size_bytes for segment in segments for file in segment.files)
    return {"archive_bytes": size / sum(segment.last - segment.first + 1 for segment in segments)}


def _created(folder: Path) -> LedgerLog:
    url = f"sqlite:///{folder / 'ledger.db'}"
    return LedgerLog.create(url, ledger_id=facts.LEDGER_ID, kind="demo", created_at=facts.START)


def _opened(folder: Path) -> tuple[LedgerLog, Archive]:
    log = LedgerLog.open(f"sqlite:///{folder / 'ledger.db'}")
    kind = Archive if log.head().size else grown.WithoutLog
    return log, kind(log, folder / "archive")


def _archive(folder: Path, _: int) -> Figures:
    """Every figure computed from what is archived, one after the other, and read to its last row; nothing is stored."""
    log, kept = _opened(folder)
    last = kept.segments(0, 1 << 62)[-1].last
    middle = last // 2
    computed = partial(_compute, log, kept)
    with _spilled() as spilled:
        took = seconds(lambda: [computed(figure, last) for figure in all_figures()])
    return {
        "archive_seconds": took,
        "archive_selects": last * len(all_figures()) / took,
        "archive_spill": spilled[0] / GIB,
        "archive_as_of": 1000
        * statistics.median(seconds(lambda: computed(volunteer_hours, middle)) for _ in range(3)),
        "archive_as_of_days": 1000 * seconds(lambda: computed(volunteer_days, middle)),
    }


def _compute(log: LedgerLog, kept: Archive, figure: Any, position: int) -> int:
    with closing(engine.compute(log, [figure], 0, position, archive=kept)) as columns:
        return sum(len(batch) for batch in columns.batches(figure))


@contextmanager
def _spilled() -> Iterator[list[int]]:
    """The most bytes that lay in the temporary directory meanwhile, looked at every 50 ms."""
    most, stop = [0], threading.Event()

    def look() -> None:
        while not stop.wait(0.05):
            held = 0
            for path in Path(tempfile.gettempdir()).rglob("*"):
                with _gone_is_nothing():
                    held += path.stat().st_size if path.is_file() else 0
            most[0] = max(most[0], held)

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield most
    finally:
        stop.set()
        thread.join()


@contextmanager
def _gone_is_nothing() -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        return


def _as_of(folder: Path, _: int) -> Figures:
    log, kept = _opened(folder)
    head, dice = log.head().size, Random(1)
    middle = head // 2
    rows = replay.as_of(log, volunteer_hours, min(middle, 200_000), archive=kept)
    people = sorted({row["volunteer_id"] for row in rows})
    units = sorted(
        {row["unit_id"] for row in replay.as_of(log, unit_months, min(middle, 200_000), archive=kept)}
    )
    del rows

    def one(figure: Any, name: str, keys: Sequence[str], count: int) -> list[float]:
        asked = [({name: dice.choice(keys)}, dice.randint(1, head)) for _ in range(count)]
        return [
            seconds(partial(replay.as_of, log, figure, position, where=where, archive=kept))
            for where, position in asked
        ]

    explained = [
        seconds(
            partial(replay.explain, log, volunteer_hours, {"volunteer_id": dice.choice(people)}, archive=kept)
        )
        for _ in range(KEYS)
    ]
    low = max(0, middle - CHANGED)
    whole = partial(replay.as_of, log, position=middle, archive=kept)
    return {
        "as_of_key_p95": milliseconds(one(volunteer_hours, "volunteer_id", people, KEYS), 95),
        "as_of_unit_p95": milliseconds(one(unit_months, "unit_id", units, 10), 95),
        "explain_p95": milliseconds(explained, 95),
        "diff": 1000 * seconds(lambda: replay.diff(log, volunteer_hours, low, middle, archive=kept)),
        "as_of_figure": 1000 * statistics.median(seconds(lambda: whole(volunteer_hours)) for _ in range(3)),
        "as_of_days": 1000 * seconds(lambda: whole(volunteer_days)),
    }


def _rebuild_archive(folder: Path, _: int) -> Figures:
    log, kept = _opened(folder)
    return {"rebuild_archive": log.head().size / seconds(lambda: follower.rebuild(log, archive=kept))}


def _rebuild_log(folder: Path, _: int) -> Figures:
    log, _kept = _opened(folder)
    head, figures = log.head().size, all_figures()

    def computed() -> None:
        with closing(engine.compute(log, figures, 0, head)) as columns:
            for figure in figures:
                columns.arrow(figure)

    computing = seconds(computed)
    return {"rebuild_log": head / seconds(lambda: follower.rebuild(log)), "compute_log": head / computing}


def _verify(folder: Path, _: int) -> Figures:
    log, _kept = _opened(folder)
    started = time.perf_counter()
    report = verify(log)
    if not report.ok:
        raise AssertionError(f"the measured ledger is not sound: {report.to_json()[:2000]}")
    return {"verify": log.head().size / (time.perf_counter() - started)}


def _live(folder: Path, count: int) -> Figures:
    log, _kept = _opened(folder)
    return ours.following(log, min(500, max(40, count // 20)))


# --- what is shown ---------------------------------------------------------------------------------------------------


def text(found: Mapping[str, Figures]) -> str:
    """The table: a line a figure, a column a size."""
    heads = ["figure", "unit", *found, "target"]
    rows = [heads]
    for line in LINES:
        shown = [_number(figures.get(line.key)) for figures in found.values()]
        if any(shown):
            rows.append([line.text, line.unit, *shown, _wanted(line)])
    widths = [max(len(row[column]) for row in rows) for column in range(len(heads))]
    return "\n".join(
        "  ".join(
            f"{cell:{'<' if n < 2 else '>'}{width}}"
            for n, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    )


def _number(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:,.0f}" if value >= 100 else f"{value:,.2f}"


def _wanted(line: Line) -> str:
    sign = "≥" if line.more_is_better else "≤"
    return ", ".join(
        f"{sign} {target:,.0f}" + (f" at {count // 1_000_000} M" if count else "")
        for count, target in line.targets.items()
    )


def machine() -> dict[str, object]:
    """Which machine, and how busy it is with other things."""
    from bench.__main__ import _processor

    return {
        "machine": {
            "processor": _processor(),
            "cores": os.cpu_count(),
            "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / GIB, 1),
            "system": f"{platform.system()} {platform.release()}",
            "python": platform.python_version(),
        },
        "load": os.getloadavg(),
    }


def _footnote() -> str:
    shown: Any = machine()["machine"]
    return (
        "* columns generated as an archive, with no log behind them; the others are logs on SQLite with archives.\n"
        f"{len(all_figures())} figures; DuckDB holds at most {engine.MEMORY} and spills the rest; "
        f"{shown['processor']}, {shown['cores']} cores, {shown['memory_gib']} GiB, Python {shown['python']}; "
        f"load {os.getloadavg()[0]:.1f}"
    )


if __name__ == "__main__":
    main()
