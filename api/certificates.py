"""Certificates by HTTP: issued, printed, replaced, revoked, listed (L18–L21, T35–T37). The public page is `api.verify`.

Number, salt, commitment and sealed holder are made here, where the keys are; every figure is the rule's.
"""

import secrets
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any
from unicodedata import normalize
from uuid import UUID

from fastapi import APIRouter, Depends, Header, Query, Response
from pydantic import BaseModel, ConfigDict, Field

from api.certificate_pdf import TEMPLATE_VERSION
from api.commands import PLACEHOLDER, Recorded, Text, answered_keys, key_of, recorded, written_form
from api.deps import When, asking, caller, caught_up, parts_of, units_of, writer
from api.identity import OVERSEERS, STAFF, require_reader
from api.integrity import tree_of
from api.parts import Parts
from api.personal import ERASED, Fields, Reader, Sealing, newest_profile, reader_of
from api.printing import Document, Press, RendererChangedError, Signing, certificate_of
from api.queries import below
from ledger import ids
from ledger.application import Answer, Request
from ledger.certificates import SALT_BYTES, commitment, number_of, require_number
from ledger.commands import Day, IssueCertificate, RecordPrint, RevokeCertificate
from ledger.errors import (
    NotFoundError,
    Refusal,
    SubjectErasedError,
    SubjectRestrictedError,
    WrongRoleError,
)
from ledger.events import CertificateIssued, CertificateRevoked, Code, Fact
from ledger.personal_numbers import normal_id_number
from ledger.rulebook import local_day
from ledger.rules import Caller
from ledger.rules.certificates import Certificate, reversals_in
from ledger.rules.volunteers import Volunteer
from ledger.tree import TreeStore
from projections.certificates import Status, Which, certificates, issuer_keys, keys, listed, reversal_days
from projections.units import units

router = APIRouter(tags=["certificates"])

Who = Annotated[Caller, Depends(caller)]
Writer = Annotated[Caller, Depends(writer)]
Ledger = Annotated[Parts, Depends(parts_of)]
Tree = Annotated[TreeStore, Depends(tree_of)]
Unsealing = Annotated[Reader, Depends(reader_of)]
Key = Annotated[str | None, Header()]
DryRun = Annotated[bool, Query(description="Decide and record nothing.")]
Json = dict[str, Any]

NOBODY = "0" * 64
"""Stands for a digest in a command that will not be recorded."""


class Period(BaseModel):
    """Two local days, both included."""

    model_config = ConfigDict(extra="forbid")
    first_on: Day
    last_on: Day


class IssueBody(Period):
    """Whose service in which period is to be certified, and which certificate this one stands in place of."""

    volunteer_id: UUID
    replaces: Annotated[str, Field(max_length=40)] | None = None


class RevokeBody(BaseModel):
    model_config = ConfigDict(extra="forbid")
    reason: Code
    explanation: Text | None = None


class Issued(Recorded):
    """``number`` is what a print will bear; for a dry run it is none that will be issued."""

    number: str


class Printed(Recorded):
    """``pdf_sha256`` is that of the document at ``…/{number}.pdf``. No facts: it had been printed just so before."""

    number: str
    pdf_sha256: str


# --- issuing ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Wish:
    """One certificate asked for, under the key that makes it once; the number follows from the key."""

    volunteer_id: UUID
    period: Period
    key: str
    replaces: str | None = None


