"""The files that hold signing keys: one skey a line, readable by their owner only. Nothing is signed here."""

import os
import secrets
from collections.abc import Sequence
from pathlib import Path

from ledger.checkpoint import Algorithm, SignerKey
from ledger.errors import NoteKeyMalformedError


def create_key_file(path: Path, name: str, algorithm: Algorithm = Algorithm.ED25519) -> SignerKey:
    """A new random key under ``name`` in a new file (mode 0600). NOTE_KEY_MALFORMED if the file exists already."""
    key = SignerKey(name, secrets.token_bytes(32), algorithm)
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        raise NoteKeyMalformedError(problem=f"{path} exists already and is not overwritten") from None
    with os.fdopen(descriptor, "w") as file:
        file.write(key.to_text() + "\n")
        file.flush()
        os.fsync(descriptor)
    return key


def read_key_files(paths: Sequence[Path]) -> list[SignerKey]:
    """The keys of these files in their order, one a line; the first gives the log its name. NOTE_KEY_MALFORMED."""
    keys = [SignerKey.from_text(line) for path in paths for line in _lines(path)]
    if not keys:
        raise NoteKeyMalformedError(problem="no signing key was given")
    return keys


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text("utf-8").split()
    except OSError as error:
        raise NoteKeyMalformedError(problem=f"{path} cannot be read ({error.strerror})") from None
    except UnicodeDecodeError:
        raise NoteKeyMalformedError(problem=f"{path} is not text") from None
