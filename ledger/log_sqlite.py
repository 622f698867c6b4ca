"""What the log needs to know of SQLite: one writer at a time, and triggers that keep it append-only."""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any
from uuid import UUID

import orjson
from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.engine import URL

from ledger.groupcommit import Outcome, Row

GUARDS: dict[str, str] = {
    "facts_keep": "BEFORE UPDATE ON facts BEGIN SELECT RAISE(ABORT, 'facts are never changed'); END",
    "facts_stay": "BEFORE DELETE ON facts BEGIN SELECT RAISE(ABORT, 'facts are never removed'); END",
    # INSERT OR REPLACE would slip past the two above: it is refused before it can replace anything.
    "facts_follow": """BEFORE INSERT ON facts BEGIN
        SELECT RAISE(ABORT, 'positions are dense')
            WHERE NEW.position IS NOT (SELECT coalesce(max(position), 0) + 1 FROM facts);
        SELECT RAISE(ABORT, 'versions are dense') WHERE NEW.version IS NOT
            (SELECT coalesce(max(version), 0) + 1 FROM facts WHERE stream_id = NEW.stream_id);
        END""",
    "head_grows": """BEFORE UPDATE ON ledger_head
        WHEN NEW.size IS NOT (SELECT coalesce(max(position), 0) FROM facts) OR NEW.size < OLD.size
        BEGIN SELECT RAISE(ABORT, 'the head follows the facts'); END""",
    "head_stays": "BEFORE DELETE ON ledger_head BEGIN SELECT RAISE(ABORT, 'the head stays'); END",
    "head_alone": """BEFORE INSERT ON ledger_head WHEN EXISTS (SELECT 1 FROM ledger_head)
        BEGIN SELECT RAISE(ABORT, 'there is one head'); END""",
    "identity_keeps": "BEFORE UPDATE ON ledger_identity BEGIN SELECT RAISE(ABORT, 'a ledger stays itself'); END",
    "identity_stays": "BEFORE DELETE ON ledger_identity BEGIN SELECT RAISE(ABORT, 'a ledger stays itself'); END",
    "identity_alone": """BEFORE INSERT ON ledger_identity WHEN EXISTS (SELECT 1 FROM ledger_identity)
        BEGIN SELECT RAISE(ABORT, 'a ledger stays itself'); END""",
    "outcomes_keep": "BEFORE UPDATE ON command_outcomes BEGIN SELECT RAISE(ABORT, 'outcomes are never changed'); END",
    "outcomes_stay": "BEFORE DELETE ON command_outcomes BEGIN SELECT RAISE(ABORT, 'outcomes are never removed'); END",
    "outcomes_follow": """BEFORE INSERT ON command_outcomes WHEN EXISTS (SELECT 1 FROM command_outcomes
            WHERE person_id = NEW.person_id AND command_key = NEW.command_key)
        BEGIN SELECT RAISE(ABORT, 'outcomes are never changed'); END""",
}
"""Trigger by name; `ledger.audit` checks that they are all there, word for word."""


def make_engine(url: URL, busy_seconds: float) -> Engine:
    """Connections with every commit synced to disk; SQLAlchemy, not the driver, begins transactions.

    Connecting changes nothing in the file: it may not be one of ours. See `use_wal`.
    """
    engine = create_engine(url, connect_args={"timeout": busy_seconds}, pool_size=16, max_overflow=48)

    @event.listens_for(engine, "connect")
    def configure(connection: Any, _record: object) -> None:
        connection.isolation_level = None
        cursor = connection.cursor()
        cursor.execute("PRAGMA synchronous = FULL")
        cursor.execute("PRAGMA cache_size = -65536")
        cursor.close()

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        writes = connection.get_execution_options().get("writes", False)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")

    return engine


def use_wal(engine: Engine) -> None:
    """Keep the file in WAL mode from now on, so that readers and the writer do not wait for each other."""
    with engine.connect() as connection:
        cursor = connection.connection.cursor()  # not inside a transaction
        cursor.execute("PRAGMA journal_mode = WAL")
        cursor.close()


def protect(connection: Connection) -> None:
    """Create the guards in a new ledger."""
    for name, body in GUARDS.items():
        connection.exec_driver_sql(f"CREATE TRIGGER {name} {body}")


def lock_head(connection: Connection) -> tuple[int, bytes, str]:
    """BEGIN IMMEDIATE holds the one writer's place already."""
    row = connection.exec_driver_sql("SELECT size, frontier, recorded_at FROM ledger_head").one()
    return row[0], row[1], row[2]


def one_trip(_connection: Connection) -> AbstractContextManager[None]:
    """There is no way to go: the database is in this process."""
    return nullcontext()


def write(
    connection: Connection, rows: list[Row], outcomes: list[Outcome], frontier: bytes, recorded_at: str
) -> None:
    """Insert facts and outcomes, then move the head after them."""
    if rows:
        connection.exec_driver_sql(
            "INSERT INTO facts (position, stream_id, version, topic, state, leaf_hash) VALUES (?, ?, ?, ?, ?, ?)",
            [(r.position, str(r.stream_id), r.version, r.topic, r.state.decode(), r.leaf_hash) for r in rows],
        )
        connection.exec_driver_sql(
            "UPDATE ledger_head SET size = ?, frontier = ?, recorded_at = ?",
            (rows[-1].position, frontier, recorded_at),
        )
    if outcomes:
        connection.exec_driver_sql(
            "INSERT INTO command_outcomes VALUES (?, ?, ?, ?, ?, ?)",
            [
                (
                    str(o.person_id),
                    o.command_key,
                    o.digest,
                    str(o.command_id),
                    o.first_position,
                    o.last_position,
                )
                for o in outcomes
            ],
        )


def versions(connection: Connection, stream_ids: Sequence[UUID]) -> dict[UUID, int]:
    """The newest version of each stream that has any."""
    rows = connection.exec_driver_sql(
        "SELECT value, (SELECT max(version) FROM facts WHERE stream_id = value) FROM json_each(?)",
        (orjson.dumps(stream_ids).decode(),),
    )
    return {UUID(stream_id): version for stream_id, version in rows if version is not None}


OUTCOMES = """
SELECT o.person_id, o.command_key, o.digest, o.command_id, o.first_position, o.last_position
FROM json_each(?) AS k
JOIN command_outcomes o ON o.person_id = k.value ->> 0 AND o.command_key = k.value ->> 1"""
"""What commands led to, of a JSON list of [person, key]."""


def is_busy(error: BaseException) -> bool:
    """Whether the driver gave up because another writer held the file."""
    return "database is locked" in str(error) or "database table is locked" in str(error)
