"""Personal fields: sealed under one key per person before they become a fact; destroying the key forgets the person.

`KeyStore` keeps those keys in a database of its own, never the ledger's, with its own short backup retention: what an
administrator restores from the ledger's backups stays unreadable once a key is gone. Beside the keys stand keyed
digests of identity and phone numbers, whose plain hashes could be guessed, and the secret they are keyed with.
No name, number, text or key is ever logged, or shown in an error or a repr.

Sealed text is ``s1.`` and base64url, unpadded, of ``subject id (16) | nonce (12) | AES-256-GCM ciphertext and tag``.
The associated data are format version, subject and topic: it opens nowhere but where it was sealed for.
What may not live here: rules, HTTP, and names in clear beyond the call that seals or unseals them.
"""

import base64
import hmac
import os
import re
import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any
from unicodedata import normalize
from uuid import UUID

import orjson
import sqlalchemy as sa
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import DBAPIError

from ledger import log_postgres, log_sqlite
from ledger.codec import canonical_json, instant_text
from ledger.errors import (
    IdentityTakenError,
    InvalidRequestError,
    KeyStoreDamagedError,
    KeyStoreExistsError,
    KeyStoreMissingError,
    KeyUnknownError,
    LedgerBusyError,
    MasterKeyInvalidError,
    NotAKeyStoreError,
    SchemaMismatchError,
    SealBrokenError,
    SubjectErasedError,
    WrongMasterKeyError,
    refuse_all,
)
from ledger.personal_numbers import normal_id_number, normal_phone
from ledger.schema import UuidColumn

KEY_STORE_SCHEMA = 1
MASTERS_KEPT = 8
"""How many master keys a process remembers through rotations, for reads that began before them."""
SEALED_CHARACTERS_MAX = 16_384
"""The longest sealed text a fact may hold (`ledger.events.Sealed`)."""
KEYS_CACHED_MAX = 16_384
"""Keys a process keeps at hand; about 40 MB when full."""
LOOK_SECONDS = 0.5
"""How often a process that uses keys looks whether another one destroyed any: promised is one second."""
BUSY_SECONDS = 5.0
_FORMAT, _NONCE, _TAG, _PADDED_TO, _CHUNK = "s1.", 12, 16, 32, 5_000

metadata = sa.MetaData()

