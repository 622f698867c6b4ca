"""What a person may ask about their own data, who decides, and what then is refused (T51, F08; PIPL art. 15, 44–50)."""

from datetime import UTC, date, datetime, timedelta

import pytest

from ledger import commands as c
from ledger import events as e
from ledger import ids
from ledger.errors import (
    AlreadyDecidedError,
    AlreadyExistsError,
    InvalidRequestError,
    NoRuleBookError,
    NotAllowedNowError,
    SelfApprovalError,
    SubjectErasedError,
    SubjectRestrictedError,
    UnknownDataRequestError,
    UnknownVolunteerError,
    WrongRoleError,
)
from tests.rules.given import (
    ADMIN,
    COUNTY,
    LEDGER_ID,
    LI,
    NOW,
    ORDER,
    ORGANISER,
    RECORDER,
    RESIDENT,
    SEALED,
    STATION,
    STRANGER,
    SUN,
    UNITS,
    WANG,
    History,
    a,
    a_recorded_session,
    a_service,
    an_accepted_order,
    an_order,
    by,
    completed,
    fact,
    given,
    name,
    themself,
)

REQUEST = name("data request")
SUBJECT = ids.subject_id(LEDGER_ID, LI)
OFFICER = by("officer", "admin")
"""An administrator beside the one who takes requests down."""


def asked(kind: str, subject: object = LI) -> c.RequestData:
    return c.RequestData(request_id=REQUEST, subject_id=subject, kind=kind)


def decision(outcome: str = "fulfilled", reason: str | None = None) -> c.DecideDataRequest:
    return c.DecideDataRequest(request_id=REQUEST, outcome=outcome, reason=reason)


ERASE = c.EraseSubject(request_id=REQUEST)
CORRECT = c.CorrectProfile(volunteer_id=LI, profile="s1.TmV3")


def after_request(kind: str) -> History:
    return given(COUNTY).after(asked(kind), themself(LI))


def restricted() -> History:
    return after_request("restriction").after(decision(), OFFICER)


def erased() -> History:
    return after_request("erasure").after(decision(), OFFICER).after(ERASE, ADMIN)


# --- asking ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["access", "restriction", "release", "erasure"])
def test_a_person_asks_and_is_answered_within_fifteen_working_days(kind: str) -> None:
    """Tuesday the 10th of March, and three weeks without a holiday."""
    given(COUNTY).when(asked(kind), themself(LI)).then(
        a(e.DataRequestReceived, kind=kind, subject_id=LI, relayed=False, due_on=date(2026, 3, 31))
    )


def test_the_days_are_counted_by_the_calendar_of_the_rule_book() -> None:
    """From the 25th of September: the seven days of the national holiday do not count, Saturdays worked for it do."""
    autumn = datetime(2026, 9, 25, 8, 0, tzinfo=UTC)
    (received,) = given(COUNTY).when(asked("access"), themself(LI), at=autumn).facts
    assert isinstance(received, e.DataRequestReceived)
    book = next(f for f in COUNTY if isinstance(f, e.RuleBookPublished)).book
    days = [date(2026, 9, 25) + timedelta(days=n) for n in range(1, 60)]
    worked = [day for day in days if book.is_working_day(day)]
    assert received.due_on == worked[14]
    assert received.due_on > date(2026, 10, 16)
    assert received.rulebook_version == 1


def test_an_administrator_takes_it_down_for_them_and_is_seen_to_have_done_so() -> None:
    given(COUNTY).when(asked("access"), ADMIN).then(a(e.DataRequestReceived, relayed=True))
    given(COUNTY).when(asked("erasure", RESIDENT), ADMIN).then(a(e.DataRequestReceived, subject_id=RESIDENT))


def test_a_resident_who_never_enrolled_may_ask_too() -> None:
    given(COUNTY).when(asked("access", RESIDENT), by(RESIDENT, "resident")).then(
        a(e.DataRequestReceived, relayed=False)
    )


