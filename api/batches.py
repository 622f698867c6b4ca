"""Many certificates at once: asked for by HTTP, made by a thread of the server, and taken up again after a restart.

Number and key of each certificate follow from the batch and the volunteer, so whatever is done twice is done once.
"""

import io
import logging
import threading
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Depends, Response
from fastapi.responses import StreamingResponse
from pydantic import Field
from sqlalchemy import func, select
from sqlalchemy.exc import SQLAlchemyError

from api.certificates import (
    Issuer,
    Key,
    Ledger,
    Period,
    Printer,
    Tree,
    Unsealing,
    Who,
    Wish,
    Writer,
    number_in,
    printed_document,
)
from api.commands import key_of, written_form
from api.deps import caught_up, units_of
from api.operations import FINISHED, Batch, Item
from api.parts import Parts
from api.personal import Reader
from api.printing import Press, certificate_of
from api.queries import below
from ledger import ids
from ledger.errors import (
    InvalidRequestError,
    LedgerError,
    NotAllowedNowError,
    NotFoundError,
    NotSignedYetError,
    OutsideSubtreeError,
    Refusal,
    WrongRoleError,
)
from ledger.rules import Caller
from ledger.tree import TreeStore
from projections import replay
from projections.hours import volunteer_days
from projections.people import volunteers
from projections.units import units

PEOPLE_MAX = 5_000
"""Certificates of one batch; more are more batches."""
ISSUED_AT_ONCE, PRINTED_AT_ONCE = 64, 8
AGAIN_SECONDS = 0.5

router = APIRouter(tags=["certificates"])
log = logging.getLogger("wenming.api")
Json = dict[str, Any]


class BatchBody(Period):
    """Either a unit, for everybody at home in it or below who served in the period, or a list of volunteers."""

    unit_id: UUID | None = None
    volunteer_ids: Annotated[tuple[UUID, ...], Field(min_length=1, max_length=PEOPLE_MAX)] | None = None


@router.post("/certificates/batch", status_code=202)
def issue_batch(
    body: BatchBody,
    who: Writer,
    parts: Ledger,
    tree: Tree,
    response: Response,
    _fresh: Annotated[None, Depends(caught_up)],
    idempotency_key: Key = None,
) -> Json:
    """Issue and print a certificate for each of many people; the answer says where to ask how far it got.

    The same key asks for the same batch. Who gets none, and why, stands beside each person.
    """
    key = key_of(idempotency_key, dry_run=False)
    assert key is not None
    if who.role not in ("organiser", "admin"):
        raise WrongRoleError(role=who.role, needed=["organiser", "admin"])
    operation_id = ids.command_id(parts.ledger.ledger_id, who.person_id, f"batch|{key}")
    digest = parts.keys.request_digest(written_form({"path": "/certificates/batch", "body": body}))
    if not parts.operations.is_known(operation_id, digest):
        Press(parts, tree).issuer_key()
        people = _people(parts, who, body)
        period = body.first_on, body.last_on
        parts.operations.begin(operation_id, digest, who, period, people, parts.ledger.clock())
    response.headers["Location"] = f"/v1/operations/{operation_id}"
    return _told(parts, parts.operations.batch(operation_id))


def _people(parts: Parts, who: Caller, body: BatchBody) -> list[UUID]:
    if (body.unit_id is None) == (body.volunteer_ids is None):
        raise InvalidRequestError(problem="give either unit_id or volunteer_ids")
    if body.volunteer_ids is not None:
        return list(dict.fromkeys(body.volunteer_ids))
    assert body.unit_id is not None
    inside = units_of(parts, who)
    if inside is not None and str(body.unit_id) not in inside:
        raise OutsideSubtreeError(unit_id=body.unit_id)
    return _served(parts, body.unit_id, body)


