"""A file that one process keeps for itself and cannot lose to a crash: the signer's state, and what a witness has seen.

Whole or not at all: what is read is what was written last, or what was there before. Nothing here knows what it holds.
"""

import os
import sys
from pathlib import Path
from typing import IO


def write_whole(file: Path, content: bytes) -> None:
    """Replace a file so that after a crash it is either what it was or what it is to be, and on disk."""
    new = file.with_name(file.name + ".new")
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as opened:
        opened.write(content)
        opened.flush()
        os.fsync(descriptor)
    os.replace(new, file)
    if sys.platform != "win32":  # there, a folder cannot be opened
        folder = os.open(file.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def hold(file: Path) -> IO[bytes] | None:
    """The lock beside a file, until it is closed; None if another process holds it.

    The system lets go of it when the process ends, however it ends.
    """
    lock = file.with_name(file.name + ".lock").open("ab")
    try:
        if sys.platform == "win32":
            import msvcrt

            msvcrt.locking(lock.fileno(), msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        lock.close()
        return None
    return lock