class Issuer:
    """Turns wishes of one caller into certificates, several in one transaction."""

    def __init__(self, reader: Reader, who: Caller) -> None:
        self.reader, self.parts, self.who = reader, reader.parts, who

    def issue(self, wishes: Sequence[Wish], *, dry_run: bool = False) -> list[Answer | Refusal]:
        """The answer to each, in order (at most 256). Nobody's name is opened before the rules have said yes."""
        done = answered_keys(self.parts, self.who, [wish.key for wish in wishes])
        new = [wish for wish in wishes if wish.key not in done]
        tried = self.parts.ledger.handle_many(
            [self._request(w, PLACEHOLDER, NOBODY, dry_run=True) for w in new]
        )
        if dry_run:
            return tried
        judged = dict(zip((wish.key for wish in new), tried, strict=True))
        # Who sent the same request a moment earlier has taken the number: then theirs is the answer.
        done |= answered_keys(self.parts, self.who, (k for k, a in judged.items() if isinstance(a, Refusal)))
        allowed = [wish for wish in new if not isinstance(judged[wish.key], Refusal)]
        sealed = dict(zip((wish.key for wish in allowed), self._holders(allowed), strict=True))
        asked = [wish for wish in wishes if wish.key in done or wish.key in sealed]
        requests = [self._request(wish, *sealed.get(wish.key, (PLACEHOLDER, NOBODY))) for wish in asked]
        answers = dict(zip((w.key for w in asked), self.parts.ledger.handle_many(requests), strict=True))
        return [answers.get(wish.key) or judged[wish.key] for wish in wishes]

    def number(self, key: str) -> str:
        """Unguessable without the key store's secret, and the same whenever the key comes again in that year."""
        command_id = ids.command_id(self.parts.ledger.ledger_id, self.who.person_id, key)
        digest = self.parts.keys.request_digest(b"certificate-number|" + command_id.bytes)
        return number_of(digest, local_day(self.parts.ledger.clock()).year)

    def _holders(self, wishes: Sequence[Wish]) -> list[tuple[str, str]]:
        """For each the sealed holder and the commitment, from the newest profile."""
        profiles = [newest_profile(self.parts.log.stream(wish.volunteer_id)) for wish in wishes]
        opened = self.reader.read(profiles) if wishes else []
        return [self._sealed(wish, fields) for wish, fields in zip(wishes, opened, strict=True)]

    def _sealed(self, wish: Wish, profile: Fields) -> tuple[str, str]:
        name, salt = plain_name(profile["name"] or ""), secrets.token_bytes(SALT_BYTES)
        id_number = profile["id_number"] and normal_id_number(profile["id_number"])
        holder: Fields = {"name": name, "id_number": id_number, "salt": salt.hex()}
        sealed = self.parts.keys.seal(CertificateIssued.TOPIC, wish.volunteer_id, holder)
        return sealed, commitment(salt, name, id_number)

    def _request(self, wish: Wish, holder: str, committed: str, *, dry_run: bool = False) -> Request:
        command = IssueCertificate(
            certificate_number=self.number(wish.key),
            volunteer_id=wish.volunteer_id,
            first_on=wish.period.first_on,
            last_on=wish.period.last_on,
            holder=holder,
            commitment=committed,
            replaces_number=wish.replaces,
        )
        written = {"volunteer_id": wish.volunteer_id, "period": wish.period, "replaces": wish.replaces}
        body = written_form({"path": "/certificates", **written})
        return Request(command, self.who, None if dry_run else wish.key, body=body, dry_run=dry_run)


@router.post("/certificates", response_model=Issued)
def issue_certificate(
    body: IssueBody,
    who: Writer,
    reader: Unsealing,
    response: Response,
    idempotency_key: Key = None,
    dry_run: DryRun = False,
) -> Issued:
    """Certify a person's service in a period, for themself or by staff of their unit, at no price (L18).

    Every figure is the ledger's own. It can be printed once a signed checkpoint covers it. With ``replaces`` an
    earlier certificate of theirs is superseded.
    """
    key = key_of(idempotency_key, dry_run) or secrets.token_hex(8)
    replaces = None if body.replaces is None else require_number(body.replaces)
    wish = Wish(body.volunteer_id, Period(first_on=body.first_on, last_on=body.last_on), key, replaces)
    (answer,) = Issuer(reader, who).issue([wish], dry_run=dry_run)
    if isinstance(answer, Refusal):
        raise answer
    return Issued(**recorded(answer, response, dry_run), number=number_in(answer.facts))


def plain_name(text: str) -> str:
    """A name in the one form that is committed to."""
    return normalize("NFC", text.strip())


def number_in(facts: Sequence[Fact]) -> str:
    """The number of the certificate that was issued."""
    return next(fact.certificate_number for fact in facts if isinstance(fact, CertificateIssued))


# --- printing --------------------------------------------------------------------------------------------------------


@router.post("/certificates/{number}/print", response_model=Printed)
def print_certificate(
    number: str,
    who: Writer,
    reader: Unsealing,
    tree: Tree,
    response: Response,
    idempotency_key: Key = None,
    dry_run: DryRun = False,
) -> Printed:
    """Make a document of a certificate, which proves itself; NOT_SIGNED_YET until a signed checkpoint covers it.

    Printing again gives the same document, unless layout or typefaces changed; then the new one is good as well.
    """
    key_of(
        idempotency_key, dry_run
    )  # asked for like any write's; the same bytes are recorded once by themselves
    answer, document = Printer(reader, who, tree).print(require_number(number), dry_run=dry_run)
    return Printed(
        **recorded(answer, response, dry_run), number=require_number(number), pdf_sha256=document.sha256
    )


