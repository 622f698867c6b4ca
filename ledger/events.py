"""Every fact the ledger keeps, in the past tense; `events.md` explains each one.

A fact is flat (scalars only, so that every engine reads it alike), frozen, and for ever: a topic is never
renamed, and a new shape is a new ``class_version`` with its ``upcast_vN_vN+1`` beside it.
No fact holds a name, a number or free text of a person in clear: such things are `Sealed` before they get here.
"""

from datetime import UTC, date, datetime
from typing import Annotated, ClassVar, Literal, TypedDict
from uuid import UUID

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from ledger.rulebook import RuleBook


def _utc(instant: datetime) -> datetime:
    if instant.tzinfo is None:
        raise ValueError("an instant needs a time zone")
    try:
        return instant.astimezone(UTC) if instant.tzinfo is not UTC else instant
    except OverflowError:
        raise ValueError("an instant lies in the calendar, in UTC too") from None


Instant = Annotated[datetime, AfterValidator(_utc)]
"""A moment, kept in UTC with microseconds."""

Sealed = Annotated[str, Field(pattern=r"^s1\.[A-Za-z0-9_-]+$", max_length=16_384)]
"""Personal fields encrypted under their subject's key: ``s1.`` and base64url. See `ledger.sealing`."""

Code = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_.-]{0,63}$")]
"""A short machine word: a reason, a department, a document version."""

PublicName = Annotated[str, Field(min_length=1, max_length=60, pattern=r"^[^\x00-\x1f\x7f<>]+$")]
"""The name of an organisation (never of a person)."""

CertificateNumber = Annotated[
    str, Field(pattern=r"^[0-9]{4}-[0-9A-HJKMNP-TV-Z]{5}-[0-9A-HJKMNP-TV-Z]{5}-[0-9A-HJKMNP-TV-Z]$")
]
"""Year, ten characters of Crockford's base32 that nobody can guess, and a check symbol. See `ledger.certificates`."""

Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
"""A SHA-256 in hexadecimal."""

VerifierKeyText = Annotated[
    str,
    Field(pattern=r"^[^\s+\x00-\x1f]+\+[0-9a-f]{8}\+A[Q-Za-f][A-Za-z0-9+/]{42}$", max_length=200),
]
"""A public Ed25519 key as signed notes name it: ``name+key id+base64(0x01 | key)``."""

SignedText = Annotated[str, Field(min_length=1, max_length=65_536, pattern=r"^[^\x00-\x09\x0b-\x1f\x7f]+$")]
"""A text that somebody signed, with its signatures, exactly as it stands elsewhere: a claim, a checkpoint."""

UnitKind = Literal["centre", "institute", "station", "base"]
UnitRole = Literal["director", "deputy", "office_director", "liaison_director"]
TeamKind = Literal["corps", "professional", "branch", "squad", "civic"]
SponsorRole = Literal["lead", "partner"]
ActivityKind = Literal[
    "theory", "culture", "schooling", "health", "science", "law", "ecology", "relief", "other"
]
SourceClass = Literal["machine", "confirmed", "backfilled", "imported"]
CorrectionKind = Literal["amend", "reverse"]
Verdict = Literal["approved", "declined"]
DataRequestKind = Literal["access", "restriction", "release", "erasure"]
DataRequestOutcome = Literal["fulfilled", "refused"]


class Stamp(TypedDict):
    """What every fact carries beside its own meaning."""

    originator_id: UUID
    originator_version: int
    happened_at: datetime
    recorded_at: datetime
    command_id: UUID
    caller_id: UUID


