"""ClickHouse itself (`chdb`) has every figure as the ledger has it: from the topic, and from the archive."""

import json
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any
from uuid import UUID

import pytest

from api.demo.run import Plan, fill, open_demo
from api.settings import read_settings
from ledger import archive as archiving
from ledger.cloudevents import message_of
from ledger.log import LedgerLog
from projections import replay
from projections.elsewhere import archive_script, clickhouse, totals_script
from projections.figures import all_figures
from projections.hours import volunteer_hours
from projections.projection import Projection
from projections.totals import ledger_totals, numbers
from tests.county import LEDGER_ID, County
from tests.elsewhere.conftest import SEGMENT, archive_of, messages
from tests.elsewhere.house import House

Rows = dict[str, list[dict[str, Any]]]
OTHER = UUID("0b9a4d1e-7a53-4c7e-8a57-1f4c6f5e0c11")


def visible(figure: Projection, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """As `replay.as_of` gives them: without hidden columns, in the order of the key."""
    names = (*figure.keys, *(measure.name for measure in figure.measures))
    return sorted(
        ({name: row[name] for name in names} for row in rows), key=lambda row: [row[k] for k in figure.keys]
    )


def there(house: House, log: LedgerLog, position: int) -> Rows:
    ledger = str(log.identity.ledger_id)
    return {
        figure.name: visible(figure, house.rows(clickhouse.at(figure, ledger, position)))
        for figure in all_figures()
    }


def here(log: LedgerLog, position: int) -> Rows:
    return {figure.name: replay.as_of(log, figure, position) for figure in all_figures()}


def totals_of(house: House, position: int | None = None) -> dict[str, dict[str, int]]:
    """What the script of totals prints, by figure; of one ledger."""
    named = {figure.name: figure for figure in all_figures()}
    lines = [
        line for query in totals_script("clickhouse", position) for line in house.query(query).splitlines()
    ]
    found = {row["figure"]: row for row in map(json.loads, filter(None, lines))}
    return {name: numbers(named[name], found[name]) for name in named if name in found}


def with_rows(totals: Any) -> Any:
    return {name: values for name, values in totals.items() if values["rows"]}


# --- from the topic --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("part", [1.0, 0.4])
def test_every_row_is_the_ledgers_at_any_position_however_messages_arrive(
    county: County, full_house: House, part: float
) -> None:
    position = int(county.log.head().size * part)
    found = there(full_house, county.log, position)
    assert found == here(county.log, position)
    assert part < 1 or all(found.values())


def test_every_total_is_the_ledgers_at_any_position(county: County, full_house: House) -> None:
    position = int(county.log.head().size * 0.3)
    assert totals_of(full_house, position) == with_rows(ledger_totals(county.log, position).figures)


def test_the_views_over_everything_add_up_to_the_same(county: County, full_house: House) -> None:
    assert totals_of(full_house) == with_rows(ledger_totals(county.log, county.log.head().size).figures)


def test_a_message_that_came_twice_counts_once(county: County, full_house: House) -> None:
    size = county.log.head().size
    ((stored,), (held,)) = (
        [row["n"] for row in full_house.rows(f"SELECT toInt64(count()) AS n FROM {name}")]
        for name in ("facts", "held_facts")
    )
    assert held == size < stored


def test_ledgers_in_one_engine_are_kept_apart(county: County, house: House) -> None:
    """The same facts said by another ledger, and fewer of them."""
    house.follow_topic()
    log, some = county.log, county.log.head().size // 2
    house.receive(messages(log))
    house.receive([message_of(OTHER, row).value for row in log.read(1, some)])
    for figure in all_figures():
        rows = house.rows(f"SELECT * FROM {figure.table_name}")
        for ledger, position in ((log.identity.ledger_id, log.head().size), (OTHER, some)):
            own = [row for row in rows if row["ledger_id"] == str(ledger)]
            assert visible(figure, own) == replay.as_of(log, figure, position), figure.name


def test_the_script_may_be_run_again_and_loses_nothing(county: County, house: House) -> None:
    house.follow_topic()
    house.receive(messages(county.log))
    before = house.rows("SELECT * FROM figure_volunteer_days_v1 ORDER BY ALL")
    house.follow_topic()
    assert house.rows("SELECT * FROM figure_volunteer_days_v1 ORDER BY ALL") == before != []


@pytest.mark.parametrize("broken", [b"{}", b'{"source": "urn:uuid:x", "sequence": "1"}'])
def test_a_message_that_is_none_stops_it(house: House, broken: bytes) -> None:
    house.follow_topic()
    with pytest.raises(RuntimeError, match="UUID"):
        house.receive([broken])
    assert house.rows("SELECT * FROM held_facts") == []


# --- from the archive ------------------------------------------------------------------------------------------------


def test_the_archive_gives_the_same_figures(county: County, house: House) -> None:
    house.run(archive_script("clickhouse", f"{archive_of(county.log)}*"))
    archived = county.log.head().size // SEGMENT * SEGMENT
    for position in (archived, archived // 3):
        assert there(house, county.log, position) == here(county.log, position)


def test_a_folder_without_a_manifest_is_not_read(county: County, house: House, tmp_path: Path) -> None:
    """A crash may have left it."""
    archiving.write(county.log, tmp_path / "own", SEGMENT)
    house.run(archive_script("clickhouse", str(tmp_path / "own")))
    last = max(tmp_path.glob("own/0*"))
    (last / archiving.MANIFEST).unlink()
    archived = county.log.head().size // SEGMENT * SEGMENT - SEGMENT
    (held,) = house.rows("SELECT toInt64(count()) AS facts, max(position) AS last FROM held_facts")
    assert held == {"facts": archived, "last": archived}
    hours = house.rows(clickhouse.at(volunteer_hours, str(LEDGER_ID), archived + SEGMENT))
    assert visible(volunteer_hours, hours) == replay.as_of(county.log, volunteer_hours, archived)


# --- the whole demonstration -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LedgerLog]:
    plan = Plan(volunteers=150, months=3, seed=1)
    url = f"sqlite:///{tmp_path_factory.mktemp('demo') / 'demo.db'}"
    parts = open_demo(read_settings(database=url), plan)
    fill(parts, plan)
    archiving.write(parts.log, archive_of(parts.log), 2_000)
    yield parts.log
    parts.close()


@pytest.mark.slow
def test_the_demonstration_is_the_same_there_at_several_positions(demo: LedgerLog, house: House) -> None:
    house.follow_topic()
    sent = messages(demo)
    sent += sent[::5]
    Random(5).shuffle(sent)
    for first in range(0, len(sent), 3_000):
        house.receive(sent[first : first + 3_000])
    size = demo.head().size
    for position in (size, size * 2 // 3, 500):
        assert there(house, demo, position) == here(demo, position)
        assert totals_of(house, position) == with_rows(ledger_totals(demo, position).figures)


@pytest.mark.slow
def test_the_demonstrations_archive_is_the_same_there(demo: LedgerLog, house: House) -> None:
    house.run(archive_script("clickhouse", str(archive_of(demo))))
    archived = demo.head().size // 2_000 * 2_000
    for position in (archived, archived // 3):
        assert there(house, demo, position) == here(demo, position)
    assert totals_of(house) == with_rows(ledger_totals(demo, archived).figures)
