"""Teams on two axes, who sponsors and leads them, and who belongs to them (S029–S036, T03)."""

from uuid import UUID

import pytest

from ledger import commands as c
from ledger import events as e
from ledger import ids
from ledger.errors import (
    AlreadyExistsError,
    AlreadyMemberError,
    NoRuleBookError,
    NotAllowedNowError,
    NotMemberError,
    OutsideSubtreeError,
    TeamShapeError,
    UnknownTeamError,
    UnknownVolunteerError,
    VolunteerWithdrawnError,
    WrongRoleError,
)
from tests.rules.given import (
    BASE,
    BASE_SQUAD,
    BRANCH,
    CENTRE,
    CORPS,
    COUNTY,
    ELSEWHERE,
    INSTITUTE,
    LEADER,
    LEDGER_ID,
    LI,
    ORGANISER,
    OTHER_INSTITUTE,
    PEOPLE,
    SQUAD,
    STATION,
    STRANGER,
    SUN,
    UNITS,
    WANG,
    ZHAO,
    a,
    a_book,
    a_team,
    by,
    fact,
    given,
    name,
    themself,
)

START = (a_book(), *UNITS, *PEOPLE, *a_team(CORPS, "corps", CENTRE, None))
WITHDRAWN = fact(e.VolunteerWithdrew, SUN, reason="own_wish")
DISSOLVED = fact(e.TeamDissolved, SQUAD, reason="too_few", merged_into_id=None)
JOIN = c.JoinTeam(team_id=SQUAD, volunteer_id=SUN)
LEAVE = c.LeaveTeam(team_id=SQUAD, volunteer_id=LI)


def form(
    kind: e.TeamKind, unit: UUID, category: str | None = None, parent: UUID | None = CORPS
) -> c.FormTeam:
    return c.FormTeam(kind=kind, name="队", unit_id=unit, category=category, parent_team_id=parent)


@pytest.mark.parametrize(
    "command",
    [
        form("professional", CENTRE, "theory"),
        form("branch", INSTITUTE),
        form("squad", STATION),
        form("squad", BASE),
        form("civic", STATION, "five_elders", None),
        form("civic", CENTRE, "cadres"),
    ],
)
def test_a_team_is_formed_at_a_unit_that_fits(command: c.FormTeam) -> None:
    """S031, S033, S034, S035, T03"""
    found = given(START).when(command).then(a(e.TeamFormed, kind=command.kind, category=command.category))
    team_id = ids.team_id(LEDGER_ID, command.kind, command.unit_id, command.category)
    assert found[0].originator_id == team_id


def test_a_county_has_one_corps() -> None:
    """S029"""
    corps = form("corps", CENTRE, parent=None)
    given(a_book(), UNITS).when(corps, by("steering", "steering")).then(a(e.TeamFormed, kind="corps"))
    given(START).when(corps).then_refused(AlreadyExistsError, id=CORPS)


def test_a_unit_has_one_squad_and_a_category_one_team() -> None:
    """S031, S034"""
    given(COUNTY).when(form("squad", STATION, parent=BRANCH)).then_refused(AlreadyExistsError, id=SQUAD)
    theory = form("professional", CENTRE, "theory")
    given(START).after(theory).when(theory).then_refused(AlreadyExistsError)


@pytest.mark.parametrize(
    "command",
    [
        form("corps", INSTITUTE, parent=None),
        form("branch", STATION),
        form("branch", INSTITUTE, parent=None),
        form("squad", INSTITUTE),
        form("squad", STATION, "theory"),
        form("professional", CENTRE),
        form("professional", CENTRE, "cadres"),
        form("professional", INSTITUTE, "theory"),
        form("civic", STATION, "theory"),
    ],
)
def test_a_team_of_another_shape_is_refused(command: c.FormTeam) -> None:
    """S031, S035: which categories there are is said by the rule book, not by code."""
    if command.kind == "corps":
        given(a_book(), UNITS).when(command).then_refused(TeamShapeError)
    else:
        given(START).when(command).then_refused(TeamShapeError, kind=command.kind)


