"""What counts as an hour (L10, L11, L15, F01–F04, F08, F09, T24, T25, T27): minutes, midnight, caps, back-fills."""

from collections import Counter
from datetime import UTC, date, datetime, timedelta
from itertools import pairwise
from uuid import UUID

import pytest
from hypothesis import event, example
from hypothesis import given as for_all
from hypothesis import strategies as st
from pydantic import ValidationError

from ledger import commands as c
from ledger import events as e
from ledger.errors import (
    AlreadyDecidedError,
    AlreadyExistsError,
    DayCapError,
    DayNeedsApprovalError,
    EndBeforeStartError,
    InFutureError,
    InvalidRequestError,
    NoRuleBookError,
    OutsideSubtreeError,
    OverlapError,
    RecordedBeforeEndError,
    Refusal,
    SelfApprovalError,
    SessionTooLongError,
    SessionTooShortError,
    UnknownOrderError,
    UnknownRequestError,
    UnknownUnitError,
    UnknownVolunteerError,
    VolunteerWithdrawnError,
    WrongRoleError,
)
from ledger.rulebook import local_day
from ledger.rules.sessions import Times
from tests.rules.given import (
    ACCEPTED_AT,
    ANOTHER,
    BASE,
    COUNTY,
    ELSEWHERE,
    ENDED_AT,
    LI,
    NOW,
    ORDER,
    ORGANISER,
    PEOPLE,
    RECORDER,
    STARTED_AT,
    STATION,
    STRANGER,
    TEAMS,
    UNITS,
    WANG,
    History,
    a,
    a_backfill,
    a_book,
    a_recorded_session,
    a_service,
    ago,
    an_accepted_order,
    approval,
    by,
    completed,
    fact,
    given,
    name,
    themself,
)

MINUTE, HOUR = timedelta(minutes=1), timedelta(hours=1)
TAKEN = given(COUNTY, an_accepted_order(LI, WANG))
CLAIM = a_backfill(LI, ago(hours=60), ago(hours=57), break_minutes=30)
CLAIMED = given(COUNTY).after(CLAIM, themself(LI))


def entries_of(facts: list[e.Fact]) -> list[tuple[date, int, int]]:
    return [(f.served_on, f.minutes, f.services) for f in facts if isinstance(f, e.EntryPosted)]


def backfilled(history: History, command: c.RequestBackfill, at: datetime = NOW) -> History:
    """Asked for by the volunteer and approved by staff."""
    return history.after(command, themself(command.volunteer_id), at).after(approval(command), ORGANISER, at)


# --- when a session may be recorded at all ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("started_at", "ended_at", "refusal"),
    [
        (STARTED_AT, STARTED_AT, EndBeforeStartError),
        (STARTED_AT, ago(hours=5), EndBeforeStartError),
        (NOW + MINUTE, NOW + HOUR, InFutureError),
        (STARTED_AT, NOW + timedelta(microseconds=1), RecordedBeforeEndError),
    ],
)
def test_a_session_may_not_be_recorded_before_it_ended(
    started_at: datetime, ended_at: datetime, refusal: type[Refusal]
) -> None:
    """F03, F04: not before its end, not before its start, and an end comes after a start."""
    service = a_service(LI, started_at, ended_at)
    TAKEN.when(completed(service), RECORDER).then_refused(refusal)
    given(COUNTY).when(a_backfill(LI, started_at, ended_at), themself(LI)).then_refused(refusal)


def test_a_session_may_be_recorded_the_moment_it_ends() -> None:
    """F03"""
    assert entries_of(TAKEN.when(completed(a_service(LI, ended_at=NOW)), RECORDER).facts) == [
        (local_day(NOW), 240, 1)
    ]


def test_five_bought_hours_dated_yesterday_need_another_person_than_the_seller() -> None:
    """F03, F08, F09: the seller asks for a back-fill, and may not approve it either."""
    bought = a_backfill(LI, ago(hours=30), ago(hours=25))
    asked = given(COUNTY).after(bought, ORGANISER)
    asked.when(approval(bought), ORGANISER).then_refused(SelfApprovalError)
    asked.when(approval(bought), by(LI, "organiser", STATION)).then_refused(SelfApprovalError)
    asked.when(approval(bought), ANOTHER).then(
        a(e.BackfillDecided, requested_by_id=ORGANISER.person_id, caller_id=ANOTHER.person_id),
        a(e.SessionRecorded, source_class="backfilled", approver_id=ANOTHER.person_id),
        a(e.EntryPosted, source_class="backfilled", minutes=300),
    )


