"""Everything a rule may know when it decides: the moment, who asks, the rule books and the states of the streams."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import date, datetime
from typing import TYPE_CHECKING, Literal, TypeAlias
from uuid import UUID

from ledger import ids
from ledger.errors import (
    NoRuleBookError,
    OutsideSubtreeError,
    SubjectErasedError,
    SubjectRestrictedError,
    UnknownCertificateError,
    UnknownDataRequestError,
    UnknownIssuerKeyError,
    UnknownOrderError,
    UnknownTeamError,
    UnknownUnitError,
    UnknownVolunteerError,
    WrongRoleError,
)
from ledger.events import Stamp
from ledger.rulebook import Edition, RuleBooks

if TYPE_CHECKING:
    from ledger.rules.certificates import Certificate
    from ledger.rules.data_requests import DataRequest, Subject
    from ledger.rules.issuer_keys import IssuerKey
    from ledger.rules.orders import Order
    from ledger.rules.rulebook import RuleBookShelf
    from ledger.rules.teams import Team
    from ledger.rules.units import Unit
    from ledger.rules.volunteers import Volunteer

State: TypeAlias = (
    "Unit | Team | Volunteer | Order | RuleBookShelf | DataRequest | Subject | IssuerKey | Certificate"
)

States: TypeAlias = "Mapping[UUID, State | None]"
"""The folded state of each stream; None for a stream without facts."""

Role = Literal[
    "resident",
    "volunteer",
    "organiser",
    "recorder",
    "dispatcher",
    "auditor",
    "committee",
    "steering",
    "admin",
]


@dataclass(frozen=True)
class Caller:
    """Who asks: a person, the role they act in, and the unit they act for (None: the whole county)."""

    person_id: UUID
    role: Role
    unit_id: UUID | None = None


class Case:
    """One request as a rule sees it. Nothing here reads a clock or a database.

    ``position`` is how many facts the log has while this is decided.
    """

    def __init__(
        self,
        ledger_id: UUID,
        command_id: UUID,
        caller: Caller,
        now: datetime,
        position: int,
        states: States,
    ) -> None:
        self.ledger_id = ledger_id
        self.command_id = command_id
        self.caller = caller
        self.now = now
        self.position = position
        self._states = states
        self._stamped: dict[UUID, int] = {}

    # -- writing --

    def stamp(self, stream_id: UUID, happened_at: datetime | None = None) -> Stamp:
        """The next place in a stream, for a fact that took effect at ``happened_at`` (now, if not said)."""
        version = self._stamped.get(stream_id)
        if version is None:
            state = self._states[stream_id]
            version = 0 if state is None else state.version
        self._stamped[stream_id] = version + 1
        return Stamp(
            originator_id=stream_id,
            originator_version=version + 1,
            happened_at=happened_at or self.now,
            recorded_at=self.now,
            command_id=self.command_id,
            caller_id=self.caller.person_id,
        )

    # -- knowing --

    def exists(self, stream_id: UUID) -> bool:
        """Whether the stream has any fact."""
        return self._states[stream_id] is not None

    def unit(self, unit_id: UUID) -> "Unit":
        state = self._states[unit_id]
        if state is None or state.stream != "unit":
            raise UnknownUnitError(id=unit_id)
        return state

    def team(self, team_id: UUID) -> "Team":
        state = self._states[team_id]
        if state is None or state.stream != "team":
            raise UnknownTeamError(id=team_id)
        return state

    def volunteer(self, volunteer_id: UUID) -> "Volunteer":
        state = self._states[volunteer_id]
        if state is None or state.stream != "volunteer":
            raise UnknownVolunteerError(id=volunteer_id)
        return state

    def order(self, order_id: UUID) -> "Order":
        state = self._states[order_id]
        if state is None or state.stream != "order":
            raise UnknownOrderError(id=order_id)
        return state

    def data_request(self, request_id: UUID) -> "DataRequest":
        state = self._states[request_id]
        if state is None or state.stream != "data_request":
            raise UnknownDataRequestError(id=request_id)
        return state

    def certificate(self, number: str) -> "Certificate":
        state = self._states[ids.certificate_id(self.ledger_id, number)]
        if state is None or state.stream != "certificate":
            raise UnknownCertificateError(number=number)
        return state

    def issuer_key(self, issuer_key_id: UUID) -> "IssuerKey":
        state = self._states[issuer_key_id]
        if state is None or state.stream != "issuer_key":
            raise UnknownIssuerKeyError(id=issuer_key_id)
        return state

    def subject(self, person_id: UUID) -> "Subject | None":
        """How the person's data may be used; None if nothing was ever decided about that."""
        state = self._states[ids.subject_id(self.ledger_id, person_id)]
        return state if state is not None and state.stream == "subject" else None

    def line_of(self, unit_id: UUID) -> Iterator[UUID]:
        """The unit and every unit above it, upwards."""
        above: UUID | None = unit_id
        while above is not None:
            yield above
            above = self.unit(above).parent_id

    @property
    def rulebooks(self) -> RuleBooks:
        """The whole effective-dated history of rule books."""
        state = self._states[ids.rulebook_id(self.ledger_id)]
        return state.books if state is not None and state.stream == "rulebook" else RuleBooks()

    def edition_on(self, day: date) -> Edition:
        """The rule book in force on a local day; refused with NO_RULE_BOOK if there is none."""
        edition = self.rulebooks.on(day)
        if edition is None:
            raise NoRuleBookError(day=day)
        return edition

    # -- who may --

    def require_role(self, *roles: Role) -> None:
        """Refuse with WRONG_ROLE unless the caller acts in one of ``roles`` (an admin may do what staff may)."""
        if self.caller.role not in roles:
            raise WrongRoleError(role=self.caller.role, needed=list(roles))

    def require_within(self, unit_id: UUID) -> None:
        """Refuse with OUTSIDE_YOUR_UNITS unless ``unit_id`` is the caller's unit or below it."""
        if self.caller.unit_id is not None and self.caller.unit_id not in self.line_of(unit_id):
            raise OutsideSubtreeError(unit_id=unit_id)

    def require_staff(self, unit_id: UUID, *roles: Role) -> None:
        """Both: one of ``roles`` (or admin), acting for a unit at or above ``unit_id``."""
        self.require_role(*roles, "admin")
        self.require_within(unit_id)

    def require_open_data(self, person_id: UUID) -> None:
        """Refuse new personal data of somebody who was erased, or had the use of their data restricted (T51)."""
        subject = self.subject(person_id)
        if subject is not None and subject.erased:
            raise SubjectErasedError(subject_id=person_id)
        if subject is not None and subject.restricted:
            raise SubjectRestrictedError(subject_id=person_id)
