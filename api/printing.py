"""How a certificate becomes a document: proofs are gathered, the claim is signed, the sheet is filled and rendered.

The same facts give the same bytes, so no document is kept anywhere: it is made again when somebody asks for it, and
after an erasure it cannot be. What may not live here: who may ask, which is for the rules and the routes to say.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from uuid import UUID

from api.certificate_pdf import ServiceLine, Sheet, render
from api.integrity import entry_of
from api.parts import Parts
from api.personal import Fields
from ledger import ids
from ledger.certificates import Claim, Holder, ProvenFact, Record
from ledger.checkpoint import Checkpoint, Note, SignerKey
from ledger.codec import decode
from ledger.errors import (
    LedgerDamagedError,
    NoteKeyMalformedError,
    NotSignedYetError,
    Refusal,
    UnknownCertificateError,
)
from ledger.events import CertificateIssued, EntryPosted, Fact, UnitEstablished, UnitRenamed
from ledger.groupcommit import Row
from ledger.merkle import TileError
from ledger.proofs import InclusionProof
from ledger.rulebook import local_day
from ledger.rules import fold
from ledger.rules.certificates import Certificate, entries_in, minutes_by_class
from ledger.rules.issuer_keys import IssuerKey
from ledger.rules.volunteers import Volunteer
from ledger.signing_keys import read_key_files
from ledger.tree import TreeStore
from projections.replay import recorded_at

LINES_MAX = 400
"""Services that a certificate lists; of more, the latest."""


class NoIssuerKeyError(Refusal):
    """There is no key to sign with, or it is not registered in this ledger."""

    code = "NO_ISSUER_KEY"
    zh = "没有可用的证明签发密钥：{problem_zh}。"
    en = "There is no key to sign certificates with: {problem_en}."


class RendererChangedError(Refusal):
    """What is made now is not what was printed."""

    code = "RENDERER_CHANGED"
    zh = "证明 {number} 打印后，版式、字体或查验网址已改变，无法再生成同一文件。请重新打印；原先打印的仍然有效。"
    en = (
        "Since certificate {number} was printed, its layout, typefaces or the address for checking changed, so the "
        "same document cannot be made. Print it again; what was printed before stays good."
    )


@dataclass(frozen=True)
class Signing:
    """What makes a document of a certificate, beside its facts: the claim, its key, and the checkpoint's note."""

    claim: str
    issuer_key_id: UUID
    note: str


@dataclass(frozen=True)
class Document:
    """A certificate as it is handed out."""

    pdf: bytes
    signing: Signing

    @cached_property
    def sha256(self) -> str:
        return sha256(self.pdf).hexdigest()


