"""Keys of people: made once, wrapped by the master key, at hand while they are used, forgotten when one is destroyed.

Several processes may share one database: a key that one of them destroys is used by none of them a second later. Master
keys change while readers go on (`rotate`). What may not live here: what keys seal, names and numbers.
"""

import hmac
import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from uuid import UUID

import sqlalchemy as sa
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from ledger.errors import (
    KeyStoreDamagedError,
    KeyStoreMissingError,
    NotAKeyStoreError,
    SchemaMismatchError,
    WrongMasterKeyError,
)
from ledger.key_database import (
    KEY_STORE_SCHEMA,
    KeyDatabase,
    chunks,
    insert,
    metadata,
    store,
    subject_keys,
)
from ledger.master_key import MasterKey

MASTERS_KEPT = 8
"""How many master keys a process remembers through rotations, for reads that began before them."""
KEYS_CACHED_MAX = 16_384
"""Keys a process keeps at hand; about 40 MB when full."""
LOOK_SECONDS = 0.5
"""How often a process that uses keys looks whether another one destroyed any: promised is one second."""

Known = dict[UUID, AESGCM | None]
"""Keys by person; None for a destroyed one."""


class SubjectKeys:
    """The keys in one database, for many threads. Raises what `ledger.sealing.KeyStore.open` says."""

    def __init__(
        self, database: KeyDatabase, master: MasterKey, others: Callable[[], Iterable[bytes]]
    ) -> None:
        self._database, self._rotating, self._others = database, threading.Lock(), others
        self._masters: tuple[MasterKey, ...] = (master,)
        self._cache, self._look_at = KeyCache(KEYS_CACHED_MAX), 0.0
        self.secret, self._destructions = self._opened()

    def forget(self) -> None:
        """Hold no key any more: the next use fetches it, if it is still there."""
        self._cache.forget()

    def known(self, subject_ids: set[UUID]) -> Known:
        """The keys of those whom the store knows."""
        self._notice_destructions()
        epoch = self._cache.epoch
        known = self._cache.found(subject_ids)
        if absent := subject_ids - known.keys():
            with self._database.reading() as connection:
                fetched = self._fetch(connection, absent)
            self._cache.add(fetched, epoch)
            known.update(fetched)
        return known

    def ensured(self, subject_ids: set[UUID]) -> Known:
        """Everybody's key, made where missing; None for those whose key was destroyed."""
        epoch = self._cache.epoch
        known = self.known(subject_ids)
        if missing := subject_ids - known.keys():
            with self._database.writing() as connection:
                made = self.make(connection, missing)
            self._cache.add(made, epoch)
            known.update(made)
        return known

    def make(self, connection: sa.Connection, subject_ids: set[UUID]) -> Known:
        """In a write transaction: everybody's key, made where missing; nobody rotates or destroys until commit."""
        check = sa.select(store.c.key_check).with_for_update(read=True)
        master = self._master_of(connection.execute(check).scalar_one())
        known = self._fetch(connection, subject_ids)
        if missing := sorted(subject_ids - known.keys()):
            rows = [
                {"subject_id": s, "wrapped_key": master.wrap(secrets.token_bytes(32), s.bytes)}
                for s in missing
            ]
            connection.execute(insert(connection, subject_keys).on_conflict_do_nothing(), rows)
            known.update(self._fetch(connection, missing))
        return known

    def _fetch(self, connection: sa.Connection, subject_ids: Iterable[UUID]) -> Known:
        # The check comes in the same statement: keys and master key are of one moment, also while somebody rotates.
        check = sa.select(store.c.key_check).scalar_subquery()
        query = sa.select(subject_keys.c.subject_id, subject_keys.c.wrapped_key, check)
        known: Known = {}
        for chunk in chunks(subject_ids):
            rows = connection.execute(query.where(subject_keys.c.subject_id.in_(chunk)))
            for s, wrapped, key_check in rows:
                master = self._master_of(key_check)
                known[s] = None if wrapped is None else AESGCM(self._unwrapped(master, wrapped, s.bytes))
        return known

    def _rewrap(self, connection: sa.Connection, old: MasterKey, new: MasterKey) -> None:
        living = sa.select(subject_keys).where(subject_keys.c.wrapped_key.is_not(None))
        rows = []
        for subject_id, wrapped, _ in connection.execute(living):
            key = self._unwrapped(old, wrapped, subject_id.bytes)
            rows.append({"s": subject_id, "w": new.wrap(key, subject_id.bytes)})
        if rows:
            mine = sa.update(subject_keys).where(subject_keys.c.subject_id == sa.bindparam("s"))
            connection.execute(mine.values(wrapped_key=sa.bindparam("w")), rows)

    def rotate(self, new: MasterKey) -> None:
        """Wrap every key anew, in one transaction; from then on only the new master key opens the store."""
        with self._rotating:
            self._masters = (*self._masters, new)
            with self._database.writing() as connection:
                row = connection.execute(sa.select(store).with_for_update()).one()
                old = self._master_of(row.key_check)
                secret = new.wrap(self._unwrapped(old, row.wrapped_secret, b"secret"), b"secret")
                connection.execute(sa.update(store).values(key_check=new.check, wrapped_secret=secret))
                self._rewrap(connection, old, new)
            self._masters = (new, *self._masters[:-1])[:MASTERS_KEPT]

    def is_wrapped_by(self, master: MasterKey) -> bool:
        """Whether it is this master key that opens the store now."""
        with self._database.reading() as connection:
            check: bytes = connection.execute(sa.select(store.c.key_check)).scalar_one()
        return hmac.compare_digest(master.check, check)

    def _notice_destructions(self) -> None:
        now = time.monotonic()
        if now < self._look_at:
            return
        with self._database.reading() as connection:
            destructions = connection.execute(sa.select(store.c.destructions)).scalar_one()
        if destructions != self._destructions:
            self._destructions = destructions
            self._cache.forget()
        self._look_at = now + LOOK_SECONDS

    def _master_of(self, check: bytes) -> MasterKey:
        # Older ones stay at hand: a reader may look at the store as it was some rotations ago.
        for master in self._masters:
            if hmac.compare_digest(master.check, check):
                return master
        for key in self._others():  # another process rotates
            master = MasterKey(key)
            if hmac.compare_digest(master.check, check):
                self._masters = (master, *self._masters)[:MASTERS_KEPT]
                return master
        raise WrongMasterKeyError(database=self._database.name)

    def _unwrapped(self, master: MasterKey, wrapped: bytes, purpose: bytes) -> bytes:
        try:
            return master.unwrap(wrapped, purpose)
        except (InvalidTag, ValueError):
            raise KeyStoreDamagedError(database=self._database.name, problem="a key does not open") from None

    def _opened(self) -> tuple[bytes, int]:
        """The secret and the count of destructions, once the database is known to be ours and whole."""
        name = self._database.name
        with self._database.reading() as connection:
            tables = sa.inspect(connection).get_table_names()
            if not tables:
                raise KeyStoreMissingError(database=name)
            if store.name not in tables:
                raise NotAKeyStoreError(database=name, problem=f"it has no table {store.name}")
            row = connection.execute(sa.select(store)).one_or_none()
        if row is None or not set(metadata.tables) <= set(tables):
            raise KeyStoreDamagedError(database=name, problem="a part of it is missing")
        if row.schema_version != KEY_STORE_SCHEMA:
            raise SchemaMismatchError(database=name, found=row.schema_version, expected=KEY_STORE_SCHEMA)
        master = self._master_of(row.key_check)
        return self._unwrapped(master, row.wrapped_secret, b"secret"), row.destructions


class KeyCache:
    """Keys at hand, ``keys_max`` of them; those not used for longest leave first."""

    def __init__(self, keys_max: int) -> None:
        self._keys: OrderedDict[UUID, AESGCM | None] = OrderedDict()
        self._keys_max, self._lock = keys_max, threading.Lock()
        self.epoch = 0
        """Changes when keys are forgotten: a key fetched before, and perhaps destroyed since, is not taken in."""

    def found(self, subject_ids: Iterable[UUID]) -> Known:
        with self._lock:
            found = {s: self._keys[s] for s in subject_ids if s in self._keys}
            for subject_id in found:
                self._keys.move_to_end(subject_id)
        return found

    def add(self, known: Mapping[UUID, AESGCM | None], epoch: int) -> None:
        with self._lock:
            if epoch == self.epoch:
                self._keys.update(known)
                while len(self._keys) > self._keys_max:
                    self._keys.popitem(last=False)

    def forget(self) -> None:
        with self._lock:
            self._keys.clear()
            self.epoch += 1
