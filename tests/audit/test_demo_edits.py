"""Five hundred random edits in a copy of the demonstration: the audit finds every one and names its position."""

import sqlite3
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest

from api.demo.run import Plan, fill, open_demo
from api.settings import read_settings
from ledger import log_sqlite
from ledger.audit import verify
from ledger.log import LedgerLog

SEED = 20_261_125
EDITS = 500
COLUMNS = ("stream_id", "version", "topic", "state", "leaf_hash")


@pytest.fixture(scope="module")
def demo_url(tmp_path_factory: pytest.TempPathFactory) -> str:
    url = f"sqlite:///{tmp_path_factory.mktemp('demo') / 'demo.db'}"
    parts = open_demo(read_settings(database=url), Plan(volunteers=60, months=2, seed=7))
    fill(parts, Plan(volunteers=60, months=2, seed=7))
    assert verify(parts.log).ok
    parts.close()
    return url


@pytest.fixture
def raw(demo_url: str) -> Iterator[sqlite3.Connection]:
    """The file as its owner sees it."""
    connection = sqlite3.connect(Path(demo_url.removeprefix("sqlite:///")), isolation_level=None)
    connection.execute("PRAGMA synchronous = OFF")
    yield connection
    connection.close()


def past_the_guards(raw: sqlite3.Connection, sql: str, *values: object) -> None:
    raw.execute("BEGIN")
    for name in log_sqlite.GUARDS:
        raw.execute(f"DROP TRIGGER {name}")
    try:
        raw.execute(sql, values)
    except sqlite3.IntegrityError:
        raw.execute("ROLLBACK")
        raise
    for name, body in log_sqlite.GUARDS.items():
        raw.execute(f"CREATE TRIGGER {name} {body}")
    raw.execute("COMMIT")


def changed(random: Random, stored: Any) -> object:
    """The same kind of value with one bit flipped; text stays text."""
    if isinstance(stored, int):
        return stored ^ (1 << random.randrange(8))
    data = bytearray(stored if isinstance(stored, bytes) else stored.encode())
    data[random.randrange(len(data))] ^= 1 << random.randrange(7 if isinstance(stored, str) else 8)
    return bytes(data) if isinstance(stored, bytes) else data.decode("utf-8", "replace")


@pytest.mark.slow
@pytest.mark.timeout(1_800)
def test_five_hundred_random_edits_are_each_found_at_their_position(
    demo_url: str, raw: sqlite3.Connection
) -> None:
    print(f"seed {SEED}")
    random, log = Random(SEED), LedgerLog.open(demo_url)
    size = log.head().size
    found = 0
    while found < EDITS:
        position, column = random.randint(1, size), random.choice(COLUMNS)
        (stored,) = raw.execute(f"SELECT {column} FROM facts WHERE position = ?", (position,)).fetchone()
        value = changed(random, stored)
        put = f"UPDATE facts SET {column} = ? WHERE position = ?"
        try:
            past_the_guards(raw, put, value, position)
        except sqlite3.IntegrityError:  # another fact has that version: the table itself refuses
            continue
        report = verify(log)
        assert position in {defect.position for defect in report.defects}, (found, position, column)
        found += 1
        past_the_guards(raw, put, stored, position)
    assert verify(log).ok
    log.close()
