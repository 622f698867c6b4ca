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
from contextlib import contextmanager
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from uuid import uuid4

import psycopg

from bench import facts, ours, peers, table
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
        with _places(database) as (write_url, read_url, peer_url):
            measured = ours.measure(write_url, read_url, asked.facts, _say)
            theirs = peers.measure(peer_url, asked.facts, _say)
            found += table.figures(database, measured, theirs)
            notes[database] = {
                "ours": ours.durability(read_url),
                "eventsourcing": peers.durability(peer_url),
                "eventsourcing_bytes_per_fact": peers.bytes_per_fact(peer_url),
                "version": _server_version(database, read_url),
            }
    print(table.text(found))
    print(_footnote(asked.facts, notes))
    Path(asked.output).write_text(
        json.dumps(_document(asked, notes, found), ensure_ascii=False, indent=2) + "\n", "utf-8"
    )
    print(f"written: {asked.output}")


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
        f"eventsourcing's projection is one figure over {min(count, peers.PROJECTED):,} facts: its rate is the same "
        "over more. Its milliseconds are one fact shown in that figure after its commit, facts waiting in line.",
    ]
    lines += [
        f"{database}: commits with {said['ours']} (eventsourcing: {said['eventsourcing']}, "
        f"{said['eventsourcing_bytes_per_fact']:.0f} bytes a fact)"
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
            "load_at_the_end": os.getloadavg()[0],
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