@pytest.mark.parametrize("break_minutes", [120, 121, 1440])
def test_a_break_as_long_as_the_session_leaves_nothing_to_count(break_minutes: int) -> None:
    """L11"""
    service = a_service(LI, break_minutes=break_minutes)
    TAKEN.when(completed(service), RECORDER).then_refused(SessionTooShortError, minutes=0, minutes_min=1)


def test_seconds_short_of_a_minute_do_not_count() -> None:
    """L11: 59 seconds are nothing, 119 are one minute."""
    short = a_service(LI, STARTED_AT, STARTED_AT + timedelta(seconds=59))
    TAKEN.when(completed(short), RECORDER).then_refused(SessionTooShortError, minutes=0)
    longer = a_service(LI, STARTED_AT, STARTED_AT + timedelta(seconds=119, microseconds=999_999))
    assert entries_of(TAKEN.when(completed(longer), RECORDER).facts) == [(local_day(NOW), 1, 1)]


def test_a_session_is_no_longer_and_no_shorter_than_the_rule_book_of_its_day_says() -> None:
    """F02, G01"""
    book = a_book(2, ACCEPTED_AT, session_minutes_max=119, session_minutes_min=60)
    history = given(COUNTY, book, an_accepted_order(LI))
    history.when(completed(a_service(LI)), RECORDER).then_refused(SessionTooLongError, minutes=120)
    second_more = a_service(LI, STARTED_AT, STARTED_AT + 119 * MINUTE + timedelta(seconds=1))
    history.when(completed(second_more), RECORDER).then_refused(SessionTooLongError, minutes=120)
    resting = a_service(LI, STARTED_AT, STARTED_AT + 119 * MINUTE, break_minutes=60)
    history.when(completed(resting), RECORDER).then_refused(SessionTooShortError, minutes=59)


def test_a_session_of_years_is_refused_for_its_length_alone() -> None:
    """F02"""
    old = given(a_book(at=datetime(1949, 10, 1, tzinfo=UTC)), UNITS, PEOPLE, TEAMS)
    command = a_backfill(LI, datetime(1949, 10, 2, tzinfo=UTC), NOW)
    old.when(command, themself(LI)).then_refused(SessionTooLongError)


def test_nothing_is_judged_on_a_day_without_a_rule_book() -> None:
    early = a_backfill(LI, datetime(2025, 12, 1, 1, tzinfo=UTC), datetime(2025, 12, 1, 2, tzinfo=UTC))
    given(COUNTY).when(early, themself(LI)).then_refused(NoRuleBookError, day=date(2025, 12, 1))


BEYOND = [
    datetime.min.replace(tzinfo=UTC),
    datetime.min.replace(tzinfo=UTC) + HOUR,
    datetime(1948, 12, 31, tzinfo=UTC),
    datetime(2200, 1, 1, tzinfo=UTC),
    datetime.max.replace(tzinfo=UTC),
    "0001-01-01T00:00:00+14:00",
    "9999-12-31T23:59:59-14:00",
    10**15,
]


@pytest.mark.parametrize("instant", BEYOND, ids=str)
@pytest.mark.parametrize("field", ["started_at", "ended_at"])
def test_an_instant_beyond_the_calendar_is_refused_with_the_request(instant: object, field: str) -> None:
    for command in (a_service(LI), CLAIM):
        with pytest.raises(ValidationError):
            type(command).model_validate({**command.model_dump(), field: instant})


@for_all(instant=st.datetimes(timezones=st.timezones() | st.just(UTC)))  # type: ignore[arg-type]
def test_any_instant_is_taken_in_utc_or_refused(instant: datetime) -> None:
    """No date is so odd that it breaks the arithmetic behind the command."""
    fields = {**a_service(LI).model_dump(), "ended_at": instant}
    try:
        taken = c.Service.model_validate(fields).ended_at
    except ValidationError:
        assert instant.year not in range(1949, 2200)
        return
    assert taken == instant.astimezone(UTC)  # a clock reading in a gap of summer time equals nothing else
    assert taken.tzinfo is UTC
    given(COUNTY, an_accepted_order(LI)).when(completed(c.Service.model_validate(fields)), RECORDER)


