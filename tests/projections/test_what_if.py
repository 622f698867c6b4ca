"""Another rule book changes what is said of a record, never the record (T46)."""

import json
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ledger import archive as archiving
from ledger import commands as c
from ledger.archive import Archive
from ledger.errors import InvalidRequestError, NoRuleBookError
from ledger.log import LedgerLog
from ledger.rulebook import RuleBook, RuleBooks, default_rulebook, local_day
from ledger.rules import Caller
from projections import replay
from projections.what_if import Asked, WhatIf, book_of_edition, book_with, fields_in, what_if
from tests.county import SEALED, County, Step, name
from tests.projections.test_projections import stories, told

SHOWN = Asked(limit=10_000)


@pytest.fixture
def county(sqlite_url: str) -> Iterator[County]:
    made = County(sqlite_url)
    yield made
    made.close()


def of(book: RuleBook) -> Callable[[RuleBooks, RuleBook], RuleBook]:
    return lambda _books, _standing: book


def changed(**fields: Any) -> Callable[[RuleBooks, RuleBook], RuleBook]:
    return lambda _books, standing: book_with(standing, fields)


def supposed(county: County, asked: Asked = SHOWN, position: int | None = None, **fields: Any) -> WhatIf:
    return what_if(county.log, changed(**fields), asked, position)


# --- by hand ---------------------------------------------------------------------------------------------------------


class ByHand:
    """The same question in plain Python, from the stored text of every fact."""

    def __init__(self, log: LedgerLog, position: int) -> None:
        self.minutes: Counter[str] = Counter()
        self.days: Counter[tuple[str, str]] = Counter()
        self.sums: Counter[tuple[str, str]] = Counter()
        self.sessions: dict[tuple[str, str], dict[str, Any]] = {}
        for row in log.read(1, position):
            fact, person = json.loads(row.state), str(row.stream_id)
            if row.topic == "entry.posted":
                self.minutes[person] += fact["minutes"]
                self.days[person, fact["served_on"]] += fact["minutes"]
                self.sums[person, fact["session_id"]] += fact["minutes"]
            elif row.topic in ("session.recorded", "session.corrected"):
                self.sessions[person, fact["session_id"]] = fact
            elif row.topic == "session.reversed":
                del self.sessions[person, fact["session_id"]]
        self.sessions = {key: fact for key, fact in self.sessions.items() if self.sums[key] > 0}

    def stars(self, before: RuleBook, after: RuleBook) -> dict[str, tuple[int, int]]:
        found = {
            person: tuple(bisect_right(book.star_minutes, minutes) for book in (before, after))
            for person, minutes in self.minutes.items()
            if minutes > 0
        }
        return {person: stars for person, stars in found.items() if stars[0] != stars[1]}  # type: ignore[misc]

    def days_of(self, books: RuleBooks, other: RuleBook) -> dict[tuple[str, str], tuple[str, str]]:
        found = {}
        for key, minutes in self.days.items():
            edition = books.on(date.fromisoformat(key[1]))
            before = "counts" if edition is None else _day(edition.book, minutes)
            found[key] = (before, _day(other, minutes))
        return {key: verdicts for key, verdicts in found.items() if verdicts[0] != verdicts[1]}

    def late(self, other: RuleBook) -> dict[tuple[str, str], tuple[bool, bool]]:
        found = {}
        for key, fact in self.sessions.items():
            ended, said = (local_day(datetime.fromisoformat(fact[at])) for at in ("ended_at", "recorded_at"))
            found[key] = (fact["late"], said > other.record_deadline(ended))
        return {key: late for key, late in found.items() if late[0] != late[1]}

    def sessions_of(self, other: RuleBook) -> dict[tuple[str, str], tuple[str, str]]:
        found = {}
        for key, fact in self.sessions.items():
            start, end = (datetime.fromisoformat(fact[at]) for at in ("started_at", "ended_at"))
            long = end - start > timedelta(minutes=other.session_minutes_max)
            if long or self.sums[key] < other.session_minutes_min:
                found[key] = ("counts", "would_be_refused")
        return found


def _day(book: RuleBook, minutes: int) -> str:
    if minutes > book.day_minutes_max:
        return "would_be_refused"
    return "would_be_held" if minutes > book.day_minutes_free else "counts"


def require_same(county: County, found: WhatIf, other: RuleBook) -> None:
    hand = ByHand(county.log, found.position)
    books = replay.rulebooks_as_of(county.log, found.position)
    standing = replay.edition_on(county.log, found.judged_on, found.position)
    assert {r.volunteer_id: (r.before, r.after) for r in found.stars.rows} == hand.stars(standing.book, other)
    assert {(r.volunteer_id, r.served_on): (r.before, r.after) for r in found.days.rows} == hand.days_of(
        books, other
    )
    assert {(r.volunteer_id, r.session_id): (r.before, r.after) for r in found.late.rows} == hand.late(other)
    assert {
        (r.volunteer_id, r.session_id): (r.before, r.after) for r in found.sessions.rows
    } == hand.sessions_of(other)
    _require_facts(county, found)


