"""Where workers keep figures: a database of its own, in which rows and offsets move in one transaction.

How far each partition was taken stands here, beside the rows that were made of it, and moves by compare-and-set only: a
worker that slept while others went on changes nothing. What Kafka knows of offsets is for looking at.

Workers never write the same row. Each keeps partial rows in a *share*, named for the lowest partition it has; under the
figure's own name stands a view that merges the shares by the figure's merge rules. Every merge is commutative and
associative, so it makes no difference who took what, or when. What may not live here: Kafka.
"""

from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pyarrow as pa
import sqlalchemy as sa
from sqlalchemy.exc import ArgumentError, DatabaseError, OperationalError

from ledger import log_postgres, log_sqlite
from ledger.brokers import Topic
from ledger.codec import instant_text
from ledger.errors import InvalidRequestError, LedgerError
from ledger.schema import UuidColumn
from projections.engine import Row
from projections.figures import all_figures
from projections.follower import MovedMeanwhileError, relaxed, write_rows
from projections.projection import Engine, Projection, compiled, latest

SHARE = "share"
"""The last column of every table of partial rows, and of its key: a lookup by the figure's key uses that index."""
_LOCK = 7034002
"""PostgreSQL's advisory lock while a store is made: workers that start together make one."""

_IN_A_WRITE = "SET LOCAL synchronous_commit = off; SET LOCAL idle_in_transaction_session_timeout = '60s'"
"""What a failing power takes is made again from the topic; a write that sleeps is undone, so that others go on."""

metadata = sa.MetaData()

