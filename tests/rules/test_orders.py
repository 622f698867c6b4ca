"""点单 → 派单 → 接单 → 服务 (S053–S058, T09–T11, L05, L10, F03, F08, F13). What counts as an hour: `test_sessions`."""

from datetime import timedelta
from uuid import UUID

import pytest

from ledger import commands as c
from ledger import events as e
from ledger.errors import (
    AlreadyExistsError,
    BackfillRequiredError,
    InvalidRequestError,
    NotAcceptedError,
    NotAllowedNowError,
    NotMemberError,
    NotOfferedError,
    NotYourselfError,
    OutsideSubtreeError,
    OverlapError,
    SelfRecordingError,
    UnknownOrderError,
    UnknownTeamError,
    UnknownUnitError,
    UnknownVolunteerError,
    VolunteerWithdrawnError,
    WindowError,
    WrongRoleError,
)
from tests.rules.given import (
    ACCEPTED_AT,
    ADMIN,
    ASKED_AT,
    BASE_SQUAD,
    COUNTY,
    DISPATCHER,
    ELSEWHERE,
    ENDED_AT,
    LI,
    NOW,
    ORDER,
    ORGANISER,
    RECORDER,
    RESIDENT,
    SEALED,
    SQUAD,
    STARTED_AT,
    STATION,
    STRANGER,
    SUN,
    WANG,
    ZHAO,
    History,
    a,
    a_backfill,
    a_recorded_session,
    a_service,
    accepted,
    ago,
    an_accepted_order,
    an_order,
    approval,
    by,
    completed,
    dispatched,
    fact,
    given,
    name,
    themself,
)

HOUR = timedelta(hours=1)
PLACE = c.PlaceOrder(
    order_id=ORDER,
    requester_id=RESIDENT,
    unit_id=STATION,
    activity_kind="health",
    wanted_from=NOW + HOUR,
    wanted_until=NOW + 3 * HOUR,
    need=SEALED,
)
REJECT = c.RejectOrder(order_id=ORDER, reason="no_volunteers", explanation=SEALED)
WITHDRAW = c.WithdrawOrder(order_id=ORDER)
DISPATCH = c.DispatchOrder(order_id=ORDER, team_id=SQUAD, volunteer_ids=(LI, WANG, LI))
OFFER = c.OfferOrder(order_id=ORDER, volunteer_ids=(LI, ZHAO))
REASSIGN = c.ReassignOrder(order_id=ORDER, team_id=BASE_SQUAD, volunteer_ids=(SUN,), reason="too_busy")
ACCEPT = c.AcceptOrder(order_id=ORDER, volunteer_id=LI)
DECLINE = c.DeclineOrder(order_id=ORDER, volunteer_id=LI)
EXPIRE = c.ExpireOffer(order_id=ORDER, volunteer_id=LI)
EXPIRES_AT = ASKED_AT + 24 * HOUR

PLACED = given(COUNTY, an_order())
ASKED = given(COUNTY, an_order(), dispatched(LI, WANG))
TAKEN = given(COUNTY, an_accepted_order(LI, WANG))
LI_WITHDREW = fact(e.VolunteerWithdrew, LI, reason="own_wish")


def done() -> History:
    return TAKEN.after(completed(a_service(LI)), RECORDER)


# --- 点单 ------------------------------------------------------------------------------------------------------------


def test_a_resident_places_an_order() -> None:
    """S053, T09"""
    given(COUNTY).when(PLACE, by(RESIDENT, "resident")).then(
        a(e.OrderPlaced, requester_id=RESIDENT, unit_id=STATION, relayed=False, need=SEALED)
    )


def test_staff_of_the_unit_place_an_order_for_a_resident_and_are_seen_to_have_done_so() -> None:
    given(COUNTY).when(PLACE, DISPATCHER).then(a(e.OrderPlaced, requester_id=RESIDENT, relayed=True))
    given(COUNTY).when(PLACE, ELSEWHERE).then_refused(OutsideSubtreeError)
    given(COUNTY).when(PLACE, themself(LI)).then_refused(WrongRoleError)


