"""Facts as typed relations, so that a figure can be one SELECT over them.

`facts_of` names a relation over some event types; how its rows come out of the log is rendered here for each engine:
SQLite and PostgreSQL read the stored JSON in place, DuckDB reads a table of decoded columns.
"""

import datetime
import re
import types
import typing
from dataclasses import dataclass
from uuid import UUID

import pyarrow as pa
from sqlalchemy import BigInteger, Boolean, Text, column, table
from sqlalchemy.sql.expression import TableClause
from sqlalchemy.types import TypeEngine

from ledger.archive import column_kinds
from ledger.codec import EVENTS_BY_TOPIC
from ledger.events import EntryPosted, Fact, RatingCredited

SIGNED = (EntryPosted, RatingCredited)
"""Events that another one can reverse: only sums are allowed over them."""


class InstantText(Text):
    """A moment as fixed-width UTC text, which orders like the moment itself."""


@dataclass(frozen=True)
class Relation:
    """A named relation over event types: what it is called, where its rows come from, which columns it has."""

    name: str
    topics: tuple[str, ...]
    stream_column: str
    columns: dict[str, TypeEngine[typing.Any]]
    signed: bool
    nullable: frozenset[str]


RELATIONS: dict[str, Relation] = {}
"""Every declared relation by name; a SELECT finds its relation here."""

_OWN: dict[str, TypeEngine[typing.Any]] = {"position": BigInteger(), "topic": Text(), "version": BigInteger()}


def facts_of(name: str, *events: type[Fact]) -> TableClause:
    """A relation over ``events`` of one stream kind; fields an event lacks are NULL.

    Beside the events' own fields it has ``position``, ``topic``, ``version``, ``happened_at``, ``recorded_at``,
    ``caller_id``, ``command_id``, and the stream's id as ``<stream>_id``.
    """
    streams = {event.STREAM for event in events}
    if len(streams) != 1:
        raise ValueError(f"{name} mixes {sorted(streams)}: a relation reads one kind of stream")
    (stream,) = streams
    columns: dict[str, TypeEngine[typing.Any]] = {**_OWN, f"{stream}_id": Text()}
    for event in events:
        for field, info in event.model_fields.items():
            kind = _column_type(info.annotation)
            if field not in ("originator_id", "originator_version") and kind is not None:
                columns.setdefault(field, kind)
    nullable = frozenset(
        field for field in columns if any(_may_be_null(event, field) for event in events)
    ) - {*_OWN, f"{stream}_id"}
    relation = Relation(
        name,
        tuple(e.TOPIC for e in events),
        f"{stream}_id",
        columns,
        any(e in SIGNED for e in events),
        nullable,
    )
    if RELATIONS.setdefault(name, relation) != relation:
        raise ValueError(f"two relations are called {name}")
    return table(name, *(column(field, kind) for field, kind in columns.items()))


def _may_be_null(event: type[Fact], field: str) -> bool:
    info = event.model_fields.get(field)
    return info is None or type(None) in typing.get_args(info.annotation)


def _column_type(annotation: object) -> TypeEngine[typing.Any] | None:
    """How a field reads as a column; None for what is no scalar (a whole rule book)."""
    origin = typing.get_origin(annotation)
    if origin is typing.Annotated:
        return _column_type(typing.get_args(annotation)[0])
    if origin in (types.UnionType, typing.Union):
        (inner,) = (a for a in typing.get_args(annotation) if a is not type(None))
        return _column_type(inner)
    if origin is typing.Literal:
        return BigInteger() if isinstance(typing.get_args(annotation)[0], int) else Text()
    known: dict[object, TypeEngine[typing.Any]] = {
        int: BigInteger(),
        bool: Boolean(),
        str: Text(),
        UUID: Text(),
        datetime.date: Text(),
        datetime.datetime: InstantText(),
    }
    return known.get(annotation)


