"""``python -m bench.travel --database sqlite:///FILE``: how long it takes to go back, to compare and to explain.

Of a ledger that is there already, with its archive if one lies beside it (or is named). Milliseconds of the clock; the
same keys and moments for the same seed.
"""

import argparse
import json
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from random import Random
from statistics import median
from typing import Any

from bench.measuring import milliseconds, seconds
from ledger.archive import Archive
from ledger.log import LedgerLog
from projections import replay
from projections.figures import all_figures
from projections.projection import Projection
from projections.what_if import Asked, book_with, what_if

KEYS = 20
"""Keys asked for of each figure, each as of a moment of its own."""
BETWEEN = (1_000, 20_000)
"""Facts between the two moments of a difference."""


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser("python -m bench.travel", description=__doc__)
    parser.add_argument("--database", required=True, help="the ledger's address")
    parser.add_argument("--archive", type=Path, help="its archive; left out, the one beside an SQLite file")
    parser.add_argument("--without-archive", action="store_true")
    parser.add_argument("--output", default="travel.json", help="the JSON file")
    asked = parser.parse_args(arguments)
    log = LedgerLog.open(asked.database)
    place = asked.archive or Path(f"{log.url.database}.archive")
    archive = Archive(log, place) if place.is_dir() and not asked.without_archive else None
    head = log.head().size
    print(f"{head:,} facts, {'with' if archive else 'without'} archive, load {os.getloadavg()[0]:.1f}")
    found = {one.name: row for one in all_figures() if (row := _measured(log, one, head, archive))}
    found["what_if"] = {"whole": _median(lambda: _supposed(log, archive))}
    _print(found)
    Path(asked.output).write_text(
        json.dumps({"facts": head, "milliseconds": found}, indent=2) + "\n", "utf-8"
    )
    log.close()


def _measured(log: LedgerLog, one: Projection, head: int, archive: Archive | None) -> dict[str, float]:
    dice, middle = Random(1), head // 2
    rows = replay.as_of(log, one, middle, archive=archive)
    if not rows:
        return {}
    keys = [{key: row[key] for key in one.keys} for row in (dice.choice(rows) for _ in range(KEYS))]
    then = [
        seconds(partial(replay.as_of, log, one, dice.randint(1, head), where=key, archive=archive))
        for key in keys
    ]
    why = [seconds(partial(replay.explain, log, one, key, archive=archive)) for key in keys]
    found = {
        "rows": float(len(rows)),
        "whole": _median(partial(replay.as_of, log, one, middle, archive=archive)),
        "key_p50": milliseconds(then, 50),
        "key_p95": milliseconds(then, 95),
        "explain_p50": milliseconds(why, 50),
        "explain_p95": milliseconds(why, 95),
    }
    for facts in BETWEEN:
        for name, high in (("middle", middle + facts), ("head", head)):
            if facts <= high <= head:
                ask = partial(replay.diff, log, one, high - facts, high, archive=archive)
                found[f"diff_{facts}_{name}"] = _median(ask)
    return found


def _supposed(log: LedgerLog, archive: Archive | None) -> Any:
    fields = {"star_minutes": [3_000, 9_000], "record_working_days": 0, "day_minutes_free": 300}
    return what_if(log, lambda _books, standing: book_with(standing, fields), Asked(), archive=archive)


def _median(work: Callable[[], object], rounds: int = 3) -> float:
    return round(median(seconds(work) for _ in range(rounds)) * 1000, 1)


def _print(found: dict[str, dict[str, float]]) -> None:
    columns = list(dict.fromkeys(name for row in found.values() for name in row))
    print(f"{'milliseconds':22}" + "".join(f"{name:>20}" for name in columns))
    for figure, row in found.items():
        cells = (f"{row[name]:>20,.0f}" if name in row else f"{'':>20}" for name in columns)
        print(f"{figure:22}" + "".join(cells))


if __name__ == "__main__":
    main()
