"""C2SP signed notes and checkpoints: what the log signs, what witnesses cosign, and who may be believed.

    note       = text ending in a newline | blank line | signature lines (c2sp.org/signed-note)
    line       = "— " name " " base64(key id (4) | signature) newline
    key id     = SHA-256(name | 0x0A | algorithm | public key)[:4]
    checkpoint = origin newline size newline base64(root) newline, then extension lines (c2sp.org/tlog-checkpoint)
    cosigned   = "cosignature/v1" newline "time " POSIX seconds newline | the note's text (c2sp.org/tlog-cosignature)

Everything has exactly one spelling here: what would not be written byte for byte as it was read is refused.
What may not live here: files, clocks, randomness and trees. Keys, times and roots come in as arguments.
"""

import re
from base64 import b64decode, b64encode
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import IntEnum
from functools import cached_property
from hashlib import sha256

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from ledger.errors import (
    CheckpointMalformedError,
    CosignaturesTooFewError,
    NoteKeyMalformedError,
    NoteKeysAmbiguousError,
    NoteMalformedError,
    NoTrustedSignatureError,
    SignatureWrongError,
    WrongOriginError,
)

NOTE_BYTES_MAX = 1_000_000
SIGNATURES_MAX = 100
SIZE_MAX = 2**63 - 1
TIME_SECONDS_MAX = 2**63 - 1
_PRIVATE = "PRIVATE+KEY+"
_DECIMAL = re.compile("0|[1-9][0-9]{0,18}")
_NOT_IN_A_NOTE = re.compile(r"[\x00-\x09\x0b-\x1f\ud800-\udfff]")
_NOT_IN_A_NAME = re.compile(r"[\s+\x00-\x1f\ud800-\udfff]")


# --- checkpoints -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Checkpoint:
    """A tree head: which log (``origin``), how many leaves (``size``), their RFC 6962 root (32 bytes).

    Extension lines are kept and signed, and mean nothing to us. CHECKPOINT_MALFORMED.
    """

    origin: str
    size: int
    root: bytes
    extensions: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        _require_lines((self.origin, *self.extensions))
        if not 0 <= self.size <= SIZE_MAX:
            raise CheckpointMalformedError(problem="the size is not between 0 and 2^63 − 1")
        if len(self.root) != 32:
            raise CheckpointMalformedError(problem="the root has not 32 bytes")

    @classmethod
    def parse(cls, text: str) -> "Checkpoint":
        """The checkpoint of a note's text. That somebody signed it is another question: `open_checkpoint`."""
        lines = text.split("\n")
        if len(lines) < 4 or lines.pop():
            raise CheckpointMalformedError(problem="it has not three lines, each ended by a newline")
        origin, size, encoded, *extensions = lines
        if not _DECIMAL.fullmatch(size):
            raise CheckpointMalformedError(problem="the size is not a decimal number without leading zeros")
        root = _from_base64(encoded)
        if root is None:
            raise CheckpointMalformedError(problem="the root is not canonical base64")
        return cls(origin, int(size), root, tuple(extensions))

    def to_text(self) -> str:
        """The note text, every line ended by a newline."""
        lines = (self.origin, str(self.size), _base64(self.root), *self.extensions)
        return "".join(f"{line}\n" for line in lines)


@dataclass(frozen=True)
class OpenedCheckpoint:
    """A checkpoint that a key of its log signed. ``cosignatures`` are those of the known witnesses, all verified."""

    checkpoint: Checkpoint
    log_signatures: tuple["TrustedSignature", ...]
    cosignatures: tuple["TrustedSignature", ...]
    unknown: tuple["Signature", ...]

    @property
    def witness_names(self) -> frozenset[str]:
        """Who cosigned; a witness that signs with its old and its new key counts once."""
        return frozenset(trusted.key.name for trusted in self.cosignatures)

    def require_witnesses(self, minimum: int) -> None:
        """At least so many of the known witnesses cosigned it. COSIGNATURES_TOO_FEW."""
        names = sorted(self.witness_names)
        if len(names) < minimum:
            raise CosignaturesTooFewError(
                size=self.checkpoint.size, count=len(names), found=names or "–", minimum=minimum
            )


def sign_checkpoint(checkpoint: Checkpoint, keys: Iterable["SignerKey"]) -> "Note":
    """The checkpoint signed by the log. That it extends everything signed before is the caller's promise."""
    return sign(checkpoint.to_text(), keys)