def test_an_instant_without_a_time_zone_is_refused() -> None:
    with pytest.raises(ValidationError, match="time zone"):
        a_service(LI, ended_at=datetime(2026, 3, 10, 8, 0))


# --- minutes and midnight --------------------------------------------------------------------------------------------


def test_a_session_over_midnight_is_split_in_the_county() -> None:
    """L11: midnight in Shanghai is four in the afternoon in UTC; the service counts once, on its first day."""
    night = a_backfill(LI, datetime(2026, 3, 8, 15, 0, tzinfo=UTC), datetime(2026, 3, 8, 18, 0, tzinfo=UTC))
    facts = given(COUNTY).after(night, themself(LI)).when(approval(night), ORGANISER).facts
    assert entries_of(facts) == [(date(2026, 3, 8), 60, 1), (date(2026, 3, 9), 120, 0)]


def test_in_summer_time_midnight_is_an_hour_earlier() -> None:
    """Shanghai kept summer time from 1986 to 1991: in July 1988 its midnight was 15:00 UTC."""
    times = Times(datetime(1988, 7, 1, 14, 0, tzinfo=UTC), datetime(1988, 7, 1, 16, 30, tzinfo=UTC), 0)
    assert times.days() == [(date(1988, 7, 1), 60), (date(1988, 7, 2), 90)]


def test_a_day_on_which_the_clocks_change_has_23_or_25_hours() -> None:
    whole_days = (
        (datetime(1986, 5, 3, 16, tzinfo=UTC), datetime(1986, 5, 4, 15, tzinfo=UTC), 23),
        (datetime(1986, 9, 13, 15, tzinfo=UTC), datetime(1986, 9, 14, 16, tzinfo=UTC), 25),
    )
    for since, until, hours in whole_days:
        assert Times(since, until, 0).days() == [(local_day(since), hours * 60)]


def test_breaks_come_off_the_longest_part_first() -> None:
    since = datetime(2026, 3, 8, 15, 0, tzinfo=UTC)
    days = date(2026, 3, 8), date(2026, 3, 9)
    assert Times(since, since + 3 * HOUR, 30).days() == [(days[0], 60), (days[1], 90)]
    assert Times(since, since + 2 * HOUR, 30).days() == [(days[0], 30), (days[1], 60)]
    assert Times(since, since + 3 * HOUR, 150).days() == [(days[0], 30)]


INSTANTS = st.one_of(
    st.datetimes(datetime(2026, 1, 6), datetime(2026, 3, 1)),
    st.datetimes(datetime(1986, 4, 1), datetime(1991, 12, 1)),
    st.datetimes(datetime(1949, 1, 2), datetime(2199, 12, 1)),
).map(lambda instant: instant.replace(tzinfo=UTC))
WHOLE_MINUTES = INSTANTS.map(lambda instant: instant.replace(second=0, microsecond=0))


@for_all(since=WHOLE_MINUTES, minutes=st.integers(1, 1440), rest=st.integers(0, 1440))
@example(datetime(1986, 5, 3, 16, tzinfo=UTC), 1440, 10)
@example(datetime(1991, 9, 14, 14, 59, tzinfo=UTC), 122, 0)
def test_every_minute_counts_on_its_own_day_but_for_the_breaks(
    since: datetime, minutes: int, rest: int
) -> None:
    """L11, by counting minute by minute on which day of the county each begins."""
    each_day = Counter(local_day(since + n * MINUTE) for n in range(minutes))
    days = dict(Times(since, since + minutes * MINUTE, rest).days())
    assert sum(days.values()) == max(0, minutes - rest)
    assert all(0 < counted <= each_day[day] for day, counted in days.items())
    assert list(days) == sorted(days)
    if rest == 0:
        assert days == each_day
    event(f"{len(each_day)} days")


