"""The facts themselves, as stored: what an auditor replays, and recomputes any figure from by hand."""

from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Depends, Query, Response
from sqlalchemy import select

from api.deps import When, caller, happened_by, parts_of, row_json, when
from api.identity import require_overseer
from api.parts import Parts
from ledger.codec import EVENTS_BY_TOPIC
from ledger.errors import InvalidRequestError, NotFoundError
from ledger.groupcommit import Row
from ledger.rules import Caller
from ledger.schema import facts
from projections import replay

router = APIRouter(tags=["history"])

Who = Annotated[Caller, Depends(caller)]
Ledger = Annotated[Parts, Depends(parts_of)]


@router.get("/events")
def list_events(
    who: Who,
    parts: Ledger,
    response: Response,
    at: Annotated[When, Depends(when)],
    after: Annotated[int, Query(ge=0, le=2**53, description="Only facts after this position.")] = 0,
    topic: Annotated[list[str] | None, Query()] = None,
    stream: UUID | None = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
) -> dict[str, Any]:
    """Facts in the order of the log, by position, topic or stream; ``next_after`` continues (null at the end).

    With ``effective_on`` those that had not happened by then are left out, so that a page may be shorter than asked.
    """
    require_overseer(who)
    unknown = sorted(set(topic or ()) - EVENTS_BY_TOPIC.keys())
    if unknown:
        raise InvalidRequestError(problem=f"no topic is called {', '.join(unknown)}; events.md lists them")
    head = replay.resolve(parts.log, at.position)
    query = select(facts).where(facts.c.position > after, facts.c.position <= head)
    if topic:
        query = query.where(facts.c.topic.in_(topic))
    if stream:
        query = query.where(facts.c.stream_id == stream)
    with parts.log.engine.connect() as connection:
        found = connection.execute(query.order_by(facts.c.position).limit(limit + 1)).all()
    rows = [
        Row(r.position, r.stream_id, r.version, r.topic, r.state.encode(), bytes(r.leaf_hash))
        for r in found[:limit]
    ]
    response.headers["Ledger-Position"] = str(head)
    more = rows[-1].position if len(found) > limit else None
    return {"events": [row_json(row) for row in rows if happened_by(row, at)], "next_after": more}


@router.get("/events/{position}")
def one_event(position: int, who: Who, parts: Ledger) -> dict[str, Any]:
    """One fact with its stored text, exactly as it is hashed, and its neighbours of the same command."""
    require_overseer(who)
    row = next(iter(parts.log.read(position, position)), None) if 0 < position < 2**53 else None
    if row is None:
        raise NotFoundError(what=f"fact at position {position}")
    return row_json(row) | {"state": row.state.decode(), "leaf_index": row.position - 1}


@router.get("/streams/{stream_id}")
def one_stream(
    stream_id: UUID, who: Who, parts: Ledger, response: Response, at: Annotated[When, Depends(when)]
) -> dict[str, Any]:
    """Everything that ever happened to one thing; a person may read their own stream."""
    if who.person_id != stream_id:
        require_overseer(who)
    head = replay.resolve(parts.log, at.position)
    rows = [row for row in parts.log.stream(stream_id) if row.position <= head and happened_by(row, at)]
    if not rows:
        raise NotFoundError(what=f"stream {stream_id}")
    response.headers["ETag"] = f'"{rows[-1].version}"'
    response.headers["Ledger-Position"] = str(head)
    return {"stream_id": stream_id, "version": rows[-1].version, "events": [row_json(row) for row in rows]}
