"""Who is asking, in which role, and for which part of the unit tree.

An account is an API key of one person in one role. Of a key only its SHA-256 is kept: it is 256 random bits, so nothing
slower is needed. Accounts lie beside the keys, not in the ledger: they are no facts, and hold no names.
"""

import hashlib
import hmac
import secrets
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import get_args
from uuid import UUID

import sqlalchemy as sa

from ledger.errors import (
    InvalidRequestError,
    NotFoundError,
    NotYourselfError,
    OutsideSubtreeError,
    Refusal,
    WrongRoleError,
)
from ledger.rules import Caller, Role
from ledger.schema import UuidColumn

ROLES: tuple[Role, ...] = get_args(Role)
OVERSEERS: frozenset[Role] = frozenset({"auditor", "committee", "steering", "admin"})
"""Who reads figures of the whole county."""
STAFF: frozenset[Role] = frozenset({"organiser", "recorder", "dispatcher"})
"""Who reads figures of their own units and those below."""
READ_ONLY: frozenset[Role] = frozenset({"auditor"})
"""Who changes nothing, not even about themself: that takes a key in another role."""

accounts = sa.Table(
    "accounts",
    sa.MetaData(),
    sa.Column("key_id", sa.Text, primary_key=True),
    sa.Column("key_hash", sa.LargeBinary, nullable=False),
    sa.Column("person_id", UuidColumn, nullable=False),
    sa.Column("role", sa.Text, nullable=False),
    sa.Column("unit_id", UuidColumn),
    sa.Column("created_at", sa.Text, nullable=False),
    sa.Column("expires_at", sa.Text),
    sa.Column("revoked_at", sa.Text),
)


class UnauthenticatedError(Refusal):
    code = "UNAUTHENTICATED"
    zh = "没有有效的访问密钥。请在 Authorization 头中以 Bearer 方式提供密钥。"
    en = "There is no valid API key. Send one as: Authorization: Bearer <key>"


@dataclass(frozen=True)
class Account:
    """One key's account; ``unit_id`` None means the whole county."""

    key_id: str
    person_id: UUID
    role: Role
    unit_id: UUID | None
    created_at: str
    expires_at: str | None
    revoked_at: str | None

    @property
    def caller(self) -> Caller:
        return Caller(self.person_id, self.role, self.unit_id)


class Accounts:
    """The accounts of one ledger, in the key store's database."""

    def __init__(self, url: str) -> None:
        parsed = sa.make_url(url)
        if parsed.get_backend_name() == "postgresql":
            parsed = parsed.set(drivername="postgresql+psycopg")
        self._engine = sa.create_engine(parsed, pool_pre_ping=True)
        accounts.create(self._engine, checkfirst=True)

    def close(self) -> None:
        self._engine.dispose()

    def add(
        self,
        person_id: UUID,
        role: str,
        unit_id: UUID | None = None,
        *,
        now: datetime | None = None,
        expires_at: datetime | None = None,
    ) -> str:
        """A new key, shown this once. INVALID_REQUEST for an unknown role."""
        if role not in ROLES:
            raise InvalidRequestError(problem=f"role is one of {', '.join(ROLES)}")
        key_id, secret = secrets.token_hex(6), secrets.token_urlsafe(32)
        key = f"wm_{key_id}_{secret}"
        row = {
            "key_id": key_id,
            "key_hash": _hash(key),
            "person_id": person_id,
            "role": role,
            "unit_id": unit_id,
            "created_at": _text(now or datetime.now(UTC)),
            "expires_at": _text(expires_at) if expires_at else None,
        }
        with self._engine.begin() as connection:
            connection.execute(accounts.insert(), row)
        return key

    def listed(self) -> list[Account]:
        """All accounts, revoked ones too, oldest first."""
        with self._engine.connect() as connection:
            rows = connection.execute(sa.select(accounts).order_by(accounts.c.created_at, accounts.c.key_id))
            return [_account(row) for row in rows]

    def revoke(self, key_id: str) -> None:
        """From now on the key opens nothing; NOT_FOUND if there is no such key."""
        with self._engine.begin() as connection:
            done = connection.execute(
                accounts.update()
                .where(accounts.c.key_id == key_id)
                .values(revoked_at=sa.func.coalesce(accounts.c.revoked_at, _text(datetime.now(UTC))))
            )
        if done.rowcount == 0:
            raise NotFoundError(what=f"account {key_id}")

    def who(self, key: str) -> Account:
        """Whose key it is; UNAUTHENTICATED if nobody's, expired or revoked."""
        key_id = key[3:15]
        with self._engine.connect() as connection:
            row = connection.execute(sa.select(accounts).where(accounts.c.key_id == key_id)).first()
        if row is None or not hmac.compare_digest(row.key_hash, _hash(key)):
            raise UnauthenticatedError
        account = _account(row)
        expired = account.expires_at is not None and account.expires_at <= _text(datetime.now(UTC))
        if account.revoked_at is not None or expired:
            raise UnauthenticatedError
        return account


def _hash(key: str) -> bytes:
    return hashlib.sha256(key.encode()).digest()


def _text(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat(timespec="seconds")


def _account(row: sa.Row[tuple[object, ...]]) -> Account:
    return Account(
        row.key_id, row.person_id, row.role, row.unit_id, row.created_at, row.expires_at, row.revoked_at
    )


# --- who may read ----------------------------------------------------------------------------------------------------


def require_overseer(caller: Caller, *also: Role) -> None:
    """County-wide reading: auditors, committee, steering group, admins, and ``also``."""
    allowed = OVERSEERS | set(also)
    if caller.role not in allowed:
        raise WrongRoleError(role=caller.role, needed=sorted(allowed))


def require_writer(caller: Caller) -> None:
    """Anybody but those whose role is to read; what exactly they may do is for the rules to say."""
    if caller.role in READ_ONLY:
        raise WrongRoleError(role=caller.role, needed=sorted(set(ROLES) - READ_ONLY))


def require_reader(
    caller: Caller, person_id: UUID, place: UUID | None, inside: frozenset[str] | None
) -> None:
    """Reading about a person: themself, overseers, or staff of a unit at or above ``place``.

    ``inside`` are the units the caller acts for (None: the whole county).
    """
    if caller.person_id == person_id or caller.role in OVERSEERS:
        return
    if caller.role not in STAFF:
        raise NotYourselfError(volunteer_id=person_id)
    if inside is not None and str(place) not in inside:
        raise OutsideSubtreeError(unit_id=place)
