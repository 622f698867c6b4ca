"""Personal fields: sealed under one key per person before they become a fact; destroying the key forgets the person.

`KeyStore` keeps those keys in a database of its own, never the ledger's, with its own short backup retention: what an
administrator restores from the ledger's backups stays unreadable once a key is gone. Beside the keys stand keyed
digests of identity and phone numbers, whose plain hashes could be guessed, and the secret they are keyed with.
No name, number, text or key is ever logged, or shown in an error or a repr.

What each piece knows: `ledger.sealed_text` the form in a fact, `ledger.subject_keys` the keys,
`ledger.master_key` what wraps them, `ledger.rotation` how that changes, `ledger.key_database` tables and connections.
What may not live here: rules, HTTP, and names in clear beyond the call that seals or unseals them.
"""

import hmac
import re
import secrets
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from itertools import islice
from typing import Any
from unicodedata import normalize
from uuid import UUID

import sqlalchemy as sa

from ledger import sealed_text
from ledger.codec import instant_text
from ledger.errors import (
    IdentityTakenError,
    KeyStoreExistsError,
    KeyUnknownError,
    NotAKeyStoreError,
    SubjectErasedError,
    refuse_all,
)
from ledger.key_database import (
    CHUNK,
    KEY_STORE_SCHEMA,
    KeyDatabase,
    chunks,
    claims,
    insert,
    metadata,
    phones,
    store,
    subject_keys,
)
from ledger.master_key import MasterKey, keyed_digest
from ledger.personal_numbers import normal_id_number, normal_phone
from ledger.subject_keys import SubjectKeys

BUSY_SECONDS = 5.0


class KeyStore:
    """One key per person, and what else must not stand in the ledger. Made by `create`, opened by `open`.

    Safe for many threads, and several processes may share one database: a key that one of them destroys is used by
    none of them a second later. Every write is durable when its call returns; LEDGER_BUSY if others hold the database.
    """

    def __init__(
        self, database: KeyDatabase, master: MasterKey, others: Callable[[], Iterable[bytes]]
    ) -> None:
        self._database, self._keys = database, SubjectKeys(database, master, others)
        uses = (b"id numbers", b"phones", b"requests", b"ratings")
        self._for_ids, self._for_phones, self._for_requests, self._for_ratings = (
            keyed_digest(self._keys.secret, u) for u in uses
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
        master = MasterKey(master_key)
        database = KeyDatabase(url, BUSY_SECONDS, create=True)
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
    def open(
        cls,
        url: str,
        master_key: bytes,
        *,
        busy_seconds: float = BUSY_SECONDS,
        others: Callable[[], Iterable[bytes]] = tuple,
    ) -> "KeyStore":
        """Open a store that exists; never makes one. ``others`` gives more master keys, when none known opens it.

        Raises KEY_STORE_MISSING, NOT_A_KEY_STORE (a database of something else), SCHEMA_MISMATCH, WRONG_MASTER_KEY,
        MASTER_KEY_INVALID or KEY_STORE_DAMAGED.
        """
        master = MasterKey(master_key)
        database = KeyDatabase(url, busy_seconds)
        try:
            opened = cls(database, master, others)
            database.use_wal()
            return opened
        except BaseException:
            database.close()
            raise

    def close(self) -> None:
        """Forget all keys and give the connections back."""
        self._keys.forget()
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
        self._keys.ensured(set(subject_ids))

    def seal(self, topic: str, subject_id: UUID, fields: Mapping[str, str | None]) -> str:
        """Seal one person's fields for facts of one topic; their key is made on first use, and durable by then.

        SUBJECT_ERASED once their key was destroyed; INVALID_REQUEST for text that is too long, or no Unicode.
        Lengths are hidden in steps of 32 bytes.
        """
        if (key := self._keys.ensured({subject_id})[subject_id]) is None:
            raise SubjectErasedError(subject_id=subject_id)
        return sealed_text.seal(key, topic, subject_id, fields)

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
        while chunk := [sealed_text.parts(topic, text) for text in islice(pending, CHUNK)]:
            known = self._keys.known({subject_id for subject_id, _ in chunk})
            for subject_id, rest in chunk:
                if subject_id not in known:
                    raise KeyUnknownError(database=self._database.name, subject_id=subject_id)
                key = known[subject_id]
                opened.append(None if key is None else sealed_text.unsealed(key, topic, subject_id, rest))
        return opened

    @staticmethod
    def subject_of(sealed: str) -> UUID:
        """Whose fields they are, without opening them; SEAL_BROKEN if it is no sealed text."""
        return sealed_text.parts("?", sealed)[0]

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
            for chunk in chunks(row["id_number_digest"] for row in rows):
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
            {"phone_digest": keyed_digest(self._for_phones, normal_phone(phone).encode()), "subject_id": s}
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
        return keyed_digest(self._for_requests, body)

    def rating_code(self, order_id: UUID) -> str:
        """The eight digits handed to the person served, with which they may rate that order.

        Always the same for an order; that it serves once is the order's rule. Eight digits can be guessed by trying:
        the edge limits the attempts.
        """
        return f"{int.from_bytes(keyed_digest(self._for_ratings, order_id.bytes)[:16], 'big') % 10**8:08d}"

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
            upsert = insert(connection, subject_keys).values(subject_id=subject_id, destroyed_at=when)
            connection.execute(upsert.on_conflict_do_update(index_elements=["subject_id"], set_=gone))
            for table in (claims, phones):
                connection.execute(sa.delete(table).where(table.c.subject_id == subject_id))
        self._keys.forget()
        self._database.empty_wal()

    def is_erased(self, subject_id: UUID) -> bool:
        """Whether this person's key was destroyed."""
        mine = subject_keys.c.subject_id == subject_id
        with self._database.reading() as connection:
            return connection.scalar(sa.select(subject_keys.c.destroyed_at).where(mine)) is not None

    def rotate(self, new_master_key: bytes) -> None:
        """Wrap every key anew, in one transaction; from then on only the new master key opens the store.

        Have the new key in a file before (as `ledger.rotation` has): a crash leaves either the old or the
        new one in force.
        Other processes that are not told of it by their ``others`` answer WRONG_MASTER_KEY for keys they do not hold.
        Sealed text, claims and codes stay as they are.
        """
        self._keys.rotate(MasterKey(new_master_key))
        self._database.empty_wal()

    def is_wrapped_by(self, master_key: bytes) -> bool:
        """Whether it is this master key that opens the store now."""
        return self._keys.is_wrapped_by(MasterKey(master_key))

    # -- rows about people --

    def _insert_for_living(
        self, connection: sa.Connection, table: sa.Table, rows: list[dict[str, Any]]
    ) -> None:
        """Rows of people who have, or now get, a key. In the order of digests: no two transactions wait crosswise."""
        known = self._keys.make(connection, {row["subject_id"] for row in rows})
        refuse_all([SubjectErasedError(subject_id=s) for s, key in known.items() if key is None])
        if rows:
            digest = table.primary_key.columns[0].name
            in_order = sorted(rows, key=lambda row: row[digest])
            connection.execute(insert(connection, table).on_conflict_do_nothing(), in_order)

    def _id_digest(self, id_number: str) -> bytes:
        return keyed_digest(self._for_ids, normal_id_number(id_number).encode())