@pytest.mark.parametrize("caller", [ORGANISER, RECORDER, themself(WANG)])
def test_nobody_else_asks_for_them(caller: object) -> None:
    given(COUNTY).when(asked("erasure"), caller).then_refused(WrongRoleError)


def test_a_request_has_an_id_of_its_own_and_is_about_a_person() -> None:
    after_request("access").when(asked("erasure"), themself(LI)).then_refused(AlreadyExistsError, id=REQUEST)
    given(COUNTY).when(asked("erasure", STATION), ADMIN).then_refused(UnknownVolunteerError, id=STATION)


def test_without_a_rule_book_no_day_can_be_named() -> None:
    given(UNITS).when(asked("access"), themself(LI)).then_refused(NoRuleBookError)


# --- deciding --------------------------------------------------------------------------------------------------------


def test_another_administrator_decides() -> None:
    after_request("access").when(decision(), OFFICER).then(
        a(
            e.DataRequestDecided,
            subject_id=LI,
            kind="access",
            outcome="fulfilled",
            reason=None,
            late=False,
            received_by_id=LI,
        )
    )


def test_neither_who_received_it_nor_the_person_themself_decides() -> None:
    """F08"""
    relayed = given(COUNTY).after(asked("erasure"), ADMIN)
    relayed.when(decision(), ADMIN).then_refused(SelfApprovalError, request_id=REQUEST)
    relayed.when(decision(), by(LI, "admin")).then_refused(SelfApprovalError)
    relayed.when(decision(), OFFICER).then(a(e.DataRequestDecided, received_by_id=ADMIN.person_id))
    after_request("erasure").when(decision(), by(LI, "admin")).then_refused(SelfApprovalError)


@pytest.mark.parametrize("caller", [ORGANISER, RECORDER, themself(WANG)])
def test_only_administrators_decide_and_erase(caller: object) -> None:
    after_request("erasure").when(decision(), caller).then_refused(WrongRoleError)
    after_request("erasure").after(decision(), OFFICER).when(ERASE, caller).then_refused(WrongRoleError)


def test_a_refusal_needs_a_reason_and_nothing_else_takes_one() -> None:
    before = after_request("access")
    before.when(decision("refused"), OFFICER).then_refused(InvalidRequestError)
    before.when(decision("fulfilled", "because"), OFFICER).then_refused(InvalidRequestError)
    before.when(decision("refused", "identity_not_shown"), OFFICER).then(
        a(e.DataRequestDecided, outcome="refused", reason="identity_not_shown")
    )


def test_a_decision_stands() -> None:
    for outcome, reason in (("fulfilled", None), ("refused", "withdrawn_by_person")):
        before = after_request("access").after(decision(outcome, reason), OFFICER)
        before.when(decision(), OFFICER).then_refused(
            AlreadyDecidedError, request_id=REQUEST, verdict=outcome
        )


def test_an_answer_after_the_last_day_is_late() -> None:
    before = after_request("access")
    last = datetime(2026, 3, 31, 15, 59, tzinfo=UTC)  # a minute to midnight in the county
    before.when(decision(), OFFICER, at=last).then(a(e.DataRequestDecided, late=False))
    before.when(decision(), OFFICER, at=last + timedelta(minutes=1)).then(a(e.DataRequestDecided, late=True))


@pytest.mark.parametrize("command", [decision(), ERASE])
def test_what_was_never_asked_is_not_decided(command: c.Command) -> None:
    given(COUNTY).when(command, OFFICER).then_refused(UnknownDataRequestError, id=REQUEST)
    elsewhere = command.model_copy(update={"request_id": STATION})
    given(COUNTY).when(elsewhere, OFFICER).then_refused(UnknownDataRequestError, id=STATION)


# --- restriction -----------------------------------------------------------------------------------------------------


