"""Small tables of the edge in the key store's database: restored together with the keys, holding ids and no names.

What may not live here: which tables there are. Each kind of them is made and read by a module of its own.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError

from ledger import log_postgres, log_sqlite
from ledger.errors import LedgerBusyError


class BesideKeys:
    """Transactions on the key store's database. LEDGER_BUSY if others hold it."""

    def __init__(self, url: str, busy_seconds: float) -> None:
        parsed, self._busy_seconds = sa.make_url(url), busy_seconds
        if parsed.get_backend_name() == "postgresql":
            self._engine = log_postgres.make_engine(parsed, busy_seconds, as_app=False)
        else:
            self._engine = log_sqlite.make_engine(parsed, busy_seconds)
        self.close = self._engine.dispose

    def make(self, metadata: sa.MetaData, guards: Mapping[str, Sequence[str]]) -> None:
        """The tables that are missing, and what guards them; both may be made again."""
        with self.reading() as connection:
            if metadata.tables.keys() <= set(sa.inspect(connection).get_table_names()):
                return
        with self.writing() as connection:
            if connection.dialect.name == "postgresql":
                connection.execute(sa.select(sa.func.pg_advisory_xact_lock(0x61636373)))
            metadata.create_all(connection)
            for guard in guards.get(connection.dialect.name, ()):
                connection.exec_driver_sql(guard)

    @contextmanager
    def reading(self, *, writes: bool = False) -> Iterator[sa.Connection]:
        try:
            with self._engine.connect() as plain:
                connection = plain.execution_options(writes=writes)
                with connection.begin():
                    yield connection
        except DBAPIError as error:
            if log_sqlite.is_busy(error) or log_postgres.is_busy(error):
                raise LedgerBusyError(seconds=self._busy_seconds) from None
            raise

    @contextmanager
    def writing(self) -> Iterator[sa.Connection]:
        with self.reading(writes=True) as connection:
            yield connection
