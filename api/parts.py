"""The parts of a running ledger, opened and closed together. The only place where they are put together."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal
from uuid import UUID, uuid4

from api.accesses import Accesses
from api.identity import Accounts
from api.operations import Operations
from api.settings import Settings
from ledger import rotation
from ledger.application import Ledger, utc_now
from ledger.archive import Archive
from ledger.errors import KeyStoreExistsError, LedgerExistsError, LedgerMissingError
from ledger.log import LedgerLog
from ledger.master_key import create_master_key, load_master_key
from ledger.sealing import KeyStore


@dataclass(frozen=True)
class Parts:
    """What every edge works with."""

    settings: Settings
    log: LedgerLog
    keys: KeyStore
    accounts: Accounts
    accesses: Accesses
    operations: Operations
    ledger: Ledger
    archive: Archive | None
    """Old facts as columns, where the settings say that they are kept; what is not there is read from the log."""

    def close(self) -> None:
        self.operations.close()
        self.accesses.close()
        self.accounts.close()
        self.keys.close()
        self.log.close()


def create(
    settings: Settings,
    kind: Literal["production", "demo"] = "production",
    *,
    ledger_id: UUID | None = None,
    created_at: datetime | None = None,
    app_login: str | None = None,
) -> UUID:
    """Make a new, empty ledger with its key store; refused if either is there already.

    The key store comes first: a crash in between leaves no ledger whose people cannot be sealed, and the next `create`
    takes the new, empty store it finds.
    """
    new, now = ledger_id or uuid4(), created_at or datetime.now(UTC)
    _require_no_ledger(settings)
    settings.master_key.parent.mkdir(parents=True, exist_ok=True)
    master = (
        load_master_key(settings.master_key)
        if settings.master_key.exists()
        else create_master_key(settings.master_key)
    )
    try:
        KeyStore.create(settings.keys, master, now)
    except KeyStoreExistsError:
        if not _is_new(settings.keys, master):
            raise
    LedgerLog.create(settings.database, ledger_id=new, kind=kind, created_at=now, app_login=app_login).close()
    return new


def _is_new(keys_url: str, master: bytes) -> bool:
    store = KeyStore.open(keys_url, master)
    try:
        return store.is_new()
    finally:
        store.close()


def _require_no_ledger(settings: Settings) -> None:
    try:
        LedgerLog.open(settings.database, busy_seconds=settings.busy_seconds).close()
    except LedgerMissingError:
        return
    raise LedgerExistsError(database=settings.shown()["database"])


def open_parts(settings: Settings, clock: Callable[[], datetime] = utc_now) -> Parts:
    """An existing ledger; refused with LEDGER_MISSING and the like if there is none of ours."""
    log = LedgerLog.open(settings.database, busy_seconds=settings.busy_seconds)
    try:
        keys = rotation.opened(settings.keys, settings.master_key, busy_seconds=settings.busy_seconds)
    except BaseException:
        log.close()
        raise
    return Parts(
        settings,
        log,
        keys,
        Accounts(settings.keys),
        Accesses(settings.keys, settings.busy_seconds),
        Operations(settings.keys, settings.busy_seconds),
        Ledger(log, digest=keys.request_digest, clock=clock),
        None if settings.archive is None else Archive(log, settings.archive),
    )


@contextmanager
def opened(settings: Settings, clock: Callable[[], datetime] = utc_now) -> Iterator[Parts]:
    """`open_parts`, closed at the end."""
    parts = open_parts(settings, clock)
    try:
        yield parts
    finally:
        parts.close()