def test_a_restriction_takes_effect_with_the_decision() -> None:
    facts = (
        after_request("restriction")
        .when(decision(), OFFICER)
        .then(a(e.DataRequestDecided), a(e.SubjectRestricted, subject_id=LI, request_id=REQUEST))
    )
    assert facts[1].originator_id == SUBJECT


def test_a_restriction_that_stands_already_is_not_said_twice() -> None:
    again, other = name("again"), themself(LI)
    second = restricted().after(asked("restriction").model_copy(update={"request_id": again}), other)
    second.when(decision().model_copy(update={"request_id": again}), OFFICER).then(a(e.DataRequestDecided))


def test_a_refused_restriction_restricts_nobody() -> None:
    refused = after_request("restriction").when(decision("refused", "identity_not_shown"), OFFICER)
    refused.then(a(e.DataRequestDecided))
    refused.history.when(CORRECT, themself(LI)).then(a(e.VolunteerProfileCorrected))


def test_while_it_stands_no_personal_data_are_added_or_changed() -> None:
    before = restricted()
    for command in (
        CORRECT,
        c.DeclareCategory(volunteer_id=LI, category="veteran"),
        place(LI),
    ):
        before.when(command, themself(LI)).then_refused(SubjectRestrictedError, subject_id=LI)
    before.when(CORRECT.model_copy(update={"volunteer_id": WANG}), themself(WANG)).then(
        a(e.VolunteerProfileCorrected)
    )


def test_the_hours_of_a_restricted_person_are_recorded_all_the_same() -> None:
    before = given(COUNTY, an_accepted_order(LI)).after(asked("restriction"), themself(LI))
    outcome = before.after(decision(), OFFICER).when(completed(a_service(LI)), RECORDER)
    assert [f.minutes for f in outcome.facts if isinstance(f, e.EntryPosted)] == [120]


def test_it_is_released_when_the_person_asks_for_that() -> None:
    again = name("release")
    wish = asked("release").model_copy(update={"request_id": again})
    granted = decision().model_copy(update={"request_id": again})
    released = restricted().after(wish, themself(LI)).when(granted, OFFICER)
    released.then(a(e.DataRequestDecided), a(e.SubjectReleased, subject_id=LI, request_id=again))
    released.history.when(CORRECT, themself(LI)).then(a(e.VolunteerProfileCorrected))


def test_there_is_nothing_to_release_where_nothing_is_restricted() -> None:
    after_request("release").when(decision(), OFFICER).then(a(e.DataRequestDecided))


def test_an_erasure_that_the_law_forbids_for_now_restricts_instead() -> None:
    """PIPL art. 47: while retention runs, nothing is done with the data but to keep them."""
    after_request("erasure").when(decision("refused", "retention_runs"), OFFICER).then(
        a(e.DataRequestDecided, outcome="refused", reason="retention_runs"),
        a(e.SubjectRestricted, subject_id=LI),
    )
    other = after_request("access").when(decision("refused", "retention_runs"), OFFICER)
    other.then(a(e.DataRequestDecided))


# --- erasure ---------------------------------------------------------------------------------------------------------


def test_a_fulfilled_erasure_is_carried_out() -> None:
    decided = after_request("erasure").when(decision(), OFFICER)
    decided.then(a(e.DataRequestDecided))
    facts = decided.history.when(ERASE, ADMIN).then(a(e.SubjectErased, subject_id=LI, request_id=REQUEST))
    assert facts[0].originator_id == SUBJECT


def test_nobody_is_erased_before_it_was_decided_nor_after_a_refusal_nor_by_another_wish() -> None:
    undecided = after_request("erasure").when(ERASE, ADMIN)
    undecided.then_refused(NotAllowedNowError, status="erasure received", allowed=["decide"])
    refused = after_request("erasure").after(decision("refused", "retention_runs"), OFFICER)
    refused.when(ERASE, ADMIN).then_refused(NotAllowedNowError, status="erasure refused")
    restricted().when(ERASE, ADMIN).then_refused(NotAllowedNowError, status="restriction fulfilled")


