"""Erasure at the edge: the fact comes first, then the key goes; what a crash left in between is carried out later.

From the moment `subject.erased` is durable nothing of the person is unsealed any more (see `api.personal`). So a crash
before the key is destroyed shows nobody anything; it only leaves a key that `resume` finds and destroys.
"""

from collections.abc import Iterator
from uuid import UUID

from sqlalchemy import select

from api.parts import Parts
from ledger.codec import decode
from ledger.events import SubjectErased
from ledger.schema import facts


def carry_out(parts: Parts, person_id: UUID) -> None:
    """Destroy the key, claims and phones of somebody whose erasure is recorded; again changes nothing.

    LEDGER_BUSY if the key store is held: the erasure stands, and the same request finishes it.
    """
    parts.keys.destroy(person_id, parts.ledger.clock())


def resume(parts: Parts) -> list[UUID]:
    """Carry out every recorded erasure whose key is still there; who they were.

    Reads only what was recorded since the last time. A key store restored from its backup remembers the position of
    that day, so that keys which came back with it are destroyed again.
    """
    head, left = parts.log.head().size, []
    after = parts.accesses.carried_out()
    for person_id in _erased(parts, after, head):
        if not parts.keys.is_erased(person_id):
            left.append(person_id)
        carry_out(parts, person_id)  # also where only the last traces of a destroyed key may have been left
    if head > after:
        parts.accesses.carried_out_to(head)
    return left


def _erased(parts: Parts, after: int, head: int) -> Iterator[UUID]:
    query = select(facts).where(
        facts.c.topic == SubjectErased.TOPIC, facts.c.position > after, facts.c.position <= head
    )
    with parts.log.engine.connect() as connection:
        rows = connection.execute(query.order_by(facts.c.position)).all()
    for row in rows:
        fact = decode(row.topic, row.stream_id, row.version, row.state.encode())
        assert isinstance(fact, SubjectErased)
        yield fact.subject_id
