"""The eventsourcing package by its own means: its recorders, repository and projections, at their defaults.

Its events carry what our posted entries carry. Commits are made as durable as ours: on SQLite ``synchronous = FULL`` is
set on its connections too, and on PostgreSQL neither side touches ``synchronous_commit``.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from random import Random
from typing import Any
from uuid import UUID, uuid4

from eventsourcing.application import Application
from eventsourcing.dispatch import singledispatchmethod
from eventsourcing.domain import Aggregate, DomainEvent, datetime_now_with_tzinfo, event
from eventsourcing.persistence import StoredEvent, Tracking, TrackingRecorder
from eventsourcing.projection import Projection, ProjectionRunner
from eventsourcing.sqlite import SQLiteTrackingRecorder
from eventsourcing.utils import get_topic
from sqlalchemy.engine import make_url

from bench.measuring import at_once, in_batches, milliseconds, one_by_one, rate
from bench.ours import UNITS, Said

PROJECTED = 20_000
"""Facts its projection is measured on: it takes each by itself, so that its rate does not depend on how many."""
PEOPLE = 500


class EntryRecorded(DomainEvent):
    """The same fields as `ledger.events.EntryPosted`."""

    volunteer_id: str
    entry_id: str
    session_id: str
    unit_id: str
    activity_kind: str
    served_on: str
    minutes: int
    services: int
    source_class: str
    inferred: bool
    late: bool
    command_id: str
    caller_id: str


class Unit(Aggregate):
    """Something with a name, to be loaded, renamed and saved."""

    @event("Established")
    def __init__(self, name: str) -> None:
        self.name = name

    @event("Renamed")
    def rename(self, name: str) -> None:
        self.name = name


class Hours(Application[UUID]):
    """Its application, with nothing of its own."""


class MinutesView(TrackingRecorder):
    """Minutes per volunteer, kept with the place in the log."""

    def add(self, volunteer_id: str, minutes: int, tracking: Tracking) -> None:
        """Both in one transaction."""
        raise NotImplementedError


ADD = (
    "INSERT INTO volunteer_minutes VALUES ({mark}, {mark}) "
    "ON CONFLICT (volunteer_id) DO UPDATE SET minutes = volunteer_minutes.minutes + excluded.minutes"
)
TABLE = "CREATE TABLE IF NOT EXISTS volunteer_minutes (volunteer_id TEXT PRIMARY KEY, minutes BIGINT)"


class SQLiteMinutes(SQLiteTrackingRecorder, MinutesView):
    """On SQLite."""

    def construct_create_table_statements(self) -> list[str]:
        return [*super().construct_create_table_statements(), TABLE]

    def add(self, volunteer_id: str, minutes: int, tracking: Tracking) -> None:
        with self.datastore.transaction(commit=True) as cursor:
            self._insert_tracking(cursor, tracking)
            cursor.execute(ADD.format(mark="?"), (volunteer_id, minutes))


class MinutesProjection(Projection[MinutesView]):
    """The one figure it is measured on."""

    topics = (get_topic(EntryRecorded),)

    @singledispatchmethod
    def process_event(self, domain_event: Any, tracking: Tracking) -> None:
        """Adds what was recorded."""

    @process_event.register
    def _(self, domain_event: EntryRecorded, tracking: Tracking) -> None:
        self.view.add(domain_event.volunteer_id, domain_event.minutes, tracking)


# --- measuring -------------------------------------------------------------------------------------------------------


def measure(url: str, count: int, said: Said) -> dict[str, float]:
    """Its figures on an empty database."""
    found: dict[str, float] = {}
    with _application(url) as app:
        said("appending with eventsourcing")
        found |= _appending(app, count)
        said("loading and saving with eventsourcing")
        found["handle_16"] = _saving(app, count)
        said("reading with eventsourcing")
        found["read"] = _reading(app)
        said("projecting with eventsourcing")
        found |= _projecting(app, url, min(count, PROJECTED))
    return found


def durability(url: str) -> str:
    """What its commits wait for."""
    with _application(url) as app:
        store: Any = app.recorder
        with store.datastore.transaction(commit=False) as cursor:
            if make_url(url).get_backend_name() == "postgresql":
                cursor.execute("SHOW synchronous_commit")
                return f"synchronous_commit={cursor.fetchone()['synchronous_commit']}"
            cursor.execute("PRAGMA journal_mode")
            journal = cursor.fetchone()[0]
            cursor.execute("PRAGMA synchronous")
            return f"journal_mode={journal} synchronous={cursor.fetchone()[0]}"


def bytes_per_fact(url: str) -> float:
    """How long its stored events are."""
    with _application(url) as app:
        some = [len(app.mapper.to_stored_event(fact).state) for fact in _events(100)]
    return sum(some) / len(some)


def _environment(url: str) -> dict[str, str]:
    parsed = make_url(url)
    if parsed.get_backend_name() == "sqlite":
        return {"PERSISTENCE_MODULE": "eventsourcing.sqlite", "SQLITE_DBNAME": parsed.database or ""}
    return {
        "PERSISTENCE_MODULE": "eventsourcing.postgres",
        "POSTGRES_DBNAME": parsed.database or "",
        "POSTGRES_HOST": parsed.host or "",
        "POSTGRES_PORT": str(parsed.port or 5432),
        "POSTGRES_USER": parsed.username or "",
        "POSTGRES_PASSWORD": parsed.password or "none",
        "POSTGRES_POOL_SIZE": "16",
        "POSTGRES_MAX_OVERFLOW": "16",
    }


@contextmanager
def _application(url: str) -> Iterator[Hours]:
    app = Hours(_environment(url))
    recorder: Any = app.recorder
    if make_url(url).get_backend_name() == "sqlite":
        _sync_every_commit(recorder.datastore.pool)
    try:
        yield app
    finally:
        app.close()


def _sync_every_commit(pool: Any) -> None:
    """It sets no mode itself: what SQLite was compiled with would decide."""
    create = pool._create_connection

    def synced() -> Any:
        connection = create()
        connection.cursor().execute("PRAGMA synchronous = FULL")
        return connection

    pool._create_connection = synced


def _events(count: int) -> list[EntryRecorded]:
    dice = Random(1)
    people = [str(UUID(int=dice.getrandbits(128), version=4)) for _ in range(PEOPLE)]
    now = datetime_now_with_tzinfo()
    made: Any = EntryRecorded  # a data class, which checkers do not see
    return [
        made(
            originator_id=uuid4(),
            originator_version=1,
            timestamp=now,
            volunteer_id=people[number % PEOPLE],
            entry_id=str(uuid4()),
            session_id=str(uuid4()),
            unit_id=people[0],
            activity_kind="health",
            served_on="2025-01-01",
            minutes=90,
            services=1,
            source_class="confirmed",
            inferred=False,
            late=False,
            command_id=str(uuid4()),
            caller_id=people[1],
        )
        for number in range(count)
    ]


def _appending(app: Hours, count: int) -> dict[str, float]:
    one, many, batches = (
        [app.mapper.to_stored_event(fact) for fact in _events(min(count, most))]
        for most in (4_000, 16_000, 50_000)
    )

    def singly(stored: StoredEvent) -> None:
        app.recorder.insert_events([stored])

    at_once([app.mapper.to_stored_event(fact) for fact in _events(64)], singly)()
    return {
        "append_one": rate(len(one), one_by_one(one, singly)),
        "append_16": rate(len(many), at_once(many, singly)),
        "append_100": rate(
            len(batches), lambda: [app.recorder.insert_events(some) for some in in_batches(batches, 100)]
        ),
    }


def _saving(app: Hours, count: int) -> float:
    units = [Unit(name="所") for _ in range(UNITS)]
    app.save(*units)
    turns = [(units[number % UNITS].id, f"第{number}所") for number in range(min(count, 4_000))]

    def rename(turn: tuple[UUID, str]) -> None:
        unit: Unit = app.repository.get(turn[0])
        unit.rename(turn[1])
        app.save(unit)

    return rate(len(turns), at_once(turns, rename))


def _reading(app: Hours) -> float:
    last = app.recorder.max_notification_id() or 0

    def read() -> None:
        start = 1
        while start <= last:
            found = app.recorder.select_notifications(start, 5_000)
            for notification in found:
                app.mapper.to_domain_event(notification)
            start = found[-1].id + 1

    return rate(last, read)


def _projecting(app: Hours, url: str, count: int) -> dict[str, float]:
    """Its projection over ``count`` new facts: by its runner on PostgreSQL, in a loop on SQLite (no subscription)."""
    start = app.recorder.max_notification_id() or 0
    for some in in_batches(_events(count), 500):
        app.recorder.insert_events([app.mapper.to_stored_event(fact) for fact in some])
    looped = make_url(url).get_backend_name() == "sqlite"
    times = _looped(app, start) if looped else [_run(app, url, start, count) / count]
    mean = sum(times) / len(times)
    return {"projection": 1 / mean, "projection_ms": milliseconds(times, 50)}


def _looped(app: Hours, start: int) -> list[float]:
    factory: Any = app.factory
    view = factory.tracking_recorder(SQLiteMinutes)
    projection = MinutesProjection(view)
    times = []
    while found := app.recorder.select_notifications(start, 100, inclusive_of_start=False):
        before = time.perf_counter()
        for notification in found:
            tracking = Tracking(app.name, notification.id)
            projection.process_event(app.mapper.to_domain_event(notification), tracking)
        times += [(time.perf_counter() - before) / len(found)] * len(found)
        start = found[-1].id
    return times


def _run(app: Hours, url: str, start: int, count: int) -> float:
    """Seconds its runner takes for ``count`` facts after ``start``; it is told to begin there by its own tracking."""
    from bench.peers_postgres import PostgresMinutes

    factory: Any = app.factory
    factory.tracking_recorder(PostgresMinutes).insert_tracking(Tracking(Hours.name, start))
    before = time.perf_counter()
    with ProjectionRunner(
        application_class=Hours,
        projection_class=MinutesProjection,
        view_class=PostgresMinutes,
        env=_environment(url),
    ) as runner:
        runner.wait(start + count, timeout=600)
        return time.perf_counter() - before