def test_the_rule_book_says_which_professional_teams_there_are() -> None:
    """S031: "exactly six" is data."""
    other = given(a_book(professional_categories=("rescue",)), START[1:])
    other.when(form("professional", CENTRE, "rescue")).then(a(e.TeamFormed, category="rescue"))
    other.when(form("professional", CENTRE, "theory")).then_refused(TeamShapeError)
    given(UNITS).when(form("corps", CENTRE, parent=None)).then_refused(NoRuleBookError)


def test_a_team_is_formed_by_staff_of_its_unit_under_a_team_there_is() -> None:
    given(START).when(form("squad", STATION), ELSEWHERE).then_refused(OutsideSubtreeError)
    given(START).when(form("squad", STATION), themself(LI)).then_refused(WrongRoleError)
    given(START).when(form("squad", STATION, parent=name("none"))).then_refused(UnknownTeamError)


def test_a_team_is_formed_below_one_that_lives_and_stands_in_its_own_line() -> None:
    """S033, S034: a squad belongs to the branch of its own institute, never to a neighbour's."""
    dissolved = fact(e.TeamDissolved, CORPS, reason="reform", merged_into_id=None)
    given(START, dissolved).when(form("branch", INSTITUTE)).then_refused(
        NotAllowedNowError, status="dissolved"
    )
    neighbour = fact(
        e.TeamFormed,
        BRANCH,
        kind="branch",
        category=None,
        name="支队",
        unit_id=OTHER_INSTITUTE,
        parent_team_id=CORPS,
    )
    given(START, neighbour).when(form("squad", STATION, parent=BRANCH)).then_refused(TeamShapeError)


def test_a_team_has_one_lead_and_any_number_of_partners() -> None:
    """S032"""
    lead = c.AssignTeamSponsor(team_id=SQUAD, department="justice", role="lead")
    partner = c.AssignTeamSponsor(team_id=SQUAD, department="education", role="partner")
    led = given(COUNTY).when(lead, ORGANISER)
    led.then(a(e.TeamSponsorAssigned, department="justice", role="lead"))
    led.history.when(lead).then_nothing()
    led.history.when(lead.model_copy(update={"department": "health"})).then_refused(AlreadyExistsError)
    with_partner = led.history.after(partner)
    with_partner.when(partner.model_copy(update={"department": "health"})).then(a(e.TeamSponsorAssigned))
    given(COUNTY).when(lead, ELSEWHERE).then_refused(OutsideSubtreeError)
    given(COUNTY, DISSOLVED).when(lead).then_refused(NotAllowedNowError, status="dissolved")


def test_a_leader_is_appointed_in_place_of_the_one_before() -> None:
    """S029, S033, S034, S036: ex officio, so whether or not they volunteer."""
    appoint = c.AppointTeamLeader(team_id=SQUAD, leader_id=LEADER)
    appointed = given(COUNTY).when(appoint, ORGANISER)
    appointed.then(a(e.TeamLeaderAppointed, leader_id=LEADER, previous_leader_id=None))
    appointed.history.when(appoint).then_nothing()
    appointed.history.when(appoint.model_copy(update={"leader_id": LI})).then(
        a(e.TeamLeaderAppointed, leader_id=LI, previous_leader_id=LEADER)
    )
    given(COUNTY).when(appoint, themself(LEADER)).then_refused(WrongRoleError)
    given(COUNTY, DISSOLVED).when(appoint).then_refused(NotAllowedNowError)


def test_a_volunteer_joins_by_their_own_wish() -> None:
    """S036, L05; one person may be in several teams (T03)."""
    given(COUNTY).when(JOIN, themself(SUN)).then(a(e.TeamMemberJoined, volunteer_id=SUN, relayed=False))


def test_staff_who_enter_the_wish_of_a_volunteer_are_seen_to_have_done_so() -> None:
    """L05"""
    given(COUNTY).when(JOIN, ORGANISER).then(a(e.TeamMemberJoined, volunteer_id=SUN, relayed=True))
    given(COUNTY).when(JOIN, ELSEWHERE).then_refused(OutsideSubtreeError)
    given(COUNTY).when(JOIN, themself(LI)).then_refused(WrongRoleError)