def _served(parts: Parts, unit_id: UUID, period: Period) -> list[UUID]:
    """Whose home is the unit or one below it, and who have minutes in the period; the rules judge each of them."""
    people, days = volunteers.table(), volunteer_days.table()
    with replay.at(parts.log, (units, volunteers, volunteer_days)) as moment:
        homes = sorted(below(moment, unit_id))
        query = (
            select(people.c.volunteer_id)
            .join(days, days.c.volunteer_id == people.c.volunteer_id)
            .where(
                people.c.home_unit_id.in_(homes),
                days.c.served_on >= period.first_on.isoformat(),
                days.c.served_on <= period.last_on.isoformat(),
            )
            .group_by(people.c.volunteer_id, people.c.volunteer_number)
            .having(func.sum(days.c.minutes) > 0)
            .order_by(people.c.volunteer_number, people.c.volunteer_id)
            .limit(PEOPLE_MAX + 1)
        )
        found = [UUID(row["volunteer_id"]) for row in moment.rows(query)]
    if len(found) > PEOPLE_MAX:
        raise InvalidRequestError(problem=f"more than {PEOPLE_MAX} people served there; ask unit by unit")
    return found


# --- how far it got --------------------------------------------------------------------------------------------------


@router.get("/operations/{operation_id}")
def operation(operation_id: UUID, who: Who, parts: Ledger) -> Json:
    """A batch, and what came of each person in it; for who asked for it, and for admins."""
    return _told(parts, _own(parts, who, operation_id))


@router.get(
    "/operations/{operation_id}/result",
    response_class=StreamingResponse,
    responses={200: {"content": {"application/zip": {}}, "description": "Every document of the batch."}},
)
def operation_result(
    operation_id: UUID, who: Who, parts: Ledger, reader: Unsealing, tree: Tree
) -> StreamingResponse:
    """All documents of a finished batch in one file, each named by its number. It is made while it is sent."""
    batch = _own(parts, who, operation_id)
    if batch.finished_at is None:
        raise NotAllowedNowError(status="running", action="download", allowed=["wait"])
    numbers = [item.certificate_number for item in parts.operations.items(operation_id, states=("printed",))]
    body = _zipped(Press(parts, tree), reader, [number for number in numbers if number])
    headers = {"Content-Disposition": f'attachment; filename="certificates-{operation_id}.zip"'}
    return StreamingResponse(body, media_type="application/zip", headers=headers)


def _own(parts: Parts, who: Caller, operation_id: UUID) -> Batch:
    batch = parts.operations.batch(operation_id)
    if who.role != "admin" and who.person_id != batch.who.person_id:
        raise NotFoundError(what=f"operation {operation_id}")
    return batch


def _told(parts: Parts, batch: Batch) -> Json:
    found = parts.operations.items(batch.operation_id)
    open_ = [item for item in found if item.state not in FINISHED]
    running = "signing" if all(item.state == "issued" for item in open_) else "issuing"
    return {
        "operation_id": batch.operation_id,
        "state": "done" if batch.finished_at else running,
        "first_on": batch.first_on,
        "last_on": batch.last_on,
        "created_at": batch.created_at,
        "finished_at": batch.finished_at,
        "total": len(found),
        "done": len(found) - len(open_),
        "printed": sum(item.state == "printed" for item in found),
        "refused": sum(item.state == "refused" for item in found),
        "items": [asdict(item) for item in found],
        "result": f"/v1/operations/{batch.operation_id}/result" if batch.finished_at else None,
    }


def _zipped(press: Press, reader: Reader, numbers: Sequence[str]) -> Iterator[bytes]:
    """A zip file, piece by piece; who was erased or restricted since has a text that says so in place of a document."""
    sink = _Sink()
    with zipfile.ZipFile(sink, "w") as archive:
        for number in numbers:
            try:
                document = printed_document(press, certificate_of(press.parts, number), reader)
            except Refusal as refusal:
                said = f"{refusal.code}\n{refusal.sentence_zh}\n{refusal.sentence_en}\n"
                archive.writestr(zipfile.ZipInfo(f"{number}.{refusal.code}.txt"), said)
            else:
                archive.writestr(zipfile.ZipInfo(f"{number}.pdf"), document.pdf)
            yield sink.taken()
    yield sink.taken()