@pytest.mark.parametrize(
    ("wanted_from", "wanted_until"),
    [(NOW + HOUR, NOW + HOUR), (NOW + HOUR, NOW), (NOW - 3 * HOUR, NOW - HOUR), (NOW - HOUR, NOW)],
)
def test_an_order_is_for_a_time_still_to_come(wanted_from: object, wanted_until: object) -> None:
    """S053"""
    command = PLACE.model_copy(update={"wanted_from": wanted_from, "wanted_until": wanted_until})
    given(COUNTY).when(command).then_refused(WindowError)


def test_an_order_is_placed_once_and_at_a_unit_there_is() -> None:
    PLACED.when(PLACE).then_refused(AlreadyExistsError, id=ORDER)
    given(COUNTY).when(PLACE.model_copy(update={"order_id": LI})).then_refused(AlreadyExistsError, id=LI)
    nowhere = PLACE.model_copy(update={"unit_id": name("nowhere")})
    given(COUNTY).when(nowhere).then_refused(UnknownUnitError)


# --- what ends it early ----------------------------------------------------------------------------------------------


def test_a_unit_rejects_an_order_and_says_why() -> None:
    """L03"""
    PLACED.when(REJECT, ORGANISER).then(a(e.OrderRejected, reason="no_volunteers", explanation=SEALED))
    ASKED.when(REJECT, DISPATCHER).then(a(e.OrderRejected))


def test_an_order_somebody_accepted_is_not_rejected_any_more() -> None:
    TAKEN.when(REJECT).then_refused(NotAllowedNowError, status="accepted", action="reject")
    PLACED.when(REJECT, ELSEWHERE).then_refused(OutsideSubtreeError)
    PLACED.when(REJECT, by(RESIDENT, "resident")).then_refused(WrongRoleError)
    given(COUNTY).when(REJECT).then_refused(UnknownOrderError, id=ORDER)


def test_a_resident_withdraws_their_order_until_it_is_served() -> None:
    for history in (PLACED, ASKED, TAKEN):
        history.when(WITHDRAW, by(RESIDENT, "resident")).then(a(e.OrderWithdrawn))
    PLACED.when(WITHDRAW, ORGANISER).then(a(e.OrderWithdrawn))
    done().when(WITHDRAW, by(RESIDENT, "resident")).then_refused(NotAllowedNowError, status="completed")
    PLACED.when(WITHDRAW, by(STRANGER, "resident")).then_refused(WrongRoleError)


@pytest.mark.parametrize("end", [REJECT, WITHDRAW])
@pytest.mark.parametrize("command", [REJECT, WITHDRAW, DISPATCH, OFFER, REASSIGN, ACCEPT, DECLINE, EXPIRE])
def test_nothing_is_done_with_an_order_that_is_over(end: c.Command, command: c.Command) -> None:
    caller = themself(LI) if command in (ACCEPT, DECLINE) else ADMIN
    refusal = ASKED.after(end).when(command, caller).then_refused(NotAllowedNowError)
    assert refusal.details["allowed"] == ["—"]


# --- 派单 ------------------------------------------------------------------------------------------------------------


def test_an_order_is_dispatched_to_a_team_and_each_of_those_asked_has_a_day_to_answer() -> None:
    """S054, T10, G04; naming somebody twice asks them once."""
    PLACED.when(DISPATCH, DISPATCHER).then(
        a(e.OrderDispatched, team_id=SQUAD),
        *(a(e.OrderOffered, volunteer_id=v, expires_at=NOW + 24 * HOUR) for v in (LI, WANG)),
    )


def test_a_dispatcher_reaches_orders_and_teams_of_their_own_units_only() -> None:
    """S054"""
    PLACED.when(DISPATCH, ELSEWHERE).then_refused(OutsideSubtreeError, unit_id=STATION)
    away = DISPATCH.model_copy(update={"team_id": BASE_SQUAD, "volunteer_ids": (SUN,)})
    PLACED.when(away, DISPATCHER).then_refused(OutsideSubtreeError)
    PLACED.when(away).then(a(e.OrderDispatched), a(e.OrderOffered))
    PLACED.when(DISPATCH, RECORDER).then_refused(WrongRoleError)
    unknown = DISPATCH.model_copy(update={"team_id": name("none")})
    PLACED.when(unknown).then_refused(UnknownTeamError)


