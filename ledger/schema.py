"""The tables of the log, the same on SQLite and PostgreSQL; `ledger.log` makes the database keep them append-only."""

from typing import Any
from uuid import UUID

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    Dialect,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    Text,
    UniqueConstraint,
)
from sqlalchemy.dialects import postgresql
from sqlalchemy.types import TypeDecorator, TypeEngine

SCHEMA_VERSION = 1
"""Of the tables below; `open` refuses any other."""


class UuidColumn(TypeDecorator[UUID]):
    """PostgreSQL's own uuid; on SQLite the canonical lower-case text, which is also what facts hold inside."""

    impl = Text
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        return postgresql.UUID(as_uuid=True) if dialect.name == "postgresql" else Text()

    def process_bind_param(self, value: UUID | None, dialect: Dialect) -> Any:
        return value if value is None or dialect.name == "postgresql" else str(value)

    def process_result_value(self, value: Any, dialect: Dialect) -> UUID | None:
        return value if value is None or dialect.name == "postgresql" else UUID(value)


metadata = MetaData()

facts = Table(
    "facts",
    metadata,
    Column("position", BigInteger().with_variant(Integer(), "sqlite"), primary_key=True, autoincrement=False),
    Column("stream_id", UuidColumn, nullable=False),
    Column("version", BigInteger, nullable=False),
    Column("topic", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("leaf_hash", LargeBinary, nullable=False),
    UniqueConstraint("stream_id", "version", name="facts_stream_version"),
    CheckConstraint("position >= 1 AND version >= 1", name="facts_count_from_one"),
)
"""One row a fact. Positions are dense from 1 and equal commit order; ``state`` is the canonical text that is hashed."""

head = Table(
    "ledger_head",
    metadata,
    Column("single", Integer, primary_key=True, autoincrement=False),
    Column("size", BigInteger, nullable=False),
    Column("frontier", LargeBinary, nullable=False),
    Column("recorded_at", Text, nullable=False),
    CheckConstraint("single = 1", name="ledger_head_one_row"),
)
"""One row: how many facts there are, the Merkle frontier over them, and the newest ``recorded_at``."""

identity = Table(
    "ledger_identity",
    metadata,
    Column("single", Integer, primary_key=True, autoincrement=False),
    Column("ledger_id", UuidColumn, nullable=False),
    Column("kind", Text, nullable=False),
    Column("schema_version", Integer, nullable=False),
    Column("created_at", Text, nullable=False),
    CheckConstraint("single = 1", name="ledger_identity_one_row"),
    CheckConstraint("kind IN ('production', 'demo')", name="ledger_identity_kind"),
)
"""One row: which ledger this is. A demo is marked so that nothing else is ever taken for one."""

outcomes = Table(
    "command_outcomes",
    metadata,
    Column("person_id", UuidColumn, primary_key=True),
    Column("command_key", Text, primary_key=True),
    Column("digest", LargeBinary, nullable=False),
    Column("command_id", UuidColumn, nullable=False),
    Column("first_position", BigInteger, nullable=False),
    Column("last_position", BigInteger, nullable=False),
)
"""What a command with an idempotency key led to, kept for ever and name-free; a refused command leaves nothing here.

A command that had nothing to do has ``last_position = first_position − 1``.
"""
