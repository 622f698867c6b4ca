"""What was recorded is put right by further facts, asked for by one person and decided by another (L17, T38, T39)."""

from collections import Counter
from datetime import UTC, date, datetime, timedelta
from itertools import pairwise
from typing import Any
from uuid import UUID

import pytest
from hypothesis import event
from hypothesis import given as for_all
from hypothesis import strategies as st

from ledger import commands as c
from ledger import events as e
from ledger.errors import (
    AlreadyDecidedError,
    AlreadyExistsError,
    DayNeedsApprovalError,
    EndBeforeStartError,
    InvalidRequestError,
    NotAllowedNowError,
    OutsideSubtreeError,
    OverlapError,
    RecordedBeforeEndError,
    Refusal,
    SelfApprovalError,
    UnknownRequestError,
    UnknownSessionError,
    WrongRoleError,
)
from ledger.rules.sessions import Times
from tests.rules.given import (
    ACCEPTED_AT,
    ADMIN,
    ANOTHER,
    COUNTY,
    ELSEWHERE,
    ENDED_AT,
    LI,
    NOW,
    ORGANISER,
    RECORDER,
    SEALED,
    STARTED_AT,
    STATION,
    WANG,
    History,
    a,
    a_backfill,
    a_book,
    a_recorded_session,
    ago,
    approval,
    by,
    fact,
    given,
    name,
    themself,
)

MINUTE, HOUR = timedelta(minutes=1), timedelta(hours=1)
SESSION = name("session", LI)
RECORDED = a_recorded_session()
"""Li served from noon to two; Recorder wrote it down."""


def amendment(started_at: datetime, ended_at: datetime, number: int = 1, **how: Any) -> c.RequestCorrection:
    return reversal(number).model_copy(
        update={"kind": "amend", "started_at": started_at, "ended_at": ended_at, **how}
    )


def reversal(number: int = 1) -> c.RequestCorrection:
    return c.RequestCorrection(
        volunteer_id=LI,
        request_id=name("correction", number),
        session_id=SESSION,
        kind="reverse",
        reason=SEALED,
    )


LONGER = amendment(STARTED_AT, ENDED_AT + HOUR, break_minutes=10)
REVERSE = reversal()


def asked(command: c.RequestCorrection, history: History = RECORDED) -> History:
    return history.after(command, themself(LI))


def corrected(command: c.RequestCorrection, history: History = RECORDED, at: datetime = NOW) -> History:
    return history.after(command, themself(LI), at).after(approval(command), ORGANISER, at)


def entries(history: History) -> list[e.EntryPosted]:
    return [f for f in history.facts if isinstance(f, e.EntryPosted)]


# --- asking ----------------------------------------------------------------------------------------------------------


def test_the_volunteer_or_staff_of_the_unit_say_that_a_session_is_wrong() -> None:
    """L17: nothing changes yet."""
    for caller in (themself(LI), RECORDER, ORGANISER):
        RECORDED.when(LONGER, caller).then(
            a(e.CorrectionRequested, kind="amend", ended_at=ENDED_AT + HOUR, break_minutes=10)
        )
    RECORDED.when(REVERSE, themself(LI)).then(
        a(e.CorrectionRequested, kind="reverse", started_at=None, ended_at=None, break_minutes=None)
    )
    assert list(asked(LONGER).state(LI).minutes_by_day.values()) == [120]


def test_who_withdrew_may_still_have_their_record_put_right() -> None:
    """L17"""
    withdrew = fact(e.VolunteerWithdrew, LI, NOW, reason="own_wish")
    History([*RECORDED.facts, withdrew]).when(LONGER, themself(LI)).then(a(e.CorrectionRequested))


def test_times_that_a_person_says_are_confirmed_at_best() -> None:
    """T24: what a machine checked is not what counts any more."""
    checked = a_recorded_session(checked=True)
    amended = corrected(amendment(STARTED_AT, ENDED_AT - HOUR), checked)
    assert {entry.source_class for entry in entries(amended) if entry.minutes < 0} == {"machine"}
    assert amended.state(LI).sessions[SESSION].source_class == "confirmed"


def test_a_correction_is_not_asked_for_by_others_nor_of_a_session_there_is_not() -> None:
    RECORDED.when(LONGER, themself(WANG)).then_refused(WrongRoleError)
    RECORDED.when(LONGER, ELSEWHERE).then_refused(OutsideSubtreeError)
    unknown = LONGER.model_copy(update={"session_id": name("none")})
    RECORDED.when(unknown, themself(LI)).then_refused(UnknownSessionError, id=name("none"))


