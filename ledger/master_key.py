"""The master key: it wraps all others, and lies in a file that no backup of the databases holds.

What may not live here: the keys it wraps, and databases.
"""

import base64
import hmac
import os
import secrets
from pathlib import Path

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from ledger.errors import MasterKeyInvalidError

_NONCE = 12


class MasterKey:
    """Wraps other keys; what a wrapped key is for is bound to it."""

    def __init__(self, key: bytes) -> None:
        if len(key) != 32:
            raise MasterKeyInvalidError(problem="it is not 32 bytes long")
        self._cipher = AESGCM(keyed_digest(key, b"wrap"))
        self.check = keyed_digest(key, b"check")

    def wrap(self, key: bytes, purpose: bytes) -> bytes:
        nonce = secrets.token_bytes(_NONCE)
        return nonce + self._cipher.encrypt(nonce, key, purpose)

    def unwrap(self, wrapped: bytes, purpose: bytes) -> bytes:
        """InvalidTag if ``wrapped`` was altered, or wrapped by another key or for another purpose."""
        return self._cipher.decrypt(wrapped[:_NONCE], wrapped[_NONCE:], purpose)


def create_master_key(path: Path) -> bytes:
    """A new random master key in a new file (mode 0600); MASTER_KEY_INVALID if there is a file already."""
    key = secrets.token_bytes(32)
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        raise MasterKeyInvalidError(problem=f"{path} exists already and is not overwritten") from None
    with os.fdopen(descriptor, "w") as file:
        file.write(base64.urlsafe_b64encode(key).rstrip(b"=").decode() + "\n")
        file.flush()
        os.fsync(descriptor)
    folder = os.open(path.parent, os.O_RDONLY)
    os.fsync(folder)
    os.close(folder)
    return key


def load_master_key(path: Path) -> bytes:
    """The master key in a file (32 bytes as base64url); MASTER_KEY_INVALID if it is missing or holds anything else."""
    try:
        key = base64.b64decode(path.read_text("ascii").strip() + "=", altchars=b"-_", validate=True)
    except OSError as error:
        raise MasterKeyInvalidError(problem=f"{path} cannot be read ({error.strerror})") from None
    except ValueError:
        raise MasterKeyInvalidError(problem=f"{path} does not hold a key") from None
    if len(key) != 32:
        raise MasterKeyInvalidError(problem=f"{path} does not hold a key of 32 bytes")
    return key


def keyed_digest(key: bytes, message: bytes) -> bytes:
    """32 bytes that say nothing about ``message`` to anybody without ``key``."""
    return hmac.digest(key, message, "sha256")
