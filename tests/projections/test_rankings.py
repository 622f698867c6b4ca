"""The committee's ranking, checked against the raw facts by plain arithmetic (T34, S091)."""

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from datetime import date, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger import commands as c
from ledger.errors import UnknownUnitError, UnknownVolunteerError
from ledger.rulebook import default_rulebook, local_day
from projections import follower, replay
from projections.hours import hours_of, kinds_of, months_of, volunteer_days, volunteer_hours, volunteer_kinds
from projections.rankings import ALL_CLASSES, Terms, star_ranking
from projections.statements import statement
from tests.county import County, name
from tests.projections.test_projections import stories, told


@pytest.fixture
def county(sqlite_url: str) -> Iterator[County]:
    made = County(sqlite_url)
    yield made
    made.close()


def entries_of(county: County, position: int | None = None) -> dict[str, dict[str, Any]]:
    """Every entry by id, from the stored text itself."""
    found = {}
    for row in county.log.read(1, position):
        if row.topic == "entry.posted":
            entry = json.loads(row.state)
            found[entry["entry_id"]] = {**entry, "volunteer_id": str(row.stream_id)}
    return found


def by_hand(county: County, position: int, terms: Terms) -> Counter[str]:
    minutes: Counter[str] = Counter()
    for entry in entries_of(county, position).values():
        inside = terms.first_on is None or entry["served_on"] >= terms.first_on.isoformat()
        inside &= terms.last_on is None or entry["served_on"] <= terms.last_on.isoformat()
        if inside and entry["source_class"] in terms.source_classes:
            minutes[entry["volunteer_id"]] += entry["minutes"]
    return minutes


@given(
    story=stories,
    days=st.tuples(st.integers(0, 9), st.integers(0, 9)),
    classes=st.sets(st.sampled_from(ALL_CLASSES), min_size=1),
    data=st.data(),
)
def test_every_row_is_the_sum_of_the_entries_it_names(
    folder: Path,
    story: list[Any],
    days: tuple[int, int],
    classes: set[Any],
    data: st.DataObject,
) -> None:
    county = told(folder, story)
    start = local_day(county.now)
    terms = Terms(
        first_on=start - timedelta(days=max(days)),
        last_on=start - timedelta(days=min(days)),
        source_classes=tuple(sorted(classes)),
    )
    position = data.draw(st.one_of(st.none(), st.integers(1, county.log.head().size)))
    follower.catch_up(county.log)
    ranking = star_ranking(county.log, terms, position)
    entries = entries_of(county, ranking.position)
    expected = by_hand(county, ranking.position, terms)
    assert {row.volunteer_id: row.minutes for row in ranking.rows} == {
        v: m for v, m in expected.items() if m >= 1
    }
    for row in ranking.rows:
        assert sum(entries[e]["minutes"] for e in row.entry_ids) == row.minutes
        assert sum(row.minutes_by_class.values()) == row.minutes
        assert row.rank == 1 + sum(other.minutes > row.minutes for other in ranking.rows)
    county.close()


def test_equal_minutes_share_a_rank_and_the_tie_rule_is_printed(county: County) -> None:
    first, second, third, fourth = (county.volunteer(n) for n in range(4))
    county.serve(county.station, [first, second], 60)
    county.serve(county.station, [third], 90)
    county.serve(county.station, [fourth], 30)
    follower.catch_up(county.log)
    ranking = star_ranking(county.log, Terms())
    assert [(row.rank, row.volunteer_number) for row in ranking.rows] == [
        (1, "gg-0002"),
        (2, "gg-0000"),
        (2, "gg-0001"),
        (4, "gg-0003"),
    ]
    assert "1, 2, 2, 4" in ranking.tie_rule["en"]


def test_hours_follow_the_unit_tree_of_the_same_moment(county: County) -> None:
    """A station that moves takes its hours to the new institute from then on, and not before (T01)."""
    county.serve(county.station, [county.volunteer(0)], 60)
    before = county.log.head().size
    county.do(c.MoveUnit(unit_id=county.station, parent_id=county.institutes[1]))
    follower.catch_up(county.log)
    old, new = (Terms(unit_id=str(unit)) for unit in county.institutes)
    minutes = {
        (which, at): [row.minutes for row in star_ranking(county.log, terms, at).rows]
        for which, terms in {"old": old, "new": new}.items()
        for at in (before, None)
    }
    assert minutes == {("old", before): [60], ("new", before): [], ("old", None): [], ("new", None): [60]}
    assert [row.minutes for row in star_ranking(county.log, Terms(unit_id=str(county.centre))).rows] == [60]


def test_a_unit_that_does_not_exist_yet_is_refused(county: County) -> None:
    follower.catch_up(county.log)
    with pytest.raises(UnknownUnitError):
        star_ranking(county.log, Terms(unit_id=str(name("nowhere"))))
    with pytest.raises(UnknownUnitError):
        star_ranking(county.log, Terms(unit_id=str(county.base)), 3)


