"""What people ask for, in the imperative. A command is a wish: a rule may refuse it.

Personal fields arrive `Sealed`: the edge seals them before the command exists, so rules need no keys.
Ids of new things are chosen by the client (or the edge), so that a retry asks for the same thing again.
"""

from datetime import UTC, date, datetime
from typing import Annotated
from uuid import UUID

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from ledger.events import (
    ActivityKind,
    CertificateNumber,
    Code,
    CorrectionKind,
    DataRequestKind,
    DataRequestOutcome,
    Digest,
    PublicName,
    Sealed,
    SignedText,
    SponsorRole,
    TeamKind,
    UnitKind,
    UnitRole,
    Verdict,
    VerifierKeyText,
)
from ledger.ids import is_derived
from ledger.rulebook import RuleBook

YEARS = range(1949, 2200)
"""What a request may name. Beyond them lie slips of the pen, and arithmetic that leaves the calendar."""


def _sane_year(day: date) -> date:
    if day.year not in YEARS:
        raise ValueError(f"a date lies in the years {YEARS[0]} to {YEARS[-1]}")
    return day


def _sane_instant(instant: datetime) -> datetime:
    if instant.tzinfo is None:
        raise ValueError("an instant needs a time zone")
    _sane_year(instant)
    return instant.astimezone(UTC)


Moment = Annotated[datetime, AfterValidator(_sane_instant)]
"""An instant somebody names: with a time zone, in `YEARS`, turned into UTC."""

Day = Annotated[date, AfterValidator(_sane_year)]
"""A local day somebody names, in `YEARS`."""


def _free_to_choose(stream_id: UUID) -> UUID:
    if is_derived(stream_id):
        raise ValueError("a UUID of version 8 is never free: take a random one (version 4 or 7)")
    return stream_id


NewId = Annotated[UUID, AfterValidator(_free_to_choose)]
"""The id that somebody chooses for a new stream; never one that another thing has by what it is (`ledger.ids`)."""

BreakMinutes = Annotated[int, Field(ge=0, le=1440)]


class Command(BaseModel):
    """A request to the ledger; who asks, and under which key, stands beside it."""

    model_config = ConfigDict(frozen=True, extra="forbid")


# --- rule book, units, teams -----------------------------------------------------------------------------------------


class PublishRuleBook(Command):
    version: int = Field(ge=1)
    effective_on: Day
    book: RuleBook


class EstablishUnit(Command):
    """``unit_id`` is given for a base only; the others have ids that follow from their division code."""

    kind: UnitKind
    name: PublicName
    parent_id: UUID | None = None
    division_code: Annotated[str, Field(pattern=r"^([0-9]{6}|[0-9]{9}|[0-9]{12})$")] | None = None
    department: Code | None = None
    unit_id: NewId | None = None


class RenameUnit(Command):
    unit_id: UUID
    name: PublicName


class MoveUnit(Command):
    unit_id: UUID
    parent_id: UUID


class AssignUnitRole(Command):
    unit_id: UUID
    role: UnitRole
    person_id: UUID


class EndUnitRole(Command):
    unit_id: UUID
    role: UnitRole
    person_id: UUID


class FormTeam(Command):
    """The team's id follows from kind, unit and category."""

    kind: TeamKind
    name: PublicName
    unit_id: UUID
    category: Code | None = None
    parent_team_id: UUID | None = None


class AssignTeamSponsor(Command):
    team_id: UUID
    department: Code
    role: SponsorRole


class AppointTeamLeader(Command):
    team_id: UUID
    leader_id: UUID


class JoinTeam(Command):
    team_id: UUID
    volunteer_id: UUID


class LeaveTeam(Command):
    team_id: UUID
    volunteer_id: UUID
    reason: Code = "own_wish"


class DissolveTeam(Command):
    """With ``merged_into_id`` the members move to that team (S036)."""

    team_id: UUID
    reason: Code
    merged_into_id: UUID | None = None


# --- volunteers, sessions --------------------------------------------------------------------------------------------


class EnrolVolunteer(Command):
    volunteer_id: NewId
    volunteer_number: Code
    home_unit_id: UUID
    profile: Sealed
    consent_document: Code
    consented_at: Moment
    categories: tuple[Code, ...] = Field(default=(), max_length=24)


class DeclareCategory(Command):
    volunteer_id: UUID
    category: Code


class CorrectProfile(Command):
    volunteer_id: UUID
    profile: Sealed


class WithdrawVolunteer(Command):
    volunteer_id: UUID
    reason: Code = "own_wish"


class RequestBackfill(Command):
    volunteer_id: UUID
    request_id: UUID
    session_id: UUID
    unit_id: UUID
    activity_kind: ActivityKind
    started_at: Moment
    ended_at: Moment
    break_minutes: BreakMinutes = 0
    reason: Sealed
    order_id: UUID | None = None


