"""What routes share: the parts, who asks, the moment asked about, and how a fact looks as JSON."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Annotated, Any
from uuid import UUID

import orjson
from fastapi import Depends, Header, Query, Request, Response
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from sqlalchemy import select

from api.identity import UnauthenticatedError, require_overseer, require_writer
from api.parts import Parts
from api.problems import FiguresBehindError
from ledger.codec import encode
from ledger.errors import InvalidRequestError
from ledger.events import Fact
from ledger.groupcommit import Row
from ledger.rules import Caller
from projections import follower, replay
from projections.moment import Moment
from projections.projection import Projection
from projections.units import subtree, units

bearer = HTTPBearer(auto_error=False, description="An API key made with `wenming user add`.")


def parts_of(request: Request) -> Parts:
    """The running ledger."""
    parts: Parts = request.app.state.parts
    return parts


def caller(
    credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(bearer)],
    parts: Annotated[Parts, Depends(parts_of)],
) -> Caller:
    """Who asks, by their API key."""
    if credentials is None or credentials.scheme.lower() != "bearer":
        raise UnauthenticatedError
    return parts.accounts.who(credentials.credentials).caller


def writer(who: Annotated[Caller, Depends(caller)]) -> Caller:
    """Who asks for a change; WRONG_ROLE for those whose role is to read."""
    require_writer(who)
    return who


def overseer(who: Annotated[Caller, Depends(caller)]) -> Caller:
    """Who asks for what only those see who see everything; WRONG_ROLE for anybody else."""
    require_overseer(who)
    return who


@dataclass(frozen=True)
class When:
    """The moment a read is about: now, or as of a position, or what had happened by a day."""

    position: int | None
    effective_on: date | None

    def __bool__(self) -> bool:
        return self.position is not None or self.effective_on is not None


def caught_up(
    parts: Annotated[Parts, Depends(parts_of)],
    ledger_min_position: Annotated[
        int | None, Header(ge=0, le=2**53, description="Answer only once the figures have got there.")
    ] = None,
) -> None:
    """Read your own writes: wait a little for the figures to get there, or PROJECTION_BEHIND."""
    if ledger_min_position is not None:
        _wait_for(parts, ledger_min_position)


def when(
    parts: Annotated[Parts, Depends(parts_of)],
    as_of: Annotated[
        str | None,
        Query(max_length=40, description="A position, or a time with offset: what the ledger knew then."),
    ] = None,
    effective_on: Annotated[
        date | None, Query(description="A local day: only what had happened by its end.")
    ] = None,
    _caught_up: Annotated[None, Depends(caught_up)] = None,
) -> When:
    """The parsed moment; a position or a time beyond the head is refused with AS_OF_BEYOND_HEAD."""
    if effective_on is not None and not 1949 <= effective_on.year <= 2199:
        raise InvalidRequestError(problem="effective_on lies between 1949 and 2199")
    return When(None if as_of is None else position_of(as_of, parts, "as_of"), effective_on)


def position_of(text: str, parts: Parts, name: str) -> int:
    """The position that a parameter means; one beyond the head is refused with AS_OF_BEYOND_HEAD."""
    if text.isdecimal() and len(text) <= 15:
        return replay.resolve(parts.log, int(text))
    return replay.resolve(parts.log, _past(text, parts, name))


def _past(text: str, parts: Parts, name: str) -> datetime:
    # In a URL an unescaped + arrives as a space.
    try:
        moment = datetime.fromisoformat(
            text.replace(" ", "+") if text.count(" ") == 1 and "T" in text else text
        )
    except ValueError:
        moment = datetime.min
    if moment.tzinfo is None or not 1949 <= moment.year <= 2199:
        raise InvalidRequestError(
            problem=f"{name} is a position, or a time with offset such as 2026-06-30T18:00:00+08:00"
        )
    if moment > datetime.now(UTC) and moment > parts.ledger.clock():
        raise replay.BeyondHeadError(position=text, head=parts.log.head().size)
    return moment


def _wait_for(parts: Parts, position: int) -> None:
    deadline = time.monotonic() + parts.settings.wait_seconds
    while (reached := follower.reached(parts.log)) < position:
        if time.monotonic() >= deadline:
            raise FiguresBehindError(position=reached, wanted=position)
        time.sleep(0.01)


@contextmanager
def asking(
    parts: Parts, at: When, response: Response, *figures: Projection, stream_id: UUID | None = None
) -> Iterator[Moment]:
    """Figures at the moment asked about; the answer says which position it is."""
    with replay.at(
        parts.log,
        figures,
        at.position,
        effective_on=at.effective_on,
        stream_id=stream_id,
        archive=parts.archive,
    ) as moment:
        response.headers["Ledger-Position"] = str(moment.position)
        yield moment


def units_of(parts: Parts, who: Caller) -> frozenset[str] | None:
    """The units the caller acts for as the tree stands now; None for the whole county."""
    if who.unit_id is None:
        return None
    table = units.table()
    with replay.at(parts.log, (units,)) as moment:
        return frozenset(subtree(moment.rows(select(table.c.unit_id, table.c.parent_id)), str(who.unit_id)))


def fact_json(fact: Fact) -> dict[str, Any]:
    """A fact as it is stored, beside its topic; sealed fields stay sealed."""
    data: dict[str, Any] = orjson.loads(encode(fact))
    return {
        "topic": fact.TOPIC,
        "stream_id": str(fact.originator_id),
        "version": fact.originator_version,
        "data": data,
    }


def happened_by(row: Row, at: When) -> bool:
    """Whether a fact had happened by the end of the day asked about; True if no day was."""
    limit = replay.end_of(at.effective_on)
    return limit is None or row.state.partition(b'"happened_at":"')[2][:27].decode() <= limit


def row_json(row: Row) -> dict[str, Any]:
    """A stored row: position, stream, leaf hash (hex), and the state as JSON."""
    return {
        "position": row.position,
        "stream_id": str(row.stream_id),
        "version": row.version,
        "topic": row.topic,
        "leaf_hash": row.leaf_hash.hex(),
        "data": orjson.loads(row.state),
    }
