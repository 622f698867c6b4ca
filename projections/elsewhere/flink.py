"""Flink SQL: a Kafka table over the topic, and views; where their rows go is for an INSERT INTO of yours to say.

The same text runs as a stream and, with ``'scan.bounded.mode' = 'latest-offset'``, as a batch. A message that came
twice is dropped by keeping the first of each (source, stream, version): that is Flink's state, one key a fact for as
long as it runs, so it must not expire (``table.exec.state.ttl`` stays 0).
"""

from sqlalchemy import BigInteger, Boolean

from projections.dialects import quoted
from projections.elsewhere.parts import (
    CLASS_VERSION,
    LEDGER,
    SOURCE_PREFIX,
    Topic,
    by_ledger,
    relations_of,
    text_literal,
)
from projections.facts import Relation
from projections.figures import all_figures

CONSUMER_GROUP = "flink"
OWN = ("position", "topic", "version")


def statements(topic: Topic) -> list[str]:
    """Everything from the topic on."""
    relations = relations_of(all_figures())
    return [
        _events(topic),
        _view("facts", _facts()),
        _view("held_facts", f"SELECT {_q(LEDGER)}, {_q('position')} FROM {_q('facts')}"),
        *(_view(relation.name, _relation(relation)) for relation in relations),
        *(_view(figure.table_name, by_ledger(figure, "flink")) for figure in all_figures()),
    ]


def _q(name: str) -> str:
    return quoted(name, "flink")


def _view(name: str, body: str) -> str:
    return f"CREATE VIEW IF NOT EXISTS {_q(name)} AS {body}"


def _events(topic: Topic) -> str:
    """A fact's ``data``, an object, arrives as its text."""
    attributes = ", ".join(
        f"{_q(name)} STRING" for name in ("source", "type", "sequence", "streamid", "data")
    )
    settings = {
        "connector": "kafka",
        "topic": topic.name,
        "properties.bootstrap.servers": topic.bootstrap,
        "properties.group.id": CONSUMER_GROUP,
        "properties.isolation.level": "read_committed",
        "scan.startup.mode": "earliest-offset",
        "format": "json",
    }
    said = ", ".join(f"'{name}' = {text_literal(value, 'flink')}" for name, value in settings.items())
    return f"CREATE TABLE IF NOT EXISTS {_q('events')} ({attributes}, {_q('streamversion')} BIGINT) WITH ({said})"


def _facts() -> str:
    source, kind = _q("source"), _q("type")
    first = (
        f"SELECT *, ROW_NUMBER() OVER (PARTITION BY {source}, {_q('streamid')}, {_q('streamversion')}"
        f" ORDER BY {_q('sequence')}) AS {_q('times')} FROM {_q('events')}"
    )
    return (
        f"SELECT SUBSTR({source}, {SOURCE_PREFIX + 1}) AS {_q(LEDGER)}, {_q('streamid')} AS {_q('stream_id')},"
        f" {_q('streamversion')} AS {_q('version')}, CAST({_q('sequence')} AS BIGINT) AS {_q('position')},"
        f" REGEXP_REPLACE({kind}, '{CLASS_VERSION}', '') AS {_q('topic')}, {_q('data')}"
        f" FROM ({first}) WHERE {_q('times')} = 1"
    )


def _relation(relation: Relation) -> str:
    fields = [_field(relation, name) for name in relation.columns]
    topics = ", ".join(f"'{topic}'" for topic in sorted(relation.topics))
    return f"SELECT {_q(LEDGER)}, {', '.join(fields)} FROM {_q('facts')} WHERE {_q('topic')} IN ({topics})"


def _field(relation: Relation, name: str) -> str:
    if name in OWN:
        return _q(name)
    if name == relation.stream_column:
        return f"{_q('stream_id')} AS {_q(name)}"
    value, kind = f"{_q('data')}, '$.{name}'", relation.columns[name]
    if isinstance(kind, Boolean):
        return f"JSON_VALUE({value} RETURNING BOOLEAN) AS {_q(name)}"
    if isinstance(kind, BigInteger):
        return f"CAST(JSON_VALUE({value}) AS BIGINT) AS {_q(name)}"
    return f"JSON_VALUE({value}) AS {_q(name)}"
