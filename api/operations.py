"""Long operations that outlive a restart: batches of certificates, with how far each item got.

Two small tables in the key store's database. They hold ids, days and codes; what was issued and printed are facts, and
an item that was begun twice is done once. What may not live here: names, and how an item is done.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Literal, cast
from uuid import UUID

import sqlalchemy as sa

from api.beside_keys import BesideKeys
from ledger.codec import instant_text
from ledger.errors import KeyReusedError, NotFoundError
from ledger.rules import Caller, Role
from ledger.schema import UuidColumn

ItemState = Literal["waiting", "issued", "printed", "refused"]
"""``refused`` has a code; an issued certificate waits for a checkpoint that covers it."""
FINISHED: frozenset[ItemState] = frozenset({"printed", "refused"})

metadata = sa.MetaData()

batches = sa.Table(
    "certificate_batches",
    metadata,
    sa.Column("operation_id", UuidColumn, primary_key=True),
    sa.Column("digest", sa.LargeBinary, nullable=False),
    sa.Column("person_id", UuidColumn, nullable=False),
    sa.Column("role", sa.Text, nullable=False),
    sa.Column("unit_id", UuidColumn),
    sa.Column("first_on", sa.Text, nullable=False),
    sa.Column("last_on", sa.Text, nullable=False),
    sa.Column("created_at", sa.Text, nullable=False),
    sa.Column("finished_at", sa.Text),
)
"""One row a batch: who asked for which period; ``digest`` is that of the request, keyed."""

items = sa.Table(
    "certificate_batch_items",
    metadata,
    sa.Column("operation_id", UuidColumn, primary_key=True),
    sa.Column("item", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("volunteer_id", UuidColumn, nullable=False),
    sa.Column("state", sa.Text, nullable=False),
    sa.Column("code", sa.Text),
    sa.Column("certificate_number", sa.Text),
)
"""One row a volunteer, in the order asked for."""


@dataclass(frozen=True)
class Item:
    """One volunteer of a batch, and what came of it."""

    item: int
    volunteer_id: UUID
    state: ItemState
    code: str | None
    certificate_number: str | None


@dataclass(frozen=True)
class Batch:
    """A batch as it stands; ``finished_at`` is None while there is something to do."""

    operation_id: UUID
    who: Caller
    first_on: date
    last_on: date
    created_at: str
    finished_at: str | None


class Operations:
    """The tables above. LEDGER_BUSY if others hold them."""

    def __init__(self, url: str, busy_seconds: float) -> None:
        self._database = BesideKeys(url, busy_seconds)
        self._database.make(metadata, {})
        self.close = self._database.close

    def begin(
        self,
        operation_id: UUID,
        digest: bytes,
        who: Caller,
        period: tuple[date, date],
        people: Sequence[UUID],
        at: datetime,
    ) -> bool:
        """Take a batch on, durably; False if it was taken on before. KEY_REUSED if its id was for another request."""
        row = {
            "operation_id": operation_id,
            "digest": digest,
            "person_id": who.person_id,
            "role": who.role,
            "unit_id": who.unit_id,
            "first_on": period[0].isoformat(),
            "last_on": period[1].isoformat(),
            "created_at": _text(at),
            "finished_at": None if people else _text(at),
        }
        with self._database.writing() as connection:
            if self._known(connection, operation_id, digest):
                return False
            connection.execute(batches.insert(), row)
            rows = [
                {"operation_id": operation_id, "item": n, "volunteer_id": person, "state": "waiting"}
                for n, person in enumerate(people, 1)
            ]
            if rows:
                connection.execute(items.insert(), rows)
        return True

    def is_known(self, operation_id: UUID, digest: bytes) -> bool:
        """Whether the batch was taken on before. KEY_REUSED."""
        with self._database.reading() as connection:
            return self._known(connection, operation_id, digest)

    def _known(self, connection: sa.Connection, operation_id: UUID, digest: bytes) -> bool:
        query = sa.select(batches.c.digest).where(batches.c.operation_id == operation_id)
        known = connection.execute(query).scalar_one_or_none()
        if known is not None and bytes(known) != digest:
            raise KeyReusedError
        return known is not None

    def batch(self, operation_id: UUID) -> Batch:
        """NOT_FOUND"""
        with self._database.reading() as connection:
            row = connection.execute(
                sa.select(batches).where(batches.c.operation_id == operation_id)
            ).one_or_none()
        if row is None:
            raise NotFoundError(what=f"operation {operation_id}")
        return _batch(row)

    def unfinished(self) -> list[Batch]:
        """Batches with something to do, oldest first."""
        query = sa.select(batches).where(batches.c.finished_at.is_(None))
        with self._database.reading() as connection:
            rows = connection.execute(query.order_by(batches.c.created_at, batches.c.operation_id)).all()
        return [_batch(row) for row in rows]

    def items(
        self, operation_id: UUID, *, states: Collection[str] | None = None, limit: int | None = None
    ) -> list[Item]:
        """The items of a batch in order, those in certain states only."""
        query = sa.select(items).where(items.c.operation_id == operation_id).order_by(items.c.item)
        if states is not None:
            query = query.where(items.c.state.in_(sorted(states)))
        with self._database.reading() as connection:
            rows = connection.execute(query.limit(limit)).all()
        return [_item(row) for row in rows]

    def note(self, operation_id: UUID, changed: Sequence[Item]) -> None:
        """How far these items got."""
        rows = [
            {
                "b_operation_id": operation_id,
                "b_item": one.item,
                "state": one.state,
                "code": one.code,
                "certificate_number": one.certificate_number,
            }
            for one in changed
        ]
        mine = (items.c.operation_id == sa.bindparam("b_operation_id")) & (
            items.c.item == sa.bindparam("b_item")
        )
        if rows:
            with self._database.writing() as connection:
                connection.execute(sa.update(items).where(mine), rows)

    def finish(self, operation_id: UUID, at: datetime) -> None:
        """There is nothing left to do in the batch."""
        mine = (batches.c.operation_id == operation_id) & batches.c.finished_at.is_(None)
        with self._database.writing() as connection:
            connection.execute(sa.update(batches).where(mine).values(finished_at=_text(at)))


def _batch(row: sa.Row[tuple[object, ...]]) -> Batch:
    return Batch(
        row.operation_id,
        Caller(row.person_id, cast(Role, row.role), row.unit_id),
        date.fromisoformat(row.first_on),
        date.fromisoformat(row.last_on),
        row.created_at,
        row.finished_at,
    )


def _item(row: sa.Row[tuple[object, ...]]) -> Item:
    return Item(row.item, row.volunteer_id, row.state, row.code, row.certificate_number)


def _text(moment: datetime) -> str:
    return instant_text(moment.astimezone(UTC))