def _require_facts(county: County, found: WhatIf) -> None:
    """The minutes of every row are those of the entries it names."""
    minutes = {
        row.position: json.loads(row.state)["minutes"]
        for row in county.log.read(1, found.position)
        if row.topic == "entry.posted"
    }
    for section in (found.stars, found.days, found.late, found.sessions):
        assert section.changed == len(section.rows)
        for row in section.rows:
            assert sum(minutes[position] for position in row.positions) == row.minutes


# --- always and never ------------------------------------------------------------------------------------------------

books_ = st.builds(
    lambda stars, free, more, least, most, days: default_rulebook().model_copy(
        update={
            "star_minutes": tuple(sorted(stars)),
            "day_minutes_free": free,
            "day_minutes_parent": free + more,
            "day_minutes_max": free + more,
            "session_minutes_min": least,
            "session_minutes_max": least + most,
            "record_working_days": days,
        }
    ),
    st.sets(st.integers(1, 3000), min_size=1, max_size=6),
    st.integers(1, 700),
    st.integers(0, 700),
    st.integers(1, 300),
    st.integers(0, 500),
    st.integers(0, 3),
)


@settings(max_examples=settings.default.max_examples // 3)
@given(story=stories, book=books_, data=st.data())
def test_every_row_is_what_plain_arithmetic_says(
    folder: Path, story: list[Step], book: RuleBook, data: st.DataObject
) -> None:
    county = told(folder, story)
    position = data.draw(st.one_of(st.none(), st.integers(10, county.log.head().size)))
    archive = None
    if data.draw(st.booleans()):
        archiving.write(county.log, place := folder / uuid4().hex, data.draw(st.integers(5, 60)))
        archive = Archive(county.log, place)
    require_same(county, what_if(county.log, of(book), SHOWN, position, archive=archive), book)
    county.close()


@settings(max_examples=settings.default.max_examples // 5)
@given(story=stories, lower=st.sets(st.integers(1, 3000), min_size=1, max_size=6), data=st.data())
def test_the_book_in_force_changes_nothing_and_higher_thresholds_never_raise_a_star(
    folder: Path, story: list[Step], lower: set[int], data: st.DataObject
) -> None:
    county = told(folder, story)
    size = county.log.head().size
    same = what_if(county.log, lambda _books, standing: standing, SHOWN)
    assert (same.changed, same.changed_fields) == (0, ())
    assert same.volunteers_by_star_before == same.volunteers_by_star_after
    low = sorted(lower)
    high = [
        minutes + more
        for minutes, more in zip(low, sorted(data.draw(st.integers(0, 500)) for _ in low), strict=True)
    ]
    fewer, more = (supposed(county, star_minutes=minutes).volunteers_by_star_after for minutes in (high, low))
    for star in range(1, len(low) + 1):
        assert _at_least(fewer, star) <= _at_least(more, star)
    assert county.log.head().size == size
    county.close()


def _at_least(people: Mapping[int, int], star: int) -> int:
    return sum(count for stands_at, count in people.items() if stands_at >= star)


# --- one by one ------------------------------------------------------------------------------------------------------


def test_what_a_shorter_day_would_hold_still_counts_and_names_its_entries(county: County) -> None:
    for _ in range(2):
        county.serve(county.station, [county.volunteer(0)], 150)
    found = supposed(county, day_minutes_free=240, day_minutes_parent=280, day_minutes_max=299)
    (row,) = found.days.rows
    assert (row.minutes, row.before, row.after, len(row.positions)) == (300, "counts", "would_be_refused", 2)
    (row,) = supposed(county, day_minutes_free=299).days.rows
    assert row.after == "would_be_held"
    assert supposed(county, day_minutes_free=300).changed == 0
    assert (
        supposed(county, Asked(last_on=local_day(county.now) - timedelta(days=1)), day_minutes_free=9).changed
        == 0
    )
    assert found.changed_fields == ("day_minutes_free", "day_minutes_parent", "day_minutes_max")


def test_a_record_is_late_by_the_working_days_of_the_other_book(county: County) -> None:
    """Served on Monday 2 March, approved on Thursday: in time with three working days or more."""
    person, start = county.volunteer(0), county.now - timedelta(minutes=30)
    county.do(
        c.RequestBackfill(
            volunteer_id=person, request_id=name("r"), session_id=name("s"), unit_id=county.station,
            activity_kind="health", started_at=start, ended_at=start + timedelta(minutes=20), reason=SEALED,
        ),
        Caller(person, "volunteer"),
    )  # fmt: skip
    county.wait(days=3)
    county.do(c.DecideBackfill(volunteer_id=person, request_id=name("r"), verdict="approved"))
    assert supposed(county, record_working_days=3).changed == 0
    (row,) = supposed(county, record_working_days=2).late.rows
    assert (row.before, row.after, row.minutes) == (False, True, 20)
    holiday = [*default_rulebook().holidays, date(2026, 3, 4)]
    assert supposed(county, record_working_days=2, holidays=holiday).changed == 0


def test_a_session_that_ends_at_midnight_belongs_to_the_day_that_begins(county: County) -> None:
    """As the rule has it when it records: the book in force must find nothing."""
    county.now = datetime(2026, 3, 2, 15, 29, tzinfo=UTC)  # half an hour before local midnight
    county.serve(county.station, [county.volunteer(0)], 30)
    assert supposed(county, record_working_days=0).changed == 0


def test_sessions_that_would_be_too_long_or_too_short_are_flagged(county: County) -> None:
    county.serve(county.station, [county.volunteer(0)], 100)
    assert [r.after for r in supposed(county, session_minutes_max=99).sessions.rows] == ["would_be_refused"]
    assert [r.length_seconds for r in supposed(county, session_minutes_min=101).sessions.rows] == [6000]
    assert supposed(county, session_minutes_max=100, session_minutes_min=100).changed == 0
    ((volunteer, session),) = county.sessions
    county.correct(volunteer, session, None)
    assert supposed(county, session_minutes_max=99).changed == 0


def test_a_refusal_is_never_brought_back(county: County) -> None:
    county.tell([(0, 0, 0, 60)] * 4)
    assert "DAY_NEEDS_APPROVAL" in county.refused
    before = ByHand(county.log, county.log.head().size).minutes
    generous = supposed(county, day_minutes_free=1440, day_minutes_parent=1440, star_minutes=[1])
    assert {r.volunteer_id: r.minutes for r in generous.stars.rows} == {p: m for p, m in before.items() if m}


def test_it_is_asked_of_any_moment_and_of_any_published_edition(county: County) -> None:
    county.serve(county.station, [county.volunteer(0)], 100)
    then = county.log.head().size
    county.serve(county.station, [county.volunteer(0)], 100)
    later = local_day(county.now) + timedelta(days=30)
    book = default_rulebook().model_copy(update={"star_minutes": (150, 200)})
    county.do(c.PublishRuleBook(version=2, effective_on=later, book=book))
    (row,) = what_if(county.log, lambda books, _: book_of_edition(books, 2), SHOWN).stars.rows
    assert (row.minutes, row.before, row.after, len(row.positions)) == (200, 0, 2, 2)
    assert what_if(county.log, of(book), SHOWN, then).changed == 0
    assert what_if(county.log, of(book), SHOWN, effective_on=local_day(county.now)).stars.changed == 1
    with pytest.raises(InvalidRequestError, match="there are: 1"):
        what_if(county.log, lambda books, _: book_of_edition(books, 2), SHOWN, then)
    with pytest.raises(NoRuleBookError):
        what_if(county.log, of(book), SHOWN, 0)
    with pytest.raises(replay.BeyondHeadError):
        what_if(county.log, of(book), SHOWN, 10_000)


def test_only_so_many_rows_are_shown_of_those_that_are_counted(county: County) -> None:
    county.serve(county.station, [county.volunteer(n) for n in range(4)], 100)
    found = supposed(county, Asked(limit=2), star_minutes=[100])
    assert (found.stars.changed, len(found.stars.rows)) == (4, 2)
    assert found.volunteers_by_star_before == {0: 4, 1: 0, 2: 0, 3: 0, 4: 0, 5: 0}
    assert found.volunteers_by_star_after == {0: 0, 1: 4}


# --- what is no book -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"star_minutes": [200, 100]}, "rise strictly"),
        ({"star_minutes": []}, "star_minutes"),
        ({"day_minutes_free": "many"}, "day_minutes_free"),
        ({"day_minutes_free": 1441}, "day_minutes_free"),
        ({"session_minutes_min": 60, "session_minutes_max": 10}, "minimum stands above"),
        ({"minutes_a_day": 3}, "minutes_a_day"),
        ({"sources": 3}, "sources"),
    ],
)
def test_what_is_no_rule_book_is_refused_and_the_field_is_named(fields: dict[str, Any], told: str) -> None:
    with pytest.raises(InvalidRequestError, match=told):
        book_with(default_rulebook(), fields)