identity = sa.Table(
    "worker_store",
    metadata,
    sa.Column("single", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("store_id", UuidColumn, nullable=False),
    sa.Column("ledger_id", UuidColumn, nullable=False),
    sa.Column("topic", sa.Text, nullable=False),
    sa.Column("topic_id", UuidColumn, nullable=False),
    sa.Column("partitions", sa.Integer, nullable=False),
    sa.Column("made_at", sa.Text, nullable=False),
    sa.CheckConstraint("single = 1", name="worker_store_one_row"),
)
"""One row: which ledger's figures these are, and what they are fed from.

A topic that was deleted and made again has another ``topic_id``, and its offsets mean something else.
"""

partitions = sa.Table(
    "worker_partitions",
    metadata,
    sa.Column("partition", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("next_offset", sa.BigInteger, nullable=False),
    sa.Column("facts", sa.BigInteger, nullable=False),
    sa.Column("last_sequence", sa.BigInteger, nullable=False),
    sa.Column("others", sa.BigInteger, nullable=False),
    sa.Column("updated_at", sa.Text, nullable=False),
)
"""One row a partition: see `Place`."""


class StoreMissingError(LedgerError):
    """Nobody has made a store there."""

    code = "WORKER_STORE_MISSING"
    zh = "{database} 中还没有统计库。请用 --ledger 说明它属于哪个账本，即可建立。"
    en = "There is no store of figures at {database}. Say whose it is with --ledger, and it is made."


class NotAStoreError(LedgerError):
    """Something else is there."""

    code = "NOT_A_WORKER_STORE"
    zh = "{database} 不能作为统计库：{problem}。请另给一个空数据库。"
    en = "{database} cannot be a store of figures: {problem}. Give an empty database of its own."


class OtherStoreError(LedgerError):
    """It was made for something else than it is to be used for."""

    code = "WORKER_STORE_OTHER"
    zh = "这个统计库是为{what} {kept} 建立的，现在却是 {found}。请改用原来的，或另建一个统计库。"
    en = "This store was made for {what} {kept}, and this is {found}. Use what it was made for, or make another store."


class OtherFiguresError(LedgerError):
    """Its tables are those of another version of the program."""

    code = "WORKER_STORE_FIGURES"
    zh = "统计库的表与本程序不符（缺 {missing}；多 {strange}）。请在它旁边另建一个统计库，追上之后再改用它。"
    en = (
        "This store has other figures than this program (missing: {missing}; unknown: {strange}). "
        "Make another store beside it, and turn to that one once it has caught up."
    )


@dataclass(frozen=True)
class Place:
    """How far one partition was taken.

    ``facts`` of this ledger were counted, the last at position ``last_sequence`` (0: none); ``others`` are messages of
    other ledgers that were passed over.
    """

    partition: int
    next_offset: int = 0
    facts: int = 0
    last_sequence: int = 0
    others: int = 0


def stands_at(places: Iterable[Place]) -> tuple[int, int]:
    """How many facts were counted, and the position of the last.

    If these are equal, the figures are those of exactly that position: positions are dense, and no fact counts twice.
    """
    places = list(places)
    return sum(place.facts for place in places), max((place.last_sequence for place in places), default=0)


def parts_of(figure: Projection) -> str:
    """The table of a figure's partial rows."""
    return f"{figure.table_name}_parts"


def parts_table(figure: Projection) -> sa.Table:
    """The figure's table with one row a key and share."""
    table = figure.table(parts_of(figure))
    table.append_column(sa.Column(SHARE, sa.Integer, primary_key=True, nullable=False, autoincrement=False))
    return table


def merging(figure: Projection, dialect: Engine) -> str:
    """The merge rules as one SELECT over partial rows: the columns of the figure's table, hidden ones included."""
    parts = figure.table(parts_of(figure)).c
    keys = [parts[key] for key in figure.keys]
    outputs: list[sa.ColumnElement[Any]] = []
    for measure in figure.measures:
        value = parts[measure.name]
        if measure.merge == "add":
            merged: sa.ColumnElement[Any] = sa.cast(sa.func.sum(value), sa.BigInteger)
        elif measure.at is not None:
            merged = latest(value, parts[measure.at])
        else:
            merged = sa.func.max(value) if measure.merge == "max" else sa.func.min(value)
        outputs.append(merged.label(measure.name))
    outputs += [sa.func.max(parts[m.at]).label(m.at) for m in figure.measures if m.at]
    return compiled(sa.select(*keys, *outputs).group_by(*keys), dialect)


class WorkerStore:
    """One store of all figures of one ledger. Made by `make`, opened by `open`; each thread uses its own."""

    def __init__(self, engine: sa.Engine) -> None:
        self.engine = engine
        self.close = engine.dispose
        with self._reading() as connection:
            row = connection.execute(sa.select(identity)).one()
            found = _tables(connection)
        self.store_id: UUID = row.store_id
        self.ledger_id: UUID = row.ledger_id
        self.topic = Topic(row.topic, row.topic_id, row.partitions)
        _require_figures(found)

    @property
    def dialect(self) -> Engine:
        """Which database holds the store."""
        return "sqlite" if self.engine.dialect.name == "sqlite" else "postgresql"

    @property
    def group(self) -> str:
        """The consumer group of this store's workers: no two stores ever share one, or each would get a part."""
        return f"wenming.figures.{self.store_id}"

    # -- making and opening --

    @classmethod
    def open(cls, url: str, busy_seconds: float = 30) -> "WorkerStore":
        """A store that is there: WORKER_STORE_MISSING, NOT_A_WORKER_STORE, WORKER_STORE_FIGURES."""
        engine, name = _engine(url, busy_seconds, create=False)
        try:
            with _ours(name), engine.connect() as connection:
                if identity.name not in _tables(connection):
                    raise StoreMissingError(database=name)
            return cls(engine)
        except BaseException:
            engine.dispose()
            raise

    @classmethod
    def make(cls, url: str, ledger_id: UUID, topic: Topic, busy_seconds: float = 30) -> "WorkerStore":
        """The store for this ledger and topic, made if there is none; one made for anything else is refused."""
        engine, name = _engine(url, busy_seconds, create=True)
        try:
            with _ours(name):
                with engine.connect() as plain, (making := plain.execution_options(writes=True)).begin():
                    if engine.dialect.name == "postgresql":
                        making.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_LOCK})")
                    missing = identity.name not in (found := _tables(making))
                    if missing:
                        _require_empty(name, found)
                        _create(making, ledger_id, topic)
                if missing and engine.dialect.name == "sqlite":
                    log_sqlite.use_wal(engine)
        finally:
            engine.dispose()
        store = cls.open(url, busy_seconds)
        try:
            store.require(ledger_id=ledger_id, topic=topic)
        except BaseException:
            store.close()
            raise
        return store

    def require(self, *, ledger_id: UUID | None = None, topic: Topic | None = None) -> None:
        """WORKER_STORE_OTHER unless it was made for these."""
        asked: list[tuple[str, object, object]] = []
        if ledger_id is not None:
            asked.append(("ledger", self.ledger_id, ledger_id))
        if topic is not None:
            asked += [
                ("topic", self.topic.name, topic.name),
                ("a number of partitions of", self.topic.partitions, topic.partitions),
                ("the topic with id", self.topic.topic_id, topic.topic_id),
            ]
        for what, kept, found in asked:
            if kept != found:
                raise OtherStoreError(what=what, kept=kept, found=found)

    # -- reading --

    @contextmanager
    def _reading(self) -> Iterator[sa.Connection]:
        """One moment throughout."""
        level = {} if self.dialect == "sqlite" else {"isolation_level": "REPEATABLE READ"}
        with self.engine.connect() as plain, (reading := plain.execution_options(**level)).begin():
            yield reading

    def places(self) -> dict[int, Place]:
        """How far every partition was taken, by its number."""
        with self._reading() as connection:
            return places_of(connection)

    @contextmanager
    def moment(self) -> Iterator["StoreMoment"]:
        """The figures as they stand, to be asked (`projections.moment`), all of one moment."""
        with self._reading() as connection:
            facts, last = stands_at(places_of(connection).values())
            yield StoreMoment(connection, facts, exact=facts == last)

    # -- writing --

    def write(
        self,
        moves: Sequence[tuple[Place, Place]],
        share: int,
        rows: Iterable[tuple[Projection, pa.Table]] = (),
    ) -> None:
        """Take partitions from one place to another, with the rows that lie between: all of it, or nothing.

        Raises `MovedMeanwhileError` if any partition is not where its move begins; nothing is written then. ``moves``
        has the partition that ``share`` is named for among them, moving or not: it is what keeps others from writing
        the share meanwhile.
        """
        if share not in (before.partition for before, _ in moves):
            raise ValueError("a share is written by whoever holds its partition")
        with self._writing() as connection:
            # In the order of partitions: two that lock in one order cannot wait for each other.
            for before, after in sorted(moves, key=lambda move: move[0].partition):
                _move(connection, before, after)
            for figure, partial in rows:
                write_rows(connection, figure, parts_of(figure), partial, merge=True, share=share)

    @contextmanager
    def _writing(self) -> Iterator[sa.Connection]:
        """A transaction that does not wait for the disk."""
        with self.engine.connect() as plain:
            connection = plain.execution_options(writes=True)
            on_sqlite = self.dialect == "sqlite"
            unsynced = relaxed(connection.connection.driver_connection) if on_sqlite else nullcontext()
            with unsynced, connection.begin():
                if not on_sqlite:
                    connection.exec_driver_sql(_IN_A_WRITE)
                yield connection