@pytest.mark.parametrize(
    "command",
    [
        LONGER.model_copy(update={"started_at": None}),
        LONGER.model_copy(update={"ended_at": None}),
        REVERSE.model_copy(update={"started_at": STARTED_AT}),
        REVERSE.model_copy(update={"break_minutes": 0}),
    ],
)
def test_an_amendment_says_both_times_and_a_reversal_none(command: c.RequestCorrection) -> None:
    RECORDED.when(command, themself(LI)).then_refused(InvalidRequestError)


def test_a_request_is_made_once() -> None:
    """F34"""
    asked(LONGER).when(LONGER, themself(LI)).then_refused(AlreadyExistsError, id=LONGER.request_id)
    claim = a_backfill(LI, ago(hours=60), ago(hours=59), request_id=LONGER.request_id)
    asked(LONGER).when(claim, themself(LI)).then_refused(AlreadyExistsError)


@pytest.mark.parametrize(
    ("started_at", "ended_at", "refusal"),
    [
        (ENDED_AT, STARTED_AT, EndBeforeStartError),
        (STARTED_AT, NOW + timedelta(microseconds=1), RecordedBeforeEndError),
        (ago(hours=9), NOW, DayNeedsApprovalError),
    ],
)
def test_other_times_are_judged_as_the_first_were(
    started_at: datetime, ended_at: datetime, refusal: type[Refusal]
) -> None:
    """F02, F03: when asked for, and again when decided."""
    RECORDED.when(amendment(started_at, ended_at), themself(LI)).then_refused(refusal)


def test_other_times_do_not_count_beside_the_ones_they_replace() -> None:
    """F02: five hours made six are six, within a day of eight."""
    long = a_recorded_session(started_at=ago(hours=6), ended_at=ago(hours=1))
    long.when(amendment(ago(hours=7), ago(hours=1)), themself(LI)).then(a(e.CorrectionRequested))


def test_other_times_may_not_overlap_another_session_but_their_own() -> None:
    """F01"""
    morning = a_backfill(LI, ago(hours=7), ago(hours=5))
    both = RECORDED.after(morning, themself(LI)).after(approval(morning), ORGANISER)
    both.when(amendment(ago(hours=6), ENDED_AT), themself(LI)).then_refused(
        OverlapError, session_id=morning.session_id
    )
    both.when(amendment(ago(hours=5), ago(hours=3)), themself(LI)).then(a(e.CorrectionRequested))


def test_what_has_become_impossible_since_it_was_asked_for_is_not_approved() -> None:
    """F01"""
    later = a_backfill(LI, ENDED_AT, ENDED_AT + HOUR)
    history = asked(LONGER).after(later, themself(LI)).after(approval(later), ORGANISER)
    history.when(approval(LONGER), ORGANISER).then_refused(OverlapError)
    history.when(approval(LONGER, "declined"), ORGANISER).then(a(e.CorrectionDecided, verdict="declined"))


# --- deciding --------------------------------------------------------------------------------------------------------


def test_an_approved_amendment_reverses_the_old_entries_and_posts_new_ones() -> None:
    """T38: nothing is overwritten; both rule-book versions are named."""
    (old,) = entries(RECORDED)
    asked(LONGER).when(approval(LONGER), ORGANISER).then(
        a(e.CorrectionDecided, verdict="approved", requested_by_id=LI, caller_id=ORGANISER.person_id),
        a(
            e.SessionCorrected,
            revision=2,
            ended_at=ENDED_AT + HOUR,
            break_minutes=10,
            source_class="confirmed",
        ),
        a(e.EntryPosted, minutes=-120, services=-1, reverses_entry_id=old.entry_id, served_on=old.served_on),
        a(e.EntryPosted, minutes=170, services=1, reverses_entry_id=None),
    )


def test_an_approved_reversal_leaves_nothing_that_counts() -> None:
    """T38"""
    (old,) = entries(RECORDED)
    outcome = asked(REVERSE).when(approval(REVERSE), ORGANISER)
    outcome.then(
        a(e.CorrectionDecided, kind="reverse"),
        a(e.SessionReversed, revision=2, session_id=SESSION),
        a(e.EntryPosted, minutes=-120, services=-1, reverses_entry_id=old.entry_id),
    )
    assert outcome.history.state(LI).minutes_by_day == {old.served_on: 0}