class Printer:
    """Prints certificates for one caller."""

    def __init__(self, reader: Reader, who: Caller, tree: TreeStore) -> None:
        self.reader, self.parts, self.who = reader, reader.parts, who
        self.press = Press(reader.parts, tree)

    def print(self, number: str, *, dry_run: bool = False) -> tuple[Answer, Document]:
        """Record a print, and the document. What a rule refuses is not opened.

        It needs no idempotency key: what comes out as it was printed before leads to no fact, and what does not is
        another print, whoever asks for it again.
        """
        certificate = certificate_of(self.parts, number)
        issuer_key_id = self.press.issuer_key_id()
        self._record(number, NOBODY, Signing("-", issuer_key_id, "-"), dry_run=True)
        fresh, holder = self.press.signing(certificate), holder_of(self.reader, certificate)
        document = self.press.printed_again(certificate, holder)
        if document is None:
            document = self.press.document(certificate, holder, fresh)
        return self._record(number, document.sha256, document.signing, dry_run=dry_run), document

    def _record(self, number: str, digest: str, signing: Signing, *, dry_run: bool) -> Answer:
        command = RecordPrint(
            certificate_number=number,
            pdf_sha256=digest,
            claim=signing.claim,
            issuer_key_id=signing.issuer_key_id,
            checkpoint=signing.note,
            template_version=TEMPLATE_VERSION,
        )
        return self.parts.ledger.handle(command, self.who, dry_run=dry_run)


def holder_of(reader: Reader, certificate: Certificate) -> Fields:
    """Name, identity number and salt; SUBJECT_ERASED or SUBJECT_RESTRICTED if they may not be read."""
    subject_id = certificate.issued.volunteer_id
    subject = reader.standing(subject_id)
    if subject is not None and subject.restricted and reader.who.person_id != subject_id:
        raise SubjectRestrictedError(subject_id=subject_id)
    (holder,) = reader.read([sealing_of(certificate)])
    if holder["salt"] == ERASED:
        raise SubjectErasedError(subject_id=subject_id)
    return holder


def sealing_of(certificate: Certificate) -> Sealing:
    """The sealed holder of a certificate."""
    return Sealing(CertificateIssued.TOPIC, certificate.issued.holder)


@router.get(
    "/certificates/{number}.pdf",
    response_class=Response,
    responses={200: {"content": {"application/pdf": {}}, "description": "The document."}},
)
def certificate_pdf(number: str, who: Who, parts: Ledger, reader: Unsealing, tree: Tree) -> Response:
    """The newest print of a certificate, byte for byte as it was recorded; for its holder and their staff."""
    certificate = certificate_of(parts, require_number(number))
    require_named(parts, who, certificate)
    document = printed_document(Press(parts, tree), certificate, reader)
    name = f"{certificate.issued.certificate_number}.pdf"
    headers = {"Content-Disposition": f'inline; filename="{name}"', "ETag": f'"{document.sha256}"'}
    return Response(document.pdf, media_type="application/pdf", headers=headers)


def printed_document(press: Press, certificate: Certificate, reader: Reader) -> Document:
    """What was printed, made again. NOT_FOUND before the first print, RENDERER_CHANGED if it comes out otherwise."""
    number = certificate.issued.certificate_number
    if not certificate.prints:
        raise NotFoundError(
            what=f"print of certificate {number} yet: POST /v1/certificates/{number}/print makes it"
        )
    document = press.printed_again(certificate, holder_of(reader, certificate))
    if document is None:
        raise RendererChangedError(number=number)
    return document


# --- revoking --------------------------------------------------------------------------------------------------------


@router.post("/certificates/{number}/revoke", response_model=Recorded)
def revoke_certificate(
    number: str,
    body: RevokeBody,
    who: Writer,
    parts: Ledger,
    response: Response,
    idempotency_key: Key = None,
    dry_run: DryRun = False,
) -> Recorded:
    """Declare a certificate void: by staff of the unit, and another person than who issued it."""
    key = key_of(idempotency_key, dry_run)
    answer = revoke(parts, who, require_number(number), body.reason, body.explanation, key)
    return Recorded(**recorded(answer, response, dry_run))


def revoke(
    parts: Parts, who: Caller, number: str, reason: str, explanation: str | None, key: str | None
) -> Answer:
    """Revoke a certificate; with no key nothing is recorded. The explanation is sealed under the key of ``who``."""
    told = {"number": number, "reason": reason, "explanation": explanation}
    body, sealed = written_form({"path": "/certificates/revoke"} | told), None
    if explanation is not None:
        words = {"text": explanation}
        sealed = (
            PLACEHOLDER if key is None else parts.keys.seal(CertificateRevoked.TOPIC, who.person_id, words)
        )
    command = RevokeCertificate(certificate_number=number, reason=reason, explanation=sealed)
    return parts.ledger.handle(command, who, key=key, body=body, dry_run=key is None)


# --- reading ---------------------------------------------------------------------------------------------------------


