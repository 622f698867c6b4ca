"""Signing inside `wenming serve`: on SQLite one process is all there is. Elsewhere `wenming sign` runs by itself."""

import logging
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from api.settings import Settings
from ledger.cosigning import Cosigning
from ledger.errors import SignerHaltedError
from ledger.log import LedgerLog
from ledger.signer import Signer
from ledger.signing_keys import read_key_files
from ledger.tree import TreeStore

LEAVE_SECONDS = 5.0
"""How long a process that ends waits for witnesses that are just being asked."""

log = logging.getLogger("wenming.signer")


def signer_of(ledger_log: LedgerLog, settings: Settings) -> Signer:
    """The signer that the settings describe; its log bears the name of the first key."""
    state = settings.state_file
    keys = read_key_files([settings.signing_key] if settings.signing_key else [])
    return Signer(ledger_log, state, keys, keys[0].name)


def cosignings_of(ledger_log: LedgerLog, settings: Settings) -> list[Cosigning]:
    """One for each witness that the settings name. INVALID_REQUEST."""
    store = TreeStore(ledger_log)
    return [Cosigning(store, witness) for witness in settings.cosigners]


def require_signing(settings: Settings) -> None:
    """The files of keys and witnesses are whole, before anything starts. NOTE_KEY_MALFORMED, INVALID_REQUEST."""
    if settings.signs:
        read_key_files([settings.signing_key] if settings.signing_key else [])
        _ = settings.cosigners


@contextmanager
def cosigning(witnesses: Sequence[Cosigning]) -> Iterator[None]:
    """Ask the witnesses beside whatever happens inside. One that just keeps us waiting is not waited for."""
    stop = threading.Event()
    threads = [
        threading.Thread(target=one.run, args=(stop,), name=f"witness {one.witness.url}", daemon=True)
        for one in witnesses
    ]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        until = time.monotonic() + LEAVE_SECONDS
        for thread in threads:
            thread.join(max(0.0, until - time.monotonic()))


@contextmanager
def signing(ledger_log: LedgerLog, settings: Settings) -> Iterator[None]:
    """Sign beside whatever happens inside, if the settings say so."""
    if not settings.signs:
        yield
        return
    stop = threading.Event()
    with signer_of(ledger_log, settings) as signer, cosigning(cosignings_of(ledger_log, settings)):
        thread = threading.Thread(target=_run, args=(signer, stop), name="signer")
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()


def _run(signer: Signer, stop: threading.Event) -> None:
    """Until told to stop. A halt is for an administrator to look into; the ledger is served all the same."""
    try:
        signer.run(stop)
    except SignerHaltedError as halted:
        log.critical("%s", halted)
