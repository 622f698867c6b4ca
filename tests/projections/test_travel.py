"""Going back: a figure at any moment and what changed between two, whichever way it is found (T18, T43, T44)."""

import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import date, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from eventsourcing.persistence import StoredEvent
from hypothesis import given, settings
from hypothesis import strategies as st

from ledger import archive as archiving
from ledger import events
from ledger.archive import Archive
from ledger.codec import canonical_json
from ledger.log import LedgerLog
from projections import engine, replay
from projections.figures import all_figures, figure
from projections.people import volunteers
from projections.projection import Projection
from projections.rosters import members, roster, teams
from projections.units import units
from tests.county import LEDGER_ID, START, County, Step, name, sample_steps
from tests.projections.test_projections import stories, told

ANYWHERE = (
    {},
    {"SMALL_HISTORY": 0},
    {"SMALL_HISTORY": 0, "FEW_STREAMS": 0},
)
"""Limits that send a question to the database, to an index or to DuckDB."""


@contextmanager
def limits(**changed: int) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for limit, value in changed.items():
            patch.setattr(replay, limit, value)
        yield


def by_key(one: Projection, log: LedgerLog, position: int) -> dict[tuple[Any, ...], dict[str, Any]]:
    """The whole figure as of a position, found the plain way: by the database, from the first fact."""
    return {tuple(row[k] for k in one.keys): row for row in replay.as_of(log, one, position)}


def naive(one: Projection, log: LedgerLog, low: int, high: int) -> list[replay.Change]:
    """Two whole as-ofs side by side, and each fact's own share in between."""
    before, after = by_key(one, log, low), by_key(one, log, high)
    touched: dict[tuple[Any, ...], list[int]] = {}
    for share in replay.explain(log, one, {}, high):
        if share["position"] > low:
            touched.setdefault(tuple(share[k] for k in one.keys), []).append(share["position"])
    changes = (replay.Change(k, before.get(k), after.get(k), tuple(at)) for k, at in sorted(touched.items()))
    return [change for change in changes if change.before != change.after]


# --- differences -----------------------------------------------------------------------------------------------------


