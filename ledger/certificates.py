"""Certificates of hours that can be checked by somebody who has nothing but the paper and the log's public key.

A certificate is a fact (`certificate.issued`). What is handed out says the same twice:

    claim  = base64url of  0x01 | ledger id (16) | u16be year | u56be code (50 bits) | u32be minutes
             | u24be first day | u24be last day | u24be day of issue | u64be position | commitment (32)
             | key id (4) | Ed25519 signature (64)        — short enough for a QR code, signed by the issuer's key
    record = JSON attached to the PDF: the stored fact with its proof, the issuer key's fact with its proof,
             the claim, and what shows the holder's name     — trusts nothing but the log's public key

Days are counted from 0001-01-01 as 1. The signature is over ``LABEL newline base64url(everything before the key id)
newline``, which no checkpoint and no cosignature can be.
What may not live here: databases, clocks, randomness and PDF. Nothing of what is read is believed.
"""

import re
import unicodedata
from base64 import b64decode, urlsafe_b64encode
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date
from hashlib import sha256
from typing import Literal, TypeVar
from uuid import UUID

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from ledger.checkpoint import OpenedCheckpoint, Signature, SignerKey, VerifierKey, open_checkpoint
from ledger.codec import canonical_json
from ledger.errors import (
    CertificateNumberWrongError,
    CertificateWrongError,
    LedgerError,
    NoteKeyMalformedError,
    NoteKeysAmbiguousError,
)
from ledger.ids import certificate_id
from ledger.proofs import InclusionProof
from ledger.rulebook import local_day

NUMBER_FORM = "2026-7K3F9-QPD2M-X"
"""How a number looks, for the sentence that refuses another form."""
LABEL = "volunteer-ledger/certificate-claim/v1"
HOLDER_LABEL = b"volunteer-ledger/certificate-holder/v1\x00"
SALT_BYTES = 16
RECORD_BYTES_MAX = 500_000
_ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_CODE_BITS = 50
_NUMBER = re.compile(f"([0-9]{{4}})([{_ALPHABET}]{{10}})([{_ALPHABET}])")
_BESIDE_SYMBOLS = re.compile(r"[\s\-‐‑‒–—―−]")
_MISREAD = str.maketrans("OIL", "011")
_FORM, _BODY_BYTES, _SIGNATURE_BYTES = b"\x01", 79, 64


@dataclass(frozen=True)
class _What:
    """A part of a certificate, as people are told which one is wrong."""

    zh: str
    en: str


_ISSUED = _What("签发记录", "the fact of the certificate")
_REGISTERED = _What("签发密钥的登记", "the registration of the issuer's key")
_SIGNATURE = _What("声明的签名", "the claim's signature")


# --- numbers ---------------------------------------------------------------------------------------------------------


def number_of(digest: bytes, year: int) -> str:
    """The certificate number that follows from a keyed digest: 50 of its bits, so nobody can guess or list numbers."""
    if len(digest) < 8 or not 1000 <= year <= 9999:
        raise ValueError("a number is made from 8 bytes or more and a year of four digits")
    code = int.from_bytes(digest[:8], "big") >> (64 - _CODE_BITS)
    return _number(year, code)


def require_number(text: str) -> str:
    """The number that is meant, in its one written form. CERTIFICATE_NUMBER_WRONG.

    Small letters, O for 0, I or L for 1, full-width characters, spaces and any hyphens are understood. One wrong
    symbol, or two that changed places, never give another number: a typo is told from a number nobody issued.
    """
    plain = unicodedata.normalize("NFKC", text[:100]).upper()
    found = _NUMBER.fullmatch(_BESIDE_SYMBOLS.sub("", plain).translate(_MISREAD))
    if found is None:
        raise CertificateNumberWrongError(form=NUMBER_FORM)
    year, symbols, check = found.groups()
    if _check_symbol(year + symbols) != check:
        raise CertificateNumberWrongError(form=NUMBER_FORM)
    return f"{year}-{symbols[:5]}-{symbols[5:]}-{check}"


def _number(year: int, code: int) -> str:
    symbols = "".join(_ALPHABET[code >> shift & 31] for shift in range(_CODE_BITS - 5, -1, -5))
    return f"{year}-{symbols[:5]}-{symbols[5:]}-{_check_symbol(f'{year}{symbols}')}"


def _code(number: str) -> int:
    code = 0
    for symbol in number[5:16].replace("-", ""):
        code = code << 5 | _ALPHABET.index(symbol)
    return code


def _check_symbol(symbols: str) -> str:
    """A Reed–Solomon symbol over GF(32), x⁵ + x² + 1: finds every single error and every swap of two symbols."""
    value = 0
    for symbol in symbols:
        value = _doubled(value ^ _ALPHABET.index(symbol))
    return _ALPHABET[value]


