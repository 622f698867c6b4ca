"""Tables keep up with the log, a rebuild is swapped in whole, and adding a figure is adding a file."""

import sqlite3
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, inspect, text

import projections
from ledger import commands as c
from ledger.log import LedgerLog
from projections import figures, follower, replay
from projections.figures import all_figures
from projections.hours import volunteer_hours
from tests.county import County

NEW_FIGURE = '''
"""How many sessions did each recorder write down?"""

from sqlalchemy import func, select

from ledger.events import SessionRecorded
from projections.facts import facts_of
from projections.projection import Projection

recorded = facts_of("recorded_sessions", SessionRecorded)

recorder_sessions = Projection(
    name="recorder_sessions",
    version=1,
    select=select(recorded.c.recorder_id, func.count().label("sessions")).group_by(recorded.c.recorder_id),
)
'''


@pytest.fixture
def county(sqlite_url: str) -> Iterator[County]:
    made = County(sqlite_url)
    made.serve(made.station, [made.volunteer(0), made.volunteer(1)], 60)
    yield made
    made.close()


@pytest.fixture
def new_figure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """One more file in the package, for as long as the test runs."""
    (tmp_path / "recorders_of_a_test.py").write_text(NEW_FIGURE)
    monkeypatch.setattr(projections, "__path__", [*projections.__path__, str(tmp_path)])
    figures.all_figures.cache_clear()
    yield
    figures.all_figures.cache_clear()
    sys.modules.pop("projections.recorders_of_a_test", None)


def test_adding_a_figure_is_adding_one_file(county: County, request: pytest.FixtureRequest) -> None:
    follower.catch_up(county.log)
    request.getfixturevalue("new_figure")
    county.serve(county.station, [county.volunteer(2)], 30)
    follower.catch_up(county.log)
    figure = figures.figure("recorder_sessions")
    expected = [{"recorder_id": str(county.admin.person_id), "sessions": 3}]
    assert replay.live(county.log, figure) == expected
    assert replay.as_of(county.log, figure, county.log.head().size) == expected
    assert not any(replay.verify_against_live(county.log).values())


def test_a_rebuild_that_fails_leaves_the_old_tables(county: County, monkeypatch: pytest.MonkeyPatch) -> None:
    follower.catch_up(county.log)
    before = {f.name: replay.live(county.log, f) for f in all_figures()}
    write_rows, calls = follower.write_rows, iter(range(100))

    def breaks_at_the_fifth(connection: Connection, *args: Any, **how: Any) -> None:
        write_rows(connection, *args, **how)
        if next(calls) == 4:
            raise RuntimeError("the power went off")

    monkeypatch.setattr(follower, "write_rows", breaks_at_the_fifth)
    with pytest.raises(RuntimeError):
        follower.rebuild(county.log)
    monkeypatch.undo()
    assert {f.name: replay.live(county.log, f) for f in all_figures()} == before
    follower.rebuild(county.log)
    with county.log.engine.connect() as connection:
        assert not [t for t in inspect(connection).get_table_names() if t.endswith("_new")]


def test_a_rebuild_repairs_what_somebody_changed(county: County) -> None:
    follower.catch_up(county.log)
    with county.log.engine.connect() as plain, (writer := plain.execution_options(writes=True)).begin():
        writer.execute(text(f"UPDATE {volunteer_hours.table_name} SET minutes = 6000"))
    assert replay.verify_against_live(county.log)["volunteer_hours"]
    follower.rebuild(county.log, ["volunteer_hours"])
    assert not any(replay.verify_against_live(county.log).values())


def test_a_figure_that_claims_facts_which_are_not_there_is_named_and_a_rebuild_mends_it(
    county: County,
) -> None:
    """Its rows are right today, but it would leave out what comes next. Found by a bit that was flipped."""
    head = follower.catch_up(county.log)
    claim = text("UPDATE figure_positions SET position = :beyond WHERE table_name = :name")
    with county.log.engine.connect() as plain:
        connection = plain.execution_options(writes=True)
        with connection.begin():
            connection.execute(claim, {"beyond": head + 64, "name": volunteer_hours.table_name})
    wrong = replay.verify_against_live(county.log)
    assert {name: keys for name, keys in wrong.items() if keys} == {
        "volunteer_hours": [("position", head + 64)]
    }
    follower.rebuild(county.log, ["volunteer_hours"])
    assert not any(replay.verify_against_live(county.log).values())


