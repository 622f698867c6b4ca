"""The figures on other engines: scripts that whoever runs ClickHouse, Flink or RisingWave runs there as they are.

Each script maps the events topic (`ledger.cloudevents`), or for ClickHouse the Parquet archive, to a table of facts in
which a message that came twice counts once, says every relation of `facts_of` as a view on it, and every figure as a
view on that, from the one SELECT that this package has for it. One engine may hold several ledgers: every view has a
``ledger_id`` in front, because a position means something within one ledger only.

What was run: ClickHouse's script by tests in ClickHouse itself (`chdb`), apart from its Kafka table, of which a build
that has one knew every setting by name; Flink's, in Flink 2.2 over a real topic. RisingWave's was not run anywhere: the
tests parse it.
Nothing here knows Kafka, HTTP or a ledger; `api.against` compares an engine's figures with the ledger's.
"""

from collections.abc import Callable
from typing import Literal

from ledger.errors import InvalidRequestError
from projections.elsewhere import clickhouse, flink, risingwave
from projections.elsewhere.parts import ENGINES, Elsewhere, Topic, totals_of_facts, totals_of_figure
from projections.figures import all_figures

__all__ = [
    "ENGINES",
    "Elsewhere",
    "Script",
    "Topic",
    "archive_script",
    "engine_named",
    "heading",
    "topic_script",
    "totals_script",
]

Script = Literal["topic", "archive", "totals"]

_HEADINGS: dict[tuple[Elsewhere, Script], tuple[str, ...]] = {
    ("clickhouse", "topic"): (
        "Run it in an empty database: clickhouse-client --database wenming --multiquery < this file",
        "How the server logs in to Kafka stands in its own configuration (<kafka>), not here.",
    ),
    ("clickhouse", "archive"): (
        "Run it in an empty database: clickhouse-client --database wenming --multiquery < this file",
        "A folder must lie below the server's user_files_path; what opens s3:// stands in its configuration.",
    ),
    ("clickhouse", "totals"): (
        "clickhouse-client --database wenming --multiquery < this file > totals.jsonl",
        "wenming verify --against totals.jsonl",
    ),
    ("flink", "topic"): (
        "sql-client.sh --init this file; the Kafka connector's jar must be there. Then, of what you want:",
        "INSERT INTO your_sink SELECT * FROM figure_volunteer_hours_v1",
    ),
    ("flink", "totals"): (
        "Once, over what is there: begin with SET 'execution.runtime-mode' = 'batch', run the views' script with",
        "ALTER TABLE `events` SET ('scan.bounded.mode' = 'latest-offset') after its first statement, then this with",
        "SET 'sql-client.execution.result-mode' = 'tableau' and SET 'table.display.max-column-width' = '5000'.",
        "What the client prints, borders and all, is what `wenming verify --against` reads.",
    ),
    ("risingwave", "topic"): ("psql -h host -p 4566 -d dev -U root -f this file",),
    ("risingwave", "totals"): (
        "psql -h host -p 4566 -d dev -U root -At -f this file > totals.jsonl",
        "wenming verify --against totals.jsonl",
    ),
}

_STATEMENTS: dict[Elsewhere, Callable[[Topic], list[str]]] = {
    "clickhouse": clickhouse.statements,
    "flink": flink.statements,
    "risingwave": risingwave.statements,
}


def engine_named(name: str) -> Elsewhere:
    """The engine that somebody asks for; INVALID_REQUEST, naming those that there are, if there is none."""
    for engine in ENGINES:
        if engine == name:
            return engine
    raise InvalidRequestError(problem=f"no SQL is made for {name}; there is: {', '.join(ENGINES)}")


def heading(engine: Elsewhere, script: Script) -> tuple[str, ...]:
    """What somebody should know who is about to run a script."""
    return ("The figures of the Wenming Ledger, made by `wenming export sql`.", *_HEADINGS[engine, script])


def topic_script(engine: Elsewhere, topic: Topic) -> list[str]:
    """The statements that make facts, relations and figures out of the events topic, in their order."""
    return _STATEMENTS[engine](topic)


def archive_script(engine: Elsewhere, place: str) -> list[str]:
    """The same out of Parquet archives; INVALID_REQUEST for an engine that is not read that way."""
    if engine != "clickhouse":
        raise InvalidRequestError(problem=f"only clickhouse reads the archive; {engine} follows the topic")
    return clickhouse.archived_statements(place)


def totals_script(engine: Elsewhere, position: int | None = None) -> list[str]:
    """Queries that print what `wenming verify --against` reads: one object a line, for each ledger and figure.

    Left out, ``position`` is wherever the engine stands; given, every figure is computed anew from the facts up to it.
    """
    return [
        totals_of_facts(engine, position),
        *(totals_of_figure(figure, engine, position) for figure in all_figures()),
    ]