store = sa.Table(
    "key_store",
    metadata,
    sa.Column("single", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("schema_version", sa.Integer, nullable=False),
    sa.Column("created_at", sa.Text, nullable=False),
    sa.Column("key_check", sa.LargeBinary, nullable=False),
    sa.Column("wrapped_secret", sa.LargeBinary, nullable=False),
    sa.Column("destructions", sa.Integer, nullable=False),
    sa.CheckConstraint("single = 1", name="key_store_one_row"),
)
"""One row. ``key_check`` tells the right master key from a wrong one; other processes watch ``destructions``."""

subject_keys = sa.Table(
    "subject_keys",
    metadata,
    sa.Column("subject_id", UuidColumn, primary_key=True),
    sa.Column("wrapped_key", sa.LargeBinary),
    sa.Column("destroyed_at", sa.Text),
    sa.CheckConstraint(
        "(wrapped_key IS NULL) = (destroyed_at IS NOT NULL)", name="subject_keys_gone_for_good"
    ),
)
"""A key per person, wrapped by the master key; a destroyed one leaves its row, so that it is never made anew."""

claims = sa.Table(
    "id_number_claims",
    metadata,
    sa.Column("id_number_digest", sa.LargeBinary, primary_key=True),
    sa.Column("subject_id", UuidColumn, nullable=False, index=True),
)
"""Whose identity number it is: one number, one person (F12)."""

phones = sa.Table(
    "phones",
    metadata,
    sa.Column("phone_digest", sa.LargeBinary, primary_key=True),
    sa.Column("subject_id", UuidColumn, primary_key=True, index=True),
)
"""Every phone number a person gave: that two are equal shows, the numbers do not (F06)."""

Known = dict[UUID, AESGCM | None]
"""Keys by person; None for a destroyed one."""


class KeyStore:
    """One key per person, and what else must not stand in the ledger. Made by `create`, opened by `open`.

    Safe for many threads, and several processes may share one database: a key that one of them destroys is used by
    none of them a second later. Every write is durable when its call returns; LEDGER_BUSY if others hold the database.
    """

    def __init__(self, database: "_Database", master: "_MasterKey") -> None:
        self._database, self._rotating = database, threading.Lock()
        self._masters: tuple[_MasterKey, ...] = (master,)
        self._cache, self._look_at = _KeyCache(KEYS_CACHED_MAX), 0.0
        secret, self._destructions = self._opened()
        uses = (b"id numbers", b"phones", b"requests", b"ratings")
        self._for_ids, self._for_phones, self._for_requests, self._for_ratings = (
            _digest(secret, u) for u in uses
        )

    def __repr__(self) -> str:
        return f"KeyStore({self._database.name})"

    # -- making and opening --

    @classmethod
    def create(cls, url: str, master_key: bytes, created_at: datetime) -> None:
        """Make a new, empty store in an empty database; KEY_STORE_EXISTS or NOT_A_KEY_STORE if it holds anything.

        A SQLite file is made, readable by its owner only; a PostgreSQL database exists already, and the login of
        ``url`` may make tables there.
        """
        master = _MasterKey(master_key)
        database = _Database(url, BUSY_SECONDS, create=True)
        row = {
            "single": 1,
            "schema_version": KEY_STORE_SCHEMA,
            "created_at": instant_text(created_at.astimezone(UTC)),
            "key_check": master.check,
            "wrapped_secret": master.wrap(secrets.token_bytes(32), b"secret"),
            "destructions": 0,
        }
        try:
            with database.writing() as connection:
                if connection.dialect.name == "postgresql":
                    connection.execute(sa.select(sa.func.pg_advisory_xact_lock(0x6B657973)))
                if tables := sa.inspect(connection).get_table_names():
                    if store.name in tables:
                        raise KeyStoreExistsError(database=database.name)
                    raise NotAKeyStoreError(database=database.name, problem="it holds other tables")
                metadata.create_all(connection)
                connection.execute(store.insert().values(row))
            database.use_wal()
        finally:
            database.close()

    @classmethod
    def open(cls, url: str, master_key: bytes, *, busy_seconds: float = BUSY_SECONDS) -> "KeyStore":
        """Open a store that exists; never makes one.

        Raises KEY_STORE_MISSING, NOT_A_KEY_STORE (a database of something else), SCHEMA_MISMATCH, WRONG_MASTER_KEY,
        MASTER_KEY_INVALID or KEY_STORE_DAMAGED.
        """
        master = _MasterKey(master_key)
        database = _Database(url, busy_seconds)
        try:
            opened = cls(database, master)
            database.use_wal()
            return opened
        except BaseException:
            database.close()
            raise

    def close(self) -> None:
        """Forget all keys and give the connections back."""
        self._cache.forget()
        self._database.close()

    # -- sealing --

    def is_new(self) -> bool:
        """Whether nobody has a key here yet: a store whose ledger was never made."""
        with self._database.reading() as connection:
            return connection.execute(sa.select(subject_keys.c.subject_id).limit(1)).first() is None

    def ensure_keys(self, subject_ids: Iterable[UUID]) -> None:
        """Make the keys these people lack, in one transaction, and keep them at hand: do this before sealing many.

        Erased people are passed over here; `seal` refuses them.
        """
        self._ensured(set(subject_ids))

    def seal(self, topic: str, subject_id: UUID, fields: Mapping[str, str | None]) -> str:
        """Seal one person's fields for facts of one topic; their key is made on first use, and durable by then.

        SUBJECT_ERASED once their key was destroyed; INVALID_REQUEST for text that is too long, or no Unicode.
        Lengths are hidden in steps of 32 bytes.
        """
        if (key := self._ensured({subject_id})[subject_id]) is None:
            raise SubjectErasedError(subject_id=subject_id)
        nonce = secrets.token_bytes(_NONCE)
        ciphertext = key.encrypt(nonce, _padded_json(fields), _bound(topic, subject_id))
        sealed = _FORMAT + _base64url(subject_id.bytes + nonce + ciphertext)
        if len(sealed) > SEALED_CHARACTERS_MAX:
            raise InvalidRequestError(problem="the personal text is too long")
        return sealed

    def unseal(self, topic: str, sealed: str) -> dict[str, str | None] | None:
        """The fields inside; None if the person's key was destroyed (edges then print 〔已删除〕).

        SEAL_BROKEN for text that was altered or sealed for another topic; KEY_UNKNOWN if this store never had the
        person's key.
        """
        return self.unseal_many(topic, [sealed])[0]

    def unseal_many(self, topic: str, sealed: Iterable[str]) -> list[dict[str, str | None] | None]:
        """`unseal` for many, in order; keys are fetched in bulk."""
        opened: list[dict[str, str | None] | None] = []
        pending = iter(sealed)
        while chunk := [_parts(topic, text) for text in islice(pending, _CHUNK)]:
            known = self._known({subject_id for subject_id, _ in chunk})
            for subject_id, rest in chunk:
                if subject_id not in known:
                    raise KeyUnknownError(database=self._database.name, subject_id=subject_id)
                key = known[subject_id]
                opened.append(None if key is None else _unsealed(key, topic, subject_id, rest))
        return opened

    @staticmethod
    def subject_of(sealed: str) -> UUID:
        """Whose fields they are, without opening them; SEAL_BROKEN if it is no sealed text."""
        return _parts("?", sealed)[0]

    # -- identity numbers and phones --

    def claim_id_number(self, subject_id: UUID, id_number: str) -> None:
        """Say that an identity number is this person's; saying it again changes nothing.

        IDENTITY_TAKEN if it is another's (F12); ID_NUMBER_INVALID; SUBJECT_ERASED.
        """
        self.claim_id_numbers([(subject_id, id_number)])

    def claim_id_numbers(self, pairs: Iterable[tuple[UUID, str]]) -> None:
        """`claim_id_number` for many, in one transaction, all or none; every person refused is named."""
        rows = [{"id_number_digest": self._id_digest(number), "subject_id": s} for s, number in pairs]
        owners: dict[Any, UUID] = {}
        with self._database.writing() as connection:
            self._insert_for_living(connection, claims, rows)
            for chunk in _chunks(row["id_number_digest"] for row in rows):
                query = sa.select(claims).where(claims.c.id_number_digest.in_(chunk))
                owners.update((bytes(digest), owner) for digest, owner in connection.execute(query))
            strangers = [row for row in rows if owners[row["id_number_digest"]] != row["subject_id"]]
            refuse_all([IdentityTakenError(subject_id=row["subject_id"]) for row in strangers])

    def release_id_number(self, subject_id: UUID, id_number: str) -> None:
        """Take a claim back: the enrolment came to nothing, or the number was written down wrongly."""
        with self._database.writing() as connection:
            digest = self._id_digest(id_number)
            mine = (claims.c.id_number_digest == digest) & (claims.c.subject_id == subject_id)
            connection.execute(sa.delete(claims).where(mine))

    def set_phone(self, subject_id: UUID, phone: str) -> None:
        """Remember that a person gave this number; earlier ones still count for them. PHONE_INVALID, SUBJECT_ERASED."""
        self.set_phones([(subject_id, phone)])

    def set_phones(self, pairs: Iterable[tuple[UUID, str]]) -> None:
        """`set_phone` for many, in one transaction, all or none."""
        rows = [
            {"phone_digest": _digest(self._for_phones, normal_phone(phone).encode()), "subject_id": s}
            for s, phone in pairs
        ]
        with self._database.writing() as connection:
            self._insert_for_living(connection, phones, rows)

    def same_phone(self, subject_id: UUID, others: Iterable[UUID]) -> tuple[UUID, ...]:
        """Those of ``others``, in their order, who ever gave a number this person gave too (F06); never themself."""
        theirs = phones.alias()
        query = sa.select(theirs.c.subject_id).join(phones, phones.c.phone_digest == theirs.c.phone_digest)
        with self._database.reading() as connection:
            sharing = set(connection.scalars(query.where(phones.c.subject_id == subject_id)))
        return tuple(other for other in others if other in sharing and other != subject_id)

    # -- digests and codes --

    def request_digest(self, body: bytes) -> bytes:
        """32 bytes that tell two requests apart and, without this store's secret, say nothing about them."""
        return _digest(self._for_requests, body)

    def rating_code(self, order_id: UUID) -> str:
        """The eight digits handed to the person served, with which they may rate that order.

        Always the same for an order; that it serves once is the order's rule. Eight digits can be guessed by trying:
        the edge limits the attempts.
        """
        return f"{int.from_bytes(_digest(self._for_ratings, order_id.bytes)[:16], 'big') % 10**8:08d}"

    def check_rating_code(self, order_id: UUID, code: str) -> bool:
        """Whether ``code`` is the order's, in a time that does not depend on how much of it is right."""
        given = re.sub(r"\s", "", normalize("NFKC", code)).encode("utf-8", "replace")
        return hmac.compare_digest(self.rating_code(order_id).encode(), given)

    # -- forgetting and rotating --

    def destroy(self, subject_id: UUID, at: datetime) -> None:
        """Forget a person: key, claims and phones. It cannot be undone; doing it again changes nothing.

        On SQLite the freed bytes are overwritten and the WAL is emptied before this returns; LEDGER_BUSY if a reader
        hinders that: then call again. On PostgreSQL old row versions linger, wrapped, in pages and WAL: `rotate`
        and throwing the old master key away make them useless, as it does backups.
        """
        when = instant_text(at.astimezone(UTC))
        gone = {"wrapped_key": None, "destroyed_at": sa.func.coalesce(subject_keys.c.destroyed_at, when)}
        with self._database.writing() as connection:
            connection.execute(sa.update(store).values(destructions=store.c.destructions + 1))
            upsert = _insert(connection, subject_keys).values(subject_id=subject_id, destroyed_at=when)
            connection.execute(upsert.on_conflict_do_update(index_elements=["subject_id"], set_=gone))
            for table in (claims, phones):
                connection.execute(sa.delete(table).where(table.c.subject_id == subject_id))
        self._cache.forget()
        self._database.empty_wal()

    def is_erased(self, subject_id: UUID) -> bool:
        """Whether this person's key was destroyed."""
        mine = subject_keys.c.subject_id == subject_id
        with self._database.reading() as connection:
            return connection.scalar(sa.select(subject_keys.c.destroyed_at).where(mine)) is not None

    def rotate(self, new_master_key: bytes) -> None:
        """Wrap every key anew, in one transaction; from then on only the new master key opens the store.

        Have the new key in a file before (`create_master_key`): a crash leaves either the old or the new one in
        force. Other processes answer WRONG_MASTER_KEY for keys they do not hold until they open the store anew.
        Sealed text, claims and codes stay as they are.
        """
        new = _MasterKey(new_master_key)
        with self._rotating:
            self._masters = (*self._masters, new)
            with self._database.writing() as connection:
                row = connection.execute(sa.select(store).with_for_update()).one()
                old = self._master_of(row.key_check)
                secret = new.wrap(self._unwrapped(old, row.wrapped_secret, b"secret"), b"secret")
                connection.execute(sa.update(store).values(key_check=new.check, wrapped_secret=secret))
                self._rewrap(connection, old, new)
            self._masters = (new, *self._masters[:-1])[:MASTERS_KEPT]
        self._database.empty_wal()

    # -- keys --

    def _known(self, subject_ids: set[UUID]) -> Known:
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

    def _ensured(self, subject_ids: set[UUID]) -> Known:
        epoch = self._cache.epoch
        known = self._known(subject_ids)
        if missing := subject_ids - known.keys():
            with self._database.writing() as connection:
                made = self._make(connection, missing)
            self._cache.add(made, epoch)
            known.update(made)
        return known

    def _make(self, connection: sa.Connection, subject_ids: set[UUID]) -> Known:
        """In a write transaction: everybody's key, made where missing; nobody rotates or destroys until commit."""
        check = sa.select(store.c.key_check).with_for_update(read=True)
        master = self._master_of(connection.execute(check).scalar_one())
        known = self._fetch(connection, subject_ids)
        if missing := sorted(subject_ids - known.keys()):
            rows = [
                {"subject_id": s, "wrapped_key": master.wrap(secrets.token_bytes(32), s.bytes)}
                for s in missing
            ]
            connection.execute(_insert(connection, subject_keys).on_conflict_do_nothing(), rows)
            known.update(self._fetch(connection, missing))
        return known

    def _fetch(self, connection: sa.Connection, subject_ids: Iterable[UUID]) -> Known:
        # The check comes in the same statement: keys and master key are of one moment, also while somebody rotates.
        check = sa.select(store.c.key_check).scalar_subquery()
        query = sa.select(subject_keys.c.subject_id, subject_keys.c.wrapped_key, check)
        known: Known = {}
        for chunk in _chunks(subject_ids):
            rows = connection.execute(query.where(subject_keys.c.subject_id.in_(chunk)))
            for s, wrapped, key_check in rows:
                master = self._master_of(key_check)
                known[s] = None if wrapped is None else AESGCM(self._unwrapped(master, wrapped, s.bytes))
        return known

    def _rewrap(self, connection: sa.Connection, old: "_MasterKey", new: "_MasterKey") -> None:
        living = sa.select(subject_keys).where(subject_keys.c.wrapped_key.is_not(None))
        rows = []
        for subject_id, wrapped, _ in connection.execute(living):
            key = self._unwrapped(old, wrapped, subject_id.bytes)
            rows.append({"s": subject_id, "w": new.wrap(key, subject_id.bytes)})
        if rows:
            mine = sa.update(subject_keys).where(subject_keys.c.subject_id == sa.bindparam("s"))
            connection.execute(mine.values(wrapped_key=sa.bindparam("w")), rows)

    def _insert_for_living(
        self, connection: sa.Connection, table: sa.Table, rows: list[dict[str, Any]]
    ) -> None:
        """Rows of people who have, or now get, a key. In the order of digests: no two transactions wait crosswise."""
        known = self._make(connection, {row["subject_id"] for row in rows})
        refuse_all([SubjectErasedError(subject_id=s) for s, key in known.items() if key is None])
        if rows:
            digest = table.primary_key.columns[0].name
            in_order = sorted(rows, key=lambda row: row[digest])
            connection.execute(_insert(connection, table).on_conflict_do_nothing(), in_order)

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

    def _master_of(self, check: bytes) -> "_MasterKey":
        # Older ones stay at hand: a reader may look at the store as it was some rotations ago.
        for master in self._masters:
            if hmac.compare_digest(master.check, check):
                return master
        raise WrongMasterKeyError(database=self._database.name)

    def _unwrapped(self, master: "_MasterKey", wrapped: bytes, purpose: bytes) -> bytes:
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

    def _id_digest(self, id_number: str) -> bytes:
        return _digest(self._for_ids, normal_id_number(id_number).encode())


class _Database:
    """Connections that show no values in errors and, on SQLite, overwrite what is deleted."""

    def __init__(self, url: str, busy_seconds: float, *, create: bool = False) -> None:
        parsed = sa.make_url(url)
        self.name, self._busy_seconds = parsed.render_as_string(hide_password=True), busy_seconds
        if parsed.get_backend_name() == "sqlite":
            self._require_file(parsed.database or ":memory:", create)
            self._engine = log_sqlite.make_engine(parsed, busy_seconds)
            overwrite = "PRAGMA secure_delete = ON"
            sa.event.listen(self._engine, "connect", lambda driver, _: driver.execute(overwrite))
        elif parsed.get_backend_name() == "postgresql":
            self._engine = log_postgres.make_engine(parsed, busy_seconds, as_app=False)
        else:
            raise NotAKeyStoreError(database=self.name, problem="only sqlite: and postgresql: are known")
        self._engine.hide_parameters = True
        self.close = self._engine.dispose

    def _require_file(self, name: str, create: bool) -> None:
        if name == ":memory:":
            raise NotAKeyStoreError(database=self.name, problem="a key store needs a file")
        if create:
            Path(name).parent.mkdir(parents=True, exist_ok=True)
            os.close(os.open(name, os.O_RDWR | os.O_CREAT, 0o600))
        elif not Path(name).is_file():
            raise KeyStoreMissingError(database=self.name)

    @contextmanager
    def reading(self, *, writes: bool = False) -> Iterator[sa.Connection]:
        with self._ours(), self._engine.connect() as plain:
            connection = plain.execution_options(writes=writes)
            with connection.begin():
                yield connection

    def use_wal(self) -> None:
        """On SQLite, once it is known that the file is ours."""
        if self._engine.dialect.name == "sqlite":
            with self._ours():
                log_sqlite.use_wal(self._engine)

    def writing(self) -> AbstractContextManager[sa.Connection]:
        return self.reading(writes=True)

    def empty_wal(self) -> None:
        """Overwritten pages reach the file and the WAL holds nothing any more; LEDGER_BUSY if a reader hinders that."""
        if self._engine.dialect.name == "sqlite":
            with self._ours(), self._engine.connect() as connection:
                cursor = connection.connection.cursor()  # a checkpoint runs outside transactions
                if cursor.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]:
                    raise LedgerBusyError(seconds=self._busy_seconds)

    @contextmanager
    def _ours(self) -> Iterator[None]:
        """Turn what drivers say of a held, missing or foreign database into our errors; anything else passes."""
        try:
            yield
        except DBAPIError as error:
            if log_sqlite.is_busy(error) or log_postgres.is_busy(error):
                raise LedgerBusyError(seconds=self._busy_seconds) from None
            problem = str(error.orig)
            if "file is not a database" in problem:
                raise NotAKeyStoreError(database=self.name, problem="it is no SQLite file") from None
            if "malformed" in problem:
                raise KeyStoreDamagedError(database=self.name, problem="its pages are malformed") from None
            if re.search(r'database ".*" does not exist', problem):
                raise KeyStoreMissingError(database=self.name) from None
            raise