class Fact(BaseModel):
    """Something that happened, and can never be unsaid.

    ``originator_id`` and ``originator_version`` are the stream and the place in it (1, 2, 3 …); ``happened_at`` is when
    it took effect in the world, ``recorded_at`` when the ledger took it down; ``command_id`` names the request
    and ``caller_id`` the person who made it (a pseudonymous id).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    TOPIC: ClassVar[str]
    STREAM: ClassVar[str]
    class_version: ClassVar[int] = 1

    originator_id: UUID
    originator_version: int = Field(ge=1)
    happened_at: Instant
    recorded_at: Instant
    command_id: UUID
    caller_id: UUID


# --- rule book -------------------------------------------------------------------------------------------------------


class RuleBookPublished(Fact):
    """Thresholds, caps and calendars that apply from ``effective_on`` (a local day) onwards (S001, T46)."""

    TOPIC = "rulebook.published"
    STREAM = "rulebook"
    rulebook_version: int = Field(ge=1)
    effective_on: date
    book: RuleBook


# --- units -----------------------------------------------------------------------------------------------------------


class UnitEstablished(Fact):
    """A centre, institute, station or base exists from now on (S012, S015, S017, S018)."""

    TOPIC = "unit.established"
    STREAM = "unit"
    kind: UnitKind
    name: PublicName
    parent_id: UUID | None
    division_code: Code | None
    department: Code | None


class UnitRenamed(Fact):
    """A unit bears another name from now on."""

    TOPIC = "unit.renamed"
    STREAM = "unit"
    name: PublicName


class UnitMoved(Fact):
    """A unit hangs under another parent from now on; hours served before stay where they were served (T01)."""

    TOPIC = "unit.moved"
    STREAM = "unit"
    parent_id: UUID
    from_parent_id: UUID


class UnitRoleAssigned(Fact):
    """A person holds a post in a unit (S013, S014, S015, S017, S019, T02)."""

    TOPIC = "unit.role_assigned"
    STREAM = "unit"
    role: UnitRole
    person_id: UUID


class UnitRoleEnded(Fact):
    """A person no longer holds a post in a unit."""

    TOPIC = "unit.role_ended"
    STREAM = "unit"
    role: UnitRole
    person_id: UUID


# --- teams -----------------------------------------------------------------------------------------------------------


class TeamFormed(Fact):
    """A team exists: by level (corps, professional, branch, squad) or by kind of member (civic) (S029–S035, T03)."""

    TOPIC = "team.formed"
    STREAM = "team"
    kind: TeamKind
    category: Code | None
    name: PublicName
    unit_id: UUID
    parent_team_id: UUID | None


class TeamSponsorAssigned(Fact):
    """A department leads (牵头组建) or partners (配合) a team (S032)."""

    TOPIC = "team.sponsor_assigned"
    STREAM = "team"
    department: Code
    role: SponsorRole


class TeamLeaderAppointed(Fact):
    """A person leads the team from now on, in place of whoever led it (S029, S033, S034)."""

    TOPIC = "team.leader_appointed"
    STREAM = "team"
    leader_id: UUID
    previous_leader_id: UUID | None


class TeamMemberJoined(Fact):
    """A volunteer is a member of the team from now on (S036, T04); ``relayed`` if staff entered their wish."""

    TOPIC = "team.member_joined"
    STREAM = "team"
    volunteer_id: UUID
    relayed: bool


class TeamMemberLeft(Fact):
    """A volunteer is no longer a member (S036); ``reason`` is a code such as ``own_wish`` or ``team_merged``."""

    TOPIC = "team.member_left"
    STREAM = "team"
    volunteer_id: UUID
    reason: Code


class TeamDissolved(Fact):
    """The team takes no more members or orders; ``merged_into_id`` is the team that took its members, if any (S036)."""

    TOPIC = "team.dissolved"
    STREAM = "team"
    reason: Code
    merged_into_id: UUID | None


# --- volunteers: the account that holds every entry --------------------------------------------


class VolunteerEnrolled(Fact):
    """A person enrolled by their own consent (S044, L02, L05, L08, L09, T05).

    ``profile`` seals the personal fields; ``consent_document`` and ``consented_at`` say to what and when they agreed,
    ``relayed`` that an organiser entered it for them.
    """

    TOPIC = "volunteer.enrolled"
    STREAM = "volunteer"
    volunteer_number: Code
    home_unit_id: UUID
    profile: Sealed
    consent_document: Code
    consented_at: Instant
    relayed: bool


class VolunteerCategoryDeclared(Fact):
    """The volunteer belongs to a category of S040–S042; one may hold several."""

    TOPIC = "volunteer.category_declared"
    STREAM = "volunteer"
    category: Code


class VolunteerProfileCorrected(Fact):
    """The sealed personal fields were replaced (L02, L17)."""

    TOPIC = "volunteer.profile_corrected"
    STREAM = "volunteer"
    profile: Sealed


class VolunteerWithdrew(Fact):
    """The volunteer takes no further part; what was served stays served (PIPL art. 15)."""

    TOPIC = "volunteer.withdrew"
    STREAM = "volunteer"
    reason: Code


class SessionRecorded(Fact):
    """One person served from one instant to another (S058, L10, L11). Minutes are not here: see `EntryPosted`.

    ``source_class`` says how we know; ``inferred`` that the end was taken from the plan because the check-out is
    missing (F21), ``late`` that the record window of the rule book had passed (L15). ``responsible_id`` is the person
    in charge, ``recorder_id`` who wrote it down,
    ``approver_id`` the second person of a back-filled session.
    """

    TOPIC = "session.recorded"
    STREAM = "volunteer"
    session_id: UUID
    order_id: UUID | None
    unit_id: UUID
    team_id: UUID | None
    activity_kind: ActivityKind
    started_at: Instant
    ended_at: Instant
    break_minutes: int = Field(ge=0)
    source_class: SourceClass
    inferred: bool
    late: bool
    responsible_id: UUID
    recorder_id: UUID
    approver_id: UUID | None
    rulebook_version: int


class EntryPosted(Fact):
    """Minutes credited to (or, negative, taken from) the account for one local day of one session (T24, T38).

    The only place where minutes live. ``services`` is +1 on a session's first day, −1 when that is reversed, else 0.
    An entry that reverses another names it in ``reverses_entry_id`` and carries its day, class, unit and kind.
    """

    TOPIC = "entry.posted"
    STREAM = "volunteer"
    entry_id: UUID
    session_id: UUID
    order_id: UUID | None
    unit_id: UUID
    activity_kind: ActivityKind
    served_on: date
    minutes: int
    services: int = Field(ge=-1, le=1)
    source_class: SourceClass
    inferred: bool
    late: bool
    reverses_entry_id: UUID | None
    rulebook_version: int


class BackfillRequested(Fact):
    """Hours are claimed that were not placed and accepted before they were served; another decides (F03, T25)."""

    TOPIC = "backfill.requested"
    STREAM = "volunteer"
    request_id: UUID
    session_id: UUID
    order_id: UUID | None
    unit_id: UUID
    activity_kind: ActivityKind
    started_at: Instant
    ended_at: Instant
    break_minutes: int = Field(ge=0)
    reason: Sealed


class BackfillDecided(Fact):
    """A second person approved or declined a back-fill (F08, F09); approval is followed by its session and entries."""

    TOPIC = "backfill.decided"
    STREAM = "volunteer"
    request_id: UUID
    session_id: UUID
    verdict: Verdict
    requested_by_id: UUID


class CorrectionRequested(Fact):
    """Somebody says a session is wrong: other times (``amend``) or not served at all (``reverse``) (L17)."""

    TOPIC = "correction.requested"
    STREAM = "volunteer"
    request_id: UUID
    session_id: UUID
    kind: CorrectionKind
    started_at: Instant | None
    ended_at: Instant | None
    break_minutes: int | None
    reason: Sealed


class CorrectionDecided(Fact):
    """A second person approved or declined a correction (T38, T39, F08, F35)."""

    TOPIC = "correction.decided"
    STREAM = "volunteer"
    request_id: UUID
    session_id: UUID
    kind: CorrectionKind
    verdict: Verdict
    requested_by_id: UUID


class SessionCorrected(Fact):
    """A session has other times from now on; its old entries are reversed and new ones posted beside this (T38).

    ``revision`` counts 2, 3, … (the record itself is 1). ``source_class`` falls from machine to confirmed, since people
    say the new times, and to back-filled when the new start lies before the acceptance was recorded.
    ``rulebook_version`` is the one of the served day, by which the minutes are judged; ``current_rulebook_version`` the
    one in force when the correction was decided.
    """

    TOPIC = "session.corrected"
    STREAM = "volunteer"
    session_id: UUID
    request_id: UUID
    revision: int = Field(ge=2)
    started_at: Instant
    ended_at: Instant
    break_minutes: int = Field(ge=0)
    source_class: SourceClass
    late: bool
    rulebook_version: int
    current_rulebook_version: int


class SessionReversed(Fact):
    """A session counts for nothing from now on; its entries are reversed beside this (T38)."""

    TOPIC = "session.reversed"
    STREAM = "volunteer"
    session_id: UUID
    request_id: UUID
    revision: int = Field(ge=2)
    rulebook_version: int
    current_rulebook_version: int


class RatingCredited(Fact):
    """A public rating of a service this volunteer took part in; withdrawn ratings are credited with minus signs."""

    TOPIC = "rating.credited"
    STREAM = "volunteer"
    order_id: UUID
    rating_id: UUID
    unit_id: UUID
    score: int
    ratings: Literal[1, -1]


# --- orders: 点单 → 派单 → 接单 → 评单 -----------------------------------------------------------


class OrderPlaced(Fact):
    """点单: a resident asked a unit for a service (S053, S059, T09). Need, place and contact are sealed."""

    TOPIC = "order.placed"
    STREAM = "order"
    requester_id: UUID
    unit_id: UUID
    activity_kind: ActivityKind
    wanted_from: Instant
    wanted_until: Instant
    need: Sealed
    relayed: bool


class OrderRejected(Fact):
    """The unit cannot serve the order, and says why (L03)."""

    TOPIC = "order.rejected"
    STREAM = "order"
    unit_id: UUID
    reason: Code
    explanation: Sealed


class OrderWithdrawn(Fact):
    """The resident no longer wants the service."""

    TOPIC = "order.withdrawn"
    STREAM = "order"
    unit_id: UUID
    reason: Code


class OrderDispatched(Fact):
    """派单: the unit gave the order to a team (S054, T10); the volunteers asked follow as offers."""

    TOPIC = "order.dispatched"
    STREAM = "order"
    unit_id: UUID
    team_id: UUID


class OrderReassigned(Fact):
    """The order went to another team; offers still open end (S054, T10)."""

    TOPIC = "order.reassigned"
    STREAM = "order"
    unit_id: UUID
    team_id: UUID
    from_team_id: UUID
    reason: Code


class OrderOffered(Fact):
    """A volunteer was asked to serve, with time to answer until ``expires_at`` (G04)."""

    TOPIC = "order.offered"
    STREAM = "order"
    unit_id: UUID
    volunteer_id: UUID
    expires_at: Instant


class OrderAccepted(Fact):
    """接单: the volunteer themself said yes (S055, L05, T11)."""

    TOPIC = "order.accepted"
    STREAM = "order"
    unit_id: UUID
    volunteer_id: UUID


class OrderDeclined(Fact):
    """The volunteer said no; saying no never counts against anybody (L05, T11)."""

    TOPIC = "order.declined"
    STREAM = "order"
    unit_id: UUID
    volunteer_id: UUID
    reason: Code


class OrderOfferExpired(Fact):
    """The volunteer did not answer in time (T11)."""

    TOPIC = "order.offer_expired"
    STREAM = "order"
    unit_id: UUID
    volunteer_id: UUID


class OrderServed(Fact):
    """One volunteer served the order; the session with its times is in their own stream."""

    TOPIC = "order.served"
    STREAM = "order"
    unit_id: UUID
    volunteer_id: UUID
    session_id: UUID


class OrderCompleted(Fact):
    """The service is done and recorded (S058); ``volunteers`` is how many served (F13: each of them named)."""

    TOPIC = "order.completed"
    STREAM = "order"
    unit_id: UUID
    team_id: UUID
    activity_kind: ActivityKind
    recorder_id: UUID
    volunteers: int = Field(ge=1)


class OrderRated(Fact):
    """评单: the public judged the service (S056, L14, T12); ``score`` is null for "could not judge"."""

    TOPIC = "order.rated"
    STREAM = "order"
    rating_id: UUID
    unit_id: UUID
    rater_id: UUID
    score: int | None
    comment: Sealed | None
    late: bool
    relayed: bool
    rulebook_version: int


class OrderRatingWithdrawn(Fact):
    """The rater took a rating back; they may rate again (S056)."""

    TOPIC = "order.rating_withdrawn"
    STREAM = "order"
    rating_id: UUID
    unit_id: UUID
    rater_id: UUID
    score: int | None
    reason: Code


# --- data-subject rights -------------------------------------------------------------------------


class DataRequestReceived(Fact):
    """A person asks to see, to block, to release or to have erased what is kept about them (T51).

    ``relayed`` if an administrator took it down for them; ``due_on`` is the last local day for an answer, fifteen
    working days on by the calendar of the rule book named. The caller is who received it.
    """

    TOPIC = "data_request.received"
    STREAM = "data_request"
    subject_id: UUID
    kind: DataRequestKind
    relayed: bool
    due_on: date
    rulebook_version: int


class DataRequestDecided(Fact):
    """Another person than who received it fulfilled or refused a data-subject request (T51, F08).

    ``reason`` is null for what was fulfilled; ``late`` that ``due_on`` had passed.
    """

    TOPIC = "data_request.decided"
    STREAM = "data_request"
    subject_id: UUID
    kind: DataRequestKind
    outcome: DataRequestOutcome
    reason: Code | None
    late: bool
    received_by_id: UUID


class SubjectRestricted(Fact):
    """Nobody but the person themself reads their sealed fields from now on, and none are added (T51)."""

    TOPIC = "subject.restricted"
    STREAM = "subject"
    subject_id: UUID
    request_id: UUID


class SubjectReleased(Fact):
    """A restriction ended by the person's wish (T51)."""

    TOPIC = "subject.released"
    STREAM = "subject"
    subject_id: UUID
    request_id: UUID


