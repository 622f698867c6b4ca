"""The one place where sealed fields become readable: who may, what is written down about it, and what stands instead.

Nothing is unsealed of somebody erased, or restricted unless they ask themself; whoever opens what is another's is
written down before they see it. What may not live here: which route shows what, which is for the routes to say.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Annotated
from uuid import UUID

from fastapi import Depends, Request
from pydantic import BaseModel

from api.accesses import Asking
from api.commands import ROUTES
from api.deps import caller, parts_of
from api.parts import Parts
from ledger import ids
from ledger.codec import decode
from ledger.events import CertificateIssued, CertificateRevoked, VolunteerEnrolled, VolunteerProfileCorrected
from ledger.groupcommit import Row
from ledger.rules import Caller
from ledger.rules.data_requests import Subject
from ledger.sealing import KeyStore

ERASED = "〔已删除〕"
RESTRICTED = "〔已限制〕"
"""What stands in place of every field of somebody whose data were erased, or may not be used for now."""

Fields = dict[str, str | None]

MADE_BY_THE_EDGE: Mapping[str, tuple[str, ...]] = {
    CertificateIssued.TOPIC: ("name", "id_number", "salt"),
    CertificateRevoked.TOPIC: ("text",),
}
"""What is sealed for facts whose commands no route takes as they are, by topic."""


@dataclass(frozen=True)
class Sealing:
    """A sealed text of a fact, and the topic it was sealed for."""

    topic: str
    sealed: str

    @property
    def person_id(self) -> UUID:
        """Under whose key it stands."""
        return KeyStore.subject_of(self.sealed)


@dataclass(frozen=True)
class Reader:
    """Somebody asking to see personal fields in one HTTP request."""

    parts: Parts
    who: Asking
    request_id: str

    def read(self, sealings: Sequence[Sealing], about: UUID | None = None) -> list[Fields]:
        """The fields of each, in order, or marks in their place; every person's and kind's opening is written down.

        ``about`` is a person whose file is read: they are told too of what others wrote about them.
        """
        closed = {person: mark for s in sealings if (mark := self._mark(person := s.person_id)) is not None}
        wanted = [s for s in sealings if s.person_id not in closed]
        self._write_down(wanted, about)
        opened = iter(self._opened(wanted))
        return [
            _marked(s.topic, closed[s.person_id]) if s.person_id in closed else next(opened) for s in sealings
        ]

    def standing(self, person_id: UUID) -> Subject | None:
        """What was decided about the use of a person's data; None if nothing was."""
        state = self.parts.ledger.state(ids.subject_id(self.parts.ledger.ledger_id, person_id))
        return state if state is not None and state.stream == "subject" else None

    def _mark(self, person_id: UUID) -> str | None:
        subject = self.standing(person_id)
        if subject is not None and subject.erased:
            return ERASED
        restricted = subject is not None and subject.restricted and person_id != self.who.person_id
        return RESTRICTED if restricted else None

    def _write_down(self, wanted: Sequence[Sealing], about: UUID | None) -> None:
        people = {(s.person_id, s.topic) for s in wanted} | {(about or s.person_id, s.topic) for s in wanted}
        others = sorted((p, topic) for p, topic in people if p != self.who.person_id)
        self.parts.accesses.unsealed(others, self.who, self.parts.ledger.clock(), self.request_id)

    def _opened(self, wanted: Sequence[Sealing]) -> list[Fields]:
        opened = [self.parts.keys.unseal(s.topic, s.sealed) for s in wanted]
        return [
            _marked(s.topic, ERASED) if fields is None else fields
            for s, fields in zip(wanted, opened, strict=True)
        ]


def newest_profile(rows: Sequence[Row]) -> Sealing:
    """The newest personal fields of a volunteer, in their stream."""
    for row in reversed(rows):
        fact = decode(row.topic, row.stream_id, row.version, row.state)
        if isinstance(fact, VolunteerEnrolled | VolunteerProfileCorrected):
            return Sealing(row.topic, fact.profile)
    raise AssertionError("a volunteer's stream begins with their enrolment")


def reader_of(
    request: Request, who: Annotated[Caller, Depends(caller)], parts: Annotated[Parts, Depends(parts_of)]
) -> Reader:
    """Who reads in this request."""
    return Reader(parts, who, request.state.request_id)


def _marked(topic: str, mark: str) -> Fields:
    return dict.fromkeys(_fields_by_topic()[topic], mark)


@cache
def _fields_by_topic() -> Mapping[str, tuple[str, ...]]:
    """Which fields a sealed text of each topic has."""
    return dict(MADE_BY_THE_EDGE) | {
        topic: tuple(kind.model_fields)
        if isinstance(kind, type) and issubclass(kind, BaseModel)
        else ("text",)
        for route in ROUTES
        for kind, topic, _ in route.seals.values()
    }
