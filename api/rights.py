"""What a person may see of their own data (PIPL art. 44–50): their whole file, who opened what, and their requests."""

import typing
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from functools import cache
from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Depends, Query, Response
from sqlalchemy import select

from api.deps import When, asking, caller, caught_up, parts_of, row_json
from api.parts import Parts
from api.personal import Fields, Reader, Sealing, reader_of
from ledger import events, ids
from ledger.codec import EVENTS_BY_TOPIC, decode
from ledger.errors import (
    InvalidRequestError,
    NotAllowedNowError,
    NotYourselfError,
    SelfApprovalError,
    UnknownDataRequestError,
    UnknownVolunteerError,
)
from ledger.groupcommit import Row
from ledger.rules import Caller
from ledger.schema import facts
from projections.certificates import certificates
from projections.moment import Moment
from projections.orders import order_answers, order_board
from projections.rosters import roster
from projections.statements import statement

router = APIRouter(tags=["rights of the person"])

Who = Annotated[Caller, Depends(caller)]
Ledger = Annotated[Parts, Depends(parts_of)]
Json = dict[str, Any]

ANOTHERS = "〔他人信息〕"
"""Stands in somebody's file for what another person said in the same order."""


@router.get("/data-requests")
def list_data_requests(
    who: Who,
    parts: Ledger,
    undecided: Annotated[bool, Query(description="Only those that wait for a decision.")] = False,
    after: Annotated[int, Query(ge=0, le=2**53, description="The position of the last one before.")] = 0,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
) -> Json:
    """Data-subject requests, oldest first: all of them for admins and auditors, their own for anybody else."""
    subject_id = None if who.role in ("admin", "auditor") else who.person_id
    found = _received(parts, subject_id, after)
    shown = [asked for asked in found if not (undecided and asked["outcome"])]
    more = shown[limit - 1]["position"] if len(shown) > limit else None
    return {"data_requests": shown[:limit], "next_after": more}


@router.get("/volunteers/{volunteer_id}/access-log")
def access_log(
    volunteer_id: UUID,
    who: Who,
    parts: Ledger,
    after: Annotated[int, Query(ge=0, le=2**53)] = 0,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
) -> Json:
    """Who unsealed what of this person and when, oldest first; for themself, admins and auditors."""
    if who.person_id != volunteer_id and who.role not in ("admin", "auditor"):
        raise NotYourselfError(volunteer_id=volunteer_id)
    found = parts.accesses.of(volunteer_id, after=after, limit=limit + 1)
    more = found[limit - 1][0] if len(found) > limit else None
    return {"accesses": [asdict(access) for _, access in found[:limit]], "next_after": more}


@router.get("/volunteers/{volunteer_id}/export")
def export(
    volunteer_id: UUID,
    who: Who,
    parts: Ledger,
    reader: Annotated[Reader, Depends(reader_of)],
    response: Response,
    _fresh: Annotated[None, Depends(caught_up)],
    request_id: Annotated[
        UUID | None, Query(description="For an administrator: the access request they answer.")
    ] = None,
) -> Json:
    """Everything kept about a person, what is sealed made readable: for themself, or to answer their request.

    Their own facts, the orders they placed or were asked to serve (what others said in those stays closed), teams,
    certificates, hours with where each minute comes from, their requests, and who unsealed what of them.
    """
    if who.person_id != volunteer_id:
        _require_answering(parts, who, volunteer_id, request_id)
    figures = (order_board, order_answers, roster, certificates)
    with asking(parts, When(None, None), response, *figures) as moment:
        order_ids, teams = _orders_of(moment, volunteer_id), _teams_of(moment, volunteer_id)
        certified = _certificates_of(moment, volunteer_id)
        position = moment.position
    subject = reader.standing(volunteer_id)
    file = _File(reader, volunteer_id, position)
    return {
        "person_id": volunteer_id,
        "position": position,
        "restricted": subject is not None and subject.restricted,
        "erased": subject is not None and subject.erased,
        "facts": file.stream(volunteer_id),
        "data_use": file.stream(ids.subject_id(parts.ledger.ledger_id, volunteer_id)),
        "orders": [{"order_id": order_id, "facts": file.stream(UUID(order_id))} for order_id in order_ids],
        "teams": teams,
        "certificates": [{"certificate_id": one, "facts": file.stream(one)} for one in certified],
        "hours": _hours(parts, volunteer_id, position),
        "data_requests": _received(parts, volunteer_id, 0),
        "accesses": [asdict(access) for _, access in parts.accesses.of(volunteer_id)],
    }


def _require_answering(parts: Parts, who: Caller, person_id: UUID, request_id: UUID | None) -> None:
    """An administrator who may decide this person's request for access; nobody reads a file out of curiosity."""
    if who.role != "admin":
        raise NotYourselfError(volunteer_id=person_id)
    if request_id is None:
        raise InvalidRequestError(problem="an administrator names the access request that they answer")
    state = parts.ledger.state(request_id)
    if (
        state is None
        or state.stream != "data_request"
        or (state.kind, state.subject_id) != ("access", person_id)
    ):
        raise UnknownDataRequestError(id=request_id)
    if not state.may_be_decided_by(who.person_id):
        raise SelfApprovalError(request_id=request_id)
    if state.outcome == "refused":
        raise NotAllowedNowError(status="refused", action="export", allowed=[])