def is_id(text: object) -> bool:
    """Whether it is an id as facts write it: 32 small hexadecimal digits with four dashes."""
    return isinstance(text, str) and _ID.fullmatch(text) is not None


_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


def _quoted(topics: typing.Iterable[str]) -> str:
    return ", ".join(f"'{topic}'" for topic in sorted(topics))


def in_store(
    relation: Relation,
    used: set[str],
    dialect: str,
    condition: str,
    *,
    wanted: typing.Collection[str] = (),
) -> str:
    """The relation's rows as SQL on the ``facts`` table itself; ``condition`` narrows positions or a stream.

    ``wanted`` names columns of the table ``wanted``: rows whose values are not there need not be read.
    """
    fields = [_stored_field(relation, name, dialect) for name in sorted(used)]
    topics = _quoted(relation.topics)
    source = "facts"
    if dialect == "postgresql":
        source = (
            f"(SELECT *, state::jsonb AS fields FROM facts WHERE topic IN ({topics}) AND {condition}) AS f"
        )
        condition = "true"
    else:
        condition += f" AND topic IN ({topics})"
    for name in wanted:
        value = _stored_field(relation, name, dialect).removesuffix(f" AS {name}")
        condition += f" AND {value} IN (SELECT {name} FROM wanted)"
    return f"SELECT {', '.join(fields)} FROM {source} WHERE {condition}"


def _stored_field(relation: Relation, name: str, dialect: str) -> str:
    if name in _OWN:
        return name
    if name == relation.stream_column:
        return f"stream_id::text AS {name}" if dialect == "postgresql" else f"stream_id AS {name}"
    if dialect == "sqlite":
        return f"json_extract(state, '$.{name}') AS {name}"
    cast = {"BIGINT": "::bigint", "BOOLEAN": "::boolean"}.get(_sql_type(relation.columns[name]), "")
    return f"(fields->>'{name}'){cast} AS {name}"


def in_duckdb(relation: Relation, used: set[str], source: str) -> str:
    """The relation's rows from a DuckDB table of decoded columns (see `decoded_columns`)."""
    fields = [
        f"stream_id AS {name}" if name == relation.stream_column else name if name in _OWN else f"s.{name}"
        for name in sorted(used)
    ]
    return f"SELECT {', '.join(fields)} FROM {source} WHERE topic IN ({_quoted(relation.topics)})"


def in_archive(
    relation: Relation,
    used: set[str],
    files: typing.Mapping[str, typing.Sequence[object]],
    low: int,
    high: int,
    *,
    native: typing.Collection[str] = (),
    effective_by: str | None = None,
    wanted: typing.Collection[str] = (),
) -> str:
    """The relation's rows from archived files by topic, facts after ``low`` up to ``high`` only.

    Columns named in ``native`` stay ids, days and moments; the others are the text that facts write.
    ``effective_by`` keeps what had happened by that instant, and makes ``position`` the order of `in_effective_order`.
    ``wanted`` names columns of the table ``wanted``: rows whose ids are not there need not be read. Ids are compared as
    the files keep them; what else is wanted is for the SELECT to say.
    """
    parts = []
    for topic in relation.topics:
        if files.get(topic):
            fields = ", ".join(
                _native_field(relation, topic, name)
                if name in native
                else _archived_field(relation, topic, name, effective_by is not None)
                for name in sorted(used)
            )
            paths = ", ".join("'" + str(path).replace("'", "''") + "'" for path in files[topic])
            conditions = [f"position > {low}", f"position <= {high}"]
            if effective_by is not None:
                until = _parsed(f"'{effective_by}'")
                conditions.append(f"happened_at <= {until}")
            conditions += [
                f"{_archived_id(relation, name)} IN (SELECT try_cast({name} AS UUID) FROM wanted)"
                for name in wanted
                if _is_id(relation, topic, name)
            ]
            parts.append(f"SELECT {fields} FROM read_parquet([{paths}]) WHERE {' AND '.join(conditions)}")
    if parts:
        return " UNION ALL ".join(parts)
    kinds = {name: native_type(relation, name) if name in native else None for name in sorted(used)}
    nothing = (f"NULL::{kind or _sql_type(relation.columns[name])} AS {name}" for name, kind in kinds.items())
    return f"SELECT {', '.join(nothing)} WHERE false"