class StoreMoment:
    """All figures of a store at one moment.

    ``position`` is how many facts they are made of; only if it is ``exact`` are these the first facts of the ledger.
    """

    def __init__(self, connection: sa.Connection, facts: int, *, exact: bool) -> None:
        self._connection = connection
        self.position, self.exact = facts, exact

    def rows(self, query: sa.Select[Any]) -> list[dict[str, Any]]:
        """The answer to a question over the figures, as plain values by name."""
        return [dict(row) for row in self._connection.execute(query).mappings()]

    def table(self, figure: Projection) -> list[Row]:
        """All rows of a figure, hidden columns included, in the order of its key."""
        table = figure.table()
        rows = self._connection.execute(sa.select(*(table.c[name] for name in figure.columns)))
        return sorted((tuple(row) for row in rows), key=lambda row: row[: len(figure.keys)])


# --- its tables ------------------------------------------------------------------------------------------------------


def _create(connection: sa.Connection, ledger_id: UUID, topic: Topic) -> None:
    now = instant_text(datetime.now(UTC))
    metadata.create_all(connection)
    connection.execute(
        identity.insert().values(
            single=1,
            store_id=uuid4(),
            ledger_id=ledger_id,
            topic=topic.name,
            topic_id=topic.topic_id,
            partitions=topic.partitions,
            made_at=now,
        )
    )
    places = [vars(Place(number)) | {"updated_at": now} for number in range(topic.partitions)]
    connection.execute(partitions.insert(), places)
    dialect: Engine = "sqlite" if connection.dialect.name == "sqlite" else "postgresql"
    for figure in all_figures():
        parts_table(figure).create(connection)
        connection.exec_driver_sql(f"CREATE VIEW {figure.table_name} AS {merging(figure, dialect)}")