def test_a_book_is_read_from_toml_and_json_and_nothing_else() -> None:
    assert fields_in("star_minutes = [60]", "toml") == fields_in('{"star_minutes": [60]}', "json")
    for text, form in (("star_minutes =", "toml"), ("{", "json"), ("[1]", "json"), ("[" * 100_000, "json")):
        with pytest.raises(InvalidRequestError):
            fields_in(text, form)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("first", "last"), [(date(2026, 2, 2), date(2026, 2, 1)), (date(1, 1, 1), None), (None, date(9999, 1, 1))]
)
def test_days_in_the_wrong_order_or_out_of_time_are_refused(first: date | None, last: date | None) -> None:
    with pytest.raises(InvalidRequestError):
        Asked(first, last)


def test_days_bound_what_is_judged_but_not_the_stars(county: County) -> None:
    county.serve(county.station, [county.volunteer(0)], 100)
    today = local_day(county.now)
    fields = {"star_minutes": [100], "session_minutes_max": 99, "day_minutes_free": 99}
    for first, last, expected in ((today, today, 1), (today + timedelta(days=1), None, 0), (None, today, 1)):
        found = supposed(county, Asked(first, last), **fields)
        assert (found.days.changed, found.sessions.changed, found.stars.changed) == (expected, expected, 1)
