"""Who unsealed what of whom, how often codes and names were guessed, and how far erasures were carried out.

Four small tables in the key store's database: they are no facts, hold ids only, and are restored together with the
keys they speak of. What may not live here: names, codes, keys, and anything a rule could need.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Protocol
from uuid import UUID

import sqlalchemy as sa

from api.beside_keys import BesideKeys
from api.problems import TooManyAttemptsError, TooManyNamesError
from ledger.codec import instant_text
from ledger.schema import UuidColumn

WRONG_CODES_MAX = 10
"""Wrong rating codes for one order in `ATTEMPTS_WITHIN`: a guesser needs some six centuries for an even chance."""
WRONG_NAMES_MAX = 10
"""Wrong names for one certificate in `ATTEMPTS_WITHIN`: enough for slips of the pen, too few to try out surnames."""
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

name_attempts = sa.Table(
    "name_check_attempts",
    metadata,
    sa.Column("entry", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("certificate_id", UuidColumn, nullable=False, index=True),
    sa.Column("at", sa.Text, nullable=False),
)
"""Wrong names for certificates in the last hour, without what was tried."""

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


class Asking(Protocol):
    """Who opens something: somebody with a key, or the public."""

    @property
    def person_id(self) -> UUID: ...
    @property
    def role(self) -> str: ...


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
        self._database = BesideKeys(url, busy_seconds)
        self._database.make(metadata, _GUARDS)
        self.close = self._database.close

    # -- the access log --

    def unsealed(self, found: Iterable[tuple[UUID, str]], who: Asking, at: datetime, request_id: str) -> None:
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
            with self._database.writing() as connection:
                connection.execute(log.insert(), rows)

    def of(self, person_id: UUID, *, after: int = 0, limit: int | None = None) -> list[tuple[int, Access]]:
        """Who unsealed what of a person, oldest first, each with its number; ``after`` continues."""
        query = sa.select(log).where(log.c.person_id == person_id, log.c.entry > after)
        with self._database.reading() as connection:
            rows = connection.execute(query.order_by(log.c.entry).limit(limit)).all()
        return [
            (r.entry, Access(r.person_id, r.caller_id, r.role, r.topic, r.at, r.request_id)) for r in rows
        ]

    # -- guesses --

    def code_tried(self, order_id: UUID, right: bool, at: datetime) -> None:
        """One more rating code was tried for an order; TOO_MANY_ATTEMPTS after ten wrong ones in an hour.

        A right one is refused then too: else going on guessing would pay.
        """
        wait = self._tried(attempts, attempts.c.order_id, order_id, right, at, WRONG_CODES_MAX)
        if wait is not None:
            raise TooManyAttemptsError(order_id=order_id, retry_seconds=wait)

    def name_tried(self, certificate_id: UUID, right: bool, at: datetime) -> None:
        """One more name was tried for a certificate; TOO_MANY_NAMES after ten wrong ones in an hour, as above."""
        mine = name_attempts.c.certificate_id
        wait = self._tried(name_attempts, mine, certificate_id, right, at, WRONG_NAMES_MAX)
        if wait is not None:
            raise TooManyNamesError(retry_seconds=wait)

    def _tried(
        self, table: sa.Table, of: sa.Column[UUID], thing: UUID, right: bool, at: datetime, wrong_max: int
    ) -> int | None:
        """Count a wrong try; the seconds to wait once there are too many, None before."""
        since = at - ATTEMPTS_WITHIN
        with self._database.writing() as connection:
            if connection.dialect.name == "postgresql":
                connection.execute(sa.select(sa.func.pg_advisory_xact_lock(thing.int % 2**63)))
            connection.execute(sa.delete(table).where(table.c.at <= _text(since)))
            wrong = list(connection.scalars(sa.select(table.c.at).where(of == thing).order_by(table.c.at)))
            if len(wrong) < wrong_max and not right:
                connection.execute(table.insert(), {of.name: thing, "at": _text(at)})
        if len(wrong) < wrong_max:
            return None
        free_at = datetime.fromisoformat(wrong[-wrong_max]) + ATTEMPTS_WITHIN
        return max(1, -(-(free_at - at) // timedelta(seconds=1)))

    # -- erasures --

    def carried_out(self) -> int:
        """Up to which position every erasure was carried out."""
        with self._database.reading() as connection:
            return connection.scalar(sa.select(erasures.c.position)) or 0

    def carried_out_to(self, position: int) -> None:
        """Every erasure up to ``position`` has its key destroyed."""
        with self._database.writing() as connection:
            if connection.execute(sa.update(erasures).values(position=position)).rowcount == 0:
                connection.execute(erasures.insert(), {"single": 1, "position": position})


def _text(moment: datetime) -> str:
    return instant_text(moment.astimezone(UTC))
