"""The stored columns of a log's tables as they are, inside one snapshot; whatever cannot be read is a defect.

On SQLite a column may hold anything, so text is read as the bytes that are stored: its storage class shows, and text
that is not UTF-8 can still be looked at.
"""

import sqlite3
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from typing import Any, cast

from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from ledger import log_postgres, log_sqlite
from ledger.audit.report import Findings
from ledger.errors import LedgerBusyError
from ledger.log import LedgerLog

READ_ROWS = 1_000


@contextmanager
def snapshot(log: LedgerLog) -> Iterator[Connection]:
    """A read transaction that sees one moment of the log, however long the audit takes."""
    try:
        with log.engine.connect() as connection:
            if log.dialect == "postgresql":
                connection.exec_driver_sql("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
            yield connection
    except (DBAPIError, sqlite3.OperationalError) as error:
        if log_sqlite.is_busy(error) or log_postgres.is_busy(error):
            raise LedgerBusyError(seconds=log.busy_seconds) from None
        raise


@contextmanager
def raw_columns(connection: Connection) -> Iterator[None]:
    """On SQLite, read TEXT as bytearray, BLOB as bytes: the storage class shows, and broken text can be read."""
    driver = cast(Any, connection.connection.driver_connection)
    if connection.dialect.name != "sqlite":
        yield
        return
    driver.text_factory = bytearray
    try:
        yield
    finally:
        driver.text_factory = str


def _sqlite_text(value: object) -> str | None:
    """A TEXT column's text; None for another storage class or text that is not UTF-8."""
    if type(value) is not bytearray:
        return None
    try:
        return value.decode()
    except UnicodeDecodeError:
        return None


def _postgres_text(value: object) -> str | None:
    return value if type(value) is str else None


def _is_trouble_of_ours(error: Exception) -> bool:
    """Whether reading failed for want of a lock or a connection, which says nothing about what is stored."""
    lost = isinstance(error, DBAPIError) and error.connection_invalidated
    return lost or log_sqlite.is_busy(error) or log_postgres.is_busy(error)


@contextmanager
def tolerant(findings: Findings, table: str) -> Iterator[None]:
    """What is stored may stop a reader; that is a defect of its own, and the audit goes on with what comes next."""
    try:
        yield
    except (SQLAlchemyError, sqlite3.Error, UnicodeError) as error:
        if _is_trouble_of_ours(error):
            raise
        findings.found(None, "UNREADABLE", table=table)


class Source:
    """The rows of the log's tables inside the snapshot; a table that cannot be read further is a defect and ends."""

    def __init__(self, connection: Connection, findings: Findings, readable: frozenset[str]) -> None:
        self._connection = connection.execution_options(stream_results=True, max_row_buffer=READ_ROWS)
        self._findings = findings
        self.readable = readable
        self._is_sqlite = connection.dialect.name == "sqlite"
        self.text: Callable[[object], str | None] = _sqlite_text if self._is_sqlite else _postgres_text
        self._uuid = "{}" if self._is_sqlite else "{}::text"

    def facts(self) -> Iterator[list[Any]]:
        """Rows in the order of positions, some thousands at a time."""
        columns = f"position, {self._uuid.format('stream_id')}, version, topic, state, leaf_hash"
        return self._batches("facts", f"SELECT {columns} FROM facts ORDER BY position")

    def outcomes(self) -> Iterator[Any]:
        """Rows in the order of the positions they name."""
        person, command = self._uuid.format("person_id"), self._uuid.format("command_id")
        columns = f"{person}, command_key, digest, {command}, first_position, last_position"
        query = f"SELECT {columns} FROM command_outcomes ORDER BY first_position, last_position"
        for batch in self._batches("command_outcomes", query):
            yield from batch

    def heads(self) -> list[Any]:
        """What should be one row."""
        query = "SELECT single, size, frontier, recorded_at FROM ledger_head LIMIT 9"
        return [row for batch in self._batches("ledger_head", query) for row in batch]

    def identities(self) -> list[Any]:
        """What should be one row."""
        ledger_id = self._uuid.format("ledger_id")
        query = f"SELECT single, {ledger_id}, kind, schema_version, created_at FROM ledger_identity LIMIT 9"
        return [row for batch in self._batches("ledger_identity", query) for row in batch]

    def _batches(self, table: str, query: str) -> Generator[list[Any], None, None]:
        if table not in self.readable:
            return
        with tolerant(self._findings, table):
            yield from self._sqlite_rows(query) if self._is_sqlite else self._postgres_rows(query)

    def _sqlite_rows(self, query: str) -> Iterator[list[Any]]:
        """Straight from the driver, which makes the tuples that are wanted: half the cost of rows."""
        cursor = cast(Any, self._connection.connection.driver_connection).execute(query)
        while rows := cursor.fetchmany(READ_ROWS):
            yield rows

    def _postgres_rows(self, query: str) -> Iterator[list[Any]]:
        for batch in self._connection.exec_driver_sql(query).partitions(READ_ROWS):
            yield list(map(tuple, batch))