def test_a_declined_correction_changes_nothing() -> None:
    before = RECORDED.state(LI)
    for command in (LONGER, REVERSE):
        after = asked(command).after(approval(command, "declined"), ORGANISER).state(LI)
        assert (after.sessions, after.minutes_by_day) == (before.sessions, before.minutes_by_day)


@pytest.mark.parametrize("person", [LI, RECORDER.person_id, ANOTHER.person_id])
def test_a_correction_is_decided_by_none_who_asked_served_or_recorded(person: UUID) -> None:
    """F08, T39: whatever role they act in."""
    history = RECORDED.after(LONGER, ANOTHER)
    for verdict in ("approved", "declined"):
        history.when(approval(LONGER, verdict), by(person, "organiser", STATION)).then_refused(
            SelfApprovalError
        )
        history.when(approval(LONGER, verdict), by(person, "admin")).then_refused(SelfApprovalError)


def test_of_two_decisions_one_wins() -> None:
    """F35"""
    decided = corrected(LONGER)
    for verdict in ("approved", "declined"):
        decided.when(approval(LONGER, verdict), ANOTHER).then_refused(AlreadyDecidedError, verdict="approved")


def test_of_two_reversals_at_once_one_wins() -> None:
    """F35: the second is not approved, and no entry is reversed twice."""
    twice = corrected(reversal(1), asked(reversal(2)))
    twice.when(approval(reversal(2)), ORGANISER).then_refused(NotAllowedNowError, status="reversed")
    twice.when(reversal(3), themself(LI)).then_refused(NotAllowedNowError, allowed=["amend"])


def test_a_correction_is_decided_by_staff_of_the_unit_who_name_it_rightly() -> None:
    asked(LONGER).when(approval(LONGER), ELSEWHERE).then_refused(OutsideSubtreeError)
    asked(LONGER).when(approval(LONGER), by("clerk", "recorder", STATION)).then_refused(WrongRoleError)
    RECORDED.when(approval(LONGER), ADMIN).then_refused(UnknownRequestError, id=LONGER.request_id)
    wrong_kind = c.DecideBackfill(volunteer_id=LI, request_id=LONGER.request_id, verdict="approved")
    asked(LONGER).when(wrong_kind).then_refused(UnknownRequestError)


# --- what a correction may not make of a session ---------------------------------------------------------------------


def test_a_session_moved_before_its_acceptance_falls_to_back_filled_and_back() -> None:
    """F03: a correction cannot reach back and keep a class that promises acceptance first."""
    early = amendment(ACCEPTED_AT - HOUR, ACCEPTED_AT + HOUR)
    moved = corrected(early)
    assert moved.state(LI).session(SESSION).source_class == "backfilled"
    assert entries(moved)[-1].source_class == "backfilled"
    assert entries(moved)[-2].source_class == "confirmed"
    back = corrected(amendment(ACCEPTED_AT, ACCEPTED_AT + HOUR, 2), moved)
    assert back.state(LI).session(SESSION).source_class == "confirmed"


def test_a_correction_is_judged_by_the_rule_book_of_the_original_day_and_names_both() -> None:
    """T46"""
    tomorrow = datetime(2026, 3, 11, 1, 0, tzinfo=UTC)
    history = History([*RECORDED.facts, a_book(2, tomorrow, day_minutes_free=30)])
    found = corrected(LONGER, history, tomorrow).facts
    (fact_of_it,) = (f for f in found if isinstance(f, e.SessionCorrected))
    assert (fact_of_it.rulebook_version, fact_of_it.current_rulebook_version) == (1, 2)
    assert {f.rulebook_version for f in found if isinstance(f, e.EntryPosted)} == {1}


def test_a_reversed_session_gives_its_time_free() -> None:
    """F01"""
    claim = a_backfill(LI, STARTED_AT, ENDED_AT)
    RECORDED.when(claim, themself(LI)).then_refused(OverlapError)
    freed = corrected(REVERSE)
    taken = freed.after(claim, themself(LI)).after(approval(claim), ORGANISER)
    taken.when(amendment(STARTED_AT, ENDED_AT, 2), themself(LI)).then_refused(OverlapError)