@router.get("/certificates")
def list_certificates(
    who: Who,
    parts: Ledger,
    response: Response,
    _fresh: Annotated[None, Depends(caught_up)],
    unit_id: UUID | None = None,
    volunteer_id: UUID | None = None,
    status: Annotated[Status | None, Query()] = None,
    touched: Annotated[
        bool, Query(description="Only those with an entry corrected since they were issued.")
    ] = False,
    after: Annotated[
        int | None, Query(ge=0, le=2**53, description="`next_after` of the page before.")
    ] = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
) -> Json:
    """The register, newest first: ids and numbers, no names (L17, L18).

    Staff see the certificates of their units, overseers all, anybody else their own.
    """
    mine = units_of(parts, who) if who.role in STAFF else None
    own = None if who.role in OVERSEERS | STAFF else str(who.person_id)
    person = own if volunteer_id is None else str(volunteer_id)
    if own is not None and person != own:
        return {"certificates": [], "next_after": None}
    with asking(parts, When(None, None), response, certificates, reversal_days, units) as moment:
        places: Collection[str] | None = mine
        if unit_id is not None:
            inside = below(moment, unit_id)
            places = inside if mine is None else inside & mine
        which = Which(places, person, status, touched)
        found = listed(moment, which, after=after, limit=limit + 1)
    more = found[limit - 1]["issued_position"] if len(found) > limit else None
    return {"certificates": [_counted(row) for row in found[:limit]], "next_after": more}


def _counted(row: Mapping[str, Any]) -> Json:
    return {**row, "reversals_now": int(row["reversals_now"])}


@router.get("/certificates/{number}")
def one_certificate(number: str, who: Who, parts: Ledger, reader: Unsealing, response: Response) -> Json:
    """A certificate as it stands: what it states, its status, and what was printed of it.

    ``holder_name`` is for the person themself, their staff and admins; null for everybody else.
    """
    certificate = certificate_of(parts, require_number(number))
    issued = certificate.issued
    _require_may_read(parts, who, certificate)
    named = _is_named(who, certificate)
    response.headers["ETag"] = f'"{certificate.version}"'
    return {
        **issued.model_dump(exclude={"holder", "originator_id", "originator_version"}),
        "certificate_id": certificate.id,
        "position": parts.log.stream(certificate.id)[0].position,
        "issued_on": local_day(issued.recorded_at),
        "status": status_of(parts, certificate),
        "holder_name": reader.read([sealing_of(certificate)])[0]["name"] if named else None,
        "replaced_by": replacing_number(parts, certificate),
        "revoked_at": certificate.revoked and certificate.revoked.recorded_at,
        "revoked_for": certificate.revoked and certificate.revoked.reason,
        "version": certificate.version,
        "prints": [
            {
                "pdf_sha256": printed.pdf_sha256,
                "printed_at": printed.recorded_at,
                "issuer_key_id": printed.issuer_key_id,
                "template_version": printed.template_version,
            }
            for printed in certificate.prints
        ],
    }


@router.get("/issuer-keys")
def list_issuer_keys(
    _who: Who, parts: Ledger, response: Response, _fresh: Annotated[None, Depends(caught_up)]
) -> Json:
    """The keys that sign certificates, retired ones too, oldest first (F25)."""
    with asking(parts, When(None, None), response, issuer_keys) as moment:
        return {"issuer_keys": keys(moment)}


def status_of(parts: Parts, certificate: Certificate) -> Status:
    """The gravest that applies, from the log itself: revoked, superseded, corrected, valid."""
    if certificate.status != "valid":
        return certificate.status
    return "corrected" if is_touched(parts, certificate) else "valid"


def is_touched(parts: Parts, certificate: Certificate) -> bool:
    """Whether an entry of its period was reversed after it was issued (L17)."""
    issued = certificate.issued
    account = parts.ledger.state(issued.volunteer_id)
    assert isinstance(account, Volunteer)
    return reversals_in(account, issued.first_on, issued.last_on) > issued.reversals


def replacing_number(parts: Parts, certificate: Certificate) -> str | None:
    """The number that stands in place of a superseded certificate."""
    if certificate.superseded is None:
        return None
    later = parts.ledger.state(certificate.superseded.replaced_by_id)
    assert isinstance(later, Certificate)
    return later.issued.certificate_number


def _require_may_read(parts: Parts, who: Caller, certificate: Certificate) -> None:
    issued = certificate.issued
    inside = units_of(parts, who) if who.role in STAFF else None
    require_reader(who, issued.volunteer_id, issued.unit_id, inside)


def _is_named(who: Caller, certificate: Certificate) -> bool:
    return who.person_id == certificate.issued.volunteer_id or who.role in STAFF | {"admin"}


def require_named(parts: Parts, who: Caller, certificate: Certificate) -> None:
    """Who may see the holder's name: themself, staff of the unit, admins."""
    _require_may_read(parts, who, certificate)
    if not _is_named(who, certificate):
        raise WrongRoleError(role=who.role, needed=sorted(STAFF | {"admin"}))