@for_all(since=INSTANTS, seconds=st.integers(1, 86_400))
def test_only_seconds_short_of_a_minute_are_lost_once_a_day(since: datetime, seconds: int) -> None:
    """L11"""
    until = since + timedelta(seconds=seconds)
    days = Times(since, until, 0).days()
    crossed = (local_day(until) - local_day(since)).days
    counted = sum(minutes for _, minutes in days)
    assert seconds // 60 - crossed <= counted <= seconds // 60


@for_all(
    since=st.datetimes(datetime(2026, 1, 6), datetime(2026, 3, 1)),
    minutes=st.integers(1, 480),
    rest=st.integers(0, 479),
)
def test_the_entries_of_a_session_are_its_whole_minutes_minus_its_breaks(
    since: datetime, minutes: int, rest: int
) -> None:
    """L11, T24: one service, one entry a day, each with an id of its own."""
    since = since.replace(second=0, microsecond=0, tzinfo=UTC)
    claim = a_backfill(LI, since, since + minutes * MINUTE, break_minutes=rest)
    outcome = given(COUNTY).when(claim, themself(LI))
    if minutes <= rest:
        outcome.then_refused(SessionTooShortError)
        return
    facts = outcome.history.when(approval(claim), ORGANISER).facts
    entries = [f for f in facts if isinstance(f, e.EntryPosted)]
    assert sum(f.minutes for f in entries) == minutes - rest
    assert [f.services for f in entries] == [1, 0][: len(entries)]
    assert len({f.entry_id for f in entries} | {f.served_on for f in entries}) == 2 * len(entries)


def test_two_people_under_one_session_id_have_entries_of_their_own() -> None:
    """T38: an entry id names one entry in the whole ledger, because reversals rely on it."""
    history, entries = given(COUNTY), set()
    for volunteer_id in (LI, WANG):
        claim = a_backfill(volunteer_id, STARTED_AT, ENDED_AT, session_id=name("shared"))
        history = backfilled(history, claim)
        entries |= {f.entry_id for f in history.facts if isinstance(f, e.EntryPosted)}
    assert len(entries) == 2


# --- one person, one place; a day has so many hours ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("since", "until"),
    [
        (STARTED_AT, ENDED_AT),
        (STARTED_AT + 10 * MINUTE, ENDED_AT - 10 * MINUTE),
        (STARTED_AT - HOUR, ENDED_AT + HOUR),
        (ENDED_AT - timedelta(microseconds=1), ENDED_AT + HOUR),
        (STARTED_AT - HOUR, STARTED_AT + timedelta(microseconds=1)),
    ],
)
def test_nobody_is_in_two_places_at_once(since: datetime, until: datetime) -> None:
    """F01, T27: in no unit, and in no class of hours."""
    elsewhere = a_backfill(LI, since, until, unit_id=ELSEWHERE.unit_id)
    a_recorded_session().when(elsewhere, themself(LI)).then_refused(
        OverlapError, session_id=name("session", LI)
    )


def test_sessions_may_touch_and_other_people_are_elsewhere() -> None:
    """F01"""
    recorded = a_recorded_session()
    for since, until in ((ENDED_AT, ENDED_AT + HOUR), (STARTED_AT - HOUR, STARTED_AT)):
        recorded.when(a_backfill(LI, since, until), themself(LI)).then(a(e.BackfillRequested))
    recorded.when(a_backfill(WANG, STARTED_AT, ENDED_AT), themself(WANG)).then(a(e.BackfillRequested))


def test_a_session_over_midnight_is_seen_from_both_of_its_days() -> None:
    """F01"""
    evening = datetime(2026, 3, 8, 14, 0, tzinfo=UTC)
    history = backfilled(given(COUNTY), a_backfill(LI, evening, evening + 4 * HOUR))
    for since in (evening + HOUR, evening + 3 * HOUR):
        again = a_backfill(LI, since, since + HOUR, number=2)
        history.when(again, themself(LI)).then_refused(OverlapError)


def test_two_claims_for_one_time_may_wait_but_one_is_approved() -> None:
    """F01, F35"""
    second = a_backfill(LI, ago(hours=59), ago(hours=56), number=2)
    both = CLAIMED.after(second, themself(LI)).after(approval(CLAIM), ORGANISER)
    both.when(approval(second), ORGANISER).then_refused(OverlapError, session_id=CLAIM.session_id)
    both.when(approval(second, "declined"), ORGANISER).then(a(e.BackfillDecided, verdict="declined"))