def open_checkpoint(
    data: bytes,
    origin: str,
    log_keys: Iterable["VerifierKey"],
    witness_keys: Iterable["VerifierKey"] = (),
) -> OpenedCheckpoint:
    """The checkpoint of the log ``origin``, if one of the log's keys signed it and no known key's signature is wrong.

    While keys change, ``log_keys`` holds the old and the new one, of the same or of another name. Witnesses alone
    never suffice; how many of them are enough is the caller's policy. Raises what `open_note` raises, and
    CHECKPOINT_MALFORMED, WRONG_ORIGIN, NOTE_KEY_MALFORMED.
    """
    log, witnesses = tuple(log_keys), tuple(witness_keys)
    if any(key.algorithm is not Algorithm.COSIGNATURE_V1 for key in witnesses):
        raise NoteKeyMalformedError(problem="a witness's key is not of the cosignature type 0x04")
    opened = open_note(data, (*log, *witnesses))
    by_log = tuple(trusted for trusted in opened.trusted if trusted.key in log)
    if not by_log:
        raise NoTrustedSignatureError(needed=[key.label for key in log])
    checkpoint = Checkpoint.parse(opened.text)
    if checkpoint.origin != origin:
        raise WrongOriginError(found=checkpoint.origin, expected=origin)
    by_witnesses = tuple(trusted for trusted in opened.trusted if trusted.key not in log)
    return OpenedCheckpoint(checkpoint, by_log, by_witnesses, opened.unknown)


# --- notes -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Signature:
    """One signature line as it stands in a note: whose it claims to be, and its bytes. NOTE_MALFORMED."""

    name: str
    key_id: bytes
    value: bytes

    def __post_init__(self) -> None:
        if not _is_name(self.name):
            raise NoteMalformedError(
                problem="a key name is empty or holds a space, a plus or a control character"
            )
        if len(self.key_id) != 4 or not self.value:
            raise NoteMalformedError(problem="a signature has not four bytes of key id and at least one more")

    @classmethod
    def from_line(cls, line: str) -> "Signature":
        """The signature of a line without its newline."""
        if not line.startswith("— "):
            raise NoteMalformedError(problem="a signature line does not begin with an em dash and a space")
        name, _, encoded = line[2:].partition(" ")
        raw = _from_base64(encoded)
        if raw is None:
            raise NoteMalformedError(problem="a signature is not canonical base64")
        return cls(name, raw[:4], raw[4:])

    def to_line(self) -> str:
        """The line, with its newline."""
        return f"— {self.name} {_base64(self.key_id + self.value)}\n"

    @property
    def identity(self) -> tuple[str, bytes]:
        """Name and key id: both must be those of a known key."""
        return self.name, self.key_id


@dataclass(frozen=True)
class TrustedSignature:
    """A verified signature. ``time_seconds`` is a cosignature's POSIX time; None for a plain signature."""

    key: "VerifierKey"
    signature: Signature
    time_seconds: int | None


@dataclass(frozen=True)
class Note:
    """A text and the lines below it, well-formed but not verified: trust nothing in it before `open_note`.

    1 to 100 signatures, at most 1 MB. The text may hold empty lines, as the specification allows: the last blank
    line ends it. A checkpoint may not, so there is exactly one blank line in a signed checkpoint. NOTE_MALFORMED.
    """

    text: str
    signatures: tuple[Signature, ...]

    def __post_init__(self) -> None:
        _require_text(self.text)
        if not 1 <= len(self.signatures) <= SIGNATURES_MAX:
            raise NoteMalformedError(problem=f"there are not 1 to {SIGNATURES_MAX} signatures")
        if len(self.to_bytes()) > NOTE_BYTES_MAX:
            raise NoteMalformedError(problem=f"it is longer than {NOTE_BYTES_MAX} bytes")

    @classmethod
    def parse(cls, data: bytes) -> "Note":
        """The note of these bytes; `to_bytes` gives back exactly them."""
        if len(data) > NOTE_BYTES_MAX:
            raise NoteMalformedError(problem=f"it is longer than {NOTE_BYTES_MAX} bytes")
        try:
            content = data.decode("utf-8")
        except UnicodeDecodeError:
            raise NoteMalformedError(problem="it is not UTF-8") from None
        text, blank, lines = content.rpartition("\n\n")
        if not blank:
            raise NoteMalformedError(problem="no blank line ends the text")
        return cls(text + "\n", parse_signature_lines(lines))

    def to_bytes(self) -> bytes:
        """The note as it is stored and sent."""
        lines = "".join(signature.to_line() for signature in self.signatures)
        return f"{self.text}\n{lines}".encode()

    def with_signatures(self, added: Iterable[Signature]) -> "Note":
        """This note with more signatures at its end; a key's new signature takes the place of its earlier ones."""
        new = tuple(added)
        signed = {signature.identity for signature in new}
        kept = tuple(signature for signature in self.signatures if signature.identity not in signed)
        return Note(self.text, kept + new)


@dataclass(frozen=True)
class OpenedNote:
    """A text that at least one known key signed. ``trusted`` has each key once; ``unknown`` proves nothing."""

    text: str
    trusted: tuple[TrustedSignature, ...]
    unknown: tuple[Signature, ...]


