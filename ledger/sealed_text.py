"""Sealed text: the one form in which a person's fields stand in a fact, and the ciphers that make and open it.

It is ``s1.`` and base64url, unpadded, of ``subject id (16) | nonce (12) | AES-256-GCM ciphertext and tag``.
The associated data are format version, subject and topic: it opens nowhere but where it was sealed for.
Facts are for ever, and so is this form. What may not live here: where keys come from, and databases.
"""

import base64
import secrets
from collections.abc import Mapping
from uuid import UUID

import orjson
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from ledger.codec import canonical_json
from ledger.errors import InvalidRequestError, SealBrokenError

SEALED_CHARACTERS_MAX = 16_384
"""The longest sealed text a fact may hold (`ledger.events.Sealed`)."""
_FORMAT, _NONCE, _TAG, _PADDED_TO = "s1.", 12, 16, 32


def seal(key: AESGCM, topic: str, subject_id: UUID, fields: Mapping[str, str | None]) -> str:
    """One person's fields under their key; INVALID_REQUEST for text that is too long, or no Unicode.

    Lengths are hidden in steps of 32 bytes.
    """
    nonce = secrets.token_bytes(_NONCE)
    ciphertext = key.encrypt(nonce, _padded_json(fields), _bound(topic, subject_id))
    sealed = _FORMAT + _base64url(subject_id.bytes + nonce + ciphertext)
    if len(sealed) > SEALED_CHARACTERS_MAX:
        raise InvalidRequestError(problem="the personal text is too long")
    return sealed


def parts(topic: str, sealed: str) -> tuple[UUID, bytes]:
    """Subject, and nonce with ciphertext; SEAL_BROKEN for anything else.

    Only the one written form counts: no other last character, no ``=``.
    """
    try:
        data = base64.b64decode(sealed[3:] + "=" * (-(len(sealed) - 3) % 4), altchars=b"-_", validate=True)
    except ValueError:
        raise SealBrokenError(topic=topic) from None
    if _FORMAT + _base64url(data) != sealed or len(data) < 16 + _NONCE + _TAG:
        raise SealBrokenError(topic=topic)
    return UUID(bytes=data[:16]), data[16:]


def unsealed(key: AESGCM, topic: str, subject_id: UUID, rest: bytes) -> dict[str, str | None]:
    """The fields inside what `parts` gave; SEAL_BROKEN if it was altered, or sealed for another topic."""
    try:
        plain = key.decrypt(rest[:_NONCE], rest[_NONCE:], _bound(topic, subject_id))
    except InvalidTag:
        raise SealBrokenError(topic=topic) from None
    fields: dict[str, str | None] = orjson.loads(plain)
    return fields


def _padded_json(fields: Mapping[str, str | None]) -> bytes:
    try:
        plain = canonical_json(dict(fields))
    except TypeError:
        raise InvalidRequestError(problem="the personal text is not Unicode") from None
    return plain + b" " * (-len(plain) % _PADDED_TO)


def _bound(topic: str, subject_id: UUID) -> bytes:
    return _FORMAT.encode() + subject_id.bytes + topic.encode()


def _base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