def test_erasing_twice_changes_nothing() -> None:
    erased().when(ERASE, OFFICER).then_nothing()


def test_an_erased_person_is_not_enrolled_corrected_or_ordered_for() -> None:
    before = erased()
    before.when(CORRECT, themself(LI)).then_refused(SubjectErasedError, subject_id=LI)
    before.when(CORRECT, ORGANISER).then_refused(SubjectErasedError)
    before.when(place(LI), themself(LI)).then_refused(SubjectErasedError)
    before.when(place(LI), ORGANISER).then_refused(SubjectErasedError)
    gone = given(COUNTY).after(asked("erasure", STRANGER), ADMIN)
    gone = gone.after(decision(), OFFICER).after(ERASE, ADMIN)
    enrol = c.EnrolVolunteer(
        volunteer_id=STRANGER,
        volunteer_number="gg-000042",
        home_unit_id=STATION,
        profile=SEALED,
        consent_document="consent-2026",
        consented_at=NOW,
    )
    gone.when(enrol, themself(STRANGER)).then_refused(SubjectErasedError, subject_id=STRANGER)
    gone.when(enrol.model_copy(update={"volunteer_id": name("another")}), ORGANISER).then(
        a(e.VolunteerEnrolled)
    )


def test_of_an_erased_person_only_what_is_left_may_be_asked() -> None:
    before, again = erased(), name("again")
    for kind in ("restriction", "release", "erasure"):
        wish = asked(kind).model_copy(update={"request_id": again})
        before.when(wish, themself(LI)).then_refused(SubjectErasedError)
    wish = asked("access").model_copy(update={"request_id": again})
    before.when(wish, themself(LI)).then(a(e.DataRequestReceived))


def test_two_wishes_that_cross_end_in_erasure() -> None:
    other = name("restriction")
    both = after_request("erasure").after(
        asked("restriction").model_copy(update={"request_id": other}), themself(LI)
    )
    gone = both.after(decision(), OFFICER).after(ERASE, ADMIN)
    late = decision().model_copy(update={"request_id": other})
    gone.when(late, OFFICER).then_refused(SubjectErasedError)
    refused = late.model_copy(update={"outcome": "refused", "reason": "erased"})
    gone.when(refused, OFFICER).then(a(e.DataRequestDecided))


def test_the_account_of_an_erased_person_stands_as_it_did() -> None:
    before = a_recorded_session(LI)
    after = before.after(asked("erasure"), themself(LI)).after(decision(), OFFICER).after(ERASE, ADMIN)
    assert after.state(LI) == before.state(LI)
    assert after.state(ORDER) == before.state(ORDER)
    assert after.state(SUBJECT).erased


def test_an_id_that_somebody_took_for_another_thing_is_told_and_not_written_over() -> None:
    taken = given(COUNTY, an_order(order_id=SUBJECT)).after(asked("restriction"), themself(LI))
    taken.when(decision(), OFFICER).then_refused(AlreadyExistsError, id=SUBJECT)
    taken.when(CORRECT, themself(LI)).then(a(e.VolunteerProfileCorrected))


def test_what_was_said_of_one_person_says_nothing_of_another() -> None:
    assert ids.subject_id(LEDGER_ID, LI) != ids.subject_id(LEDGER_ID, SUN)
    spoken = fact(e.SubjectErased, SUBJECT, subject_id=LI, request_id=REQUEST)
    given(COUNTY, spoken).when(place(SUN), themself(SUN)).then(a(e.OrderPlaced))


def place(requester: object) -> c.PlaceOrder:
    return c.PlaceOrder(
        order_id=ORDER,
        requester_id=requester,
        unit_id=STATION,
        activity_kind="health",
        wanted_from=NOW + timedelta(hours=1),
        wanted_until=NOW + timedelta(hours=3),
        need=SEALED,
    )
