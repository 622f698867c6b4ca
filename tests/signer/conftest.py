"""A log that grows, a signer over it, and an owner of the database who changes what they like."""

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid5

import orjson
import psycopg
import pytest
from eventsourcing.persistence import StoredEvent
from sqlalchemy.engine import make_url

from ledger import log_postgres, log_sqlite
from ledger.checkpoint import SignerKey
from ledger.codec import encode
from ledger.events import UnitRenamed
from ledger.log import LedgerLog
from ledger.merkle import Frontier, leaf_hash
from ledger.signer import Signer
from ledger.tree import TreeStore

START = datetime(2026, 3, 2, 1, 0, tzinfo=UTC)
LEDGER_ID = UUID("7b1d2f0a-90c4-4a55-8f7c-3f6f5e1f0b22")
ORIGIN = "ledger.example/gangu"
KEY = SignerKey(ORIGIN, bytes(range(32)))
NEXT_KEY = SignerKey(ORIGIN, bytes(range(32, 64)))


def fact(number: int, name: str = "站") -> StoredEvent:
    """The first fact of a stream of its own; facts need not make sense to be signed."""
    stream = uuid5(LEDGER_ID, f"stream {number}")
    moment = START + timedelta(seconds=number)
    event = UnitRenamed(
        originator_id=stream,
        originator_version=1,
        happened_at=moment,
        recorded_at=moment,
        caller_id=LEDGER_ID,
        command_id=UUID(int=number, version=4),  # a request without an idempotency key
        name=f"{name} {number}",
    )
    return StoredEvent(stream, 1, UnitRenamed.TOPIC, encode(event))


class Site:
    """One ledger, where its state file is, and what its owner does to it behind everybody's back."""

    def __init__(self, url: str, folder: Path) -> None:
        self.url, self.state = url, folder / "signer.json"
        self.log = LedgerLog.create(url, ledger_id=LEDGER_ID, kind="demo", created_at=START)
        self.store = TreeStore(self.log)
        self.count = 0

    def grow(self, facts: int) -> None:
        self.log.insert_events([fact(number) for number in range(self.count, self.count + facts)])
        self.count += facts

    @contextmanager
    def signer(self, *keys: SignerKey, state: Path | None = None) -> Iterator[Signer]:
        with Signer(self.log, state or self.state, keys or [KEY], ORIGIN) as signer:
            yield signer

    def sign(self, *keys: SignerKey, state: Path | None = None) -> int:
        """As a new process would: open, sign, close."""
        with self.signer(*keys, state=state) as signer:
            return signer.sign_once()

    # -- the owner of the database --

    def edit(self, *statements: tuple[str, Sequence[Any]]) -> None:
        """Past every guard, which are put back afterwards. Written for SQLite; ``?`` becomes ``%s``."""
        if self.log.dialect == "sqlite":
            path = make_url(self.url).database
            assert path is not None
            with closing(sqlite3.connect(path, isolation_level=None)) as raw:
                raw.execute("BEGIN")
                for name in log_sqlite.GUARDS:
                    raw.execute(f"DROP TRIGGER {name}")
                for sql, values in statements:
                    raw.execute(sql, values)
                for name, body in log_sqlite.GUARDS.items():
                    raw.execute(f"CREATE TRIGGER {name} {body}")
                raw.execute("COMMIT")
        else:
            with psycopg.connect(self.url) as raw_pg:
                for name, table in log_postgres.GUARDS.items():
                    raw_pg.execute(f"ALTER TABLE {table} DISABLE TRIGGER {name}")
                for sql, values in statements:
                    raw_pg.execute(sql.replace("?", "%s"), values)
                for name, table in log_postgres.GUARDS.items():
                    raw_pg.execute(f"ALTER TABLE {table} ENABLE ALWAYS TRIGGER {name}")

    def write_fact(self, position: int, event: StoredEvent) -> tuple[str, Sequence[Any]]:
        """The statement that puts this fact, its own hash beside it, where another one is."""
        leaf = leaf_hash(event.originator_id.bytes, 1, event.topic.encode(), event.state)  # type: ignore[union-attr]
        return (
            "UPDATE facts SET stream_id = ?, state = ?, leaf_hash = ? WHERE position = ?",
            (str(event.originator_id), event.state.decode(), leaf, position),
        )

    def fit_the_head(self) -> None:
        """Make the head's size, frontier and time those of the facts that are there now."""
        frontier, newest = Frontier(), ""
        for row in self.log.read():
            frontier.append(row.leaf_hash)
            newest = orjson.loads(row.state)["recorded_at"]
        self.edit(
            (
                "UPDATE ledger_head SET size = ?, frontier = ?, recorded_at = ?",
                (frontier.size, frontier.to_bytes(), newest),
            )
        )


@pytest.fixture
def site(database_url: str, tmp_path: Path) -> Iterator[Site]:
    """An empty ledger on each database in turn."""
    site = Site(database_url, tmp_path)
    yield site
    site.log.close()


@pytest.fixture
def sqlite_site(sqlite_url: str, tmp_path: Path) -> Iterator[Site]:
    """An empty ledger in a file."""
    site = Site(sqlite_url, tmp_path)
    yield site
    site.log.close()