def sign(text: str, keys: Iterable["SignerKey"]) -> Note:
    """The text signed by each of ``keys`` (plain Ed25519), in their order. NOTE_MALFORMED."""
    return Note(text, tuple(key.sign(text) for key in keys))


def open_note(data: bytes, known: Iterable["VerifierKey"]) -> OpenedNote:
    """The note's text, if a known key signed it; one wrong signature of a known key refuses all of it.

    Every line of a known key is verified, also a repeated one, and the first counts. Lines of unknown keys are kept
    apart, each once, also if they share a name or an id with a known key. Raises NOTE_MALFORMED, SIGNATURE_WRONG,
    NO_TRUSTED_SIGNATURE, NOTE_KEYS_AMBIGUOUS, and CHECKPOINT_MALFORMED if something else was cosigned.
    """
    note, keys = Note.parse(data), _by_identity(known)
    trusted: dict[tuple[str, bytes], TrustedSignature] = {}
    unknown: dict[Signature, None] = {}
    for signature in note.signatures:
        key = keys.get(signature.identity)
        if key is None:
            unknown[signature] = None
        else:
            trusted.setdefault(signature.identity, key.verify(note.text, signature))
    if not trusted:
        raise NoTrustedSignatureError(needed=[key.label for key in keys.values()])
    return OpenedNote(note.text, tuple(trusted.values()), tuple(unknown))


def parse_signature_lines(block: str) -> tuple[Signature, ...]:
    """1 to 100 signature lines, each ended by a newline: the end of a note, or a witness's answer. NOTE_MALFORMED."""
    if not block.endswith("\n"):
        raise NoteMalformedError(problem="the last signature line is missing or not ended by a newline")
    lines = block[:-1].split("\n")
    if len(lines) > SIGNATURES_MAX:
        raise NoteMalformedError(problem=f"there are more than {SIGNATURES_MAX} signatures")
    return tuple(Signature.from_line(line) for line in lines)


def _by_identity(known: Iterable["VerifierKey"]) -> dict[tuple[str, bytes], "VerifierKey"]:
    keys: dict[tuple[str, bytes], VerifierKey] = {}
    for key in known:
        if keys.setdefault((key.name, key.key_id), key) != key:
            raise NoteKeysAmbiguousError(key=key.label)
    return keys


# --- keys ------------------------------------------------------------------------------------------------------------


class Algorithm(IntEnum):
    """The signature types of c2sp.org/signed-note that we use. One key pair serves one of them, never both."""

    ED25519 = 0x01
    COSIGNATURE_V1 = 0x04


def key_id(name: str, algorithm: Algorithm, public_key: bytes) -> bytes:
    """Four bytes that, with the name, say which key signed. They identify; they are not a proof."""
    return sha256(name.encode() + b"\n" + bytes([algorithm]) + public_key).digest()[:4]


@dataclass(frozen=True)
class VerifierKey:
    """A public key that is known, under a name, for one kind of signature. NOTE_KEY_MALFORMED."""

    name: str
    public_key: bytes
    algorithm: Algorithm = Algorithm.ED25519

    def __post_init__(self) -> None:
        _require_key(self.name, self.public_key)

    @classmethod
    def from_text(cls, text: str) -> "VerifierKey":
        """The key of a vkey: ``name+hex(key id)+base64(algorithm | public key)``, without a newline."""
        key = cls(*_key_parts(text))
        if key.to_text() != text:
            raise NoteKeyMalformedError(problem="the key id does not belong to this name and key")
        return key

    def to_text(self) -> str:
        """The vkey, for whoever is to verify."""
        return f"{self.label}+{_base64(bytes([self.algorithm]) + self.public_key)}"

    @cached_property
    def key_id(self) -> bytes:
        return key_id(self.name, self.algorithm, self.public_key)

    @property
    def label(self) -> str:
        """Name and key id, as people are told them."""
        return f"{self.name}+{self.key_id.hex()}"

    def verify(self, text: str, signature: Signature) -> TrustedSignature:
        """The signature, trusted. SIGNATURE_WRONG; CHECKPOINT_MALFORMED if what was cosigned is none."""
        time_seconds, message, value = None, text.encode(), signature.value
        if self.algorithm is Algorithm.COSIGNATURE_V1:
            time_seconds, value = int.from_bytes(value[:8], "big"), value[8:]
            message = _cosigned(text, time_seconds)
        mine = signature.identity == (self.name, self.key_id) and (time_seconds or 0) <= TIME_SECONDS_MAX
        if not (mine and self._signed(message, value)):
            raise SignatureWrongError(key=self.label)
        return TrustedSignature(self, signature, time_seconds)

    def _signed(self, message: bytes, value: bytes) -> bool:
        try:
            Ed25519PublicKey.from_public_bytes(self.public_key).verify(value, message)
        except InvalidSignature:
            return False
        return True