def test_a_day_above_the_first_tier_needs_approval_and_above_the_last_is_impossible() -> None:
    """F02, T28"""
    book = a_book(2, ago(hours=70), day_minutes_free=200, day_minutes_parent=220, day_minutes_max=240)
    since = datetime(2026, 3, 8, 1, 0, tzinfo=UTC)
    history = backfilled(given(COUNTY, book), a_backfill(LI, since, since + 2 * HOUR))
    for minutes, refusal in (
        (80, None),
        (81, DayNeedsApprovalError),
        (120, DayNeedsApprovalError),
        (121, DayCapError),
    ):
        more = a_backfill(LI, since + 3 * HOUR, since + 3 * HOUR + minutes * MINUTE, number=2)
        outcome = history.when(more, themself(LI))
        if refusal is None:
            outcome.then(a(e.BackfillRequested))
        else:
            outcome.then_refused(refusal, minutes=120 + minutes, served_on=date(2026, 3, 8))


def test_each_day_of_a_night_has_its_own_cap_and_its_own_rule_book() -> None:
    """F02, T46"""
    second_day = datetime(2026, 3, 8, 16, 0, tzinfo=UTC)
    book = a_book(2, second_day, day_minutes_free=30)
    history = given(COUNTY, book)
    night = a_backfill(LI, second_day - 2 * HOUR, second_day + 31 * MINUTE)
    history.when(night, themself(LI)).then_refused(DayNeedsApprovalError, served_on=date(2026, 3, 9))
    shorter = a_backfill(LI, second_day - 2 * HOUR, second_day + 30 * MINUTE)
    facts = history.after(shorter, themself(LI)).when(approval(shorter), ORGANISER).facts
    assert [f.rulebook_version for f in facts if isinstance(f, e.EntryPosted)] == [1, 2]


@for_all(
    claims=st.lists(
        st.tuples(st.integers(0, 5 * 48), st.integers(1, 40), st.integers(0, 200)), min_size=2, max_size=9
    )
)
def test_whatever_is_claimed_no_sessions_overlap_and_no_day_is_too_long(
    claims: list[tuple[int, int, int]],
) -> None:
    """F01, F02, T27; a refusal leaves the account as it was."""
    history = given(COUNTY)
    for number, (half_hour, length, rest) in enumerate(claims):
        since = datetime(2026, 3, 1, tzinfo=UTC) + half_hour * 30 * MINUTE
        claim = a_backfill(LI, since, since + length * 30 * MINUTE, number=number, break_minutes=rest)
        asked = history.when(claim, themself(LI))
        if asked.refusal is None:
            history = asked.history.after(approval(claim), ORGANISER)
    volunteer = history.state(LI)
    standing = sorted((s.started_at, s.ended_at) for s in volunteer.sessions.values())
    assert all(one[1] <= other[0] for one, other in pairwise(standing))
    assert all(0 < minutes <= 480 for minutes in volunteer.minutes_by_day.values())
    event(f"{len(standing)} stand")


# --- late ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("day", "late"), [(24, False), (25, True)])
def test_a_session_recorded_after_ten_working_days_is_late_but_not_lost(day: int, late: bool) -> None:
    """L15: served on Tuesday 10 March, in time until Tuesday the 24th."""
    at = datetime(2026, 3, day, 8, 0, tzinfo=UTC)
    facts = TAKEN.when(completed(a_service(LI)), RECORDER, at).facts
    assert {f.late for f in facts if isinstance(f, (e.SessionRecorded, e.EntryPosted))} == {late}


# --- back-fills ------------------------------------------------------------------------------------------------------


def test_a_volunteer_or_staff_of_the_unit_ask_for_a_back_fill() -> None:
    """F03, T25: nothing counts yet."""
    for caller in (themself(LI), RECORDER, ORGANISER):
        given(COUNTY).when(CLAIM, caller).then(
            a(e.BackfillRequested, session_id=CLAIM.session_id, break_minutes=30, caller_id=caller.person_id)
        )
    assert CLAIMED.state(LI).minutes_by_day == {}


