"""The log: every fact at its position, append-only, hashed, the same on SQLite and PostgreSQL.

It is the eventsourcing package's `ApplicationRecorder`, on SQLAlchemy Core. Positions are dense from 1 and equal commit
order, because whoever appends holds the head row first. Each append moves the head's size and Merkle frontier in the
same transaction, so a crash leaves either all of it or nothing. Nothing here knows what a fact means.
"""

import os
import threading
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, TypeVar, cast, get_args
from uuid import UUID

import orjson
import psycopg
from eventsourcing.persistence import (
    ApplicationRecorder,
    IntegrityError,
    Notification,
    StoredEvent,
    Subscription,
)
from sqlalchemy import Connection, Engine, func, insert, inspect, select
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import DBAPIError, MultipleResultsFound, OperationalError

from ledger import log_postgres, log_sqlite
from ledger.codec import instant_text
from ledger.errors import (
    LedgerBusyError,
    LedgerDamagedError,
    LedgerExistsError,
    LedgerMissingError,
    NotALedgerError,
    SchemaMismatchError,
)
from ledger.groupcommit import Group, GroupCommit, Job, Key, Outcome, Row, Transaction
from ledger.merkle import Frontier
from ledger.schema import SCHEMA_VERSION, facts, head, identity, metadata

T = TypeVar("T")
Kind = Literal["production", "demo"]
READ_ROWS = 5_000
POLL_SECONDS = 0.05


@dataclass(frozen=True)
class Identity:
    """Which ledger this is; a demo is marked as one for ever."""

    ledger_id: UUID
    kind: Kind
    schema_version: int
    created_at: datetime


@dataclass(frozen=True)
class Head:
    """Where the log ends: its size, the Merkle frontier over it, and the newest ``recorded_at``."""

    size: int
    frontier: Frontier
    recorded_at: datetime


