"""The eventsourcing package by its own means: its recorders, repository and projections, at their defaults.

Its events carry what our posted entries carry. Commits are made as durable as ours: on SQLite ``synchronous = FULL`` is
set on its connections too, and on PostgreSQL neither side touches ``synchronous_commit``.
"""

import time
from contextlib import closing
from random import Random
from typing import Any
from uuid import UUID, uuid4

from eventsourcing.application import Application
from eventsourcing.dispatch import singledispatchmethod
from eventsourcing.domain import Aggregate, DomainEvent, datetime_now_with_tzinfo, event
from eventsourcing.persistence import InfrastructureFactory, StoredEvent, Tracking, TrackingRecorder
from eventsourcing.projection import Projection, ProjectionRunner
from eventsourcing.sqlite import SQLiteTrackingRecorder
from eventsourcing.utils import Environment, get_topic
from sqlalchemy.engine import make_url

from bench.measuring import Measure, at_once, in_batches, one_by_one, rate
from bench.ours import AT_ONCE, COMMANDS, IN_BATCHES, ONE_BY_ONE, READ, UNITS

PROJECTED = 2_000
"""Facts a round projects: it takes each by itself, so that its rate does not depend on how many."""
PEOPLE = 500
MINUTES = 90
"""Of every fact."""


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

    def total(self) -> int:
        """Minutes of everybody: what shows how many facts were projected."""
        raise NotImplementedError


ADD = (
    "INSERT INTO volunteer_minutes VALUES ({mark}, {mark}) "
    "ON CONFLICT (volunteer_id) DO UPDATE SET minutes = volunteer_minutes.minutes + excluded.minutes"
)
TOTAL = "SELECT coalesce(sum(minutes), 0) AS total FROM volunteer_minutes"
TABLE = "CREATE TABLE IF NOT EXISTS volunteer_minutes (volunteer_id TEXT PRIMARY KEY, minutes BIGINT)"


class SQLiteMinutes(SQLiteTrackingRecorder, MinutesView):
    """On SQLite."""

    def construct_create_table_statements(self) -> list[str]:
        return [*super().construct_create_table_statements(), TABLE]

    def add(self, volunteer_id: str, minutes: int, tracking: Tracking) -> None:
        with self.datastore.transaction(commit=True) as cursor:
            self._insert_tracking(cursor, tracking)
            cursor.execute(ADD.format(mark="?"), (volunteer_id, minutes))

    def total(self) -> int:
        with self.datastore.transaction(commit=False) as cursor:
            cursor.execute(TOTAL)
            return int(cursor.fetchone()["total"])


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