def _doubled(value: int) -> int:
    return value << 1 ^ (0b100101 if value & 16 else 0)


# --- who holds it ----------------------------------------------------------------------------------------------------


class Holder(BaseModel):
    """Who holds a certificate, as its fact seals it; ``salt`` is 16 random bytes as hex, and opens the commitment."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")

    name: str
    id_number: str | None
    salt: str = Field(pattern="^[0-9a-f]{32}$")

    @property
    def commitment(self) -> str:
        return commitment(bytes.fromhex(self.salt), self.name, self.id_number)

    def shown(self, with_id_number: bool = False) -> "ShownHolder":
        """What a record tells of them: the name, and the identity number only if its holder wants that (L19, L20)."""
        salt = bytes.fromhex(self.salt)
        name_key, number_key = _part_key(salt, b"name"), _part_key(salt, b"id number")
        return ShownHolder(
            name=self.name,
            name_key=name_key.hex(),
            id_number=self.id_number if with_id_number else None,
            id_number_key=number_key.hex() if with_id_number else None,
            id_number_part=_part(number_key, self.id_number).hex(),
        )


class ShownHolder(BaseModel):
    """A holder in a record: each part of the commitment is opened by its key, or stands there closed.

    Without ``id_number_key`` nothing is told of the identity number, not even to whoever tries every number there is;
    with it, a null ``id_number`` says that the certificate has none.
    """

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")

    name: str
    name_key: str = Field(pattern="^[0-9a-f]{64}$")
    id_number: str | None
    id_number_key: str | None = Field(pattern="^[0-9a-f]{64}$")
    id_number_part: str = Field(pattern="^[0-9a-f]{64}$")

    def opens(self, committed: str) -> bool:
        """Whether these are the details that were committed to."""
        name_part, number_part = (
            _part(bytes.fromhex(self.name_key), self.name),
            bytes.fromhex(self.id_number_part),
        )
        if self.id_number_key is None:
            number_holds = self.id_number is None
        else:
            number_holds = _part(bytes.fromhex(self.id_number_key), self.id_number) == number_part
        return number_holds and _committed(name_part, number_part) == committed


def commitment(salt: bytes, name: str, id_number: str | None) -> str:
    """What binds a certificate to its holder without naming them (64 hex), so that either detail is shown alone.

    key  = SHA-256(HOLDER_LABEL | "key" 00 | salt (16) | "name" or "id number")
    part = SHA-256(HOLDER_LABEL | "part" 00 | key | 00 for none, or 01 and the text)
    commitment = SHA-256(HOLDER_LABEL | "both" 00 | part of the name | part of the identity number)
    """
    if len(salt) != SALT_BYTES:
        raise ValueError(f"a salt has {SALT_BYTES} bytes")
    name_key, number_key = _part_key(salt, b"name"), _part_key(salt, b"id number")
    return _committed(_part(name_key, name), _part(number_key, id_number))


def _part_key(salt: bytes, which: bytes) -> bytes:
    return sha256(HOLDER_LABEL + b"key\x00" + salt + which).digest()


def _part(key: bytes, text: str | None) -> bytes:
    return sha256(
        HOLDER_LABEL + b"part\x00" + key + (b"\x00" if text is None else b"\x01" + text.encode())
    ).digest()


def _committed(name_part: bytes, number_part: bytes) -> str:
    return sha256(HOLDER_LABEL + b"both\x00" + name_part + number_part).hexdigest()


# --- the fact --------------------------------------------------------------------------------------------------------


class IssuedState(BaseModel):
    """What a checker reads from the stored text of `certificate.issued`; later versions may hold more."""

    model_config = ConfigDict(frozen=True, strict=True)

    certificate_number: str
    volunteer_number: str
    first_on: date
    last_on: date
    minutes: int = Field(ge=0, lt=2**32)
    services: int
    minutes_machine: int
    minutes_confirmed: int
    minutes_backfilled: int
    minutes_imported: int
    as_of_position: int = Field(ge=0, lt=2**53)
    rulebook_version: int
    commitment: str = Field(pattern="^[0-9a-f]{64}$")
    replaces_id: UUID | None
    recorded_at: AwareDatetime

    @property
    def issued_on(self) -> date:
        """The local day on which it became a fact."""
        return local_day(self.recorded_at)


# --- the claim -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Claim:
    """What an issuer says in a QR code. Days are local, both included; ``commitment`` is hex."""

    ledger_id: UUID
    number: str
    minutes: int
    first_on: date
    last_on: date
    issued_on: date
    as_of_position: int
    commitment: str

    @classmethod
    def of_state(cls, ledger_id: UUID, state: bytes) -> "Claim":
        """The one claim that fits the stored text of a `certificate.issued`. CERTIFICATE_WRONG."""
        fact = _issued_state(state)
        return cls(
            ledger_id,
            fact.certificate_number,
            fact.minutes,
            fact.first_on,
            fact.last_on,
            fact.issued_on,
            fact.as_of_position,
            fact.commitment,
        )

    def sign(self, key: SignerKey) -> str:
        """The claim with the issuer's signature, as text for a QR code."""
        signature = key.sign(_signed_text(self.to_bytes()))
        return SignedClaim(self, signature.key_id, signature.value).to_text()

    def to_bytes(self) -> bytes:
        """Everything that is signed."""
        return b"".join(
            (
                _FORM,
                self.ledger_id.bytes,
                int(self.number[:4]).to_bytes(2, "big"),
                _code(self.number).to_bytes(7, "big"),
                self.minutes.to_bytes(4, "big"),
                *(
                    day.toordinal().to_bytes(3, "big")
                    for day in (self.first_on, self.last_on, self.issued_on)
                ),
                self.as_of_position.to_bytes(8, "big"),
                bytes.fromhex(self.commitment),
            )
        )


