"""Certificates of service: what is stated, printed, replaced and revoked (L18–L21, L33, T35–T37, F25, F26).

Every figure is computed here from the folded account; nobody hands one in. A certificate never changes: what becomes
known later is another fact beside it.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from datetime import date
from typing import Any, Literal, get_args
from uuid import UUID

from ledger import ids
from ledger.commands import Command, IssueCertificate, RecordPrint, RevokeCertificate
from ledger.errors import (
    AlreadyExistsError,
    NotAllowedNowError,
    NothingToCertifyError,
    PeriodError,
    SelfApprovalError,
    UnknownCertificateError,
)
from ledger.events import (
    CertificateIssued,
    CertificatePrinted,
    CertificateRevoked,
    CertificateSuperseded,
    EntryPosted,
    Fact,
    SourceClass,
)
from ledger.rulebook import local_day
from ledger.rules.case import Case
from ledger.rules.volunteers import Volunteer


@dataclass(frozen=True, slots=True)
class Certificate:
    """A certificate as it stands: what was issued, every print of it, and what became of it."""

    id: UUID
    version: int
    issued: CertificateIssued
    prints: tuple[CertificatePrinted, ...] = ()
    superseded: CertificateSuperseded | None = None
    revoked: CertificateRevoked | None = None
    stream: Literal["certificate"] = "certificate"

    @property
    def status(self) -> Literal["valid", "superseded", "revoked"]:
        """Revoked weighs more than superseded. Whether a correction touched it is for the account to say."""
        if self.revoked is not None:
            return "revoked"
        return "valid" if self.superseded is None else "superseded"

    def require_valid(self, action: str) -> None:
        """NOT_ALLOWED_NOW for what was superseded or revoked."""
        if self.status != "valid":
            raise NotAllowedNowError(status=self.status, action=action, allowed=[])


def entries_in(volunteer: Volunteer, first_on: date, last_on: date) -> list[EntryPosted]:
    """The entries that stand, served from ``first_on`` to ``last_on``, by day and place in the account."""
    standing = (entry for session in volunteer.sessions.values() for entry in session.entries)
    found = [entry for entry in standing if first_on <= entry.served_on <= last_on]
    return sorted(found, key=lambda entry: (entry.served_on, entry.originator_version))


def reversals_in(volunteer: Volunteer, first_on: date, last_on: date) -> int:
    """How many entries of the period were ever reversed."""
    return sum(count for day, count in volunteer.reversals_by_day.items() if first_on <= day <= last_on)


def minutes_by_class(entries: Iterable[EntryPosted]) -> dict[str, int]:
    """Minutes of each source class, 0 for one that does not occur."""
    minutes: dict[str, int] = dict.fromkeys(get_args(SourceClass), 0)
    for entry in entries:
        minutes[entry.source_class] += entry.minutes
    return minutes


def issue(command: IssueCertificate, case: Case) -> list[Fact]:
    """To the volunteer themself or to staff of the home unit, also after withdrawal (L18: on request, at no price)."""
    volunteer = case.volunteer(command.volunteer_id)
    _require_self_or_staff(volunteer.id, volunteer.home_unit_id, case)
    case.require_open_data(volunteer.id)
    certificate_id = ids.certificate_id(case.ledger_id, command.certificate_number)
    if case.exists(certificate_id):
        raise AlreadyExistsError(what="certificate", id=certificate_id)
    _require_period(command, case)
    replaced = _replaced(command, case)
    issued = _stated(command, volunteer, certificate_id, replaced, case)
    if replaced is None:
        return [issued]
    return [issued, CertificateSuperseded(**case.stamp(replaced.id), replaced_by_id=certificate_id)]


def _stated(
    command: IssueCertificate,
    volunteer: Volunteer,
    certificate_id: UUID,
    replaced: Certificate | None,
    case: Case,
) -> CertificateIssued:
    first_on, last_on = command.first_on, command.last_on
    entries = entries_in(volunteer, first_on, last_on)
    by_class, minutes = minutes_by_class(entries), sum(entry.minutes for entry in entries)
    if minutes == 0:
        raise NothingToCertifyError(volunteer_id=volunteer.id, first_on=first_on, last_on=last_on)
    return CertificateIssued(
        **case.stamp(certificate_id),
        certificate_number=command.certificate_number,
        volunteer_id=volunteer.id,
        volunteer_number=volunteer.volunteer_number,
        unit_id=volunteer.home_unit_id,
        first_on=first_on,
        last_on=last_on,
        minutes=minutes,
        services=sum(entry.services for entry in entries),
        minutes_machine=by_class["machine"],
        minutes_confirmed=by_class["confirmed"],
        minutes_backfilled=by_class["backfilled"],
        minutes_imported=by_class["imported"],
        reversals=reversals_in(volunteer, first_on, last_on),
        as_of_position=case.position,
        rulebook_version=case.edition_on(local_day(case.now)).version,
        holder=command.holder,
        commitment=command.commitment,
        replaces_id=None if replaced is None else replaced.id,
    )


def _replaced(command: IssueCertificate, case: Case) -> Certificate | None:
    """The certificate to be superseded; another person's is as unknown as none."""
    if command.replaces_number is None:
        return None
    replaced = case.certificate(command.replaces_number)
    if replaced.issued.volunteer_id != command.volunteer_id:
        raise UnknownCertificateError(number=command.replaces_number)
    replaced.require_valid("supersede")
    return replaced


