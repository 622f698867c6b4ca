"""Publishing rule books, and the working days they count (S001, L15, T46)."""

from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given as for_all
from hypothesis import strategies as st
from pydantic import ValidationError

from ledger import commands as c
from ledger import events as e
from ledger.codec import canonical_json
from ledger.errors import OutsideSubtreeError, RuleBookDateError, WrongRoleError
from ledger.rulebook import RuleBook, RuleBooks, default_rulebook, local_day
from tests.rules.given import (
    ADMIN,
    BOOK,
    CENTRE,
    FOUNDED,
    INSTITUTE,
    NOW,
    ORGANISER,
    RULEBOOK,
    UNITS,
    a,
    a_book,
    by,
    given,
)

TODAY = local_day(NOW)
TOMORROW = TODAY + timedelta(days=1)


def publish(effective_on: date, version: int = 1) -> c.PublishRuleBook:
    return c.PublishRuleBook(version=version, effective_on=effective_on, book=BOOK)


def test_the_first_rule_book_rules_the_day_it_is_published() -> None:
    """S001"""
    given().when(publish(TODAY), by("steering", "steering")).then(
        a(e.RuleBookPublished, rulebook_version=1, effective_on=TODAY, book=BOOK)
    )


def test_a_later_rule_book_starts_on_a_later_day() -> None:
    """S001: no day has two rules, and no rule reaches back."""
    given(a_book()).when(publish(TOMORROW, 2)).then(a(e.RuleBookPublished, rulebook_version=2))
    given(a_book()).when(publish(TODAY, 2)).then_refused(RuleBookDateError, earliest=TOMORROW)
    given().when(publish(TODAY - timedelta(days=1))).then_refused(RuleBookDateError, earliest=TODAY)


def test_the_day_of_publication_is_the_one_in_the_county() -> None:
    """At seven in the evening in London it is tomorrow in Shanghai."""
    evening = datetime(2026, 3, 10, 19, 0, tzinfo=UTC)
    given().when(publish(TODAY), ADMIN, evening).then_refused(RuleBookDateError, earliest=TOMORROW)


def test_versions_follow_on() -> None:
    given(a_book()).when(publish(TOMORROW, 3)).then_refused(RuleBookDateError, next_version=2)
    given(a_book()).when(publish(TOMORROW, 1)).then_refused(RuleBookDateError, next_version=2)


def test_a_rule_book_is_published_by_those_who_steer() -> None:
    given().when(publish(TODAY), ORGANISER).then_refused(WrongRoleError)
    township = by("steering", "steering", INSTITUTE)
    given(UNITS).when(publish(TODAY), township).then_refused(OutsideSubtreeError)
    given(UNITS).when(publish(TODAY), by("steering", "steering", CENTRE)).then(a(e.RuleBookPublished))


def test_each_day_has_the_edition_that_began_last_and_of_two_the_later_version() -> None:
    """T46"""
    history = given(a_book()).after(publish(TOMORROW + timedelta(days=9), 2)).after(publish(TOMORROW, 3))
    books: RuleBooks = history.after(publish(TOMORROW, 4)).state(RULEBOOK).books
    days = (local_day(FOUNDED) - timedelta(days=1), TODAY, TOMORROW, TOMORROW + timedelta(days=9))
    editions = [books.on(day) for day in days]
    assert [edition and edition.version for edition in editions] == [None, 1, 4, 2]


@pytest.mark.parametrize("day", [date(1948, 12, 31), date(2200, 1, 1), date.min, date.max])
def test_a_day_beyond_the_calendar_is_refused_with_the_request(day: date) -> None:
    with pytest.raises(ValidationError, match="1949 to 2199"):
        publish(day)


# --- working days ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("day", "worked"),
    [
        (date(2026, 3, 10), True),
        (date(2026, 3, 14), False),
        (date(2026, 5, 1), False),
        (date(2026, 5, 9), True),
        (date(2026, 10, 7), False),
    ],
    ids=["Tuesday", "Saturday", "holiday", "worked Saturday", "National Day week"],
)
def test_holidays_and_worked_weekends_are_in_the_book(day: date, worked: bool) -> None:
    """L15"""
    assert BOOK.is_working_day(day) is worked


def test_ten_working_days_reach_over_a_holiday() -> None:
    """L15: from 28 September 2026 over 1–7 October, with Saturday the 10th worked."""
    assert BOOK.record_deadline(date(2026, 9, 28)) == date(2026, 10, 16)
    assert not BOOK.knows_calendar_of(date(2027, 1, 1))


DAYS = st.dates(date(2025, 11, 1), date(2027, 3, 1))


@for_all(
    served_on=DAYS,
    working_days=st.integers(0, 40),
    holidays=st.lists(DAYS, max_size=40),
    worked=st.lists(DAYS, max_size=20),
)
def test_the_deadline_is_the_day_on_which_the_last_working_day_is_used_up(
    served_on: date, working_days: int, holidays: list[date], worked: list[date]
) -> None:
    """L15; also in a copy of a book, which must not remember the days of the first."""
    days: dict[str, Any] = {"holidays": tuple(holidays), "makeup_workdays": tuple(worked)}
    book = BOOK.model_copy(update={"record_working_days": working_days, **days})
    deadline = book.record_deadline(served_on)
    between = [served_on + timedelta(days=n) for n in range(1, (deadline - served_on).days + 1)]
    assert sum(book.is_working_day(day) for day in between) == working_days
    assert not between or book.is_working_day(deadline)
    for day in between:
        assert book.is_working_day(day) is (day in worked or (day.weekday() < 5 and day not in holidays))


def test_asking_a_book_for_days_leaves_its_written_form_as_it_was() -> None:
    asked, fresh = default_rulebook(), default_rulebook()
    asked.record_deadline(TODAY)
    assert canonical_json(asked) == canonical_json(fresh)
    assert asked == fresh == RuleBook.model_validate_json(canonical_json(asked))