@dataclass(frozen=True)
class SignedClaim:
    """A claim as it was read; nothing in it is to be believed before `verify`."""

    claim: Claim
    key_id: bytes
    signature: bytes

    @classmethod
    def parse(cls, text: str) -> "SignedClaim":
        """The claim in a text, its form only. CERTIFICATE_WRONG."""
        try:
            raw = b64decode(text, altchars=b"-_", validate=True)
            body, rest = raw[:_BODY_BYTES], raw[_BODY_BYTES:]
            signed = cls(_claim(body), rest[:4], rest[4:])
            if len(rest) != 4 + _SIGNATURE_BYTES or signed.to_text() != text:
                raise ValueError
        except (ValueError, OverflowError):
            raise _wrong("签名声明格式不对", "the claim has not the form of one") from None
        return signed

    def to_text(self) -> str:
        """196 characters of base64url."""
        return _base64url(self.claim.to_bytes() + self.key_id + self.signature)

    def verify(self, keys: Iterable[VerifierKey]) -> VerifierKey:
        """The key that signed it, one of ``keys``. CERTIFICATE_WRONG."""
        for key in keys:
            if key.key_id == self.key_id:
                with _as_certificate_wrong(_SIGNATURE):
                    key.verify(
                        _signed_text(self.claim.to_bytes()), Signature(key.name, self.key_id, self.signature)
                    )
                return key
        raise _wrong("声明不是由所给的密钥签名的", "the claim was signed by none of the keys given")


def _claim(body: bytes) -> Claim:
    """The claim of these bytes; ValueError or OverflowError if a day or a number cannot be."""
    year, code = int.from_bytes(body[17:19], "big"), int.from_bytes(body[19:26], "big")
    first_on, last_on, issued_on = (
        date.fromordinal(int.from_bytes(body[at : at + 3], "big")) for at in (30, 33, 36)
    )
    return Claim(
        UUID(bytes=body[1:17]),
        _number(year, code),
        int.from_bytes(body[26:30], "big"),
        first_on,
        last_on,
        issued_on,
        int.from_bytes(body[39:47], "big"),
        body[47:].hex(),
    )


def _signed_text(body: bytes) -> str:
    return f"{LABEL}\n{_base64url(body)}\n"


def _base64url(raw: bytes) -> str:
    return urlsafe_b64encode(raw).decode().rstrip("=")


# --- the record ------------------------------------------------------------------------------------------------------


