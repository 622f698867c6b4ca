"""ClickHouse: from the topic through its Kafka table, or from the Parquet archive.

Facts lie in a ReplacingMergeTree ordered by (ledger, stream, version) and are read with FINAL, so that one that came
twice is there once. That an aggregate over no rows is NULL is said by name (``maxOrNull``), not by a setting that
somebody may forget.
"""

from collections.abc import Iterable

import pyarrow as pa
from sqlalchemy import BigInteger, Boolean
from sqlalchemy.types import TypeEngine

from ledger.archive import FORMAT, MANIFEST, column_kinds
from ledger.codec import EVENTS_BY_TOPIC
from projections.elsewhere.parts import (
    CLASS_VERSION,
    LEDGER,
    SOURCE_PREFIX,
    Topic,
    by_ledger,
    relations_of,
    text_literal,
)
from projections.facts import InstantText, Relation
from projections.figures import all_figures
from projections.projection import Projection

CONSUMER_GROUP = "clickhouse"
REMOTE = ("s3://", "gs://", "https://", "http://")
"""How a place begins that is no folder of the server's."""
OWN = ("position", "topic", "version")
"""Columns that a relation has beside its events' fields."""


def statements(topic: Topic) -> list[str]:
    """Everything from the topic on."""
    return [
        kafka_table(topic),
        FACTS,
        f"CREATE MATERIALIZED VIEW IF NOT EXISTS received TO facts AS {RECEIVED}",
        _view("held_facts", f"SELECT {LEDGER}, position FROM facts FINAL"),
        *(_view(relation.name, _relation(relation)) for relation in relations_of(all_figures())),
        *_figures(),
    ]


def archived_statements(place: str) -> list[str]:
    """Everything from the archives in a folder or an address on, of which a pattern may name several."""
    return [
        _view("archived_segments", _segments(place)),
        _view("held_facts", _held(place)),
        *(_view(relation.name, _archived(relation, place)) for relation in relations_of(all_figures())),
        *_figures(),
    ]


def at(figure: Projection, ledger: str, position: int) -> str:
    """The rows of one ledger's figure as of a position, asked of the view that the script made."""
    return f"SELECT * FROM {figure.table_name}_at(ledger = '{ledger}', position = {position})"


# --- from the topic --------------------------------------------------------------------------------------------------


def kafka_table(topic: Topic) -> str:
    """The topic itself: each message is one text. Committed transactions only, from the first message on."""
    settings = {
        "kafka_broker_list": topic.bootstrap,
        "kafka_topic_list": topic.name,
        "kafka_group_name": CONSUMER_GROUP,
        "kafka_format": "JSONAsString",
    }
    said = ", ".join(f"{name} = {text_literal(value, 'clickhouse')}" for name, value in settings.items())
    return f"CREATE TABLE IF NOT EXISTS events (message String) ENGINE = Kafka SETTINGS {said}"


FACTS = (
    f"CREATE TABLE IF NOT EXISTS facts ({LEDGER} UUID, stream_id UUID, version Int64, position Int64,"
    " topic LowCardinality(String), state String CODEC(ZSTD(3)))"
    f" ENGINE = ReplacingMergeTree ORDER BY ({LEDGER}, stream_id, version)"
)
RECEIVED = (
    f"SELECT toUUID(substring(JSONExtractString(message, 'source'), {SOURCE_PREFIX + 1})) AS {LEDGER},"
    " toUUID(JSONExtractString(message, 'streamid')) AS stream_id,"
    " JSONExtractInt(message, 'streamversion') AS version,"
    " toInt64(JSONExtractString(message, 'sequence')) AS position,"
    f" replaceRegexpOne(JSONExtractString(message, 'type'), '{CLASS_VERSION}', '') AS topic,"
    " JSONExtractRaw(message, 'data') AS state FROM events"
)
"""What a message says. One that is none stops the table that reads it, as a figure of ours would stop."""


def _relation(relation: Relation) -> str:
    fields = [_stored_field(relation, name) for name in relation.columns]
    topics = ", ".join(f"'{topic}'" for topic in sorted(relation.topics))
    return f"SELECT {LEDGER}, {', '.join(fields)} FROM facts FINAL WHERE topic IN ({topics})"


