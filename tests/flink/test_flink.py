"""Flink, given nothing but the topic and the SQL that we generate, has every figure as the ledger has it."""

from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from uuid import UUID, uuid4

import orjson
import pytest

from ledger.brokers import Brokers
from ledger.cloudevents import message_of
from ledger.groupcommit import Row
from ledger.log import LedgerLog
from ledger.relay import Relay
from projections.elsewhere import Topic, topic_script, totals_script
from projections.engine import compute
from projections.figures import all_figures, figure_named
from projections.totals import differences, ledger_totals, numbers
from tests import services
from tests.county import LEDGER_ID, County, sample_steps
from tests.flink import HERE, Flink, Rows
from tests.jars import fetched_jars
from tests.relay.topic import brokers_at, read_topic

pytestmark = pytest.mark.slow

NEIGHBOUR = UUID("5f0c1c3e-6a55-4a1d-9d6a-3f2f4f1f0a02")
"""Another ledger that sends to the same topic."""
NEIGHBOUR_FACTS = 150
ENDS = "ALTER TABLE `events` SET ('scan.bounded.mode' = 'latest-offset')"
"""Makes the table end where the topic ends now; Flink reads nothing endless as a batch."""

FIGURES = {figure.name: f"SELECT * FROM `{figure.table_name}`" for figure in all_figures()}


@dataclass(frozen=True)
class Told:
    """A county whose log has grown since the relay stopped at ``position``, and the script over the topic."""

    log: LedgerLog
    position: int
    script: list[str]


@pytest.fixture(scope="module")
def flink(tmp_path_factory: pytest.TempPathFactory) -> Flink:
    """Without Java and Maven the tests fail in CI and are skipped, saying so, elsewhere."""
    try:
        jars = fetched_jars("flink", HERE / "pom.xml", tools=("java", "javac", "mvn"))
    except services.ServiceMissingError as missing:
        if services.required():
            pytest.fail(f"Flink is required here: {missing}")
        pytest.skip(f"Flink: {missing}")
    return Flink(jars, tmp_path_factory.mktemp("flink"))


@pytest.fixture(scope="module")
def told(kafka: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Told]:
    """A topic as bad as it may get: a relay's facts, some of them twice, a neighbour's, and some never committed."""
    county = County(f"sqlite:///{tmp_path_factory.mktemp('county') / 'ledger.db'}")
    county.tell(sample_steps(200))
    brokers = brokers_at(kafka)
    brokers.create_topics(LEDGER_ID)
    position = Relay(county.log, brokers).once()
    county.tell(sample_steps(20))
    assert county.log.head().size > position
    facts = list(county.log.read(stop=position))
    _send(brokers, LEDGER_ID, facts[::3])
    _send(brokers, NEIGHBOUR, facts[:NEIGHBOUR_FACTS])
    entries = [replace(fact, stream_id=uuid4(), version=1) for fact in facts if fact.topic == "entry.posted"]
    _send(brokers, LEDGER_ID, entries, commit=False)
    assert len(read_topic(brokers, committed=False)) == len(read_topic(brokers)) + len(entries)
    first, *rest = topic_script("flink", Topic(brokers.events, brokers.bootstrap))
    yield Told(county.log, position, [first, ENDS, *rest])
    county.close()


def _send(brokers: Brokers, ledger_id: UUID, facts: list[Row], *, commit: bool = True) -> None:
    """One transaction of somebody who is no relay, so that nobody is fenced by it."""
    producer = brokers.producer(f"stranger-{uuid4()}", 15.0)
    try:
        producer.init_transactions()
        producer.begin_transaction()
        for fact in facts:
            message = message_of(ledger_id, fact)
            producer.send(brokers.events, key=message.key, value=message.value, headers=message.headers)
        producer.flush()
        if commit:
            producer.commit_transaction()
        else:
            producer.abort_transaction()
    finally:
        producer.close()


def figures_of(log: LedgerLog, ledger_id: UUID, position: int) -> Rows:
    """Every row of every figure as the ledger computes it, with the ledger's id in front."""
    with closing(compute(log, all_figures(), 0, position)) as columns:
        return {
            figure.name: Counter((str(ledger_id), *row) for row in columns.rows(figure))
            for figure in all_figures()
        }


@pytest.fixture(scope="module")
def batch(flink: Flink, told: Told) -> Rows:
    """Every figure's rows and every total out of one batch, which takes as long as the totals alone."""
    totals = {f"totals_{number}": query for number, query in enumerate(totals_script("flink"))}
    return flink.rows("batch", told.script, {**FIGURES, **totals})


def require_the_ledgers_figures(found: Rows, told: Told) -> None:
    own = figures_of(told.log, LEDGER_ID, told.position)
    neighbours = figures_of(told.log, NEIGHBOUR, NEIGHBOUR_FACTS)
    assert own["volunteer_hours"]
    for name in FIGURES:
        assert found[name] == own[name] + neighbours[name], name


def test_every_row_of_every_figure_is_the_ledgers_when_flink_reads_the_topic_as_a_batch(
    batch: Rows, told: Told
) -> None:
    """About 30 s on two quiet cores, and what Maven needs to fetch 142 MB once."""
    require_the_ledgers_figures(batch, told)


def test_every_row_of_every_figure_is_the_ledgers_when_flink_follows_the_topic(
    flink: Flink, told: Told
) -> None:
    """What a row was before is taken back; what is left at the end of the topic counts."""
    require_the_ledgers_figures(flink.rows("streaming", told.script, FIGURES), told)


def test_the_totals_that_verify_compares_are_the_ledgers(batch: Rows, told: Told) -> None:
    printed = [orjson.loads(text) for name, rows in batch.items() if name not in FIGURES for (text,) in rows]
    own = {total["figure"]: total for total in printed if total["ledger_id"] == str(LEDGER_ID)}
    facts = own.pop("facts")
    assert (facts["rows"], facts["last_position"]) == (told.position, told.position)
    totals = {name: numbers(figure_named(name), total) for name, total in own.items()}
    assert differences(ledger_totals(told.log, told.position).figures, totals) == []