def record_print(command: RecordPrint, case: Case) -> list[Fact]:
    """By whoever may have one issued, signed with a key in use; printing the same bytes again changes nothing."""
    certificate = case.certificate(command.certificate_number)
    issued = certificate.issued
    _require_self_or_staff(issued.volunteer_id, issued.unit_id, case)
    case.require_open_data(issued.volunteer_id)
    certificate.require_valid("print")
    if command.pdf_sha256 in {printed.pdf_sha256 for printed in certificate.prints}:
        return []
    case.issuer_key(command.issuer_key_id).require_in_use()
    return [
        CertificatePrinted(
            **case.stamp(certificate.id),
            pdf_sha256=command.pdf_sha256,
            claim=command.claim,
            issuer_key_id=command.issuer_key_id,
            checkpoint=command.checkpoint,
            template_version=command.template_version,
        )
    ]


def revoke(command: RevokeCertificate, case: Case) -> list[Fact]:
    """By staff of the unit, and by another person than who issued it (F08)."""
    certificate = case.certificate(command.certificate_number)
    case.require_staff(certificate.issued.unit_id, "organiser")
    if case.caller.person_id in (certificate.issued.caller_id, certificate.issued.volunteer_id):
        raise SelfApprovalError(certificate_id=certificate.id)
    if certificate.revoked is not None:
        raise NotAllowedNowError(status="revoked", action="revoke", allowed=[])
    return [
        CertificateRevoked(
            **case.stamp(certificate.id), reason=command.reason, explanation=command.explanation
        )
    ]


def _require_self_or_staff(volunteer_id: UUID, unit_id: UUID, case: Case) -> None:
    if case.caller.person_id != volunteer_id:
        case.require_staff(unit_id, "organiser")


def _require_period(command: IssueCertificate, case: Case) -> None:
    """A period that is over, or ends today: minutes to come are nobody's to state."""
    today = local_day(case.now)
    if not command.first_on <= command.last_on <= today:
        raise PeriodError(first_on=command.first_on, last_on=command.last_on, today=today)


def evolve(state: Certificate | None, fact: Fact) -> Certificate:
    version = fact.originator_version
    if isinstance(fact, CertificateIssued):
        return Certificate(fact.originator_id, version, fact)
    assert state is not None
    match fact:
        case CertificatePrinted():
            return replace(state, version=version, prints=(*state.prints, fact))
        case CertificateSuperseded():
            return replace(state, version=version, superseded=fact)
        case CertificateRevoked():
            return replace(state, version=version, revoked=fact)
    return replace(state, version=version)


DECIDERS: dict[type[Command], Callable[[Any, Case], list[Fact]]] = {
    IssueCertificate: issue,
    RecordPrint: record_print,
    RevokeCertificate: revoke,
}