def places_of(connection: sa.Connection) -> dict[int, Place]:
    """How far every partition was taken, as this transaction sees it."""
    columns = [partitions.c[name] for name in vars(Place(0))]
    rows = connection.execute(sa.select(*columns).order_by(partitions.c.partition))
    return {row.partition: Place(*row) for row in rows}


def _move(connection: sa.Connection, before: Place, after: Place) -> None:
    """Compare and set: the offset says all, for it only grows, and what stands beside it was written with it."""
    fields = vars(after) | {"updated_at": instant_text(datetime.now(UTC))}
    here = (partitions.c.partition == before.partition) & (partitions.c.next_offset == before.next_offset)
    if connection.execute(partitions.update().where(here).values(fields)).rowcount != 1:
        raise MovedMeanwhileError()


def _tables(connection: sa.Connection) -> set[str]:
    return set(sa.inspect(connection).get_table_names())


def _require_empty(name: str, found: Collection[str]) -> None:
    if found:
        raise NotAStoreError(database=name, problem=f"it holds other tables ({min(found)})")


def _require_figures(found: Collection[str]) -> None:
    """A figure that came later would have to be made from the first message, and one that went would fall behind."""
    kept = {table for table in found if table.startswith("figure_")}
    known = {parts_of(figure) for figure in all_figures()}
    if kept != known:
        raise OtherFiguresError(missing=sorted(known - kept) or "–", strange=sorted(kept - known) or "–")


# --- its database ----------------------------------------------------------------------------------------------------


def _engine(url: str, busy_seconds: float, *, create: bool) -> tuple[sa.Engine, str]:
    try:
        parsed = sa.make_url(url)
    except ArgumentError:
        raise InvalidRequestError(problem="store: not a database URL such as sqlite:///figures.db") from None
    name = parsed.render_as_string(hide_password=True)
    if parsed.get_backend_name() == "postgresql":
        return log_postgres.make_engine(parsed, busy_seconds, as_app=False), name
    if parsed.get_backend_name() != "sqlite" or parsed.database in (None, "", ":memory:"):
        raise NotAStoreError(database=name, problem="a store is a file of SQLite or a database of PostgreSQL")
    file = Path(parsed.database or "")
    if not create and not file.is_file():
        raise StoreMissingError(database=name)
    file.parent.mkdir(parents=True, exist_ok=True)
    return log_sqlite.make_engine(parsed, busy_seconds), name


@contextmanager
def _ours(name: str) -> Iterator[None]:
    """What the drivers say of a file that is none of theirs, as ours; anything else passes."""
    try:
        yield
    except OperationalError:
        raise
    except DatabaseError as error:
        if "file is not a database" in str(error.orig):
            raise NotAStoreError(database=name, problem="it is no SQLite file") from None
        raise