class SubjectErased(Fact):
    """The key of a person's sealed fields is destroyed; hours, ids and proofs stay (T51)."""

    TOPIC = "subject.erased"
    STREAM = "subject"
    subject_id: UUID
    request_id: UUID


# --- certificates and the keys that sign them ----------------------------------------------------


class IssuerKeyRegistered(Fact):
    """From now on this key signs certificates of the ledger (L21, F25)."""

    TOPIC = "issuer_key.registered"
    STREAM = "issuer_key"
    vkey: VerifierKeyText


class IssuerKeyRetired(Fact):
    """The key signs no more certificates; what it signed while it was registered stays signed (F25)."""

    TOPIC = "issuer_key.retired"
    STREAM = "issuer_key"
    reason: Code


class CertificateIssued(Fact):
    """The ledger states how long a person served in a period, as of one position, for good (L18, L19, L20, T35, T37).

    Every figure is the ledger's own: ``minutes`` and ``services`` of the entries served from ``first_on`` to
    ``last_on`` (both included) that stood when the log had ``as_of_position`` facts, ``minutes`` by source class too;
    ``reversals`` is how many entries of the period had been reversed by then, so that a later correction shows.
    ``unit_id`` is the home unit, which vouches; ``rulebook_version`` the book in force that day. ``holder`` seals name,
    identity number and a random salt, and ``commitment`` binds the certificate to them without giving them away.
    """

    TOPIC = "certificate.issued"
    STREAM = "certificate"
    certificate_number: CertificateNumber
    volunteer_id: UUID
    volunteer_number: Code
    unit_id: UUID
    first_on: date
    last_on: date
    minutes: int = Field(ge=1)
    services: int = Field(ge=0)
    minutes_machine: int = Field(ge=0)
    minutes_confirmed: int = Field(ge=0)
    minutes_backfilled: int = Field(ge=0)
    minutes_imported: int = Field(ge=0)
    reversals: int = Field(ge=0)
    as_of_position: int = Field(ge=1)
    rulebook_version: int
    holder: Sealed
    commitment: Digest
    replaces_id: UUID | None


