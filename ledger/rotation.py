"""Changing the master key, so that whoever is reading goes on and a crash at any point leaves a store that opens.

The next key is in a synced file (``<master key file>.next``) before anything is wrapped by it; one transaction wraps
every key anew; then the old key is put aside (``.old-<mark>``) and the next file takes its place. In between, the store
opens with one of the two files, and both are tried: by `opened`, and by a running process that meets a master key it
does not know. Doing it again finishes what was begun. What may not live here: keys of people.
"""

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from ledger.errors import MasterKeyInvalidError
from ledger.master_key import MasterKey, create_master_key, load_master_key, sync_folder, write_master_key
from ledger.sealing import BUSY_SECONDS, KeyStore


def opened(url: str, file: Path, *, busy_seconds: float = BUSY_SECONDS) -> KeyStore:
    """The key store, by the master key in ``file`` or the one a rotation is bringing; it follows later rotations too.

    Raises what `KeyStore.open` and `load_master_key` do.
    """
    return KeyStore.open(
        url, load_master_key(file), busy_seconds=busy_seconds, others=lambda: _in_files(file)
    )


def rotate(url: str, file: Path, *, busy_seconds: float = BUSY_SECONDS) -> Path:
    """Put a new master key in force, or finish doing so; gives the file where the old one was put aside.

    Backups of the key store from before open with the old key only: delete it as soon as there is a new backup. On
    PostgreSQL that also makes useless what old pages and WAL still hold of destroyed keys.
    """
    old, following = load_master_key(file), file.with_name(file.name + ".next")
    store = opened(url, file, busy_seconds=busy_seconds)
    try:
        if store.is_wrapped_by(old):
            store.rotate(load_master_key(following) if following.exists() else create_master_key(following))
        elif not following.exists():
            raise MasterKeyInvalidError(problem=f"somebody else has just changed {file}")
    finally:
        store.close()
    aside = file.with_name(f"{file.name}.old-{MasterKey(old).check.hex()[:8]}")
    if not aside.exists():  # else a crash came right after it
        write_master_key(aside, old)
    os.replace(following, file)
    sync_folder(file)
    return aside


def _in_files(file: Path) -> Iterator[bytes]:
    following = file.with_name(file.name + ".next")
    yield load_master_key(file)
    with suppress(MasterKeyInvalidError):  # mostly there is none
        yield load_master_key(following)
    yield load_master_key(file)  # it may have taken its place just now
