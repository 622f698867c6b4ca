"""The key store's own database: its tables, and connections that show nothing and overwrite what they delete.

What may not live here: keys in clear, and what the rows mean to anybody.
"""

import os
import re
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import DBAPIError

from ledger import log_postgres, log_sqlite
from ledger.errors import KeyStoreDamagedError, KeyStoreMissingError, LedgerBusyError, NotAKeyStoreError
from ledger.schema import UuidColumn

KEY_STORE_SCHEMA = 1
CHUNK = 5_000
"""Values in one statement at most."""

metadata = sa.MetaData()

store = sa.Table(
    "key_store",
    metadata,
    sa.Column("single", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("schema_version", sa.Integer, nullable=False),
    sa.Column("created_at", sa.Text, nullable=False),
    sa.Column("key_check", sa.LargeBinary, nullable=False),
    sa.Column("wrapped_secret", sa.LargeBinary, nullable=False),
    sa.Column("destructions", sa.Integer, nullable=False),
    sa.CheckConstraint("single = 1", name="key_store_one_row"),
)
"""One row. ``key_check`` tells the right master key from a wrong one; other processes watch ``destructions``."""

subject_keys = sa.Table(
    "subject_keys",
    metadata,
    sa.Column("subject_id", UuidColumn, primary_key=True),
    sa.Column("wrapped_key", sa.LargeBinary),
    sa.Column("destroyed_at", sa.Text),
    sa.CheckConstraint(
        "(wrapped_key IS NULL) = (destroyed_at IS NOT NULL)", name="subject_keys_gone_for_good"
    ),
)
"""A key per person, wrapped by the master key; a destroyed one leaves its row, so that it is never made anew."""

claims = sa.Table(
    "id_number_claims",
    metadata,
    sa.Column("id_number_digest", sa.LargeBinary, primary_key=True),
    sa.Column("subject_id", UuidColumn, nullable=False, index=True),
)
"""Whose identity number it is: one number, one person (F12)."""

phones = sa.Table(
    "phones",
    metadata,
    sa.Column("phone_digest", sa.LargeBinary, primary_key=True),
    sa.Column("subject_id", UuidColumn, primary_key=True, index=True),
)
"""Every phone number a person gave: that two are equal shows, the numbers do not (F06)."""


class KeyDatabase:
    """Connections that show no values in errors and, on SQLite, overwrite what is deleted."""

    def __init__(self, url: str, busy_seconds: float, *, create: bool = False) -> None:
        parsed = sa.make_url(url)
        self.name, self._busy_seconds = parsed.render_as_string(hide_password=True), busy_seconds
        if parsed.get_backend_name() == "sqlite":
            self._require_file(parsed.database or ":memory:", create)
            self._engine = log_sqlite.make_engine(parsed, busy_seconds)
            overwrite = "PRAGMA secure_delete = ON"
            sa.event.listen(self._engine, "connect", lambda driver, _: driver.execute(overwrite))
        elif parsed.get_backend_name() == "postgresql":
            self._engine = log_postgres.make_engine(parsed, busy_seconds, as_app=False)
        else:
            raise NotAKeyStoreError(database=self.name, problem="only sqlite: and postgresql: are known")
        self._engine.hide_parameters = True
        self.close = self._engine.dispose

    def _require_file(self, name: str, create: bool) -> None:
        if name == ":memory:":
            raise NotAKeyStoreError(database=self.name, problem="a key store needs a file")
        if create:
            Path(name).parent.mkdir(parents=True, exist_ok=True)
            os.close(os.open(name, os.O_RDWR | os.O_CREAT, 0o600))
        elif not Path(name).is_file():
            raise KeyStoreMissingError(database=self.name)

    @contextmanager
    def reading(self, *, writes: bool = False) -> Iterator[sa.Connection]:
        with self._ours(), self._engine.connect() as plain:
            connection = plain.execution_options(writes=writes)
            with connection.begin():
                yield connection

    def use_wal(self) -> None:
        """On SQLite, once it is known that the file is ours."""
        if self._engine.dialect.name == "sqlite":
            with self._ours():
                log_sqlite.use_wal(self._engine)

    def writing(self) -> AbstractContextManager[sa.Connection]:
        return self.reading(writes=True)

    def empty_wal(self) -> None:
        """Overwritten pages reach the file and the WAL holds nothing any more; LEDGER_BUSY if a reader hinders that."""
        if self._engine.dialect.name == "sqlite":
            with self._ours(), self._engine.connect() as connection:
                cursor = connection.connection.cursor()  # a checkpoint runs outside transactions
                if cursor.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]:
                    raise LedgerBusyError(seconds=self._busy_seconds)

    @contextmanager
    def _ours(self) -> Iterator[None]:
        """Turn what drivers say of a held, missing or foreign database into our errors; anything else passes."""
        try:
            yield
        except DBAPIError as error:
            if log_sqlite.is_busy(error) or log_postgres.is_busy(error):
                raise LedgerBusyError(seconds=self._busy_seconds) from None
            problem = str(error.orig)
            if "file is not a database" in problem:
                raise NotAKeyStoreError(database=self.name, problem="it is no SQLite file") from None
            if "malformed" in problem:
                raise KeyStoreDamagedError(database=self.name, problem="its pages are malformed") from None
            if re.search(r'database ".*" does not exist', problem):
                raise KeyStoreMissingError(database=self.name) from None
            raise
        except UnicodeDecodeError:  # SQLite's complaint repeats bytes that are no text
            raise KeyStoreDamagedError(database=self.name, problem="its tables are torn") from None


def insert(connection: sa.Connection, table: sa.Table) -> postgresql.Insert | sqlite.Insert:
    """An insert that can say what to do on a conflict."""
    return postgresql.insert(table) if connection.dialect.name == "postgresql" else sqlite.insert(table)


def chunks(values: Iterable[Any]) -> Iterator[list[Any]]:
    """`CHUNK` values at a time."""
    pending = iter(values)
    while chunk := list(islice(pending, CHUNK)):
        yield chunk