class DecideBackfill(Command):
    volunteer_id: UUID
    request_id: UUID
    verdict: Verdict


class RequestCorrection(Command):
    """``amend`` needs both times; ``reverse`` takes none."""

    volunteer_id: UUID
    request_id: UUID
    session_id: UUID
    kind: CorrectionKind
    reason: Sealed
    started_at: Moment | None = None
    ended_at: Moment | None = None
    break_minutes: BreakMinutes | None = None


class DecideCorrection(Command):
    volunteer_id: UUID
    request_id: UUID
    verdict: Verdict


# --- orders ----------------------------------------------------------------------------------------------------------


class PlaceOrder(Command):
    order_id: NewId
    requester_id: UUID
    unit_id: UUID
    activity_kind: ActivityKind
    wanted_from: Moment
    wanted_until: Moment
    need: Sealed


class RejectOrder(Command):
    order_id: UUID
    reason: Code
    explanation: Sealed


class WithdrawOrder(Command):
    order_id: UUID
    reason: Code = "no_longer_needed"


class DispatchOrder(Command):
    order_id: UUID
    team_id: UUID
    volunteer_ids: tuple[UUID, ...] = Field(min_length=1, max_length=200)


class OfferOrder(Command):
    """Ask more members of the team that has the order."""

    order_id: UUID
    volunteer_ids: tuple[UUID, ...] = Field(min_length=1, max_length=200)


class ReassignOrder(Command):
    order_id: UUID
    team_id: UUID
    volunteer_ids: tuple[UUID, ...] = Field(min_length=1, max_length=200)
    reason: Code


class AcceptOrder(Command):
    order_id: UUID
    volunteer_id: UUID


class DeclineOrder(Command):
    order_id: UUID
    volunteer_id: UUID
    reason: Code = "not_available"


class ExpireOffer(Command):
    order_id: UUID
    volunteer_id: UUID


class Service(BaseModel):
    """What one volunteer did for an order.

    ``checked``: arrival and departure were checked by machine; ``end_inferred``: the check-out is missing and the end
    was taken from the plan (F21).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    volunteer_id: UUID
    session_id: UUID
    started_at: Moment
    ended_at: Moment
    break_minutes: BreakMinutes = 0
    checked: bool = False
    end_inferred: bool = False


class CompleteOrder(Command):
    """One service per volunteer; ``responsible_id`` is the person in charge, the caller if left out (L10)."""

    order_id: UUID
    services: tuple[Service, ...] = Field(min_length=1, max_length=200)
    responsible_id: UUID | None = None


class RateOrder(Command):
    """``code_checked`` and ``same_phone_ids`` are found out by the edge, which holds the keys (F06).

    ``same_phone_ids`` are those who served and share the rater's phone number.
    """

    order_id: UUID
    rating_id: UUID
    score: int | None = None
    comment: Sealed | None = None
    code_checked: bool = False
    same_phone_ids: tuple[UUID, ...] = ()


class WithdrawRating(Command):
    order_id: UUID
    rating_id: UUID
    reason: Code = "own_wish"


# --- data-subject rights -------------------------------------------------------------------------


class RequestData(Command):
    """Asked by the person themself, or taken down for them by an administrator."""

    request_id: NewId
    subject_id: UUID
    kind: DataRequestKind


class DecideDataRequest(Command):
    """``reason`` belongs to a refusal; ``retention_runs`` refuses an erasure and restricts instead (PIPL art. 47)."""

    request_id: UUID
    outcome: DataRequestOutcome
    reason: Code | None = None


class EraseSubject(Command):
    """Carries out a fulfilled request for erasure. It cannot be undone."""

    request_id: UUID


# --- certificates ----------------------------------------------------------------------------------------------------


class RegisterIssuerKey(Command):
    """``vkey`` is the public key; the edge has checked that it is one."""

    vkey: VerifierKeyText


class RetireIssuerKey(Command):
    issuer_key_id: UUID
    reason: Code


class IssueCertificate(Command):
    """Asks for the minutes of a period to be stated; the figures are the ledger's, nobody hands them in.

    Number, ``holder`` and ``commitment`` are made by the edge, which holds the keys; ``replaces_number`` is an earlier
    certificate of the same person, which is superseded.
    """

    certificate_number: CertificateNumber
    volunteer_id: UUID
    first_on: Day
    last_on: Day
    holder: Sealed
    commitment: Digest
    replaces_number: CertificateNumber | None = None


class RecordPrint(Command):
    """What the edge made of a certificate: the document's digest, and what is needed to make it again."""

    certificate_number: CertificateNumber
    pdf_sha256: Digest
    claim: SignedText
    issuer_key_id: UUID
    checkpoint: SignedText
    template_version: int = Field(ge=1)


class RevokeCertificate(Command):
    certificate_number: CertificateNumber
    reason: Code
    explanation: Sealed | None = None