def _stored_field(relation: Relation, name: str) -> str:
    if name in OWN:
        return "toString(topic) AS topic" if name == "topic" else name
    if name == relation.stream_column:
        return f"toString(stream_id) AS {name}"
    return f"JSONExtract(state, '{name}', '{_type(relation.columns[name])}') AS {name}"


def _type(kind: TypeEngine[object]) -> str:
    name = "Int64" if isinstance(kind, BigInteger) else "Bool" if isinstance(kind, Boolean) else "String"
    return f"Nullable({name})"


# --- from the archive ------------------------------------------------------------------------------------------------


def _segments(place: str) -> str:
    """The folders that are whole, with whose they are: a segment in the making has no manifest beside the others."""
    source = _files(place, MANIFEST, "JSONEachRow", f"{LEDGER} UUID, format Int64")
    return f"SELECT {LEDGER}, {_folder('')} AS folder FROM {source} WHERE format = {FORMAT}"


def _held(place: str) -> str:
    files = _files(place, "*.parquet", "Parquet", "position Int64")
    return f"SELECT s.{LEDGER} AS {LEDGER}, f.position AS position FROM {_whole(files)}"


def _archived(relation: Relation, place: str) -> str:
    parts = []
    for topic in relation.topics:
        kinds = column_kinds(EVENTS_BY_TOPIC[topic])
        structure = ", ".join(f"{name} {_archived_type(name, kind)}" for name, kind in kinds.items())
        fields = ", ".join(_archived_field(relation, topic, name) for name in relation.columns)
        files = _files(place, f"{topic}.parquet", "Parquet", structure)
        parts.append(f"SELECT s.{LEDGER} AS {LEDGER}, {fields} FROM {_whole(files)}")
    return " UNION ALL ".join(parts)


def _archived_field(relation: Relation, topic: str, name: str) -> str:
    """A column as facts write it: ids, days and moments are text."""
    kind = relation.columns[name]
    if name == "topic":
        return f"'{topic}' AS topic"
    if name in OWN:
        return f"f.{name} AS {name}"
    if name == relation.stream_column:
        return f"toString(f.stream_id) AS {name}"
    if name not in EVENTS_BY_TOPIC[topic].model_fields:
        return f"CAST(NULL, '{_type(kind)}') AS {name}"
    if isinstance(kind, InstantText):
        return f"formatDateTime(f.{name}, '%Y-%m-%dT%H:%i:%S.%fZ', 'UTC') AS {name}"
    return (
        f"f.{name} AS {name}" if isinstance(kind, (BigInteger, Boolean)) else f"toString(f.{name}) AS {name}"
    )


_ARCHIVED_TYPES: dict[pa.DataType, str] = {
    pa.int64(): "Int64",
    pa.bool_(): "Bool",
    pa.uuid(): "UUID",
    pa.date32(): "Date32",
    pa.timestamp("us"): "DateTime64(6, 'UTC')",
    pa.string(): "String",
}


def _archived_type(name: str, kind: pa.DataType) -> str:
    own = name in ("position", "stream_id", "version")
    return _ARCHIVED_TYPES[kind] if own else f"Nullable({_ARCHIVED_TYPES[kind]})"


def _files(place: str, name: str, kind: str, structure: str) -> str:
    """The files of that name in every segment, read with a given structure: an event that never happened has none."""
    path = text_literal(f"{place.rstrip('/')}/*/{name}", "clickhouse")
    function = "s3" if place.startswith(REMOTE) else "file"
    return f"{function}({path}, '{kind}', {text_literal(structure, 'clickhouse')})"


def _folder(of: str) -> str:
    return f"substring({of}_path, 1, length({of}_path) - length({of}_file))"


def _whole(files: str) -> str:
    return f"{files} AS f INNER JOIN archived_segments AS s ON s.folder = {_folder('f.')}"


# --- figures ---------------------------------------------------------------------------------------------------------


def _figures() -> Iterable[str]:
    """Two views each: over everything, and of one ledger as of a position that are given when it is asked."""
    for figure in all_figures():
        yield _view(figure.table_name, by_ledger(figure, "clickhouse"))
        bounds = ("{ledger} = {{ledger:UUID}}", "{position} <= {{position:Int64}}")
        yield _view(f"{figure.table_name}_at", by_ledger(figure, "clickhouse", *bounds))


def _view(name: str, body: str) -> str:
    return f"CREATE OR REPLACE VIEW {name} AS {body}"