class CertificatePrinted(Fact):
    """A certificate was made into a document that proves itself (L18, T36).

    ``pdf_sha256`` is that of the document; ``claim`` is what its code says, signed by the key ``issuer_key_id``;
    ``checkpoint`` the signed note it is proven under. With them the same bytes are made again at any time.
    """

    TOPIC = "certificate.printed"
    STREAM = "certificate"
    pdf_sha256: Digest
    claim: SignedText
    issuer_key_id: UUID
    checkpoint: SignedText
    template_version: int = Field(ge=1)


class CertificateSuperseded(Fact):
    """Another certificate of the same person stands in place of this one; it says what was true when issued (T37)."""

    TOPIC = "certificate.superseded"
    STREAM = "certificate"
    replaced_by_id: UUID


class CertificateRevoked(Fact):
    """Another person than who issued it declared a certificate void (T37, F08, F26)."""

    TOPIC = "certificate.revoked"
    STREAM = "certificate"
    reason: Code
    explanation: Sealed | None


EVENT_TYPES: tuple[type[Fact], ...] = (
    RuleBookPublished,
    UnitEstablished, UnitRenamed, UnitMoved, UnitRoleAssigned, UnitRoleEnded,
    TeamFormed, TeamSponsorAssigned, TeamLeaderAppointed, TeamMemberJoined, TeamMemberLeft, TeamDissolved,
    VolunteerEnrolled, VolunteerCategoryDeclared, VolunteerProfileCorrected, VolunteerWithdrew,
    SessionRecorded, EntryPosted, BackfillRequested, BackfillDecided,
    CorrectionRequested, CorrectionDecided, SessionCorrected, SessionReversed, RatingCredited,
    OrderPlaced, OrderRejected, OrderWithdrawn, OrderDispatched, OrderReassigned, OrderOffered, OrderAccepted,
    OrderDeclined, OrderOfferExpired, OrderServed, OrderCompleted, OrderRated, OrderRatingWithdrawn,
    DataRequestReceived, DataRequestDecided, SubjectRestricted, SubjectReleased, SubjectErased,
    IssuerKeyRegistered, IssuerKeyRetired,
    CertificateIssued, CertificatePrinted, CertificateSuperseded, CertificateRevoked,
)  # fmt: skip
"""Every fact class, in the order of `events.md`. What is not listed here cannot be stored or read."""