class _MasterKey:
    """Wraps other keys; what a wrapped key is for is bound to it."""

    def __init__(self, key: bytes) -> None:
        if len(key) != 32:
            raise MasterKeyInvalidError(problem="it is not 32 bytes long")
        self._cipher = AESGCM(_digest(key, b"wrap"))
        self.check = _digest(key, b"check")

    def wrap(self, key: bytes, purpose: bytes) -> bytes:
        nonce = secrets.token_bytes(_NONCE)
        return nonce + self._cipher.encrypt(nonce, key, purpose)

    def unwrap(self, wrapped: bytes, purpose: bytes) -> bytes:
        """InvalidTag if ``wrapped`` was altered, or wrapped by another key or for another purpose."""
        return self._cipher.decrypt(wrapped[:_NONCE], wrapped[_NONCE:], purpose)


class _KeyCache:
    """Keys at hand; those not used for longest leave first."""

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


# --- the master key's file -------------------------------------------------------------------------------------------


def create_master_key(path: Path) -> bytes:
    """A new random master key in a new file (mode 0600); MASTER_KEY_INVALID if there is a file already."""
    key = secrets.token_bytes(32)
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        raise MasterKeyInvalidError(problem=f"{path} exists already and is not overwritten") from None
    with os.fdopen(descriptor, "w") as file:
        file.write(_base64url(key) + "\n")
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