def test_amended_and_amended_back_counts_as_at_first() -> None:
    """T38"""
    there = corrected(amendment(ago(hours=7), ago(hours=6), 1))
    back = corrected(amendment(STARTED_AT, ENDED_AT, 2), there)
    assert back.state(LI).minutes_by_day == RECORDED.state(LI).minutes_by_day
    assert sum(entry.services for entry in entries(back)) == 1


DAY_START = datetime(2026, 3, 7, 12, 0, tzinfo=UTC)
"""Before the acceptance, so that chains also change the class; four hours before a midnight in the county."""
CHANGES = st.lists(
    st.one_of(
        st.none(),
        st.tuples(st.integers(0, 3500), st.integers(1, 470), st.integers(0, 60)),
    ),
    min_size=1,
    max_size=8,
)
"""None reverses; else minutes after `DAY_START`, length, breaks."""


def requested(change: tuple[int, int, int] | None, number: int) -> c.RequestCorrection:
    if change is None:
        return reversal(number)
    start, length, rest = change
    since = DAY_START + start * MINUTE
    return amendment(since, since + length * MINUTE, number, break_minutes=rest)


@for_all(changes=CHANGES)
def test_a_chain_of_corrections_leaves_exactly_the_minutes_of_the_last(
    changes: list[tuple[int, int, int] | None],
) -> None:
    """T38: and every reversal is the exact negative of one entry, which is reversed once."""
    other = a_backfill(LI, DAY_START + 25 * HOUR, DAY_START + 26 * HOUR)
    history = RECORDED.after(other, themself(LI)).after(approval(other), ORGANISER)
    expected, applied = dict(Times(STARTED_AT, ENDED_AT, 0).days()), 0
    for number, change in enumerate(changes):
        command = requested(change, number)
        outcome = history.when(command, themself(LI))
        if outcome.refusal is not None:
            continue
        history = outcome.history.after(approval(command), ORGANISER)
        applied += 1
        times = command.started_at and command.ended_at and (command.started_at, command.ended_at)
        expected = dict(Times(*times, command.break_minutes or 0).days()) if times else {}
    event(f"{applied} applied")
    _check_account(history, expected, applied)


def _check_account(history: History, expected: dict[date, int], applied: int) -> None:
    account, posted = history.state(LI), entries(history)
    of_session = [entry for entry in posted if entry.session_id == SESSION]
    minutes: Counter[date] = Counter()
    for entry in of_session:
        minutes[entry.served_on] += entry.minutes
    assert {day: counted for day, counted in minutes.items() if counted} == expected
    assert account.session(SESSION).revision == 1 + applied
    assert {entry.served_on: entry.minutes for entry in account.session(SESSION).entries} == expected
    assert sum(entry.services for entry in of_session) == (1 if expected else 0)
    assert sum(account.minutes_by_day.values()) == sum(entry.minutes for entry in posted)
    _check_reversals(posted)
    standing = sorted((s.started_at, s.ended_at) for s in account.sessions.values() if not s.reversed)
    assert all(one[1] <= next_one[0] for one, next_one in pairwise(standing))


def _check_reversals(posted: list[e.EntryPosted]) -> None:
    by_id = {entry.entry_id: entry for entry in posted}
    assert len(by_id) == len(posted)
    reversals = [entry for entry in posted if entry.reverses_entry_id is not None]
    assert len({entry.reverses_entry_id for entry in reversals}) == len(reversals)
    for entry in reversals:
        assert entry.reverses_entry_id is not None
        first = by_id[entry.reverses_entry_id]
        assert (first.minutes + entry.minutes, first.services + entry.services) == (0, 0)
        kept = {"served_on", "unit_id", "activity_kind", "source_class", "inferred", "late", "session_id"}
        assert first.model_dump(include=kept) == entry.model_dump(include=kept)


def test_a_back_filled_session_stays_back_filled_and_who_asked_for_it_does_not_decide() -> None:
    """L17, T24, F08: whoever asked for the back-fill is its recorder."""
    claim = a_backfill(LI, ago(hours=60), ago(hours=59), session_id=SESSION)
    claimed = given(COUNTY).after(claim, ANOTHER).after(approval(claim), ORGANISER)
    later = amendment(ago(hours=59), ago(hours=58))
    assert corrected(later, claimed).state(LI).session(SESSION).source_class == "backfilled"
    asked(later, claimed).when(approval(later), ANOTHER).then_refused(SelfApprovalError)