# --- the file --------------------------------------------------------------------------------------------------------


class _File:
    """Facts of a person with their sealed fields opened, as of one position."""

    def __init__(self, reader: Reader, person_id: UUID, position: int) -> None:
        self.reader, self.person_id, self.position = reader, person_id, position

    def stream(self, stream_id: UUID) -> list[Json]:
        rows = [row for row in self.reader.parts.log.stream(stream_id) if row.position <= self.position]
        shown = [row_json(row) for row in rows]
        for (number, name), fields in self._opened(rows, own=stream_id == self.person_id):
            shown[number]["data"][name] = fields
        return shown

    def _opened(self, rows: Sequence[Row], *, own: bool) -> Iterable[tuple[tuple[int, str], Fields | str]]:
        """What stands for each sealed field: all of their own stream opens, elsewhere only what they said."""
        sealed = {
            (number, name): Sealing(row.topic, text)
            for number, row in enumerate(rows)
            for name, text in _sealed(row)
        }
        theirs = {place: s for place, s in sealed.items() if own or s.person_id == self.person_id}
        yield from ((place, ANOTHERS) for place in sealed.keys() - theirs.keys())
        yield from zip(theirs, self.reader.read(list(theirs.values()), about=self.person_id), strict=True)


def _sealed(row: Row) -> list[tuple[str, str]]:
    """The sealed fields of a fact, by name."""
    names = sealed_fields(EVENTS_BY_TOPIC[row.topic])
    if not names:
        return []
    fact = decode(row.topic, row.stream_id, row.version, row.state)
    return [(name, getattr(fact, name)) for name in names if getattr(fact, name) is not None]


@cache
def sealed_fields(event: type[events.Fact]) -> tuple[str, ...]:
    """The names of the fields of an event that are `Sealed`, or may be."""
    hints = typing.get_type_hints(event, include_extras=True)
    return tuple(
        name
        for name in event.model_fields
        if events.Sealed == hints[name] or events.Sealed in typing.get_args(hints[name])
    )


def _orders_of(moment: Moment, person_id: UUID) -> list[str]:
    placed, asked, person = order_board.table(), order_answers.table(), str(person_id)
    own = moment.rows(select(placed.c.order_id).where(placed.c.requester_id == person))
    served = moment.rows(select(asked.c.order_id).where(asked.c.volunteer_id == person))
    return sorted({row["order_id"] for row in (*own, *served)})


def _certificates_of(moment: Moment, person_id: UUID) -> list[UUID]:
    table = certificates.table()
    mine = select(table.c.certificate_id).where(table.c.volunteer_id == str(person_id))
    return [UUID(row["certificate_id"]) for row in moment.rows(mine.order_by(table.c.issued_position))]


def _teams_of(moment: Moment, person_id: UUID) -> list[Json]:
    table = roster.table()
    mine = select(table.c.team_id, table.c.joined, table.c.left_count).where(
        table.c.volunteer_id == str(person_id)
    )
    rows = moment.rows(mine.order_by(table.c.team_id))
    return [{"team_id": row["team_id"], "member": row["joined"] > row["left_count"]} for row in rows]


def _hours(parts: Parts, person_id: UUID, position: int) -> Json | None:
    """The statement of hours; None for somebody who never enrolled."""
    try:
        whole = statement(parts.log, person_id, position)
    except UnknownVolunteerError:
        return None
    sessions = [
        {
            "session_id": line.session_id,
            "started_at": line.started_at,
            "ended_at": line.ended_at,
            "minutes": line.minutes,
            "source_class": line.source_class,
            "evidence_grade": line.grade,
            "positions": [position for position, _ in line.entries],
        }
        for line in whole.lines
    ]
    return {"minutes": whole.minutes, "sessions": sessions}


# --- requests --------------------------------------------------------------------------------------------------------


def _received(parts: Parts, subject_id: UUID | None, after: int) -> list[Json]:
    """Requests in the order of the log. They are few and asked for seldom, so the log itself is read: no figure."""
    query = select(facts.c.stream_id).where(
        facts.c.topic == events.DataRequestReceived.TOPIC, facts.c.position > after
    )
    if subject_id is not None:
        query = query.where(facts.c.state.contains(f'"subject_id":"{subject_id}"'))
    with parts.log.engine.connect() as connection:
        found = list(connection.scalars(query.order_by(facts.c.position)))
    return [_request(parts.log.stream(request_id)) for request_id in found]


def _request(rows: list[Row]) -> Json:
    received = decode(rows[0].topic, rows[0].stream_id, rows[0].version, rows[0].state)
    assert isinstance(received, events.DataRequestReceived)
    answer: Json = dict.fromkeys(("outcome", "reason", "late", "decided_at", "decided_by_id"))
    for row in rows[1:]:
        fact = decode(row.topic, row.stream_id, row.version, row.state)
        if isinstance(fact, events.DataRequestDecided):
            answer = {"outcome": fact.outcome, "reason": fact.reason, "late": fact.late}
            answer |= {"decided_at": fact.recorded_at, "decided_by_id": fact.caller_id}
    return {
        "request_id": received.originator_id,
        "position": rows[0].position,
        "subject_id": received.subject_id,
        "kind": received.kind,
        "relayed": received.relayed,
        "received_at": received.recorded_at,
        "received_by_id": received.caller_id,
        "due_on": received.due_on,
        **answer,
    }