def test_only_members_who_take_part_are_asked_and_every_other_is_named() -> None:
    asked = DISPATCH.model_copy(update={"volunteer_ids": (SUN, LI, WANG)})
    PLACED.when(asked).then_refused(NotMemberError, volunteer_id=SUN)
    given(COUNTY, LI_WITHDREW, an_order()).when(asked).then_refused(NotMemberError, VolunteerWithdrawnError)


def test_an_order_is_dispatched_once_and_not_to_a_dissolved_team() -> None:
    ASKED.when(DISPATCH).then_refused(NotAllowedNowError, status="dispatched")
    dissolved = fact(e.TeamDissolved, SQUAD, reason="too_few", merged_into_id=None)
    given(COUNTY, dissolved, an_order()).when(DISPATCH).then_refused(NotAllowedNowError, status="dissolved")


def test_more_members_are_asked_but_nobody_twice() -> None:
    ASKED.when(OFFER, DISPATCHER).then(a(e.OrderOffered, volunteer_id=ZHAO))
    ASKED.when(OFFER.model_copy(update={"volunteer_ids": (LI, WANG)})).then_nothing()
    ASKED.after(DECLINE, themself(LI)).when(OFFER.model_copy(update={"volunteer_ids": (LI,)})).then(
        a(e.OrderOffered, volunteer_id=LI)
    )


def test_more_members_are_asked_by_those_who_may_and_after_the_dispatch() -> None:
    PLACED.when(OFFER).then_refused(NotAllowedNowError, status="placed")
    ASKED.when(OFFER, ELSEWHERE).then_refused(OutsideSubtreeError)
    ASKED.when(OFFER.model_copy(update={"volunteer_ids": (SUN,)})).then_refused(NotMemberError)


def test_an_order_goes_to_another_team_and_those_asked_before_are_released() -> None:
    """S054, T10"""
    outcome = TAKEN.when(REASSIGN)
    outcome.then(
        a(e.OrderReassigned, team_id=BASE_SQUAD, from_team_id=SQUAD, reason="too_busy"),
        a(e.OrderOffered, volunteer_id=SUN),
    )
    assert outcome.history.state(ORDER).status == "dispatched"
    outcome.history.when(ACCEPT, themself(LI)).then_refused(NotOfferedError, status="released")


def test_who_was_released_may_be_asked_again() -> None:
    back = REASSIGN.model_copy(update={"team_id": SQUAD, "volunteer_ids": (LI,)})
    TAKEN.after(REASSIGN).when(back).then(a(e.OrderReassigned), a(e.OrderOffered, volunteer_id=LI))


def test_an_order_is_reassigned_between_dispatch_and_service_by_those_who_may() -> None:
    PLACED.when(REASSIGN).then_refused(NotAllowedNowError, action="reassign")
    done().when(REASSIGN).then_refused(NotAllowedNowError, status="completed")
    TAKEN.when(REASSIGN, DISPATCHER).then_refused(OutsideSubtreeError)


# --- 接单 ------------------------------------------------------------------------------------------------------------


def test_a_volunteer_accepts() -> None:
    """S055, T11"""
    outcome = ASKED.when(ACCEPT, themself(LI), ACCEPTED_AT)
    outcome.then(a(e.OrderAccepted, volunteer_id=LI))
    assert outcome.history.state(ORDER).status == "accepted"


@pytest.mark.parametrize("caller", [ADMIN, ORGANISER, themself(WANG)])
def test_nobody_accepts_or_declines_for_another(caller: object) -> None:
    """S055, L05: there is no standing consent, not even for leaders."""
    for command in (ACCEPT, DECLINE):
        ASKED.when(command, caller, ACCEPTED_AT).then_refused(NotYourselfError)  # type: ignore[arg-type]


def test_only_an_open_offer_is_accepted() -> None:
    zhao = ACCEPT.model_copy(update={"volunteer_id": ZHAO})
    ASKED.when(zhao, themself(ZHAO), ACCEPTED_AT).then_refused(NotOfferedError, status="never asked")
    TAKEN.when(ACCEPT, themself(LI), ACCEPTED_AT).then_refused(NotOfferedError, status="accepted")
    PLACED.when(ACCEPT, themself(LI)).then_refused(NotAllowedNowError)