def test_nobody_joins_twice_nor_a_team_that_is_dissolved_nor_after_withdrawing() -> None:
    given(COUNTY).when(c.JoinTeam(team_id=SQUAD, volunteer_id=LI)).then_refused(AlreadyMemberError)
    given(COUNTY, DISSOLVED).when(JOIN).then_refused(NotAllowedNowError, action="join")
    given(COUNTY, WITHDRAWN).when(JOIN).then_refused(VolunteerWithdrawnError, volunteer_id=SUN)
    stranger = c.JoinTeam(team_id=SQUAD, volunteer_id=STRANGER)
    given(COUNTY).when(stranger).then_refused(UnknownVolunteerError, id=STRANGER)


def test_a_member_leaves_by_their_own_wish_or_through_staff_with_a_reason() -> None:
    """S036"""
    given(COUNTY).when(LEAVE, themself(LI)).then(a(e.TeamMemberLeft, volunteer_id=LI, reason="own_wish"))
    moved_away = LEAVE.model_copy(update={"reason": "moved_away"})
    given(COUNTY).when(moved_away, ORGANISER).then(a(e.TeamMemberLeft, reason="moved_away"))


def test_nobody_leaves_for_another_nor_a_team_they_are_not_in() -> None:
    given(COUNTY).when(LEAVE, themself(WANG)).then_refused(WrongRoleError)
    left = given(COUNTY).after(LEAVE, themself(LI))
    left.when(LEAVE, themself(LI)).then_refused(NotMemberError, volunteer_id=LI)
    left.when(c.JoinTeam(team_id=SQUAD, volunteer_id=LI), themself(LI)).then(a(e.TeamMemberJoined))


def test_a_dissolved_team_has_no_members_left() -> None:
    """S036"""
    outcome = given(COUNTY).when(c.DissolveTeam(team_id=SQUAD, reason="too_few"), ORGANISER)
    left = [a(e.TeamMemberLeft, volunteer_id=v, reason="team_dissolved") for v in sorted((LI, WANG, ZHAO))]
    outcome.then(*left, a(e.TeamDissolved, reason="too_few", merged_into_id=None))
    assert outcome.history.state(SQUAD).members == frozenset()


def test_in_a_merger_everybody_moves_and_those_in_both_teams_stay_once() -> None:
    """S036"""
    both = fact(e.TeamMemberJoined, BASE_SQUAD, volunteer_id=WANG, relayed=False)
    outcome = given(COUNTY, both).when(
        c.DissolveTeam(team_id=SQUAD, reason="merged", merged_into_id=BASE_SQUAD)
    )
    left = [a(e.TeamMemberLeft, volunteer_id=v, reason="team_merged") for v in sorted((LI, WANG, ZHAO))]
    joined = [
        a(e.TeamMemberJoined, originator_id=BASE_SQUAD, volunteer_id=v, relayed=True)
        for v in sorted((LI, ZHAO))
    ]
    outcome.then(*left, *joined, a(e.TeamDissolved, merged_into_id=BASE_SQUAD))
    assert outcome.history.state(BASE_SQUAD).members == {LI, WANG, ZHAO, SUN}


def test_in_a_merger_those_who_withdrew_leave_but_join_nothing() -> None:
    """S036, L05"""
    withdrew = fact(e.VolunteerWithdrew, LI, reason="own_wish")
    merge = c.DissolveTeam(team_id=SQUAD, reason="merged", merged_into_id=BASE_SQUAD)
    merged = given(COUNTY, withdrew).after(merge)
    assert merged.state(BASE_SQUAD).members == {WANG, ZHAO, SUN}


def test_a_team_is_not_dissolved_twice_nor_merged_into_itself_or_one_out_of_reach() -> None:
    dissolve = c.DissolveTeam(team_id=SQUAD, reason="too_few")
    given(COUNTY, DISSOLVED).when(dissolve).then_refused(NotAllowedNowError, status="dissolved")
    into = dissolve.model_copy(update={"merged_into_id": SQUAD})
    given(COUNTY).when(into).then_refused(TeamShapeError)
    away = dissolve.model_copy(update={"merged_into_id": BASE_SQUAD})
    given(COUNTY).when(away, ORGANISER).then_refused(OutsideSubtreeError, unit_id=BASE)
    gone = fact(e.TeamDissolved, BASE_SQUAD, reason="too_few", merged_into_id=None)
    given(COUNTY, gone).when(away).then_refused(NotAllowedNowError, action="merge")
    given(COUNTY).when(dissolve, by("clerk", "organiser", OTHER_INSTITUTE)).then_refused(OutsideSubtreeError)
