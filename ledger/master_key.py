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
    """A new random master key in a new file (mode 0600); MASTER_KEY_INVALID if there is a file already.

    On disk when this returns. The file is there with its key or not at all, whatever a crash leaves.
    """
    key = secrets.token_bytes(32)
    write_master_key(path, key)
    return key


def write_master_key(path: Path, key: bytes) -> None:
    """`create_master_key`, for a key that there is."""
    beside = path.with_name(f"{path.name}.{secrets.token_hex(4)}.tmp")
    with os.fdopen(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(base64.urlsafe_b64encode(key).rstrip(b"=").decode() + "\n")
        file.flush()
        os.fsync(file.fileno())
    try:
        os.link(beside, path)
    except FileExistsError:
        raise MasterKeyInvalidError(problem=f"{path} exists already and is not overwritten") from None
    finally:
        beside.unlink()
    sync_folder(path)


def sync_folder(path: Path) -> None:
    """Which files there are beside ``path`` is on disk when this returns."""
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


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
