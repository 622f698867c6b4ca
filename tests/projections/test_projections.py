"""Whatever happens to the county, every figure is the same however it is computed (projections.md, the algebra)."""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from eventsourcing.persistence import StoredEvent
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import func, select

from ledger.errors import UnreadableFactError
from ledger.log import LedgerLog
from projections import engine, follower, replay
from projections.figures import all_figures
from projections.orders import steps
from projections.projection import Projection
from tests.conftest import costly
from tests.county import LEDGER_ID, START, County, Step, sample_steps

numbers = st.integers(0, 100)
stories = st.lists(st.tuples(numbers, numbers, numbers, numbers), min_size=0, max_size=30)


def told(folder: Path, story: list[Step]) -> County:
    county = County(f"sqlite:///{folder / f'{uuid4().hex}.db'}")
    county.tell(story)
    return county


def tables(log: LedgerLog) -> dict[str, list[dict[str, Any]]]:
    return {figure.name: replay.live(log, figure) for figure in all_figures()}


def recomputed(log: LedgerLog, position: int | None = None) -> dict[str, list[dict[str, Any]]]:
    at = replay.resolve(log, position)
    return {figure.name: replay.as_of(log, figure, at) for figure in all_figures()}


def bring(log: LedgerLog, cuts: list[int], small: bool) -> None:
    """Follow the log in the given batches, all of them by one of the two executors."""
    follower.prepare(log)
    low = 0
    for high in [*cuts, log.head().size]:
        follower.bring(log, all_figures(), low, high, small=small)
        low = high


def without_figures(log: LedgerLog) -> LedgerLog:
    """The same facts in a new file whose tables are empty."""
    return copied(log, str(log.engine.url).rsplit("/", 1)[0] + f"/{uuid4().hex}.db")


def copied(log: LedgerLog, url: str, limit: int | None = None) -> LedgerLog:
    other = LedgerLog.create(url, ledger_id=LEDGER_ID, kind="demo", created_at=START)
    rows = list(log.read(1, limit))
    for first in range(0, len(rows), 200):
        other.insert_events(
            [StoredEvent(r.stream_id, r.version, r.topic, r.state) for r in rows[first : first + 200]]
        )
    return other


@costly
@given(story=stories, data=st.data())
def test_any_split_into_batches_gives_the_same_tables_by_either_executor(
    folder: Path, story: list[Step], data: st.DataObject
) -> None:
    county = told(folder, story)
    size = county.log.head().size
    expected = recomputed(county.log)
    for small in (True, False):
        cuts = sorted(set(data.draw(st.lists(st.integers(1, size - 1), max_size=6))))
        log = without_figures(county.log)
        bring(log, cuts, small)
        assert tables(log) == expected, f"small={small}, cuts={cuts}"
        log.close()
    county.close()


@costly
@given(story=stories)
def test_catching_up_twice_changes_nothing_and_a_rebuild_gives_the_same(
    folder: Path, story: list[Step]
) -> None:
    county = told(folder, story)
    follower.catch_up(county.log)
    once = tables(county.log)
    assert follower.catch_up(county.log) == county.log.head().size
    assert tables(county.log) == once
    follower.rebuild(county.log)
    assert tables(county.log) == once
    assert not any(replay.verify_against_live(county.log).values())
    county.close()


@given(story=stories, data=st.data())
def test_as_of_a_position_uses_nothing_after_it(folder: Path, story: list[Step], data: st.DataObject) -> None:
    county = told(folder, story)
    position = data.draw(st.integers(0, county.log.head().size))
    then = copied(county.log, f"sqlite:///{folder / f'{uuid4().hex}.db'}", position)
    assert recomputed(county.log, position) == recomputed(then, None)
    then.close()
    county.close()


@given(story=stories)
def test_the_shares_that_explain_a_figure_add_up_to_it(folder: Path, story: list[Step]) -> None:
    county = told(folder, story)
    for figure in all_figures():
        sums = [m.name for m in figure.measures if m.merge == "add"]
        for row in replay.as_of(county.log, figure, county.log.head().size)[:5]:
            shares = replay.explain(county.log, figure, {k: row[k] for k in figure.keys})
            assert shares, f"{figure.name} has a row without facts"
            for measure in sums:
                assert sum(share[measure] for share in shares) == row[measure]
    county.close()


