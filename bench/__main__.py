"""``python -m bench``: every figure of the ledger beside the eventsourcing package's, as a table and as JSON."""

import argparse
import json
import os
import platform
import shutil
import sqlite3
import sys
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from functools import partial
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Any
from uuid import uuid4

import psycopg

from bench import facts, ours, peers, table
from bench.measuring import ROUNDS, in_turns, syncs
from tests.services import fresh_database, postgres_server

PACKAGES = ("eventsourcing", "sqlalchemy", "psycopg", "duckdb", "pyarrow", "orjson", "pydantic")


def main(arguments: list[str] | None = None) -> None:
    """Measure, print, write."""
    asked = _asked(arguments)
    databases = ("sqlite", "postgresql") if asked.database == "both" else (asked.database,)
    if "postgresql" in databases and find_spec("psycopg_pool") is None:
        sys.exit(
            "eventsourcing needs psycopg-pool on PostgreSQL: uv run --with psycopg-pool python -m bench, "
            "or --database sqlite"
        )
    found: list[table.Figure] = []
    notes: dict[str, Any] = {}
    for database in databases:
        with _places(database) as places:
            figures, notes[database] = _measured(database, places, asked.facts)
            found += figures
    print(table.text(found))
    print(_footnote(asked.facts, notes))
    Path(asked.output).write_text(
        json.dumps(_document(asked, notes, found), ensure_ascii=False, indent=2) + "\n", "utf-8"
    )
    print(f"written: {asked.output}")


def _measured(
    database: str, places: tuple[str, str, str], count: int
) -> tuple[list[table.Figure], dict[str, Any]]:
    """Both sides in turns, then ours alone; with every round, so that their spread can be seen."""
    write_url, read_url, peer_url = places
    with (
        closing(ours.Ours(write_url, read_url, count, _say)) as mine,
        closing(peers.Peers(peer_url, count)) as theirs,
    ):
        left, right = mine.compared(), theirs.compared()
        disk = partial(syncs, Path(tempfile.gettempdir()))
        _say(f"comparing, {ROUNDS} rounds")
        before = os.getloadavg()[0]
        *taken, (first, second) = in_turns([*((left[key], right[key]) for key in left), (disk, disk)])
        rounds = {key: {"ours": a, "eventsourcing": b} for key, (a, b) in zip(left, taken, strict=True)}
        own = {key: median(sides["ours"]) for key, sides in rounds.items()} | mine.alone()
    other = {key: median(sides["eventsourcing"]) for key, sides in rounds.items()}
    return table.figures(database, own, other), {
        "ours": ours.durability(read_url),
        "eventsourcing": peers.durability(peer_url),
        "eventsourcing_bytes_per_fact": peers.bytes_per_fact(peer_url),
        "version": _server_version(database, read_url),
        "load_before_and_after": [before, os.getloadavg()[0]],
        "disk_syncs_per_second": [*first, *second],
        "rounds": rounds,
    }


def _asked(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser("python -m bench", description=__doc__)
    parser.add_argument("--facts", type=int, default=1_000_000, help="facts in the ledger that is read")
    parser.add_argument("--database", choices=("sqlite", "postgresql", "both"), default="both")
    parser.add_argument("--output", default="bench.json", help="the JSON file")
    return parser.parse_args(arguments)


def _say(what: str) -> None:
    print(f"… {what}", file=sys.stderr, flush=True)


@contextmanager
def _places(database: str) -> Iterator[tuple[str, str, str]]:
    """Three empty databases of one kind, removed afterwards."""
    names = [f"b{uuid4().hex[:12]}" for _ in range(3)]
    if database == "sqlite":
        folder = Path(tempfile.mkdtemp(prefix="wenming-bench-"))
        try:
            first, second = (f"sqlite:///{folder / name}.db" for name in names[:2])
            yield first, second, f"sqlite:///{folder / names[2]}.db"
        finally:
            shutil.rmtree(folder)
        return
    with (
        postgres_server() as server,
        fresh_database(server, names[0]) as first,
        fresh_database(server, names[1]) as second,
        fresh_database(server, names[2]) as third,
    ):
        yield first, second, third


def _server_version(database: str, url: str) -> str:
    if database == "sqlite":
        return sqlite3.sqlite_version
    with psycopg.connect(url) as connection:
        return str(connection.info.server_version)


def _footnote(count: int, notes: dict[str, Any]) -> str:
    lines = [
        f"{count:,} facts of {_bytes_per_fact(count):.0f} bytes of JSON on average; "
        f"{os.cpu_count()} cores; Python {platform.python_version()}.",
        f"What has two sides was measured in {ROUNDS} rounds, one side right after the other; medians are shown.",
        f"eventsourcing's projection is of one figure, {min(count, peers.PROJECTED):,} facts a round: "
        "its rate does not depend on how many.",
    ]
    lines += [
        f"{database}: commits with {said['ours']} (eventsourcing: {said['eventsourcing']}, "
        f"{said['eventsourcing_bytes_per_fact']:.0f} bytes a fact); "
        f"the disk made {min(said['disk_syncs_per_second']):,.0f} to {max(said['disk_syncs_per_second']):,.0f} "
        f"syncs/s, load {said['load_before_and_after'][0]:.1f} to {said['load_before_and_after'][1]:.1f}"
        for database, said in notes.items()
    ]
    return "\n".join(lines)


def _bytes_per_fact(count: int) -> float:
    sample = [len(fact.state) for fact in facts.stored_facts(min(count, 20_000))]
    return sum(sample) / len(sample)


def _document(asked: argparse.Namespace, notes: dict[str, Any], found: list[table.Figure]) -> dict[str, Any]:
    return {
        "command": f"python -m bench --facts {asked.facts} --database {asked.database}",
        "machine": {
            "processor": _processor(),
            "cores": os.cpu_count(),
            "system": f"{platform.system()} {platform.release()}",
        },
        "versions": {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}},
        "facts": asked.facts,
        "bytes_per_fact": _bytes_per_fact(asked.facts),
        "hours": facts.skew(asked.facts),
        "databases": notes,
        "figures": [figure.to_dict() for figure in found],
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")


if __name__ == "__main__":
    main()