def test_a_back_fill_is_not_asked_for_by_others() -> None:
    given(COUNTY).when(CLAIM, themself(WANG)).then_refused(WrongRoleError)
    given(COUNTY).when(CLAIM, ELSEWHERE).then_refused(OutsideSubtreeError)


def test_a_back_fill_names_only_what_there_is() -> None:
    """F13"""
    for change, refusal in (
        ({"volunteer_id": STRANGER}, UnknownVolunteerError),
        ({"unit_id": name("nowhere")}, UnknownUnitError),
        ({"order_id": ORDER}, UnknownOrderError),
    ):
        given(COUNTY).when(CLAIM.model_copy(update=change)).then_refused(refusal)
    away = CLAIM.model_copy(update={"order_id": ORDER, "unit_id": BASE})
    TAKEN.when(away).then_refused(InvalidRequestError)
    withdrew = fact(e.VolunteerWithdrew, LI, reason="own_wish")
    given(COUNTY, withdrew).when(CLAIM, themself(LI)).then_refused(VolunteerWithdrawnError)


def test_a_request_and_a_session_are_asked_for_once() -> None:
    """F34: also while the first waits, and after it was declined."""
    same_session = CLAIM.model_copy(update={"request_id": name("other")})
    for history in (CLAIMED, CLAIMED.after(approval(CLAIM, "declined"), ORGANISER)):
        history.when(CLAIM, themself(LI)).then_refused(AlreadyExistsError, id=CLAIM.request_id)
        history.when(same_session, themself(LI)).then_refused(AlreadyExistsError, id=CLAIM.session_id)


def test_an_approved_back_fill_is_a_session_of_its_own_class() -> None:
    """T24, T25, F09: who asked is the recorder, who approved the second person."""
    CLAIMED.when(approval(CLAIM), ORGANISER).then(
        a(e.BackfillDecided, verdict="approved", requested_by_id=LI),
        a(
            e.SessionRecorded,
            session_id=CLAIM.session_id,
            source_class="backfilled",
            recorder_id=LI,
            approver_id=ORGANISER.person_id,
            team_id=None,
        ),
        a(e.EntryPosted, minutes=150, source_class="backfilled", services=1),
    )


def test_a_declined_back_fill_counts_for_nothing() -> None:
    declined = CLAIMED.when(approval(CLAIM, "declined"), ORGANISER)
    declined.then(a(e.BackfillDecided, verdict="declined"))
    assert declined.history.state(LI).sessions == {}


def test_a_back_fill_is_decided_once() -> None:
    """F35"""
    for verdict in ("approved", "declined"):
        decided = CLAIMED.after(approval(CLAIM, verdict), ORGANISER)
        for other in ("approved", "declined"):
            decided.when(approval(CLAIM, other), ANOTHER).then_refused(AlreadyDecidedError, verdict=verdict)


@pytest.mark.parametrize(
    ("person", "refusal"),
    [(LI, SelfApprovalError), (RECORDER.person_id, SelfApprovalError), (ANOTHER.person_id, None)],
)
def test_a_back_fill_is_decided_by_neither_who_asked_nor_who_served(
    person: UUID, refusal: type[Refusal] | None
) -> None:
    """F08, F09; declining is a decision too."""
    asked = given(COUNTY).after(CLAIM, RECORDER)
    for verdict in ("approved", "declined"):
        outcome = asked.when(approval(CLAIM, verdict), by(person, "organiser", STATION))
        if refusal is None:
            assert outcome.facts
        else:
            outcome.then_refused(refusal)


def test_a_back_fill_is_decided_by_staff_of_its_unit_who_name_it_rightly() -> None:
    CLAIMED.when(approval(CLAIM), RECORDER).then_refused(WrongRoleError)
    CLAIMED.when(approval(CLAIM), ELSEWHERE).then_refused(OutsideSubtreeError)
    unknown = c.DecideBackfill(volunteer_id=LI, request_id=name("none"), verdict="approved")
    CLAIMED.when(unknown).then_refused(UnknownRequestError)
    wrong_kind = c.DecideCorrection(volunteer_id=LI, request_id=CLAIM.request_id, verdict="approved")
    CLAIMED.when(wrong_kind).then_refused(UnknownRequestError)