# --- bytes -----------------------------------------------------------------------------------------------------------


def _padded_json(fields: Mapping[str, str | None]) -> bytes:
    try:
        plain = canonical_json(dict(fields))
    except TypeError:
        raise InvalidRequestError(problem="the personal text is not Unicode") from None
    return plain + b" " * (-len(plain) % _PADDED_TO)


def _parts(topic: str, sealed: str) -> tuple[UUID, bytes]:
    """Subject, and nonce with ciphertext. Only the one written form counts: no other last character, no ``=``."""
    try:
        data = base64.b64decode(sealed[3:] + "=" * (-(len(sealed) - 3) % 4), altchars=b"-_", validate=True)
    except ValueError:
        raise SealBrokenError(topic=topic) from None
    if _FORMAT + _base64url(data) != sealed or len(data) < 16 + _NONCE + _TAG:
        raise SealBrokenError(topic=topic)
    return UUID(bytes=data[:16]), data[16:]


def _unsealed(key: AESGCM, topic: str, subject_id: UUID, rest: bytes) -> dict[str, str | None]:
    try:
        plain = key.decrypt(rest[:_NONCE], rest[_NONCE:], _bound(topic, subject_id))
    except InvalidTag:
        raise SealBrokenError(topic=topic) from None
    fields: dict[str, str | None] = orjson.loads(plain)
    return fields


def _bound(topic: str, subject_id: UUID) -> bytes:
    return _FORMAT.encode() + subject_id.bytes + topic.encode()


def _base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _digest(key: bytes, message: bytes) -> bytes:
    return hmac.digest(key, message, "sha256")


def _insert(connection: sa.Connection, table: sa.Table) -> postgresql.Insert | sqlite.Insert:
    return postgresql.insert(table) if connection.dialect.name == "postgresql" else sqlite.insert(table)


def _chunks(values: Iterable[Any]) -> Iterator[list[Any]]:
    pending = iter(values)
    while chunk := list(islice(pending, _CHUNK)):
        yield chunk