def test_an_offer_is_open_until_the_moment_it_expires() -> None:
    """G04"""
    ASKED.when(ACCEPT, themself(LI), EXPIRES_AT - timedelta(microseconds=1)).then(a(e.OrderAccepted))
    ASKED.when(ACCEPT, themself(LI), EXPIRES_AT).then_refused(NotOfferedError, status="expired")


def test_who_withdrew_accepts_nothing_but_may_still_decline() -> None:
    withdrew = given(COUNTY, an_order(), dispatched(LI), LI_WITHDREW)
    withdrew.when(ACCEPT, themself(LI), ACCEPTED_AT).then_refused(VolunteerWithdrawnError)
    withdrew.when(DECLINE, themself(LI), ACCEPTED_AT).then(a(e.OrderDeclined))


def test_a_volunteer_declines_before_or_after_accepting() -> None:
    """L05: saying no is always allowed."""
    ASKED.when(DECLINE, themself(LI)).then(a(e.OrderDeclined, volunteer_id=LI, reason="not_available"))
    one = given(COUNTY, an_accepted_order(LI)).when(DECLINE, themself(LI))
    one.then(a(e.OrderDeclined))
    assert one.history.state(ORDER).status == "dispatched"
    assert TAKEN.after(DECLINE, themself(LI)).state(ORDER).status == "accepted"


def test_nobody_declines_what_they_are_not_asked() -> None:
    declined = ASKED.after(DECLINE, themself(LI))
    declined.when(DECLINE, themself(LI)).then_refused(NotOfferedError, status="declined")


def test_an_offer_that_is_not_answered_expires_when_its_time_is_over() -> None:
    """T11, G04: recorded when the ledger comes to it, happened when the time was over."""
    ASKED.when(EXPIRE, ADMIN).then(a(e.OrderOfferExpired, volunteer_id=LI, happened_at=EXPIRES_AT))


def test_an_offer_expires_neither_early_nor_once_it_is_answered() -> None:
    ASKED.when(EXPIRE, ADMIN, EXPIRES_AT - timedelta(microseconds=1)).then_refused(NotOfferedError)
    TAKEN.when(EXPIRE).then_refused(NotOfferedError, status="accepted")
    ASKED.after(EXPIRE).when(EXPIRE).then_refused(NotOfferedError, status="expired")
    ASKED.when(EXPIRE, ORGANISER).then_refused(WrongRoleError)


# --- 服务 ------------------------------------------------------------------------------------------------------------


def test_a_completed_order_credits_everybody_who_served_in_one_append() -> None:
    """S058, L10, L11, F13: sessions with names, minutes in entries; who accepted but did not come is not credited."""
    serving = [a_service(LI, break_minutes=15), a_service(WANG, checked=True)]
    command = completed(*serving).model_copy(update={"responsible_id": name("head")})
    outcome = TAKEN.when(command, RECORDER)
    outcome.then(
        a(e.OrderServed, volunteer_id=LI, session_id=serving[0].session_id, happened_at=ENDED_AT),
        a(e.OrderServed, volunteer_id=WANG, session_id=serving[1].session_id),
        a(e.OrderCompleted, volunteers=2, recorder_id=RECORDER.person_id, team_id=SQUAD),
        a(
            e.SessionRecorded,
            originator_id=LI,
            started_at=STARTED_AT,
            ended_at=ENDED_AT,
            source_class="confirmed",
            responsible_id=name("head"),
            recorder_id=RECORDER.person_id,
            approver_id=None,
            late=False,
            activity_kind="health",
            unit_id=STATION,
            rulebook_version=1,
        ),
        a(e.EntryPosted, originator_id=LI, minutes=105, services=1, reverses_entry_id=None),
        a(e.SessionRecorded, originator_id=WANG, source_class="machine"),
        a(e.EntryPosted, originator_id=WANG, minutes=120, services=1, source_class="machine"),
    )


