"""Who takes part: consent, categories, personal fields, withdrawal (S040–S044, L05, L09, L17)."""

from datetime import timedelta

from ledger import commands as c
from ledger import events as e
from ledger.errors import (
    AlreadyExistsError,
    InFutureError,
    NoRuleBookError,
    NotAllowedNowError,
    NotYourselfError,
    OutsideSubtreeError,
    UnknownCategoryError,
    UnknownUnitError,
    UnknownVolunteerError,
    VolunteerWithdrawnError,
    WrongRoleError,
)
from tests.rules.given import (
    COUNTY,
    ELSEWHERE,
    LI,
    NOW,
    ORDER,
    ORGANISER,
    SEALED,
    STATION,
    STRANGER,
    UNITS,
    WANG,
    a,
    an_order,
    fact,
    given,
    name,
    themself,
)

ENROL = c.EnrolVolunteer(
    volunteer_id=STRANGER,
    volunteer_number="gg-000042",
    home_unit_id=STATION,
    profile=SEALED,
    consent_document="consent-2026",
    consented_at=NOW,
    categories=("veteran", "farmer", "veteran"),
)
DECLARE = c.DeclareCategory(volunteer_id=LI, category="veteran")
CORRECT = c.CorrectProfile(volunteer_id=LI, profile="s1.TmV3")
WITHDRAW = c.WithdrawVolunteer(volunteer_id=LI)
WITHDRAWN = fact(e.VolunteerWithdrew, LI, reason="own_wish")


def test_a_person_enrols_by_their_own_consent_with_each_category_once() -> None:
    """S040–S042, S044, L05: the consent, its text and its moment are part of the fact."""
    given(COUNTY).when(ENROL, themself(STRANGER)).then(
        a(e.VolunteerEnrolled, relayed=False, consent_document="consent-2026", consented_at=NOW),
        a(e.VolunteerCategoryDeclared, category="veteran"),
        a(e.VolunteerCategoryDeclared, category="farmer"),
    )


def test_staff_enter_somebody_with_their_consent_and_are_seen_to_have_done_so() -> None:
    """L09"""
    command = ENROL.model_copy(update={"categories": ()})
    given(COUNTY).when(command, ORGANISER).then(a(e.VolunteerEnrolled, relayed=True))
    given(UNITS).when(command, ORGANISER).then(a(e.VolunteerEnrolled))


def test_nobody_is_enrolled_by_those_who_may_not() -> None:
    given(COUNTY).when(ENROL, ELSEWHERE).then_refused(OutsideSubtreeError)
    given(COUNTY).when(ENROL, themself(WANG)).then_refused(WrongRoleError)


def test_nobody_is_enrolled_twice_nor_under_an_id_that_names_something_else() -> None:
    again = ENROL.model_copy(update={"volunteer_id": LI})
    given(COUNTY).when(again).then_refused(AlreadyExistsError, id=LI)
    order = ENROL.model_copy(update={"volunteer_id": ORDER})
    given(COUNTY, an_order()).when(order).then_refused(AlreadyExistsError, id=ORDER)


def test_consent_is_given_before_it_is_recorded_and_at_a_unit_there_is() -> None:
    """L05, S044"""
    later = ENROL.model_copy(update={"consented_at": NOW + timedelta(seconds=1)})
    given(COUNTY).when(later).then_refused(InFutureError)
    nowhere = ENROL.model_copy(update={"home_unit_id": name("nowhere")})
    given(COUNTY).when(nowhere).then_refused(UnknownUnitError)


def test_a_category_is_one_the_rule_book_knows() -> None:
    """S040–S042"""
    unknown = ENROL.model_copy(update={"categories": ("veteran", "astronaut")})
    given(COUNTY).when(unknown).then_refused(UnknownCategoryError, category="astronaut")
    given(UNITS).when(ENROL).then_refused(NoRuleBookError)


def test_a_volunteer_declares_categories_one_by_one() -> None:
    """S040–S042: a person may hold several."""
    once = given(COUNTY).when(DECLARE, themself(LI))
    once.then(a(e.VolunteerCategoryDeclared, category="veteran"))
    more = DECLARE.model_copy(update={"category": "farmer"})
    assert once.history.after(more, ORGANISER).state(LI).categories == {"veteran", "farmer"}


def test_a_category_declared_twice_is_declared_once() -> None:
    given(COUNTY).after(DECLARE).when(DECLARE).then_nothing()


def test_a_category_is_declared_by_the_volunteer_or_staff_of_their_unit() -> None:
    given(COUNTY).when(DECLARE, themself(WANG)).then_refused(WrongRoleError)
    given(COUNTY).when(DECLARE, ELSEWHERE).then_refused(OutsideSubtreeError)
    unknown = DECLARE.model_copy(update={"category": "astronaut"})
    given(COUNTY).when(unknown).then_refused(UnknownCategoryError)
    given(COUNTY, WITHDRAWN).when(DECLARE).then_refused(VolunteerWithdrawnError)


def test_personal_fields_are_corrected_as_a_whole() -> None:
    """L17"""
    given(COUNTY).when(CORRECT, themself(LI)).then(a(e.VolunteerProfileCorrected, profile="s1.TmV3"))
    given(COUNTY).when(CORRECT, ORGANISER).then(a(e.VolunteerProfileCorrected))


def test_personal_fields_are_not_corrected_by_others_nor_of_nobody() -> None:
    given(COUNTY).when(CORRECT, themself(WANG)).then_refused(WrongRoleError)
    given(COUNTY, WITHDRAWN).when(CORRECT).then_refused(VolunteerWithdrawnError)
    nobody = CORRECT.model_copy(update={"volunteer_id": STRANGER})
    given(COUNTY).when(nobody).then_refused(UnknownVolunteerError, id=STRANGER)


def test_a_volunteer_withdraws() -> None:
    """L05"""
    outcome = given(COUNTY).when(WITHDRAW, themself(LI))
    outcome.then(a(e.VolunteerWithdrew, reason="own_wish"))
    assert outcome.history.state(LI).withdrawn


def test_only_the_volunteer_withdraws_and_only_once() -> None:
    """L05: not even an admin ends somebody's part."""
    given(COUNTY).when(WITHDRAW).then_refused(NotYourselfError)
    given(COUNTY, WITHDRAWN).when(WITHDRAW, themself(LI)).then_refused(NotAllowedNowError, status="withdrawn")