def test_stars_come_from_the_rule_book_in_force_on_the_day(county: County) -> None:
    volunteer = county.volunteer(0)
    for _ in range(13):
        county.serve(county.station, [volunteer], 470)
        county.wait(hours=20)
    today = local_day(county.now)
    book = default_rulebook().model_copy(update={"star_minutes": (60, 120, 180)})
    county.do(c.PublishRuleBook(version=2, effective_on=today + timedelta(days=3), book=book))
    follower.catch_up(county.log)
    (now,) = star_ranking(county.log, Terms()).rows
    later = star_ranking(county.log, Terms(), judged_on=today + timedelta(days=3))
    assert (now.star_minutes, now.star) == (6110, 1)
    assert (later.rulebook_version, later.star_thresholds, later.rows[0].star) == (2, (60, 120, 180), 3)
    assert [r.star for r in star_ranking(county.log, Terms(star=1)).rows] == [1]
    assert star_ranking(county.log, Terms(star=2)).rows == ()


def test_a_minimum_rating_needs_enough_ratings(county: County) -> None:
    good, poor, unrated = (county.volunteer(n) for n in range(3))
    for volunteer, scores in ((good, (5, 4)), (poor, (2, 2)), (unrated, ())):
        order = county.serve(county.station, [volunteer], 60)
        for number, score in enumerate(scores):
            county.rate(order, score, name("neighbour", number))
    follower.catch_up(county.log)
    rated = Terms(rating_min=Decimal("4.5"), ratings_min=2)
    assert [row.volunteer_id for row in star_ranking(county.log, rated).rows] == [str(good)]
    assert star_ranking(county.log, rated).rows[0].rating_mean == "4.50"
    assert star_ranking(county.log, replace(rated, ratings_min=3)).rows == ()
    assert star_ranking(county.log, replace(rated, rating_min=Decimal("4.51"))).rows == ()


def test_the_ranking_of_an_earlier_moment_stays_as_it_was(county: County) -> None:
    county.serve(county.station, [county.volunteer(0)], 60)
    then = county.log.head().size
    follower.catch_up(county.log)
    before = star_ranking(county.log, Terms(), then)
    county.correct(*county.sessions[0], minutes=None)
    follower.catch_up(county.log)
    assert star_ranking(county.log, Terms(), then) == before
    assert star_ranking(county.log, Terms()).rows == ()


def test_the_effective_axis_counts_what_had_happened_by_a_day(county: County) -> None:
    first_day = local_day(county.now)
    county.serve(county.station, [county.volunteer(0)], 60)
    county.wait(days=3)
    county.serve(county.station, [county.volunteer(0)], 45)
    ranking = star_ranking(county.log, Terms(), effective_on=first_day)
    assert [row.minutes for row in ranking.rows] == [60]
    assert len(ranking.rows[0].entry_ids) == 1


def test_the_past_of_one_volunteer_is_the_same_by_stream_and_by_everything(county: County) -> None:
    county.tell([(n, n * 3, n * 2, n * 7) for n in range(40)])

    figures = (volunteer_days, volunteer_hours, volunteer_kinds)
    volunteer = county.volunteer(1)
    follower.catch_up(county.log)
    head = county.log.head().size
    for question in (hours_of, months_of, kinds_of):
        answers = []
        for how in ({}, {"position": head}, {"position": head, "stream_id": volunteer}):
            with replay.at(county.log, figures, **how) as moment:  # type: ignore[arg-type]
                answers.append(question(moment, str(volunteer)))
        assert answers[0]
        assert answers[0] == answers[1] == answers[2]


def test_a_statement_adds_up_to_the_figure_and_grades_its_evidence(county: County) -> None:
    volunteer = county.volunteer(0)
    rated = county.serve(county.station, [volunteer], 60)
    county.serve(county.station, [volunteer], 30, checked=True)
    county.serve(county.station, [volunteer], 20)
    county.rate(rated, 5, name("neighbour"))
    county.correct(*county.sessions[2], minutes=None)
    whole = statement(county.log, volunteer)
    assert [(line.minutes, line.grade, line.reversed) for line in whole.lines] == [
        (60, "A", False),
        (30, "A", False),
        (0, "B", True),
    ]
    (row,) = star_ranking(county.log, Terms(), county.log.head().size).rows
    assert whole.minutes == row.minutes == 90
    entries = {str(entry.entry_id) for line in whole.lines for _, entry in line.entries}
    assert entries == set(row.entry_ids)


def test_nobody_has_a_statement_before_they_enrolled(county: County) -> None:
    with pytest.raises(UnknownVolunteerError):
        statement(county.log, county.volunteer(0), 1)
    with pytest.raises(UnknownVolunteerError):
        statement(county.log, county.station)


def test_the_periods_ends_are_both_counted(county: County) -> None:
    county.serve(county.station, [county.volunteer(0)], 60)
    day = local_day(county.now)
    follower.catch_up(county.log)
    assert star_ranking(county.log, Terms(first_on=day, last_on=day)).rows[0].minutes == 60
    assert star_ranking(county.log, Terms(first_on=day + timedelta(days=1))).rows == ()
    assert star_ranking(county.log, Terms(last_on=date(2026, 1, 1))).rows == ()
