"""What the log needs to know of PostgreSQL: roles that may not write, and the one function that appends.

The tables belong to a role nobody can log in as. The application's role may read, and call two functions: lock the
head, append. Every connection takes that role, so even the owner's own login runs with no more than it needs.
Role names carry the database's name, because roles are shared by a whole server.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from uuid import UUID

import psycopg
from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.engine import URL
from sqlalchemy.exc import DBAPIError

from ledger.groupcommit import Outcome, Row

CHANNEL = "ledger_facts"
TABLES = ("facts", "ledger_head", "ledger_identity", "command_outcomes")
GUARDS: dict[str, str] = {
    **{f"{table}_keep": table for table in ("facts", "ledger_identity", "command_outcomes")},
    "ledger_head_stay": "ledger_head",
}
"""Trigger by name → its table; `ledger.audit` checks that they are all there and always fire."""

LOCK_HEAD = """
CREATE FUNCTION ledger_lock_head() RETURNS TABLE (size bigint, frontier bytea, recorded_at text)
LANGUAGE sql SECURITY DEFINER SET search_path = public, pg_temp AS $$
    SELECT h.size, h.frontier, h.recorded_at FROM ledger_head h FOR UPDATE
$$"""

SEPARATOR = "\x1f"
"""Between the values of a column in one call: canonical JSON has no such character unescaped, and arrays of long texts
cost the driver more than everything else together."""

APPEND = f"""
CREATE FUNCTION ledger_append(
    first_position bigint, n integer, stream_ids text, versions text, topics text, states text, leaf_hashes bytea,
    new_frontier bytea, new_recorded_at text,
    person_ids uuid[], command_keys text[], digests bytea[], command_ids uuid[], firsts bigint[], lasts bigint[]
) RETURNS void LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
DECLARE separator text := E'\\x1f';
BEGIN
    IF n > 0 THEN
        UPDATE ledger_head SET size = size + n, frontier = new_frontier, recorded_at = new_recorded_at
            WHERE size = first_position - 1;
        IF NOT FOUND THEN
            RAISE EXCEPTION 'positions are dense' USING ERRCODE = 'integrity_constraint_violation';
        END IF;
        INSERT INTO facts (position, stream_id, version, topic, state, leaf_hash)
            SELECT first_position + i - 1, s::uuid, v::bigint, t, x, substr(leaf_hashes, (32 * i - 31)::integer, 32)
            FROM unnest(
                string_to_array(stream_ids, separator), string_to_array(versions, separator),
                string_to_array(topics, separator), string_to_array(states, separator)
            ) WITH ORDINALITY AS u (s, v, t, x, i);
        IF length(leaf_hashes) <> 32 * n OR (SELECT max(position) FROM facts) <> first_position + n - 1 THEN
            RAISE EXCEPTION 'a column holds another number of facts' USING ERRCODE = 'integrity_constraint_violation';
        END IF;
        PERFORM pg_notify('{CHANNEL}', (first_position + n - 1)::text);
    END IF;
    INSERT INTO command_outcomes SELECT * FROM unnest(person_ids, command_keys, digests, command_ids, firsts, lasts);
END $$"""

REFUSE = """
CREATE FUNCTION ledger_refuse() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN RAISE EXCEPTION 'the ledger is append-only' USING ERRCODE = 'restrict_violation'; END $$"""


def roles_of(database: str) -> tuple[str, str]:
    """The owner's and the application's role of a ledger's database."""
    return f"{database}_ledger_owner", f"{database}_ledger_app"


def make_engine(url: URL, busy_seconds: float, *, as_app: bool = True) -> Engine:
    """Connections that act in the application's role and give up waiting for a lock after ``busy_seconds``."""
    engine = create_engine(
        url.set(drivername="postgresql+psycopg"),
        pool_size=16,
        max_overflow=48,
        pool_reset_on_return="rollback",
    )
    app_role = roles_of(url.database or "")[1]

    @event.listens_for(engine, "connect")
    def configure(connection: Any, _record: object) -> None:
        connection.autocommit = True
        cursor = connection.cursor()
        cursor.execute(f"SET lock_timeout = {int(busy_seconds * 1000)}")
        cursor.execute("SET timezone = 'UTC'")
        if as_app:
            cursor.execute(f'SET ROLE "{app_role}"')
        cursor.close()
        connection.autocommit = False

    return engine


def app_role_exists(connection: Connection) -> bool:
    """Whether the database was ever made a ledger (its role is made with it)."""
    role = roles_of(connection.engine.url.database or "")[1]
    found = connection.exec_driver_sql("SELECT 1 FROM pg_roles WHERE rolname = %s", (role,)).first()
    return found is not None