class Press:
    """Makes documents of certificates. It opens nobody's sealed fields: the holder's come in."""

    def __init__(self, parts: Parts, tree: TreeStore) -> None:
        self.parts, self.tree = parts, tree

    # -- signing --

    def issuer_key(self) -> SignerKey:
        """The key of the settings, registered and in use. NO_ISSUER_KEY."""
        file = self.parts.settings.certificate_key
        if file is None:
            raise NoIssuerKeyError(
                problem_zh="服务器没有设置 WENMING_CERTIFICATE_KEY",
                problem_en="WENMING_CERTIFICATE_KEY is not set",
            )
        try:
            key = read_key_files([file])[0]
        except NoteKeyMalformedError as error:
            raise NoIssuerKeyError(problem_zh=error.sentence_zh, problem_en=error.sentence_en) from None
        state = self.parts.ledger.state(self._id_of(key))
        if not isinstance(state, IssuerKey) or state.retired:
            raise NoIssuerKeyError(
                problem_zh="管理员尚未登记该密钥，或已停用",
                problem_en="an administrator has not registered it, or has retired it",
            )
        return key

    def issuer_key_id(self) -> UUID:
        """The stream of `issuer_key`. NO_ISSUER_KEY."""
        return self._id_of(self.issuer_key())

    def signing(self, certificate: Certificate) -> Signing:
        """Sign the certificate's claim, under the newest checkpoint. NO_ISSUER_KEY, NOT_SIGNED_YET."""
        key = self.issuer_key()
        issued, registered = self.first_fact(certificate.id), self.first_fact(self._id_of(key))
        newest, needed = self.tree.latest(), max(issued.position, registered.position)
        if newest is None or newest.size < needed:
            raise NotSignedYetError(position=needed, size=newest.size if newest else 0)
        claim = Claim.of_state(self.parts.ledger.ledger_id, issued.state)
        return Signing(claim.sign(key), registered.stream_id, newest.note)

    def _id_of(self, key: SignerKey) -> UUID:
        return ids.issuer_key_id(self.parts.ledger.ledger_id, key.verifier_key.to_text())

    # -- printing --

    def document(self, certificate: Certificate, holder: Fields, signing: Signing) -> Document:
        """The certificate with these proofs; the same for the same facts. GLYPH_MISSING."""
        return Document(render(self.sheet(certificate, holder, signing)), signing)

    def printed_again(self, certificate: Certificate, holder: Fields) -> Document | None:
        """The newest print, byte for byte; None if it was never printed, or comes out otherwise today."""
        if not certificate.prints:
            return None
        newest = certificate.prints[-1]
        document = self.document(
            certificate, holder, Signing(newest.claim, newest.issuer_key_id, newest.checkpoint)
        )
        return document if document.sha256 in {printed.pdf_sha256 for printed in certificate.prints} else None

    def sheet(self, certificate: Certificate, holder: Fields, signing: Signing) -> Sheet:
        """What the certificate says, as of the position that it names."""
        issued, row = certificate.issued, self.first_fact(certificate.id)
        account, positions = self._account(issued.volunteer_id, issued.as_of_position)
        entries = entries_in(account, issued.first_on, issued.last_on)
        assert sum(entry.minutes for entry in entries) == issued.minutes, "a certificate states its entries"
        shown, names = entries[-LINES_MAX:], _Names(self.parts, issued.as_of_position)
        tree_head = Checkpoint.parse(Note.parse(signing.note.encode()).text)
        replaced = None if issued.replaces_id is None else self.parts.ledger.state(issued.replaces_id)
        return Sheet(
            number=issued.certificate_number,
            county_name=names.county(issued.unit_id),
            holder_name=holder["name"] or "",
            id_number_masked=masked_id_number(holder["id_number"]),
            volunteer_number=issued.volunteer_number,
            first_on=issued.first_on,
            last_on=issued.last_on,
            issued_on=local_day(issued.recorded_at),
            services=issued.services,
            minutes=issued.minutes,
            minutes_by_class=minutes_by_class(entries),
            lines=tuple(_line(entry, positions[entry.entry_id], names) for entry in shown),
            lines_left_out=len(entries) - len(shown),
            issuer_name=names.of(issued.unit_id),
            check_url=f"{self.parts.settings.public_address}/verify/{issued.certificate_number}#{signing.claim}",
            origin=tree_head.origin,
            tree_size=tree_head.size,
            root_hex=tree_head.root.hex(),
            as_of_position=issued.as_of_position,
            as_of_at=recorded_at(self.parts.log, issued.as_of_position),
            replaces_number=replaced.issued.certificate_number if isinstance(replaced, Certificate) else None,
            record=self._record(row, holder, signing, tree_head.size).to_bytes(),
        )

    def _record(self, issued: Row, holder: Fields, signing: Signing, size: int) -> Record:
        return Record(
            claim=signing.claim,
            holder=Holder.model_validate(holder).shown(),
            issued=self._proven(issued, size, signing.note),
            issuer_key=self._proven(self.first_fact(signing.issuer_key_id), size, signing.note),
        )

    def _proven(self, row: Row, size: int, note: str) -> ProvenFact:
        """A fact with its proof under just this note, whatever witnesses have added to it since."""
        try:
            path = self.tree.inclusion_proof(row.position - 1, size)
        except TileError as error:
            raise LedgerDamagedError(position=row.position, problem=str(error)) from None
        return ProvenFact.of(row.state, InclusionProof(entry_of(row), row.position - 1, tuple(path), note))

    def first_fact(self, stream_id: UUID) -> Row:
        """The fact that a certificate's or a key's stream begins with."""
        return self.parts.log.stream(stream_id)[0]

    def _account(self, volunteer_id: UUID, position: int) -> tuple[Volunteer, dict[UUID, int]]:
        """The account as of a position, and where its entries lie in the log."""
        rows = [row for row in self.parts.log.stream(volunteer_id) if row.position <= position]
        facts = [_fact(row) for row in rows]
        state = fold(facts)
        assert isinstance(state, Volunteer)
        entries = ((fact, row.position) for fact, row in zip(facts, rows, strict=True))
        return state, {fact.entry_id: at for fact, at in entries if isinstance(fact, EntryPosted)}


def county_and_unit(parts: Parts, issued: CertificateIssued) -> tuple[str, str]:
    """What the centre and the home unit were called as of the certificate's position."""
    names = _Names(parts, issued.as_of_position)
    return names.county(issued.unit_id), names.of(issued.unit_id)


class _Names:
    """What units were called at a position; each is read once."""

    def __init__(self, parts: Parts, position: int) -> None:
        self._parts, self._position = parts, position
        self._known: dict[UUID, tuple[str, UUID | None]] = {}

    def of(self, unit_id: UUID) -> str:
        return self._unit(unit_id)[0]

    def county(self, unit_id: UUID) -> str:
        """The name of the centre above the unit, as the tree stood."""
        name, parent_id = self._unit(unit_id)
        while parent_id is not None:
            name, parent_id = self._unit(parent_id)
        return name

    def _unit(self, unit_id: UUID) -> tuple[str, UUID | None]:
        if unit_id not in self._known:
            facts = [_fact(row) for row in self._parts.log.stream(unit_id) if row.position <= self._position]
            names = [fact.name for fact in facts if isinstance(fact, UnitEstablished | UnitRenamed)]
            self._known[unit_id] = names[-1], _parent_of(facts)
        return self._known[unit_id]


def _parent_of(facts: Sequence[Fact]) -> UUID | None:
    state = fold(facts)
    assert state is not None
    assert state.stream == "unit"
    return state.parent_id


def _fact(row: Row) -> Fact:
    return decode(row.topic, row.stream_id, row.version, row.state)


def _line(entry: EntryPosted, position: int, names: _Names) -> ServiceLine:
    return ServiceLine(
        entry.served_on,
        entry.activity_kind,
        names.of(entry.unit_id),
        entry.minutes,
        entry.source_class,
        position,
    )


def masked_id_number(id_number: str | None) -> str | None:
    """The first six and the last two characters of an identity number: enough to compare, too few to use."""
    if id_number is None:
        return None
    plain = id_number.strip()
    return f"{plain[:6]}{'*' * (len(plain) - 8)}{plain[-2:]}" if len(plain) > 8 else "*" * len(plain)


def certificate_of(parts: Parts, number: str) -> Certificate:
    """The certificate of a well-formed number; UNKNOWN_CERTIFICATE."""
    state = parts.ledger.state(ids.certificate_id(parts.ledger.ledger_id, number))
    if not isinstance(state, Certificate):
        raise UnknownCertificateError(number=number)
    return state