def test_what_is_recorded_while_a_rebuild_computes_is_not_lost(
    county: County, monkeypatch: pytest.MonkeyPatch
) -> None:
    follower.catch_up(county.log)
    compute = follower.compute

    def meanwhile(*args: Any, **how: Any) -> Any:
        columns = compute(*args, **how)
        county.serve(county.station, [county.volunteer(3)], 45)
        follower.catch_up(county.log)
        monkeypatch.setattr(follower, "compute", compute)
        return columns

    monkeypatch.setattr(follower, "compute", meanwhile)
    follower.rebuild(county.log)
    follower.catch_up(county.log)
    assert not any(replay.verify_against_live(county.log).values())


def test_a_follower_shows_new_facts_until_it_is_stopped(county: County) -> None:
    stop = threading.Event()
    other = LedgerLog.open(county.url)
    thread = threading.Thread(target=follower.follow, args=(other, stop))
    thread.start()
    try:
        county.do(c.RenameUnit(unit_id=county.station, name="新名"))
        deadline = time.monotonic() + 5
        while follower.reached(county.log) < county.log.head().size and time.monotonic() < deadline:
            time.sleep(0.01)
        assert follower.reached(county.log) == county.log.head().size
    finally:
        stop.set()
        thread.join(5)
        other.close()
    assert not thread.is_alive()


def test_the_lag_is_told_in_facts_and_in_seconds(county: County) -> None:
    follower.catch_up(county.log)
    assert {(s.lag_facts, s.lag_seconds) for s in follower.status(county.log)} == {(0, 0.0)}
    county.now = county.now.__class__.now(county.now.tzinfo)
    county.do(c.RenameUnit(unit_id=county.station, name="新名"))
    time.sleep(0.05)
    for status in follower.status(county.log):
        assert status.lag_facts == 1
        assert 0.05 <= status.lag_seconds < 30


def test_a_follower_waits_for_a_database_that_is_held(
    county: County, caplog: pytest.LogCaptureFixture
) -> None:
    follower.catch_up(county.log)
    county.do(c.RenameUnit(unit_id=county.station, name="新名"))
    stop, other = threading.Event(), LedgerLog.open(county.url, busy_seconds=0.05)
    holder = sqlite3.connect(county.url.removeprefix("sqlite:///"), isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    thread = threading.Thread(target=follower.follow, args=(other, stop))
    thread.start()
    try:
        deadline = time.monotonic() + 10
        while not caplog.records and time.monotonic() < deadline:
            time.sleep(0.02)
        assert "figures wait" in caplog.text
        holder.execute("ROLLBACK")
        while follower.reached(county.log) < county.log.head().size and time.monotonic() < deadline:
            time.sleep(0.02)
        assert follower.reached(county.log) == county.log.head().size
    finally:
        stop.set()
        thread.join(10)
        other.close()
        holder.close()


def test_rebuilding_on_postgresql_while_another_follows_neither_deadlocks_nor_loses(
    postgres_url: str,
) -> None:
    county = County(postgres_url)
    stop, other = threading.Event(), LedgerLog.open(postgres_url)
    thread = threading.Thread(target=follower.follow, args=(other, stop))
    thread.start()
    try:
        for minutes in (30, 40, 50, 60):
            county.serve(county.station, [county.volunteer(0)], minutes)
            follower.rebuild(county.log)
    finally:
        stop.set()
        thread.join(10)
        other.close()
    follower.catch_up(county.log)
    assert not any(replay.verify_against_live(county.log).values())
    county.close()


def test_a_hidden_column_that_was_edited_is_found_too(tmp_path: Path) -> None:
    """Where the latest value came from is not shown, but decides what is merged into it later."""
    file = tmp_path / "ledger.db"
    county = County(f"sqlite:///{file}")
    assert not any(replay.verify_against_live(county.log).values())
    with sqlite3.connect(file) as raw:
        raw.execute("UPDATE figure_volunteers_v1 SET home_unit_id__at = home_unit_id__at + 1000")
    raw.close()
    assert [name for name, keys in replay.verify_against_live(county.log).items() if keys] == ["volunteers"]
    county.close()
