"""The scripts for other engines as text: every figure is in them, and those who know the languages can parse them.

ClickHouse runs its own in `test_clickhouse`. RisingWave's is parsed as RisingWave's; of Flink's language there is no
parser here, its SELECTs are parsed as Spark's, which has the same quotes and functions.
"""

import re

import pytest
import sqlglot
from sqlalchemy import Text, func, select
from sqlglot import ErrorLevel, exp

from projections.elsewhere import ENGINES, Elsewhere, Topic, archive_script, topic_script, totals_script
from projections.elsewhere.parts import text_literal
from projections.facts import RELATIONS
from projections.figures import all_figures, figure
from projections.orders import steps
from projections.projection import Projection, latest
from tests.cli import wenming

TOPIC = Topic("volunteer.ledger.events.v1", "kafka-1:9092,kafka-2:9092")


def parsed(statement: str, dialect: str) -> exp.Expression:
    (found,) = sqlglot.parse(statement, dialect=dialect, error_level=ErrorLevel.RAISE)
    assert found is not None
    return found


@pytest.mark.parametrize("engine", ENGINES)
def test_every_figure_and_its_relation_is_a_view(engine: Elsewhere) -> None:
    script = "\n".join(topic_script(engine, TOPIC))
    assert TOPIC.name in script
    assert TOPIC.bootstrap in script
    for one in all_figures():
        for name in (one.table_name, one.relation.name):
            assert re.search(rf"VIEW (IF NOT EXISTS )?[`]?{name}[`]? AS SELECT", script), name


@pytest.mark.parametrize("engine", ENGINES)
def test_totals_are_asked_of_every_figure_once(engine: Elsewhere) -> None:
    for position in (None, 41_207):
        facts, *figures = totals_script(engine, position)
        assert len(figures) == len(all_figures())
        assert "held_facts" in facts
        assert all(("41207" in query) == (position is not None) for query in (facts, *figures))


def test_risingwaves_script_is_parsed_as_risingwaves() -> None:
    for statement in [*topic_script("risingwave", TOPIC), *totals_script("risingwave", 41_207)[:5]]:
        if "FORMAT PLAIN" in statement:  # what follows is known to RisingWave alone
            statement = statement.partition(" WITH (")[0]
        assert not isinstance(parsed(statement, "risingwave"), exp.Command), statement


def test_risingwaves_table_hides_what_comes_twice() -> None:
    events = topic_script("risingwave", TOPIC)[0]
    assert 'PRIMARY KEY ("source", "streamid", "streamversion")' in events
    assert events.endswith("FORMAT PLAIN ENCODE JSON")


def test_clickhouses_scripts_are_parsed_as_clickhouses() -> None:
    for statement in [
        *topic_script("clickhouse", TOPIC),
        *archive_script("clickhouse", "s3://b/ledger.archive"),
    ]:
        if "{ledger:UUID}" not in statement:  # parameters of a view are known to ClickHouse alone
            assert not isinstance(parsed(statement, "clickhouse"), exp.Command), statement


def test_flinks_selects_are_parsed_as_sparks_and_quote_every_name() -> None:
    for statement in topic_script("flink", TOPIC)[1:]:
        body = statement.partition(" AS ")[2]
        bare = re.sub(r"'[^']*'|`[^`]*`", "", body.replace("RETURNING BOOLEAN", ""))
        tree = parsed(body.replace(" RETURNING BOOLEAN", ""), "spark")
        assert all(name.args.get("quoted") for name in tree.find_all(exp.Column) for name in [name.this])
        assert "::" not in bare
        assert "TEXT" not in bare


def test_the_latest_is_by_position_on_every_engine() -> None:
    """Not by arrival, and not a value that is not there."""
    whole = Projection(
        name="latest_of_both",
        version=1,
        stored=False,
        select=select(
            steps.c.order_id,
            latest(steps.c.unit_id, steps.c.position).label("unit_id"),
            latest(steps.c.position, steps.c.position).label("position"),
        ).group_by(steps.c.order_id),
    )
    said = {engine: whole.sql(engine) for engine in ENGINES}
    assert "argMaxOrNull(order_steps.unit_id, order_steps.position) FILTER (WHERE" in said["clickhouse"]
    assert "last_value(order_steps.unit_id ORDER BY order_steps.position) FILTER" in said["risingwave"]
    assert "SUBSTR(MAX(LPAD(CAST(`order_steps`.`position` AS STRING), 19, '0') || " in said["flink"]
    assert "CAST(SUBSTR(MAX(" in said["flink"].replace("CAST(SUBSTR(MAX(LPAD(CAST(`order_steps`.`unit_id", "")


def test_a_text_stays_one_text() -> None:
    assert text_literal("it's \\ here", "clickhouse") == "'it''s \\\\ here'"
    assert text_literal("it's \\ here", "risingwave") == "'it''s \\ here'"
    strange = Topic("t", "x:1', kafka_format = 'RawBLOB")
    assert "x:1'', kafka_format = ''RawBLOB'" in topic_script("clickhouse", strange)[0]


def test_declaring_a_figure_is_all_it_takes() -> None:
    """One that is new has its view, its SELECT and its totals on every engine, from its declaration."""
    month = func.substr(steps.c.recorded_at, 1, 7, type_=Text()).label("month")
    new = Projection(
        name="orders_by_month",
        version=3,
        stored=False,
        select=select(month, func.count().label("steps")).group_by(month),
    )
    for engine in ENGINES:
        assert "steps" in new.sql(engine)
    assert RELATIONS["order_steps"] is new.relation
    assert figure("volunteer_hours").sql("clickhouse").startswith("SELECT entries.volunteer_id")


# --- wenming export sql ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("engine", ENGINES)
def test_the_command_prints_the_script_and_needs_no_ledger(engine: Elsewhere) -> None:
    done = wenming("export", "sql", engine, "--bootstrap", TOPIC.bootstrap, "--topic", TOPIC.name)
    assert (done.code, done.err) == (0, "")
    for statement in topic_script(engine, TOPIC):
        assert f"\n{statement};\n" in done.out
    totals = wenming("export", "sql", engine, "--totals", "--position", "9")
    assert all(f"\n{query};\n" in totals.out for query in totals_script(engine, 9))


def test_the_command_prints_what_reads_the_archive() -> None:
    done = wenming("export", "sql", "clickhouse", "--archive", "/data/ledger.db.archive/")
    assert all(f"\n{one};\n" in done.out for one in archive_script("clickhouse", "/data/ledger.db.archive"))
    assert "file('/data/ledger.db.archive/*/entry.posted.parquet', 'Parquet'" in done.out
    assert (
        "s3('s3://b/a/*/entry.posted.parquet'"
        in wenming("export", "sql", "clickhouse", "--archive", "s3://b/a").out
    )


@pytest.mark.parametrize(
    "options",
    [
        ["mysql"],
        ["ClickHouse"],
        ["flink", "--archive", "x"],
        ["risingwave", "--archive", "x"],
        ["clickhouse", "--archive", " "],
        ["clickhouse", "--archive", "x", "--totals"],
        ["clickhouse", "--position", "3"],
        ["clickhouse", "--bootstrap", "nowhere"],
        ["clickhouse", "--topic", "a topic"],
    ],
    ids=" ".join,
)
def test_what_makes_no_script_is_refused(options: list[str]) -> None:
    done = wenming("export", "sql", *options)
    assert (done.code, done.out) == (1, "")
    assert done.err.startswith("INVALID_REQUEST  ")