class _Sink(io.RawIOBase):
    """What a zip file is written to; it is taken away as it comes."""

    def __init__(self) -> None:
        self._pieces: list[bytes] = []

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self._pieces.append(bytes(data))
        return len(self._pieces[-1])

    def taken(self) -> bytes:
        taken = b"".join(self._pieces)
        self._pieces.clear()
        return taken


# --- the thread ------------------------------------------------------------------------------------------------------


@contextmanager
def working(parts: Parts) -> Iterator[None]:
    """Work on batches beside whatever happens inside, those that a stop left unfinished first."""
    stop = threading.Event()
    thread = threading.Thread(target=_run, args=(parts, stop), name="batches")
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def _run(parts: Parts, stop: threading.Event) -> None:
    """Until told to stop. Trouble with a database is no reason to give up for good: the next round tries again."""
    work = Work(parts)
    while not stop.is_set():
        try:
            busy = work.round(stop)
        except (LedgerError, SQLAlchemyError) as trouble:
            _tell(trouble)
            busy = False
        if not busy:
            stop.wait(AGAIN_SECONDS)


def _tell(trouble: Exception) -> None:
    log.error("a batch could not go on: %s", getattr(trouble, "code", type(trouble).__name__))


class Work:
    """One small step of each unfinished batch after another, so that none keeps the others waiting."""

    def __init__(self, parts: Parts) -> None:
        self.parts, self.tree = parts, TreeStore(parts.log)

    def round(self, stop: threading.Event | None = None) -> bool:
        """A step of every batch; whether any of them got further. Trouble with one stops none of the others."""
        further = False
        for batch in self.parts.operations.unfinished():
            if stop is not None and stop.is_set():
                break
            try:
                further |= self._step(batch)
            except (LedgerError, SQLAlchemyError) as trouble:
                _tell(trouble)
        return further

    def _step(self, batch: Batch) -> bool:
        operations, mine = self.parts.operations, batch.operation_id
        reader = Reader(self.parts, batch.who, mine.hex)
        waiting = operations.items(mine, states=("waiting",), limit=ISSUED_AT_ONCE)
        if waiting:
            operations.note(mine, self._issued(batch, reader, waiting))
            return True
        issued = operations.items(mine, states=("issued",), limit=PRINTED_AT_ONCE)
        if not issued:
            operations.finish(mine, self.parts.ledger.clock())
            return True
        printed = self._printed(batch, reader, issued)
        operations.note(mine, printed)
        return bool(printed)

    def _issued(self, batch: Batch, reader: Reader, waiting: Sequence[Item]) -> list[Item]:
        period = Period(first_on=batch.first_on, last_on=batch.last_on)
        wishes = [
            Wish(item.volunteer_id, period, f"issue|{batch.operation_id}|{item.volunteer_id}")
            for item in waiting
        ]
        answers = Issuer(reader, batch.who).issue(wishes)
        return [
            replace(item, state="refused", code=answer.code)
            if isinstance(answer, Refusal)
            else replace(item, state="issued", certificate_number=number_in(answer.facts))
            for item, answer in zip(waiting, answers, strict=True)
        ]

    def _printed(self, batch: Batch, reader: Reader, issued: Sequence[Item]) -> list[Item]:
        """Those that could be printed or never will be; the others wait for a checkpoint."""
        printer, further = Printer(reader, batch.who, self.tree), []
        for item in issued:
            assert item.certificate_number is not None
            try:
                printer.print(item.certificate_number)
            except NotSignedYetError:
                break
            except Refusal as refusal:
                further.append(replace(item, state="refused", code=refusal.code))
            else:
                further.append(replace(item, state="printed"))
        return further
