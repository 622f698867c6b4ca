"""RisingWave: a table that reads the topic, views, and one materialized view a figure, kept up as facts come.

The table's key is (source, stream, version): a message that comes twice replaces itself. RisingWave reads committed
transactions only.
"""

from sqlalchemy import BigInteger, Boolean

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

OWN = ("position", "topic", "version")


def statements(topic: Topic) -> list[str]:
    """Everything from the topic on."""
    return [
        _events(topic),
        _view("facts", FACTS),
        _view("held_facts", f"SELECT {LEDGER}, position FROM facts"),
        *(_view(relation.name, _relation(relation)) for relation in relations_of(all_figures())),
        *(
            f"CREATE MATERIALIZED VIEW IF NOT EXISTS {figure.table_name} AS {by_ledger(figure, 'risingwave')}"
            for figure in all_figures()
        ),
    ]


def _view(name: str, body: str) -> str:
    return f"CREATE VIEW IF NOT EXISTS {name} AS {body}"


def _events(topic: Topic) -> str:
    settings = {
        "connector": "kafka",
        "topic": topic.name,
        "properties.bootstrap.server": topic.bootstrap,
        "scan.startup.mode": "earliest",
    }
    said = ", ".join(f"{name} = {text_literal(value, 'risingwave')}" for name, value in settings.items())
    return (
        'CREATE TABLE IF NOT EXISTS events ("source" varchar, "type" varchar, "sequence" varchar,'
        ' "streamid" varchar, "streamversion" bigint, "data" jsonb,'
        ' PRIMARY KEY ("source", "streamid", "streamversion"))'
        f" WITH ({said}) FORMAT PLAIN ENCODE JSON"
    )


FACTS = (
    f'SELECT substr("source", {SOURCE_PREFIX + 1}) AS {LEDGER}, "streamid" AS stream_id,'
    ' "streamversion" AS version, CAST("sequence" AS bigint) AS position,'
    f" regexp_replace(\"type\", '{CLASS_VERSION}', '') AS topic, \"data\" AS state FROM events"
)


def _relation(relation: Relation) -> str:
    fields = [_field(relation, name) for name in relation.columns]
    topics = ", ".join(f"'{topic}'" for topic in sorted(relation.topics))
    return f"SELECT {LEDGER}, {', '.join(fields)} FROM facts WHERE topic IN ({topics})"


def _field(relation: Relation, name: str) -> str:
    if name in OWN:
        return name
    if name == relation.stream_column:
        return f"stream_id AS {name}"
    kind = relation.columns[name]
    value = f"state ->> '{name}'"
    if isinstance(kind, (BigInteger, Boolean)):
        return f"CAST({value} AS {'bigint' if isinstance(kind, BigInteger) else 'boolean'}) AS {name}"
    return f"{value} AS {name}"