def protect(connection: Connection, app_login: str | None) -> None:
    """Give the tables to the owner's role, guard them, and let the application's role read and append only."""
    owner, app = roles_of(connection.engine.url.database or "")
    for role in (owner, app):
        if not connection.exec_driver_sql("SELECT 1 FROM pg_roles WHERE rolname = %s", (role,)).first():
            connection.exec_driver_sql(f'CREATE ROLE "{role}" NOLOGIN')
        connection.exec_driver_sql(f'GRANT "{role}" TO CURRENT_USER')
    run = connection.exec_driver_sql
    run(REFUSE)
    for name, table in GUARDS.items():
        happening = "DELETE OR TRUNCATE" if table == "ledger_head" else "UPDATE OR DELETE OR TRUNCATE"
        run(f"CREATE TRIGGER {name} BEFORE {happening} ON {table} EXECUTE FUNCTION ledger_refuse()")
        run(f"ALTER TABLE {table} ENABLE ALWAYS TRIGGER {name}")
    run(LOCK_HEAD)
    run(APPEND)
    run(f'GRANT USAGE, CREATE ON SCHEMA public TO "{owner}", "{app}"')
    for table in TABLES:
        run(f'ALTER TABLE {table} OWNER TO "{owner}"')
        run(f'GRANT SELECT ON {table} TO "{app}"')
    for function in ("ledger_lock_head", "ledger_append", "ledger_refuse"):
        run(f'ALTER FUNCTION {function} OWNER TO "{owner}"')
        run(f"REVOKE ALL ON FUNCTION {function} FROM PUBLIC")
    run(f'GRANT EXECUTE ON FUNCTION ledger_lock_head, ledger_append TO "{app}"')
    run(f'REVOKE CREATE ON SCHEMA public FROM "{owner}"')
    if app_login is not None:
        run(f'GRANT "{app}" TO "{app_login}"')


def lock_head(connection: Connection) -> tuple[int, bytes, str]:
    """Wait for the head's row lock; positions are given out in its order."""
    statement = "SELECT size, frontier, recorded_at FROM ledger_lock_head()"
    with one_trip(connection), _driver(connection).cursor() as cursor:  # with the BEGIN before it
        size, frontier, recorded_at = cursor.execute(statement).fetchone()
    return size, bytes(frontier), recorded_at


@contextmanager
def one_trip(connection: Connection) -> Iterator[None]:
    """What the driver is told in here goes to the server together, and is answered at the end."""
    try:
        with _driver(connection).pipeline():
            yield
    except psycopg.Error as error:
        raise DBAPIError.instance("", None, error, psycopg.Error) from error


def _driver(connection: Connection) -> Any:
    return connection.connection.driver_connection


def write(
    connection: Connection, rows: list[Row], outcomes: list[Outcome], frontier: bytes, recorded_at: str
) -> None:
    """One call of the append function."""
    _driver(connection).execute(
        "SELECT ledger_append(%s, %s, %s, %s, %s, %s, %s, %s, %s, %s::uuid[], %s::text[], %s::bytea[], %s::uuid[],"
        " %s::bigint[], %s::bigint[])",
        (
            rows[0].position if rows else 0,
            len(rows),
            SEPARATOR.join(str(r.stream_id) for r in rows),
            SEPARATOR.join(str(r.version) for r in rows),
            SEPARATOR.join(r.topic for r in rows),
            b"\x1f".join(r.state for r in rows).decode(),
            b"".join(r.leaf_hash for r in rows),
            frontier,
            recorded_at,
            [o.person_id for o in outcomes],
            [o.command_key for o in outcomes],
            [o.digest for o in outcomes],
            [o.command_id for o in outcomes],
            [o.first_position for o in outcomes],
            [o.last_position for o in outcomes],
        ),
    )


def versions(connection: Connection, stream_ids: Sequence[UUID]) -> dict[UUID, int]:
    """The newest version of each stream that has any."""
    rows = connection.exec_driver_sql(
        "SELECT s, (SELECT max(version) FROM facts WHERE stream_id = s)"
        " FROM unnest(string_to_array(%s, ',')::uuid[]) AS s",
        (",".join(map(str, stream_ids)),),
    )
    return {stream_id: version for stream_id, version in rows if version is not None}


OUTCOMES = """
SELECT o.person_id, o.command_key, o.digest, o.command_id, o.first_position, o.last_position
FROM jsonb_array_elements(%s::jsonb) AS k
JOIN command_outcomes o ON o.person_id = (k ->> 0)::uuid AND o.command_key = k ->> 1"""
"""What commands led to, of a JSON list of [person, key]."""


def is_busy(error: BaseException) -> bool:
    """Whether the server gave up waiting for the head (lock_not_available)."""
    return getattr(getattr(error, "orig", error), "sqlstate", None) == "55P03"