class LedgerLog(ApplicationRecorder):
    """One ledger's log. Made by `create` or `open`; safe to use from many threads and processes."""

    def __init__(self, url: URL, engine: Engine, known: Identity, busy_seconds: float) -> None:
        self.url = url
        self.engine = engine
        self.identity = known
        self.busy_seconds = busy_seconds
        self._group_commit = GroupCommit(self._write)
        self._appended = threading.Condition()

    # -- making and opening --

    @classmethod
    def create(
        cls,
        url: str,
        *,
        ledger_id: UUID,
        kind: Kind,
        created_at: datetime,
        app_login: str | None = None,
        busy_seconds: float = 5.0,
    ) -> "LedgerLog":
        """Make a new, empty ledger; refuses a database that holds one (LEDGER_EXISTS) or anything else.

        On PostgreSQL ``url`` is an owner's, and ``app_login`` the role that programs will log in as, if it differs.
        """
        parsed = _parsed(url)
        database = _shown(parsed)
        if parsed.get_backend_name() == "sqlite" and parsed.database:
            Path(parsed.database).parent.mkdir(parents=True, exist_ok=True)
        engine = _engine(parsed, busy_seconds, as_app=False).execution_options(writes=True)
        try:
            with _ours(database, busy_seconds), engine.begin() as connection:
                tables = set(inspect(connection).get_table_names())
                if "ledger_identity" in tables:
                    raise LedgerExistsError(database=database)
                if tables:
                    raise NotALedgerError(database=database, problem="it holds other tables")
                metadata.create_all(connection)
                connection.execute(
                    insert(identity).values(
                        single=1,
                        ledger_id=ledger_id,
                        kind=kind,
                        schema_version=SCHEMA_VERSION,
                        created_at=instant_text(created_at),
                    )
                )
                connection.execute(
                    insert(head).values(single=1, size=0, frontier=b"", recorded_at=instant_text(created_at))
                )
                _protect(connection, app_login)
        finally:
            engine.dispose()
        return cls.open(url, busy_seconds=busy_seconds)

    @classmethod
    def open(cls, url: str, *, busy_seconds: float = 5.0) -> "LedgerLog":
        """Open a ledger that exists; never makes one (LEDGER_MISSING), nor takes another database for one."""
        if os.environ.get("POSTGRES_ENABLE_DB_FUNCTIONS", "").lower() in ("y", "yes", "t", "true", "on", "1"):
            # With it the eventsourcing package drops its table lock, and readers of a shared database miss events.
            raise NotALedgerError(
                database=_shown(_parsed(url)), problem="POSTGRES_ENABLE_DB_FUNCTIONS is set"
            )
        parsed = _parsed(url)
        database = _shown(parsed)
        is_file = parsed.get_backend_name() == "sqlite"
        if is_file and not Path(parsed.database or "").is_file():
            raise LedgerMissingError(database=database)
        with _ours(database, busy_seconds):
            if not is_file:
                _require_app_role(parsed, database)
            engine = _engine(parsed, busy_seconds)
            try:
                known = _identity_of(engine, database)
                if is_file:
                    log_sqlite.use_wal(engine)
            except BaseException:
                engine.dispose()
                raise
        return cls(parsed, engine, known, busy_seconds)

    def close(self) -> None:
        """Give the connections back."""
        self.engine.dispose()

    @property
    def dialect(self) -> Literal["sqlite", "postgresql"]:
        """Which database holds the log."""
        return "sqlite" if self.engine.dialect.name == "sqlite" else "postgresql"

    # -- writing --

    def submit(self, job: Job[T]) -> T:
        """Write one job in a group commit; see `ledger.groupcommit`."""
        return self._group_commit.submit(job)

    def submit_many(self, jobs: Sequence[Job[T]]) -> list[T | BaseException]:
        """Write up to 256 jobs in one transaction; an answer or its own error for each."""
        return self._group_commit.submit_many(jobs)

    def insert_events(self, stored_events: Sequence[StoredEvent], **_kwargs: Any) -> Sequence[int]:
        """Append facts, all or none; their positions. A version that is not the stream's next is an IntegrityError."""
        if not stored_events:
            return []
        return self.submit(_Insertion(stored_events))

    def _write(self, batch: list[Group]) -> None:
        """One transaction for one batch: the leader's part of the group commit."""
        database = log_sqlite if self.dialect == "sqlite" else log_postgres
        with _ours(_shown(self.url), self.busy_seconds), self.engine.connect() as plain:
            connection = plain.execution_options(writes=True)
            with connection.begin() as transaction:
                size, frontier, recorded_at = database.lock_head(connection)
                tx = Transaction(
                    _Session(connection, database), self._frontier(size, frontier), _instant(recorded_at)
                )
                self._prepare(batch, tx)
                if tx.rows or tx.new_outcomes:
                    new_head = tx.frontier.to_bytes(), instant_text(tx.recorded_at)
                    with database.one_trip(connection):
                        database.write(connection, tx.rows, tx.new_outcomes, *new_head)
                        transaction.commit()
        if tx.rows:
            with self._appended:
                self._appended.notify_all()

    @staticmethod
    def _prepare(batch: list[Group], tx: Transaction) -> None:
        jobs = [job for group in batch for job in group.jobs]
        tx.prefetch(
            (stream for job in jobs for stream in job.streams),
            (job.key for job in jobs if job.key is not None),
        )
        for group in batch:
            for index, job in enumerate(group.jobs):
                try:
                    job.prepare(tx)
                except DBAPIError:  # the connection is lost, and the transaction of all with it
                    raise
                except Exception as error:  # reaches this job's caller, and nobody else
                    group.errors[index] = error

    @staticmethod
    def _frontier(size: int, hashes: bytes) -> Frontier:
        try:
            return Frontier(size, hashes)
        except ValueError:
            raise LedgerDamagedError(position=size, problem="the head does not fit its size") from None

    # -- reading --

    def head(self) -> Head:
        """The log's end as it is now."""
        with self.engine.connect() as connection:
            row = connection.execute(select(head.c.size, head.c.frontier, head.c.recorded_at)).one()
        return Head(row.size, self._frontier(row.size, bytes(row.frontier)), _instant(row.recorded_at))

    def read(self, start: int = 1, stop: int | None = None) -> Iterator[Row]:
        """Facts from position ``start`` to ``stop`` (both included; to the end if None), a few thousand at a time."""
        query = select(facts).order_by(facts.c.position).limit(READ_ROWS)
        while stop is None or start <= stop:
            window = query.where(facts.c.position >= start)
            if stop is not None:
                window = window.where(facts.c.position <= stop)
            with self.engine.connect() as connection:
                rows = connection.execute(window).all()
            yield from (_row(row) for row in rows)
            if len(rows) < READ_ROWS:
                return
            start = rows[-1].position + 1

    def stream(self, stream_id: UUID) -> list[Row]:
        """All facts of one stream, in order."""
        query = select(facts).where(facts.c.stream_id == stream_id).order_by(facts.c.version)
        with self.engine.connect() as connection:
            return [_row(row) for row in connection.execute(query)]

    def position_at(self, moment: datetime) -> int:
        """The last position recorded by ``moment``; 0 if none was. Found by bisection: recording time never falls."""
        text = instant_text(moment.astimezone(UTC))
        with self.engine.connect() as connection:
            low, high = 0, connection.execute(select(head.c.size)).scalar_one()
            while low < high:
                middle = (low + high + 1) // 2
                state = connection.execute(
                    select(facts.c.state).where(facts.c.position == middle)
                ).scalar_one()
                if orjson.loads(state)["recorded_at"] <= text:
                    low = middle
                else:
                    high = middle - 1
        return low

    def select_events(
        self,
        originator_id: UUID | str,
        *,
        gt: int | None = None,
        lte: int | None = None,
        desc: bool = False,
        limit: int | None = None,
    ) -> Sequence[StoredEvent]:
        """The package's read of one stream."""
        query = select(facts).where(facts.c.stream_id == originator_id)
        if gt is not None:
            query = query.where(facts.c.version > gt)
        if lte is not None:
            query = query.where(facts.c.version <= lte)
        query = query.order_by(facts.c.version.desc() if desc else facts.c.version).limit(limit)
        with self.engine.connect() as connection:
            return [_stored(row) for row in connection.execute(query)]

    def select_notifications(
        self,
        start: int | None,
        limit: int,
        stop: int | None = None,
        topics: Sequence[str] = (),
        *,
        inclusive_of_start: bool = True,
    ) -> Sequence[Notification]:
        """The package's read by position."""
        query = select(facts).order_by(facts.c.position).limit(limit)
        if start is not None:
            query = query.where(facts.c.position >= start if inclusive_of_start else facts.c.position > start)
        if stop is not None:
            query = query.where(facts.c.position <= stop)
        if topics:
            query = query.where(facts.c.topic.in_(topics))
        with self.engine.connect() as connection:
            return [
                Notification(row.stream_id, row.version, row.topic, row.state.encode(), row.position)
                for row in connection.execute(query)
            ]

    def max_notification_id(self) -> int | None:
        """The last position, or None for an empty log."""
        with self.engine.connect() as connection:
            return connection.execute(select(func.max(facts.c.position))).scalar()

    def subscribe(self, gt: int | None = None, topics: Sequence[str] = ()) -> "LogSubscription":
        """Facts after ``gt``, then each new one as it comes, from whatever process."""
        return LogSubscription(self, gt, topics)

    @contextmanager
    def waiting(self) -> "Iterator[Callable[[int, float], None]]":
        """Gives ``wait(position, seconds)``: returns once there may be facts beyond ``position``, or in time.

        On PostgreSQL it listens for notifications; on SQLite it wakes at once for facts of this process and looks
        every 50 ms for those of others.
        """
        if self.dialect == "postgresql":
            with self.engine.connect() as connection:
                driver = cast(Any, connection.connection.driver_connection)
                connection.rollback()
                try:
                    with _told():
                        driver.autocommit = True
                        driver.execute(_LISTEN)
                    yield lambda position, seconds: self._listen(driver, position, seconds)
                finally:
                    connection.invalidate()  # a listening connection never goes back among the others
        else:
            yield self._poll

    def _listen(self, driver: Any, position: int, seconds: float) -> None:
        if self.head().size > position:
            return
        with _told():
            for _ in driver.notifies(timeout=seconds, stop_after=1):
                return

    def _poll(self, position: int, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while self.head().size <= position and (left := deadline - time.monotonic()) > 0:
            with self._appended:
                self._appended.wait(min(POLL_SECONDS, left))


class LogSubscription(Subscription[LedgerLog]):
    """An endless iterator over facts, without a thread of its own; `stop` ends it within a fraction of a second."""

    def __init__(self, log: LedgerLog, gt: int | None, topics: Sequence[str]) -> None:
        super().__init__(recorder=log, gt=gt, topics=topics)
        self._position = gt or 0
        self._facts = self._endless()

    def __exit__(self, *args: object, **kwargs: Any) -> None:
        super().__exit__(*args, **kwargs)
        self._facts.close()

    def __next__(self) -> Notification:
        if self._has_been_stopped:
            self._facts.close()
            raise StopIteration
        return next(self._facts)

    def _endless(self) -> Generator[Notification, None, None]:
        log = self._recorder
        with log.waiting() as wait:
            while not self._has_been_stopped:
                head_size = log.head().size
                while self._position < head_size and not self._has_been_stopped:
                    found = log.select_notifications(
                        self._position, READ_ROWS, head_size, self._topics, inclusive_of_start=False
                    )
                    for notification in found:
                        if self._has_been_stopped:
                            return
                        self._position = notification.id
                        yield notification
                    if len(found) < READ_ROWS:
                        self._position = head_size
                if not self._has_been_stopped:
                    wait(self._position, 0.25)


class _Insertion(Job[Sequence[int]]):
    """Facts that came without a decision, through the package's own interface."""

    def __init__(self, events: Sequence[StoredEvent]) -> None:
        self.events = events
        self.streams = list({cast(UUID, event.originator_id) for event in events})
        self.positions: Sequence[int] = []

    def prepare(self, tx: Transaction) -> None:
        recorded = [_instant(orjson.loads(event.state)["recorded_at"]) for event in self.events]
        if recorded != sorted(recorded):
            raise ValueError("facts of one call come in the order of their recorded_at")
        if recorded[0] < tx.recorded_at:
            raise IntegrityError("recorded before the newest fact of the log")
        self.positions = tx.append(self.events, recorded[-1], expect_versions=True)

    def committed(self) -> Sequence[int]:
        return self.positions


class _Session:
    """The reads of an append transaction, on the connection that holds the head."""

    def __init__(self, connection: Connection, database: Any) -> None:
        self._connection = connection
        self._database = database

    def versions(self, stream_ids: Sequence[UUID]) -> dict[UUID, int]:
        found: dict[UUID, int] = self._database.versions(self._connection, stream_ids)
        return found

    def outcomes(self, keys: Sequence[Key]) -> list[Outcome]:
        asked = orjson.dumps([[str(person), key] for person, key in keys]).decode()
        rows = self._connection.exec_driver_sql(self._database.OUTCOMES, (asked,))
        return [
            Outcome(_uuid(person), key, bytes(digest), _uuid(command), first, last)
            for person, key, digest, command, first, last in rows
        ]

    def events(self, stream_id: UUID) -> list[StoredEvent]:
        query = select(facts).where(facts.c.stream_id == stream_id).order_by(facts.c.version)
        return [_stored(row) for row in self._connection.execute(query)]

    def streams_after(self, position: int) -> list[UUID]:
        query = select(facts.c.stream_id).where(facts.c.position > position).distinct()
        return list(self._connection.execute(query).scalars())


def _row(row: Any) -> Row:
    return Row(row.position, row.stream_id, row.version, row.topic, row.state.encode(), bytes(row.leaf_hash))


def _uuid(value: Any) -> UUID:
    return value if isinstance(value, UUID) else UUID(value)


def _stored(row: Any) -> StoredEvent:
    return StoredEvent(row.stream_id, row.version, row.topic, row.state.encode())


def _instant(text: str) -> datetime:
    return datetime.fromisoformat(text)


def _parsed(url: str) -> URL:
    parsed = make_url(url)
    if parsed.get_backend_name() not in ("sqlite", "postgresql"):
        raise NotALedgerError(
            database=_shown(parsed), problem="only sqlite: and postgresql: addresses are known"
        )
    if parsed.get_backend_name() == "sqlite" and parsed.database in (None, "", ":memory:"):
        raise NotALedgerError(database=_shown(parsed), problem="a ledger needs a file")
    return parsed


def _shown(url: URL) -> str:
    return url.render_as_string(hide_password=True)


def _engine(url: URL, busy_seconds: float, *, as_app: bool = True) -> Engine:
    if url.get_backend_name() == "sqlite":
        return log_sqlite.make_engine(url, busy_seconds)
    return log_postgres.make_engine(url, busy_seconds, as_app=as_app)


def _protect(connection: Connection, app_login: str | None) -> None:
    if connection.dialect.name == "sqlite":
        log_sqlite.protect(connection)
    else:
        log_postgres.protect(connection, app_login)


def _require_app_role(url: URL, database: str) -> None:
    engine = log_postgres.make_engine(url, 5.0, as_app=False)
    try:
        with engine.connect() as connection:
            if not log_postgres.app_role_exists(connection):
                raise LedgerMissingError(database=database)
    finally:
        engine.dispose()


def _identity_of(engine: Engine, database: str) -> Identity:
    with engine.connect() as connection:
        tables = set(inspect(connection).get_table_names())
        if "ledger_identity" not in tables:
            if tables:
                raise NotALedgerError(database=database, problem="it has no ledger_identity")
            raise LedgerMissingError(database=database)
        try:
            row = connection.execute(select(identity)).one_or_none()
        except (ValueError, MultipleResultsFound):
            raise NotALedgerError(database=database, problem="its ledger_identity is damaged") from None
    if row is None:
        raise NotALedgerError(database=database, problem="its ledger_identity is empty")
    if row.schema_version != SCHEMA_VERSION:
        raise SchemaMismatchError(database=database, found=row.schema_version, expected=SCHEMA_VERSION)
    try:
        return Identity(row.ledger_id, _kind(row.kind), row.schema_version, _instant(row.created_at))
    except ValueError:
        raise NotALedgerError(database=database, problem="its ledger_identity is damaged") from None


def _kind(text: str) -> Kind:
    if text not in get_args(Kind):
        raise ValueError("no kind of ledger")
    return cast(Kind, text)


_LISTEN = f"LISTEN {log_postgres.CHANNEL}"


@contextmanager
def _told() -> Iterator[None]:
    """What the driver itself says of a lost connection, as SQLAlchemy would: whoever follows waits for that."""
    try:
        yield
    except psycopg.Error as error:
        raise OperationalError(_LISTEN, None, error) from None


_NOT_OURS = ("file is not a database", "malformed", "does not exist", "no such column", "no such table")
"""What drivers say of a database that is none of ours, or is damaged."""


@contextmanager
def _ours(database: str, busy_seconds: float) -> Iterator[None]:
    """Turn what drivers say of a held or foreign database into our own errors; anything else passes."""
    try:
        yield
    except DBAPIError as error:
        if log_sqlite.is_busy(error) or log_postgres.is_busy(error):
            raise LedgerBusyError(seconds=busy_seconds) from None
        text = str(error.orig)
        if any(sign in text for sign in _NOT_OURS):
            raise NotALedgerError(database=database, problem=text.strip().splitlines()[0]) from None
        raise
    except UnicodeDecodeError:  # SQLite's complaint repeats bytes that are no text
        raise NotALedgerError(database=database, problem="it is damaged") from None