def test_the_person_in_charge_is_the_recorder_if_nobody_else_is_named() -> None:
    """L10"""
    facts = TAKEN.when(completed(a_service(LI)), RECORDER).facts
    assert [f.responsible_id for f in facts if isinstance(f, e.SessionRecorded)] == [RECORDER.person_id]


def test_a_missing_check_out_is_vouched_for_by_a_person_not_a_machine() -> None:
    """F21, T24"""
    service = a_service(LI, checked=True, end_inferred=True)
    facts = TAKEN.when(completed(service), RECORDER).facts
    said = {(f.source_class, f.inferred) for f in facts if isinstance(f, (e.SessionRecorded, e.EntryPosted))}
    assert said == {("confirmed", True)}


def test_an_inferred_end_lies_no_later_than_the_planned_one() -> None:
    """F21"""
    planned = given(COUNTY, an_order(wanted_until=ago(hours=3)), dispatched(LI), accepted(LI))
    late = a_service(LI, end_inferred=True)
    planned.when(completed(late), RECORDER).then_refused(InvalidRequestError)
    on_time = a_service(LI, ended_at=ago(hours=3), end_inferred=True)
    planned.when(completed(on_time), RECORDER).then(*_one_credited())


def test_nobody_is_credited_without_having_accepted_and_each_is_named() -> None:
    """L05, F13"""
    history = ASKED.after(ACCEPT, themself(LI), ACCEPTED_AT)
    command = completed(a_service(LI), a_service(WANG), a_service(ZHAO))
    refusal = history.when(command, RECORDER).then_refused(NotAcceptedError, NotAcceptedError)
    offenders = refusal.details["offenders"]
    assert [(o["volunteer_id"], o["status"]) for o in offenders] == [  # type: ignore[attr-defined]
        (WANG, "offered"),
        (ZHAO, "never asked"),
    ]


def test_every_hour_belongs_to_somebody_who_is_enrolled() -> None:
    """F13"""
    TAKEN.when(completed(a_service(STRANGER)), RECORDER).then_refused(UnknownVolunteerError, id=STRANGER)


def test_nobody_records_their_own_service() -> None:
    """F08"""
    recorder = by(LI, "recorder", STATION)
    TAKEN.when(completed(a_service(WANG), a_service(LI)), recorder).then_refused(
        SelfRecordingError, volunteer_id=LI
    )


def test_five_bought_hours_are_refused_when_the_order_is_placed_after_the_service() -> None:
    """F03: order, dispatch and acceptance within two minutes, for five hours said to be over."""
    minutes = iter(ago(minutes=m) for m in (2, 1.5, 1))
    history = given(COUNTY, an_order(next(minutes)), dispatched(LI, at=next(minutes)))
    history = History([*history.facts, *accepted(LI, at=next(minutes))])
    bought = a_service(LI, ago(hours=6), ago(hours=1), checked=True)
    history.when(completed(bought), RECORDER).then_refused(BackfillRequiredError, volunteer_id=LI)


@pytest.mark.parametrize("late", [0, 1])
def test_a_service_begins_no_earlier_than_its_acceptance_was_recorded(late: int) -> None:
    """F03: the very moment of acceptance is early enough."""
    service = a_service(LI, ACCEPTED_AT - timedelta(microseconds=late), ACCEPTED_AT + HOUR)
    outcome = TAKEN.when(completed(service), RECORDER)
    if late:
        outcome.then_refused(BackfillRequiredError)
    else:
        outcome.then(*_one_credited())


def test_an_acceptance_that_was_taken_back_does_not_count_as_one() -> None:
    """F03, L05: accepted, declined, asked and accepted anew: the later acceptance is the one that counts."""
    history = TAKEN.after(DECLINE, themself(LI), ago(hours=20))
    history = history.after(OFFER, ADMIN, ago(hours=3)).after(ACCEPT, themself(LI), ago(hours=2.5))
    history.when(completed(a_service(LI)), RECORDER).then_refused(BackfillRequiredError)
    history.when(completed(a_service(LI, ago(hours=2.5))), RECORDER).then(*_one_credited())