@dataclass(frozen=True)
class SignerKey:
    """A private key (its 32-byte seed) with the name it signs under. Its text and seed are secret; its repr is not.

    NOTE_KEY_MALFORMED.
    """

    name: str
    seed: bytes = field(repr=False)
    algorithm: Algorithm = Algorithm.ED25519

    def __post_init__(self) -> None:
        _require_key(self.name, self.seed)

    @classmethod
    def from_text(cls, text: str) -> "SignerKey":
        """The key of an skey: ``PRIVATE+KEY+name+hex(key id)+base64(algorithm | seed)``, without a newline."""
        if not text.startswith(_PRIVATE):
            raise NoteKeyMalformedError(problem="the text is not that of a private key")
        key = cls(*_key_parts(text.removeprefix(_PRIVATE)))
        if key.to_text() != text:
            raise NoteKeyMalformedError(problem="the key id does not belong to this name and key")
        return key

    def to_text(self) -> str:
        """The skey: secret, for the signer's or witness's own key file."""
        return f"{_PRIVATE}{self.verifier_key.label}+{_base64(bytes([self.algorithm]) + self.seed)}"

    @cached_property
    def verifier_key(self) -> VerifierKey:
        """The public half, to be handed out."""
        return VerifierKey(self.name, self._private.public_key().public_bytes_raw(), self.algorithm)

    def sign(self, text: str) -> Signature:
        """A plain signature over a note's text."""
        if self.algorithm is not Algorithm.ED25519:
            raise ValueError("a witness's key cosigns, and signs nothing else")
        _require_text(text)
        return self._signature(self._private.sign(text.encode()))

    def cosign(self, text: str, time_seconds: int) -> Signature:
        """A witness's word that, at this POSIX time, this was the largest consistent checkpoint it had seen.

        That it is consistent with the last one cosigned is for the caller to have checked. CHECKPOINT_MALFORMED.
        """
        if self.algorithm is not Algorithm.COSIGNATURE_V1:
            raise ValueError("only a witness's key cosigns")
        if not 0 <= time_seconds <= TIME_SECONDS_MAX:
            raise ValueError("a cosignature's time lies between 0 and 2^63 − 1")
        signed = self._private.sign(_cosigned(text, time_seconds))
        return self._signature(time_seconds.to_bytes(8, "big") + signed)

    @cached_property
    def _private(self) -> Ed25519PrivateKey:
        return Ed25519PrivateKey.from_private_bytes(self.seed)

    def _signature(self, value: bytes) -> Signature:
        return Signature(self.name, self.verifier_key.key_id, value)


def _cosigned(text: str, time_seconds: int) -> bytes:
    """What a witness signs. It cosigns checkpoints only, so that its key never speaks about anything else."""
    Checkpoint.parse(text)
    return f"cosignature/v1\ntime {time_seconds}\n{text}".encode()


def _key_parts(text: str) -> tuple[str, bytes, Algorithm]:
    """Name, 32 key bytes and algorithm of ``name+hash+base64``; the hash is compared by whoever makes the key."""
    name, _, rest = text.partition("+")
    raw = _from_base64(rest.partition("+")[2])
    if not raw:
        raise NoteKeyMalformedError(problem="it is not name+hash+key, or the key is not canonical base64")
    if raw[0] not in tuple(Algorithm):
        raise NoteKeyMalformedError(problem=f"signatures of type {raw[0]:#04x} are not supported")
    return name, raw[1:], Algorithm(raw[0])


# --- spelling --------------------------------------------------------------------------------------------------------


def _require_key(name: str, key: bytes) -> None:
    if not _is_name(name):
        raise NoteKeyMalformedError(
            problem="its name is empty or holds a space, a plus or a control character"
        )
    if len(key) != 32:
        raise NoteKeyMalformedError(problem="the key has not 32 bytes")


def _require_text(text: str) -> None:
    if not text.endswith("\n") or _NOT_IN_A_NOTE.search(text):
        raise NoteMalformedError(problem="the text has no newline at its end or holds a control character")


def _require_lines(lines: Iterable[str]) -> None:
    for line in lines:
        if not line or "\n" in line or _NOT_IN_A_NOTE.search(line):
            raise CheckpointMalformedError(
                problem="origin or an extension line is empty or holds a control character"
            )


def _is_name(name: str) -> bool:
    return bool(name) and not _NOT_IN_A_NAME.search(name)


def _base64(raw: bytes) -> str:
    return b64encode(raw).decode()


def _from_base64(encoded: str) -> bytes | None:
    """RFC 4648, section 4, padded and canonical (section 3.5); None for any other spelling."""
    try:
        raw = b64decode(encoded, validate=True)
    except ValueError:
        return None
    return raw if _base64(raw) == encoded else None