@settings(max_examples=settings.default.max_examples // 4)
@given(story=stories, data=st.data())
def test_a_difference_is_that_of_two_whole_as_ofs_whichever_way_it_is_found(
    folder: Path, story: list[Step], data: st.DataObject
) -> None:
    county = told(folder, story)
    log, head = county.log, county.log.head().size
    low, high = sorted(data.draw(st.tuples(*[st.integers(0, head)] * 2)))
    place = folder / uuid4().hex
    archiving.write(log, place, data.draw(st.integers(3, 60)))
    archive = data.draw(st.sampled_from([None, Archive(log, place)]))
    for one in data.draw(st.lists(st.sampled_from(all_figures()), min_size=3, max_size=3, unique=True)):
        expected = naive(one, log, low, high)
        with limits(**data.draw(st.sampled_from(ANYWHERE))):
            assert replay.diff(log, one, low, high, archive=archive) == expected
            pages, after = [], None
            size = data.draw(st.integers(1, 4))
            while page := replay.diff(log, one, low, high, after=after, limit=size, archive=archive):
                assert len(page) <= size
                pages, after = pages + page, page[-1].key
        assert pages == expected
    county.close()


@settings(max_examples=settings.default.max_examples // 4)
@given(story=stories, data=st.data())
def test_some_keys_as_of_a_moment_and_their_facts_are_found_the_same_every_way(
    folder: Path, story: list[Step], data: st.DataObject
) -> None:
    county = told(folder, story)
    log = county.log
    position = data.draw(st.integers(1, log.head().size))
    place = folder / uuid4().hex
    archiving.write(log, place, data.draw(st.integers(3, 60)))
    archive = data.draw(st.sampled_from([None, Archive(log, place)]))
    for one in data.draw(st.lists(st.sampled_from(all_figures()), min_size=3, max_size=3, unique=True)):
        whole = replay.as_of(log, one, position)
        shares = replay.explain(log, one, {}, position)
        with limits(**data.draw(st.sampled_from(ANYWHERE))):
            assert replay.as_of(log, one, position, archive=archive) == whole
            for row in whole[:2]:
                names = data.draw(st.sets(st.sampled_from(one.keys), min_size=1))
                key = {k: row[k] for k in one.keys if k in names}

                def kept(rows: list[dict[str, Any]], key: dict[str, Any] = key) -> list[dict[str, Any]]:
                    return [r for r in rows if all(r[k] == v for k, v in key.items())]

                assert replay.as_of(log, one, position, where=key, archive=archive) == kept(whole)
                assert replay.explain(log, one, key, position, archive=archive) == kept(shares)
    county.close()


def test_both_databases_give_the_same_differences_shares_and_rows(
    sqlite_url: str, postgres_url: str, tmp_path: Path
) -> None:
    found = []
    for url in (sqlite_url, postgres_url):
        county = County(url)
        county.tell(sample_steps())
        log, head = county.log, county.log.head().size
        archiving.write(log, tmp_path / log.dialect, 32)
        archive = Archive(log, tmp_path / log.dialect)
        for kept, how in ((None, {}), (archive, ANYWHERE[1]), (archive, ANYWHERE[2])):
            with limits(**how):
                found.append([_asked(log, one, head, kept) for one in all_figures()])
        county.close()
    assert all(answers == found[0] for answers in found[1:])
    assert sum(bool(changes) for changes, _, _ in found[0]) >= 8


def _asked(log: LedgerLog, one: Projection, head: int, archive: Archive | None) -> tuple[Any, Any, Any]:
    changes = replay.diff(log, one, head // 3, head - 5, archive=archive)
    key = dict(zip(one.keys, changes[0].key, strict=True)) if changes else {one.keys[0]: "nobody"}
    return (
        changes,
        replay.as_of(log, one, head - 3, where=key, archive=archive),
        replay.explain(log, one, key, archive=archive),
    )


def test_a_key_that_is_no_id_has_no_rows_on_either_database(database_url: str) -> None:
    county = County(database_url)
    for value in ("x", "' OR true --", "6f9619ff-8b86-d011-b42d-00c04fc964fF"):
        for one in all_figures():
            for how in ANYWHERE:
                with limits(**how):
                    assert replay.as_of(county.log, one, 10, where={one.keys[0]: value}) == []
                    assert replay.explain(county.log, one, {one.keys[0]: value}) == []
        assert (
            replay.as_of(county.log, teams, 10, where={"team_id": value}, effective_on=date(2026, 3, 2)) == []
        )
    county.close()


def test_a_difference_backwards_or_beyond_the_head_is_refused(sqlite_url: str) -> None:
    county = County(sqlite_url)
    head = county.log.head().size
    with pytest.raises(replay.MomentsReversedError):
        replay.diff(county.log, teams, 5, 4)
    for low, high in ((0, head + 1), (head + 1, head + 2), (-1, 3)):
        with pytest.raises(replay.BeyondHeadError):
            replay.diff(county.log, teams, low, high)
    assert replay.diff(county.log, teams, head, head) == []
    county.close()


def test_only_the_facts_in_between_and_the_keys_they_touch_are_read(
    sqlite_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not a test of time: a difference may not compute a whole figure, however it is found."""
    county = County(sqlite_url)
    county.tell(sample_steps())
    asked = []
    real = replay.select_in_store

    def watched(log: LedgerLog, one: Projection, low: int, high: int, **how: Any) -> Any:
        asked.append((low, high, how.get("wanted")))
        return real(log, one, low, high, **how)

    monkeypatch.setattr(replay, "select_in_store", watched)
    head = county.log.head().size
    assert replay.diff(county.log, figure("volunteer_hours"), head // 2, head)
    (first, *later) = asked
    assert first == (head // 2, head, None)
    assert later
    assert all(low == 0 and high == head // 2 and wanted is not None for low, high, wanted in later)
    county.close()


def test_many_ask_at_once_and_each_gets_their_own_answer(sqlite_url: str, tmp_path: Path) -> None:
    county = County(sqlite_url)
    county.tell(sample_steps())
    log = county.log
    archiving.write(log, tmp_path / "archive", 16)
    archive = Archive(log, tmp_path / "archive")
    positions = (30, log.head().size - 20)
    expected = {(p, one.name): replay.as_of(log, one, p) for p in positions for one in all_figures()}
    wrong: list[object] = []

    def ask(start: int) -> None:
        try:
            for one in (*all_figures()[start:], *all_figures()[:start]):
                for p in positions:
                    if replay.as_of(log, one, p, archive=archive) != expected[p, one.name]:
                        wrong.append((p, one.name))
        except Exception as error:
            wrong.append(error)

    with limits(SMALL_HISTORY=0):
        threads = [threading.Thread(target=ask, args=(n,)) for n in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert wrong == []
    county.close()


# --- as it happened --------------------------------------------------------------------------------------------------


class Told:
    """A log of facts that were recorded one after the other, and happened whenever they say."""

    def __init__(self, url: str) -> None:
        self.log = LedgerLog.create(url, ledger_id=LEDGER_ID, kind="demo", created_at=START)
        self._versions: dict[UUID, int] = {}
        self.facts: list[tuple[type[events.Fact], UUID, int, dict[str, Any]]] = []

    def fact(self, event: type[events.Fact], stream: UUID, happened_day: int, **fields: Any) -> None:
        version = self._versions[stream] = self._versions.get(stream, 0) + 1
        recorded = START + timedelta(days=40, minutes=len(self.facts))
        whole = fields | {
            "happened_at": START + timedelta(days=happened_day),
            "recorded_at": recorded,
            "caller_id": name("admin"),
            "command_id": name("command"),
            "class_version": 1,
        }
        self.log.insert_events([StoredEvent(stream, version, event.TOPIC, canonical_json(whole))])
        self.facts.append((event, stream, happened_day, fields))


moves = st.lists(
    st.tuples(st.integers(0, 4), st.integers(0, 1), st.integers(0, 6), st.integers(0, 3)),
    min_size=1,
    max_size=24,
)
"""What, where, on which day it happened (many on one), and who or which name."""


def history(url: str, told: list[tuple[int, int, int, int]]) -> Told:
    made = Told(url)
    for what, where, day, who in told:
        team, unit = name("team", where), name("unit", where)
        match what:
            case 0:
                made.fact(events.TeamLeaderAppointed, team, day, leader_id=name(who), previous_leader_id=None)
            case 1:
                made.fact(events.TeamMemberJoined, team, day, volunteer_id=name(who), relayed=False)
            case 2:
                made.fact(events.TeamMemberLeft, team, day, volunteer_id=name(who), reason="own_wish")
            case 3:
                made.fact(events.UnitRenamed, unit, day, name=f"名字{who}")
            case 4:
                made.fact(events.UnitMoved, unit, day, parent_id=name(who), from_parent_id=name(9))
    return made


def as_it_happened(made: Told, position: int, last_day: int) -> dict[str, Any]:
    """What the first ``position`` facts say happened by the end of a day, in plain Python."""
    known = [
        (day, at, event, stream, fields)
        for at, (event, stream, day, fields) in enumerate(made.facts[:position])
    ]
    leaders: dict[str, str] = {}
    names: dict[str, str | None] = {}
    parents: dict[str, str | None] = {}
    joined: dict[tuple[str, str], list[int]] = {}
    for day, _, event, stream, fields in sorted(known, key=lambda fact: fact[:2]):
        if day > last_day:
            continue
        if event is events.TeamLeaderAppointed:
            leaders[str(stream)] = str(fields["leader_id"])
        elif event in (events.TeamMemberJoined, events.TeamMemberLeft):
            count = joined.setdefault((str(stream), str(fields["volunteer_id"])), [0, 0])
            count[event is events.TeamMemberLeft] += 1
        else:
            names.setdefault(str(stream), None)
            parents.setdefault(str(stream), None)
            if event is events.UnitRenamed:
                names[str(stream)] = fields["name"]
            else:
                parents[str(stream)] = str(fields["parent_id"])
    return {"leaders": leaders, "names": names, "parents": parents, "joined": joined}


def seen(columns: engine.Columns) -> dict[str, Any]:
    def rows(one: Projection) -> list[dict[str, Any]]:
        return [dict(zip(one.columns, row, strict=True)) for row in columns.rows(one)]

    return {
        "leaders": {row["team_id"]: row["leader_id"] for row in rows(teams)},
        "names": {row["unit_id"]: row["name"] for row in rows(units)},
        "parents": {row["unit_id"]: row["parent_id"] for row in rows(units)},
        "joined": {(r["team_id"], r["volunteer_id"]): [r["joined"], r["left_count"]] for r in rows(roster)},
    }


@settings(max_examples=settings.default.max_examples // 4)
@given(told=moves, data=st.data())
def test_on_the_effective_axis_the_latest_is_what_happened_last_whenever_it_was_recorded(
    folder: Path, told: list[tuple[int, int, int, int]], data: st.DataObject
) -> None:
    """Ties go to the later position; batches and archived segments of any size give the same."""
    made = history(f"sqlite:///{folder / f'{uuid4().hex}.db'}", told)
    log, head = made.log, len(told)
    position = data.draw(st.integers(0, head))
    day = data.draw(st.integers(-1, 7))
    by = replay.end_of((START + timedelta(days=day)).date())
    expected = as_it_happened(made, position, day)
    asked = (teams, units, roster)
    with closing(engine.Columns(asked, effective_by=by)) as columns:
        size = data.draw(st.integers(1, 5))
        for batch in engine.stored_batches(log, 0, position, columns.topics, batch_rows=size):
            columns.feed(batch)
        assert seen(columns) == expected
    place = folder / uuid4().hex
    archiving.write(log, place, data.draw(st.integers(1, 9)))
    with closing(
        engine.compute(log, asked, 0, position, effective_by=by, archive=Archive(log, place))
    ) as columns:
        assert seen(columns) == expected
    log.close()


SQUAD = {"kind": "squad", "category": None, "name": "队", "unit_id": name("unit"), "parent_team_id": None}


def test_the_roster_as_it_happened_differs_from_the_roster_as_recorded(database_url: str) -> None:
    """Somebody joins on the 5th, which is written down after they left on the 9th (T18)."""
    made = Told(database_url)
    team, person, other = name("team"), name("person"), name("other")
    first, last = date(2026, 3, 7), date(2026, 3, 20)
    made.fact(
        events.TeamFormed,
        team,
        0,
        kind="squad",
        category=None,
        name="队",
        unit_id=name("unit"),
        parent_team_id=None,
    )
    for number, who in enumerate((person, other)):
        made.fact(
            events.VolunteerEnrolled,
            who,
            0,
            volunteer_number=f"gg-{number}",
            home_unit_id=name("unit"),
            profile="s1.QUJD",
            consent_document="c",
            consented_at=START,
            relayed=False,
        )
    made.fact(events.TeamLeaderAppointed, team, 9, leader_id=other, previous_leader_id=None)
    made.fact(events.TeamLeaderAppointed, team, 3, leader_id=person, previous_leader_id=other)  # back-dated
    made.fact(events.TeamMemberJoined, team, 3, volunteer_id=person, relayed=False)
    made.fact(events.TeamMemberLeft, team, 7, volunteer_id=person, reason="own_wish")
    recorded = made.log.head().size

    def listed(position: int | None, day: date | None) -> list[str]:
        with replay.at(made.log, (roster, volunteers), position, effective_on=day) as moment:
            return [row["volunteer_id"] for row in members(moment, str(team))]

    def leader(day: date | None) -> str:
        (row,) = replay.as_of(made.log, teams, recorded, where={"team_id": str(team)}, effective_on=day)
        return str(row["leader_id"])

    assert listed(recorded, None) == listed(recorded, last) == []
    assert listed(recorded, first) == [str(person)]  # as it happened, and as the ledger knows now
    assert listed(recorded - 2, first) == []  # … but did not yet know then
    assert leader(None) == str(person)  # the change that was recorded last
    assert leader(last) == str(other)  # the change that happened last
    assert leader(first) == str(person)
    made.log.close()