@pytest.mark.parametrize(
    "second",
    [a_service(LI, session_id=name("other")), a_service(WANG, session_id=name("session", LI))],
    ids=["volunteer", "session"],
)
def test_a_volunteer_or_a_session_is_named_once_in_an_order(second: c.Service) -> None:
    command = completed(a_service(LI), second)
    refusal = TAKEN.when(command, RECORDER).then_refused(InvalidRequestError)
    assert "named twice" in refusal.sentence_en


def test_a_session_id_names_one_service_for_good() -> None:
    """Sessions of other orders keep their ids, and so do back-fills that wait or were declined."""
    other = name("order", 2)
    again = a_service(LI, ago(hours=10), ago(hours=9))
    recorded = History([*a_recorded_session().facts, *an_accepted_order(LI, order_id=other)])
    recorded.when(completed(again, order_id=other), RECORDER).then_refused(AlreadyExistsError)
    claim = a_backfill(LI, ago(hours=20), ago(hours=19), session_id=again.session_id)
    waiting = TAKEN.after(claim, themself(LI))
    waiting.when(completed(again), RECORDER).then_refused(AlreadyExistsError, id=again.session_id)
    declined = waiting.after(approval(claim, "declined"), ORGANISER)
    declined.when(completed(again), RECORDER).then_refused(AlreadyExistsError)


def test_an_order_is_completed_once_by_staff_of_its_unit() -> None:
    command = completed(a_service(LI))
    done().when(completed(a_service(WANG)), RECORDER).then_refused(NotAllowedNowError, status="completed")
    ASKED.when(command, RECORDER).then_refused(NotAllowedNowError, action="complete")
    TAKEN.when(command, ELSEWHERE).then_refused(OutsideSubtreeError)
    TAKEN.when(command, themself(WANG)).then_refused(WrongRoleError)


def test_one_offender_refuses_the_whole_order_and_every_offence_is_said() -> None:
    """F01, F03: nothing is recorded for the others."""
    other = name("order", 2)
    history = History([*a_recorded_session().facts, *an_accepted_order(LI, WANG, order_id=other)])
    services = a_service(LI, session_id=name("second")), a_service(WANG, ago(hours=40), ago(hours=39))
    history.when(completed(*services, order_id=other), RECORDER).then_refused(
        OverlapError, BackfillRequiredError, volunteer_id=LI
    )


def test_what_was_served_before_withdrawing_is_still_recorded() -> None:
    """What was served stays served."""
    withdrew = fact(e.VolunteerWithdrew, LI, ENDED_AT, reason="own_wish")
    history = given(COUNTY, an_accepted_order(LI), withdrew)
    history.when(completed(a_service(LI)), RECORDER).then(*_one_credited())


def test_nobody_serves_after_they_withdrew() -> None:
    """PIPL art. 15: not even the last minute."""
    withdrew = fact(e.VolunteerWithdrew, LI, ENDED_AT - timedelta(minutes=1), reason="own_wish")
    history = given(COUNTY, an_accepted_order(LI), withdrew)
    history.when(completed(a_service(LI)), RECORDER).then_refused(VolunteerWithdrawnError, volunteer_id=LI)


def test_an_order_is_not_reassigned_to_the_team_that_has_it() -> None:
    """S054: more of its members are asked by an offer."""
    same = c.ReassignOrder(order_id=ORDER, team_id=SQUAD, volunteer_ids=(ZHAO,), reason="too_few")
    ASKED.when(same, DISPATCHER).then_refused(InvalidRequestError)


@pytest.mark.parametrize("missing", [DISPATCH, OFFER, REASSIGN, ACCEPT, DECLINE, EXPIRE, WITHDRAW])
def test_an_order_that_is_not_there_takes_nothing(missing: c.Command) -> None:
    given(COUNTY).when(missing, _asker(missing)).then_refused(UnknownOrderError, id=ORDER)


def _asker(command: c.Command) -> object:
    volunteer_id: UUID | None = getattr(command, "volunteer_id", None)
    return ADMIN if volunteer_id is None or command is EXPIRE else themself(volunteer_id)


def _one_credited() -> tuple[object, ...]:
    return a(e.OrderServed), a(e.OrderCompleted), a(e.SessionRecorded), a(e.EntryPosted)