class ProvenFact(BaseModel):
    """A fact's stored text, and its proof (c2sp.org/tlog-proof)."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")

    state: str
    proof: str

    @classmethod
    def of(cls, state: bytes, proof: InclusionProof) -> "ProvenFact":
        return cls(state=state.decode(), proof=proof.to_text())


class Record(BaseModel):
    """The machine-readable certificate: everything that is needed to believe it, beside the log's public key.

    It names its holder: it is handed out with the PDF, and never published.
    """

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")

    format: Literal["volunteer-ledger/certificate-record/v1"] = "volunteer-ledger/certificate-record/v1"
    claim: str
    holder: ShownHolder
    issued: ProvenFact
    issuer_key: ProvenFact

    @classmethod
    def parse(cls, data: bytes) -> "Record":
        """The record in these bytes, its form only: `check` says whether it holds. CERTIFICATE_WRONG."""
        record = _read(cls, data)
        if record is None or record.to_bytes() != data:
            raise _wrong("附带的记录格式不对", "the attached record has not the form of one")
        return record

    def to_bytes(self) -> bytes:
        """The record in its one written form (canonical JSON)."""
        return canonical_json(self)

    def check(
        self, log_keys: Iterable[VerifierKey], origin: str, witness_keys: Iterable[VerifierKey] = ()
    ) -> "CheckedCertificate":
        """What is certain, if one of the log's keys signed a checkpoint of ``origin`` over all of it.

        Holds: the fact lies in the log; so does the issuer's key, under the same checkpoint; that key signed the
        claim; the claim says what the fact says; the holder's details are those committed to. Lines of witnesses
        who are not in ``witness_keys`` prove nothing. That it was not revoked later, nobody can tell offline (F26).
        CERTIFICATE_WRONG, with the part that is wrong.
        """
        signed, fact = SignedClaim.parse(self.claim), _issued_state(self.issued.state.encode())
        log = _Log(tuple(log_keys), origin, tuple(witness_keys))
        issued = log.prove(self.issued, "certificate.issued", _ISSUED)
        registered = log.prove(self.issuer_key, "issuer_key.registered", _REGISTERED)
        if registered.opened != issued.opened:
            raise _wrong("两份证明不在同一检查点之下", "the two proofs stand under different checkpoints")
        key = _registered_key(self.issuer_key.state.encode())
        signed.verify([key])
        if issued.stream_id != certificate_id(signed.claim.ledger_id, signed.claim.number):
            raise _wrong("声明中的编号或账本与账本记录不符", "the claim names another certificate or ledger")
        if signed.claim != Claim.of_state(signed.claim.ledger_id, self.issued.state.encode()):
            raise _wrong("声明的内容与账本记录不符", "the claim does not say what the fact in the log says")
        if not self.holder.opens(fact.commitment):
            raise _wrong(
                "持有人的姓名或证件号码与账本记录不符", "the holder's details are not those of the fact"
            )
        return CheckedCertificate(signed.claim, self.holder, fact, issued.index + 1, key, issued.opened)


@dataclass(frozen=True)
class CheckedCertificate:
    """What `Record.check` found to be true. ``position`` is that of the fact; the checkpoint proves it."""

    claim: Claim
    holder: ShownHolder
    fact: IssuedState
    position: int
    issuer_key: VerifierKey
    opened: OpenedCheckpoint


# --- what the log proves ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Proven:
    """Where a fact lies in the log, and under which checkpoint."""

    stream_id: UUID
    index: int
    opened: OpenedCheckpoint


@dataclass(frozen=True)
class _Log:
    """The log that is believed: its keys, its name, and the witnesses who are known."""

    keys: tuple[VerifierKey, ...]
    origin: str
    witness_keys: tuple[VerifierKey, ...]

    def prove(self, fact: ProvenFact, topic: str, what: _What) -> _Proven:
        """That the fact lies in the log, as the first of its stream. CERTIFICATE_WRONG."""
        with _as_certificate_wrong(what):
            proof = InclusionProof.parse(fact.proof.encode())
            proof.check(self.keys, self.origin)
            opened = open_checkpoint(proof.note.encode(), self.origin, self.keys, self.witness_keys)
            parts = proof.parts()
        if (parts.topic, parts.version) != (topic, 1) or parts.state_digest != sha256(
            fact.state.encode()
        ).digest():
            raise _wrong(f"{what.zh}与其证明不符", f"{what.en} is not the fact that its proof is about")
        return _Proven(parts.stream_id, proof.index, opened)


class _RegisteredState(BaseModel):
    """What is read from the stored text of `issuer_key.registered`."""

    model_config = ConfigDict(frozen=True, strict=True)

    vkey: str


def _registered_key(state: bytes) -> VerifierKey:
    found = _read(_RegisteredState, state)
    if found is None:
        raise _wrong("登记的签发密钥无法读取", "the registered key cannot be read")
    try:
        return VerifierKey.from_text(found.vkey)
    except NoteKeyMalformedError:
        raise _wrong("登记的签发密钥不可用", "the registered key is none") from None


def _issued_state(state: bytes) -> IssuedState:
    found = _read(IssuedState, state)
    if found is None:
        raise _wrong("账本记录无法读取", "the fact of the certificate cannot be read")
    return found


_Model = TypeVar("_Model", bound=BaseModel)


def _read(model: type[_Model], data: bytes) -> _Model | None:
    """What stands in these bytes; None if they are too many, or not that."""
    try:
        return model.model_validate_json(data) if len(data) <= RECORD_BYTES_MAX else None
    except ValidationError:
        return None


# --- what is refused -------------------------------------------------------------------------------------------------


@contextmanager
def _as_certificate_wrong(what: _What) -> Iterator[None]:
    """Trouble with a note or a proof is trouble with the certificate that brought it; with a key given, it is not."""
    try:
        yield
    except (NoteKeyMalformedError, NoteKeysAmbiguousError):
        raise
    except LedgerError as error:
        raise _wrong(f"{what.zh}——{error.sentence_zh}", f"{what.en}: {error.sentence_en}") from None


def _wrong(problem_zh: str, problem_en: str) -> CertificateWrongError:
    return CertificateWrongError(problem_zh=problem_zh, problem_en=problem_en)