class Peers:
    """Its application on one database, which every round writes on."""

    def __init__(self, url: str, count: int) -> None:
        self._url = url
        self._count = count
        self._app = _application(url)
        self._units = [Unit(name="所") for _ in range(UNITS)]
        self._app.save(*self._units)
        self._renamed = 0
        self._factory: Any = None
        at_once(self._stored(64), self._append)()  # connections are made once

    def close(self) -> None:
        self._app.close()
        if self._factory is not None:
            self._factory.close()

    def compared(self) -> dict[str, Measure]:
        """What we do too, under our keys; its projection is of one figure."""
        return {
            "append_one": self._append_one,
            "append_16": self._append_16,
            "append_100": self._append_100,
            "handle_16": self._save_16,
            "read": self._read,
            "rebuild_one": self._project,
        }

    def _stored(self, most: int) -> list[StoredEvent]:
        return [self._app.mapper.to_stored_event(fact) for fact in _events(min(self._count, most))]

    def _append(self, stored: StoredEvent) -> None:
        self._app.recorder.insert_events([stored])

    def _append_one(self) -> float:
        some = self._stored(ONE_BY_ONE)
        return rate(len(some), one_by_one(some, self._append))

    def _append_16(self) -> float:
        some = self._stored(AT_ONCE // 5)
        return rate(len(some), at_once(some, self._append))

    def _append_100(self) -> float:
        some = self._stored(IN_BATCHES)
        return rate(len(some), one_by_one(list(in_batches(some, 100)), self._app.recorder.insert_events))

    def _save_16(self) -> float:
        turns = []
        for _ in range(min(self._count, COMMANDS // 5)):
            self._renamed += 1
            turns.append((self._units[self._renamed % UNITS].id, f"第{self._renamed}所"))
        return rate(len(turns), at_once(turns, self._rename))

    def _rename(self, turn: tuple[UUID, str]) -> None:
        unit: Unit = self._app.repository.get(turn[0])
        unit.rename(turn[1])
        self._app.save(unit)

    def _read(self) -> float:
        """Everything there, which the rounds before wrote, up to as much as we read."""
        last = min(self._app.recorder.max_notification_id() or 0, READ)

        def read() -> None:
            start = 1
            while start <= last:
                found = self._app.recorder.select_notifications(start, 5_000, last)
                for notification in found:
                    self._app.mapper.to_domain_event(notification)
                start = found[-1].id + 1

        return rate(last, read)

    def _project(self) -> float:
        """New facts: by its runner on PostgreSQL; in a loop on SQLite, where it has no subscription."""
        start = self._app.recorder.max_notification_id() or 0
        some = self._stored(PROJECTED)
        for batch in in_batches(some, 500):
            self._app.recorder.insert_events(batch)
        end = self._app.recorder.max_notification_id() or 0
        view = self._view()
        before = view.total()
        if isinstance(view, SQLiteMinutes):
            took = _looped(self._app, view, start)
        else:
            if (view.max_tracking_id(self._app.name) or 0) < start:
                view.insert_tracking(Tracking(self._app.name, start))  # where the runner begins
            took = _run(view, _environment(self._url), end)
        if view.total() - before != MINUTES * len(some):
            raise AssertionError("the projection took in other facts than those it was timed for")
        return len(some) / took

    def _view(self) -> MinutesView:
        """The view, under the name that the runner gives it: its place is kept in a table of that name."""
        view_class: type[Any] = SQLiteMinutes
        if make_url(self._url).get_backend_name() == "postgresql":
            from bench.peers_postgres import PostgresMinutes

            view_class = PostgresMinutes
        if self._factory is None:
            named = Environment(MinutesProjection.name, _environment(self._url))
            self._factory = InfrastructureFactory.construct(env=named)
        view: MinutesView = self._factory.tracking_recorder(view_class)
        return view


def durability(url: str) -> str:
    """What its commits wait for."""
    with closing(_application(url)) as app:
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
    with closing(_application(url)) as app:
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


def _application(url: str) -> Hours:
    app = Hours(_environment(url))
    recorder: Any = app.recorder
    if make_url(url).get_backend_name() == "sqlite":
        _sync_every_commit(recorder.datastore)
    return app


def _sync_every_commit(datastore: Any) -> None:
    """It sets no mode itself: what SQLite was compiled with would decide, also for the connection it has already."""
    pool = datastore.pool
    with datastore.get_connection(commit=True) as first:
        first.cursor().execute("PRAGMA synchronous = FULL")
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
            minutes=MINUTES,
            services=1,
            source_class="confirmed",
            inferred=False,
            late=False,
            command_id=str(uuid4()),
            caller_id=people[1],
        )
        for number in range(count)
    ]


def _looped(app: Hours, view: MinutesView, start: int) -> float:
    """Seconds to project what comes after ``start``."""
    projection = MinutesProjection(view)
    before = time.perf_counter()
    while found := app.recorder.select_notifications(start, 500, inclusive_of_start=False):
        for notification in found:
            tracking = Tracking(app.name, notification.id)
            projection.process_event(app.mapper.to_domain_event(notification), tracking)
        start = found[-1].id
    return time.perf_counter() - before


def _run(view: MinutesView, environment: dict[str, str], end: int) -> float:
    """Seconds its runner takes to ``end``, from the first fact it showed on; its own wait looks up to 0.8 s late."""
    place = view.max_tracking_id(Hours.name) or 0
    with ProjectionRunner(
        application_class=Hours,
        projection_class=MinutesProjection,
        view_class=type(view),
        env=environment,
    ):
        while (view.max_tracking_id(Hours.name) or 0) <= place:
            time.sleep(0.002)
        before = time.perf_counter()
        while (view.max_tracking_id(Hours.name) or 0) < end:
            time.sleep(0.01)
        return time.perf_counter() - before
