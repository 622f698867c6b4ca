"""Who unsealed what of whom, how often rating codes were guessed, and how far erasures were carried out.

Three small tables in the key store's database: they are no facts, hold ids only, and are restored together with the
keys they speak of. What may not live here: names, codes, keys, and anything a rule could need.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError

from api.problems import TooManyAttemptsError
from ledger import log_postgres, log_sqlite
from ledger.codec import instant_text
from ledger.errors import LedgerBusyError
from ledger.rules import Caller
from ledger.schema import UuidColumn

WRONG_CODES_MAX = 10
"""Wrong rating codes for one order in `ATTEMPTS_WITHIN`: a guesser needs some six centuries for an even chance."""
ATTEMPTS_WITHIN = timedelta(hours=1)

metadata = sa.MetaData()

log = sa.Table(
    "access_log",
    metadata,
    sa.Column("entry", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("person_id", UuidColumn, nullable=False, index=True),
    sa.Column("caller_id", UuidColumn, nullable=False),
    sa.Column("role", sa.Text, nullable=False),
    sa.Column("topic", sa.Text, nullable=False),
    sa.Column("at", sa.Text, nullable=False),
    sa.Column("request_id", sa.Text, nullable=False),
)
"""One row for each person and kind of fact that a request unsealed; only ever added to (see `_GUARDS`)."""

attempts = sa.Table(
    "rating_code_attempts",
    metadata,
    sa.Column("entry", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("order_id", UuidColumn, nullable=False, index=True),
    sa.Column("at", sa.Text, nullable=False),
)
"""Wrong codes of the last hour, without what was tried."""

erasures = sa.Table(
    "erasures_carried_out",
    metadata,
    sa.Column("single", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("position", sa.BigInteger, nullable=False),
)
"""One row: up to which fact of the ledger every erasure has its key destroyed here."""

_GUARDS = {
    "sqlite": (
        "CREATE TRIGGER IF NOT EXISTS access_log_keeps BEFORE UPDATE ON access_log"
        " BEGIN SELECT RAISE(ABORT, 'the access log is only added to'); END",
        "CREATE TRIGGER IF NOT EXISTS access_log_stays BEFORE DELETE ON access_log"
        " BEGIN SELECT RAISE(ABORT, 'the access log is only added to'); END",
        "CREATE TRIGGER IF NOT EXISTS access_log_follows BEFORE INSERT ON access_log"
        " WHEN EXISTS (SELECT 1 FROM access_log WHERE entry = NEW.entry)"
        " BEGIN SELECT RAISE(ABORT, 'the access log is only added to'); END",
    ),
    "postgresql": (
        "CREATE OR REPLACE FUNCTION access_log_guard() RETURNS trigger LANGUAGE plpgsql AS"
        " 'BEGIN RAISE EXCEPTION ''the access log is only added to''; END'",
        "CREATE OR REPLACE TRIGGER access_log_guard BEFORE UPDATE OR DELETE OR TRUNCATE ON access_log"
        " FOR EACH STATEMENT EXECUTE FUNCTION access_log_guard()",
    ),
}
"""Against slips and curious programs; the owner of the database could take them away."""


@dataclass(frozen=True)
class Access:
    """Somebody unsealed what a kind of fact holds about a person, in the HTTP request of that id."""

    person_id: UUID
    caller_id: UUID
    role: str
    topic: str
    at: str
    request_id: str


class Accesses:
    """The tables above, in the key store's database. LEDGER_BUSY if others hold it."""

    def __init__(self, url: str, busy_seconds: float) -> None:
        parsed, self._busy_seconds = sa.make_url(url), busy_seconds
        if parsed.get_backend_name() == "postgresql":
            self._engine = log_postgres.make_engine(parsed, busy_seconds, as_app=False)
        else:
            self._engine = log_sqlite.make_engine(parsed, busy_seconds)
        self._make()
        self.close = self._engine.dispose

    def _make(self) -> None:
        with self._reading() as connection:
            if erasures.name in sa.inspect(connection).get_table_names():
                return
        with self._writing() as connection:
            if connection.dialect.name == "postgresql":
                connection.execute(sa.select(sa.func.pg_advisory_xact_lock(0x61636373)))
            metadata.create_all(connection)
            for guard in _GUARDS[connection.dialect.name]:
                connection.exec_driver_sql(guard)

    # -- the access log --

    def unsealed(self, found: Iterable[tuple[UUID, str]], who: Caller, at: datetime, request_id: str) -> None:
        """Write down, before anything is shown, that ``who`` opens these (person, topic); durable on return."""
        rows = [
            {
                "person_id": person_id,
                "caller_id": who.person_id,
                "role": who.role,
                "topic": topic,
                "at": _text(at),
                "request_id": request_id,
            }
            for person_id, topic in found
        ]
        if rows:
            with self._writing() as connection:
                connection.execute(log.insert(), rows)

    def of(self, person_id: UUID, *, after: int = 0, limit: int | None = None) -> list[tuple[int, Access]]:
        """Who unsealed what of a person, oldest first, each with its number; ``after`` continues."""
        query = sa.select(log).where(log.c.person_id == person_id, log.c.entry > after)
        with self._reading() as connection:
            rows = connection.execute(query.order_by(log.c.entry).limit(limit)).all()
        return [
            (r.entry, Access(r.person_id, r.caller_id, r.role, r.topic, r.at, r.request_id)) for r in rows
        ]

    # -- guesses --

    def code_tried(self, order_id: UUID, right: bool, at: datetime) -> None:
        """One more rating code was tried for an order; TOO_MANY_ATTEMPTS after ten wrong ones in an hour.

        A right one is refused then too: else going on guessing would pay.
        """
        since = at - ATTEMPTS_WITHIN
        with self._writing() as connection:
            if connection.dialect.name == "postgresql":
                connection.execute(sa.select(sa.func.pg_advisory_xact_lock(order_id.int % 2**63)))
            connection.execute(sa.delete(attempts).where(attempts.c.at <= _text(since)))
            mine = sa.select(attempts.c.at).where(attempts.c.order_id == order_id).order_by(attempts.c.at)
            wrong = list(connection.scalars(mine))
            if len(wrong) < WRONG_CODES_MAX and not right:
                connection.execute(attempts.insert(), {"order_id": order_id, "at": _text(at)})
        if len(wrong) >= WRONG_CODES_MAX:
            free_at = datetime.fromisoformat(wrong[-WRONG_CODES_MAX]) + ATTEMPTS_WITHIN
            seconds = max(1, -(-(free_at - at) // timedelta(seconds=1)))
            raise TooManyAttemptsError(order_id=order_id, retry_seconds=seconds)

    # -- erasures --

    def carried_out(self) -> int:
        """Up to which position every erasure was carried out."""
        with self._reading() as connection:
            return connection.scalar(sa.select(erasures.c.position)) or 0

    def carried_out_to(self, position: int) -> None:
        """Every erasure up to ``position`` has its key destroyed."""
        with self._writing() as connection:
            if connection.execute(sa.update(erasures).values(position=position)).rowcount == 0:
                connection.execute(erasures.insert(), {"single": 1, "position": position})

    # -- connections --

    @contextmanager
    def _reading(self, *, writes: bool = False) -> Iterator[sa.Connection]:
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
    def _writing(self) -> Iterator[sa.Connection]:
        with self._reading(writes=True) as connection:
            yield connection


def _text(moment: datetime) -> str:
    return instant_text(moment.astimezone(UTC))