def in_effective_order(microseconds: str) -> str:
    """A number that orders facts by when they happened, and those of one moment by position: what `latest` goes by."""
    return f"({microseconds})::HUGEINT * 1000000000000000 + position"


def happened_microseconds(text: str) -> str:
    """An instant as facts write it, as a number."""
    return f"epoch_us({_parsed(text)})"


def _parsed(text: str) -> str:
    return f"strptime({text}, '%Y-%m-%dT%H:%M:%S.%fZ')"


def _archived_id(relation: Relation, name: str) -> str:
    return "stream_id" if name == relation.stream_column else name


def _is_id(relation: Relation, topic: str, name: str) -> bool:
    """Whether the archive keeps the column as a UUID."""
    if name == relation.stream_column:
        return True
    field = EVENTS_BY_TOPIC[topic].model_fields.get(name)
    return field is not None and UUID in (field.annotation, *typing.get_args(field.annotation))


_NATIVE = {pa.uuid(): "UUID", pa.date32(): "DATE", pa.timestamp("us"): "TIMESTAMP"}


def native_type(relation: Relation, name: str) -> str | None:
    """The DuckDB type that a column has in the archive, where facts write it as text; None where they are the same."""
    if name == relation.stream_column:
        return "UUID"
    events = (EVENTS_BY_TOPIC[topic] for topic in relation.topics)
    kinds = {column_kinds(event)[name] for event in events if name in event.model_fields}
    return _NATIVE.get(kinds.pop()) if len(kinds) == 1 else None


def as_written(expression: str, kind: str | None) -> str:
    """A value of a `native_type` as the text that facts write."""
    if kind == "TIMESTAMP":
        return f"strftime({expression}, '%Y-%m-%dT%H:%M:%S.%fZ')"
    return expression if kind is None else f"{expression}::VARCHAR"


def _native_field(relation: Relation, topic: str, name: str) -> str:
    if name == relation.stream_column:
        return f"stream_id AS {name}"
    if name in EVENTS_BY_TOPIC[topic].model_fields:
        return name
    return f"NULL::{native_type(relation, name)} AS {name}"


def _archived_field(relation: Relation, topic: str, name: str, effective: bool) -> str:
    """An archived column as the SELECTs know it: moments, days and ids as the text that facts write."""
    kind = relation.columns[name]
    if name == "topic":
        return f"'{topic}' AS topic"
    if name == "position" and effective:
        return f"{in_effective_order('epoch_us(happened_at)')} AS position"
    if name in _OWN:
        return name
    if name == relation.stream_column:
        return f"stream_id::VARCHAR AS {name}"
    if name not in EVENTS_BY_TOPIC[topic].model_fields:
        return f"NULL::{_sql_type(kind)} AS {name}"
    if isinstance(kind, InstantText):
        return f"{as_written(name, 'TIMESTAMP')} AS {name}"
    return f"{name}::{_sql_type(kind)} AS {name}"


def decoded_columns(uses: typing.Iterable[tuple[Relation, set[str]]]) -> dict[str, str]:
    """The JSON fields that these uses read, with their DuckDB types: nothing else is decoded."""
    wanted: dict[str, str] = {}
    for relation, used in uses:
        for name in used - set(_OWN) - {relation.stream_column}:
            sql_type = _sql_type(relation.columns[name])
            if wanted.setdefault(name, sql_type) != sql_type:
                raise ValueError(f"{name} has two types among the facts")
    return wanted


def _sql_type(kind: TypeEngine[typing.Any]) -> str:
    if isinstance(kind, BigInteger):
        return "BIGINT"
    return "BOOLEAN" if isinstance(kind, Boolean) else "VARCHAR"