@given(story=stories, data=st.data())
def test_a_difference_between_two_moments_names_the_facts_in_between(
    folder: Path, story: list[Step], data: st.DataObject
) -> None:
    county = told(folder, story)
    low, high = sorted(data.draw(st.tuples(*[st.integers(0, county.log.head().size)] * 2)))
    for figure in all_figures():
        keyed = [
            {tuple(row[k] for k in figure.keys): row for row in replay.as_of(county.log, figure, at)}
            for at in (low, high)
        ]
        changed = {k for k in keyed[0].keys() | keyed[1].keys() if keyed[0].get(k) != keyed[1].get(k)}
        changes = replay.diff(county.log, figure, low, high)
        assert {change.key for change in changes} == changed
        assert all(low < p <= high for change in changes for p in change.positions)
    county.close()


@pytest.fixture(scope="session")
def sample(folder: Path) -> Iterator[County]:
    """One county with something in every figure."""
    county = told(folder, sample_steps(80))
    yield county
    county.close()


def test_the_sample_county_has_rows_in_every_figure(sample: County) -> None:
    empty = {name for name, rows in recomputed(sample.log).items() if not rows}
    assert empty <= {"unit_roles", "team_sponsors"}


def test_postgresql_and_sqlite_give_the_same_tables(sample: County, postgres_url: str) -> None:
    log = copied(sample.log, postgres_url)
    for small in (True, False):
        follower.reset(log)
        bring(log, [7, 50, 111], small)
        assert tables(log) == recomputed(sample.log)
    follower.rebuild(log)
    assert tables(log) == recomputed(log) == recomputed(sample.log)
    assert replay.diff(log, all_figures()[0], 50, 190) == replay.diff(sample.log, all_figures()[0], 50, 190)
    log.close()


def test_two_followers_cannot_double_a_batch(sample: County) -> None:
    log = without_figures(sample.log)
    follower.prepare(log)
    follower.bring(log, all_figures(), 0, 10)
    with pytest.raises(follower.MovedMeanwhileError):
        follower.bring(log, all_figures(), 0, 10)
    follower.catch_up(log)
    assert tables(log) == recomputed(log)
    log.close()


def test_a_changed_row_in_a_live_table_is_found(sample: County) -> None:
    log = without_figures(sample.log)
    follower.catch_up(log)
    with log.engine.connect() as plain, (writer := plain.execution_options(writes=True)).begin():
        writer.exec_driver_sql("UPDATE figure_volunteer_hours_v1 SET minutes = minutes + 300 WHERE rowid = 1")
    wrong = replay.verify_against_live(log)
    assert [name for name, keys in wrong.items() if keys] == ["volunteer_hours"]
    log.close()


def test_a_batch_of_facts_is_computed_in_arrow_chunks_of_any_size(sample: County) -> None:
    figures = all_figures()
    whole = engine.compute(sample.log, figures, 0, sample.log.head().size)
    pieces = engine.Columns(figures)
    for batch in engine.stored_batches(sample.log, 0, sample.log.head().size, pieces.topics, batch_rows=17):
        pieces.feed(batch)
    for figure in figures:
        assert pieces.arrow(figure) == whole.arrow(figure)
    pieces.close()
    whole.close()


def test_a_figure_that_looks_inside_no_fact_is_computed_all_the_same(sample: County) -> None:
    counted = select(steps.c.order_id, func.count().label("steps")).group_by(steps.c.order_id)
    figure = Projection(name="steps_of_orders", version=1, select=counted)
    head = sample.log.head().size
    with closing(engine.compute(sample.log, [figure], 0, head)) as columns:
        assert sorted(columns.rows(figure)) == sorted(engine.select_in_store(sample.log, figure, 0, head))


@pytest.mark.parametrize("small", [True, False])
def test_a_figure_stops_at_a_fact_it_does_not_know_and_names_its_position(
    small: bool, sample: County
) -> None:
    log = without_figures(sample.log)
    stranger = StoredEvent(
        uuid4(), 1, "unit.dreamt", b'{"class_version":1,"recorded_at":"2030-01-01T00:00:00.000000Z"}'
    )
    log.insert_events([stranger])
    size = log.head().size
    follower.prepare(log)
    with pytest.raises(UnreadableFactError) as stopped:
        follower.bring(log, all_figures(), 0, size, small=small)
    assert stopped.value.details["position"] == size
    with pytest.raises(UnreadableFactError):
        follower.rebuild(log)
    assert all(place.position == 0 for place in follower.status(log))
    log.close()
