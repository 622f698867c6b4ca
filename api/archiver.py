"""Keeps the archive up with the log while something follows it: in a process of its own, one at a time, politely.

The process that follows only looks whether a whole segment is new. Another interpreter then runs `wenming archive`, so
that answers and figures do not wait for it. Killed, it leaves a folder that nobody reads; the next one writes it anew.
"""

import logging
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy.exc import SQLAlchemyError

from ledger import archive
from ledger.errors import LedgerError
from ledger.log import LedgerLog

LOOK_SECONDS = 5.0
"""How often the log's size is looked at."""
AGAIN_SECONDS = 300.0
"""How long after a failure the next try is made."""
NICENESS = 15
log = logging.getLogger("wenming.archiver")


@contextmanager
def keeping_archive(ledger_log: LedgerLog, directory: Path | None, size: int | None = None) -> Iterator[None]:
    """While this lasts, segments of the log are archived soon after they are whole; with None, nothing is done."""
    if directory is None:
        yield
        return
    stop = threading.Event()
    facts = archive.SEGMENT_POSITIONS if size is None else size
    thread = threading.Thread(target=_keep, args=(ledger_log, directory, facts, stop), name="archiver")
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def _keep(ledger_log: LedgerLog, directory: Path, size: int, stop: threading.Event) -> None:
    looked_at = 0
    while not stop.is_set():
        pause = LOOK_SECONDS
        try:
            whole = ledger_log.head().size // size
            if whole > looked_at and not archive.is_up_to(directory, whole * size, size):
                if _archived(ledger_log, directory, size, stop):
                    looked_at = whole
                else:
                    pause = AGAIN_SECONDS
            else:
                looked_at = whole
        except (LedgerError, SQLAlchemyError, OSError) as trouble:
            log.warning("nothing is archived now: %s", getattr(trouble, "code", type(trouble).__name__))
            pause = AGAIN_SECONDS
        stop.wait(pause)


def _archived(ledger_log: LedgerLog, directory: Path, size: int, stop: threading.Event) -> bool:
    """Whether another process archived everything that is whole; it is ended if it is time to stop."""
    with subprocess.Popen(
        [sys.executable, "-m", "api.cli", "archive", "--segment", str(size)],
        env=os.environ | _told(ledger_log, directory),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        encoding="utf-8",
        errors="replace",
        start_new_session=True,  # an interrupt at the keyboard is for the parent, which ends it
        creationflags=getattr(subprocess, "BELOW_NORMAL_PRIORITY_CLASS", 0),
    ) as child:
        _be_polite(child)
        ender = threading.Thread(target=_end, args=(child, stop), daemon=True)
        ender.start()
        _, said = child.communicate()
    if child.returncode and not stop.is_set():
        log.error(
            "wenming archive ended with %d: %s", child.returncode, (said.strip().splitlines() or ["-"])[0]
        )
    return child.returncode == 0


def _told(ledger_log: LedgerLog, directory: Path) -> dict[str, str]:
    """In the environment, where other people of the machine do not see the password."""
    return {
        "WENMING_DATABASE": ledger_log.url.render_as_string(hide_password=False),
        "WENMING_ARCHIVE": str(directory),
    }


def _be_polite(child: subprocess.Popen[str]) -> None:
    if os.name == "posix":
        try:
            os.setpriority(os.PRIO_PROCESS, child.pid, NICENESS)
        except ProcessLookupError:  # already done
            return


def _end(child: subprocess.Popen[str], stop: threading.Event) -> None:
    while child.poll() is None:
        if stop.wait(0.2):
            child.terminate()
            return
