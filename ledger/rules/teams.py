"""Teams on two axes, by level and by kind of member, and who belongs to them (S029–S036, T03, T04)."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal
from uuid import UUID

from ledger import ids
from ledger.commands import (
    AppointTeamLeader,
    AssignTeamSponsor,
    Command,
    DissolveTeam,
    FormTeam,
    JoinTeam,
    LeaveTeam,
)
from ledger.errors import (
    AlreadyExistsError,
    AlreadyMemberError,
    NotAllowedNowError,
    NotMemberError,
    TeamShapeError,
    VolunteerWithdrawnError,
)
from ledger.events import (
    Fact,
    TeamDissolved,
    TeamFormed,
    TeamKind,
    TeamLeaderAppointed,
    TeamMemberJoined,
    TeamMemberLeft,
    TeamSponsorAssigned,
    UnitKind,
)
from ledger.rulebook import local_day
from ledger.rules.case import Case

UNIT_KINDS: Mapping[TeamKind, frozenset[UnitKind]] = {
    "corps": frozenset({"centre"}),
    "professional": frozenset({"centre"}),
    "branch": frozenset({"institute"}),
    "squad": frozenset({"station", "base"}),
    "civic": frozenset({"centre", "institute", "station", "base"}),
}
PARENT_KINDS: Mapping[TeamKind, frozenset[TeamKind | None]] = {
    "corps": frozenset({None}),
    "professional": frozenset({"corps"}),
    "branch": frozenset({"corps"}),
    "squad": frozenset({"branch", "corps"}),
    "civic": frozenset({None, "corps", "branch", "squad"}),
}


@dataclass(frozen=True, slots=True)
class Team:
    """A team as it stands."""

    id: UUID
    version: int
    kind: TeamKind
    unit_id: UUID
    leader_id: UUID | None = None
    members: frozenset[UUID] = frozenset()
    sponsors: frozenset[tuple[str, str]] = frozenset()
    dissolved: bool = False
    stream: Literal["team"] = "team"

    def require_active(self, action: str) -> None:
        if self.dissolved:
            raise NotAllowedNowError(status="dissolved", action=action, allowed=[])


def form(command: FormTeam, case: Case) -> list[Fact]:
    """One corps a county, one branch or squad a unit, one professional or civic team a category."""
    unit = case.unit(command.unit_id)
    case.require_staff(unit.id, "steering", "organiser")
    team_id = ids.team_id(case.ledger_id, command.kind, command.unit_id, command.category)
    if case.exists(team_id):
        raise AlreadyExistsError(what=f"{command.kind} team", id=team_id)
    parent = case.team(command.parent_team_id) if command.parent_team_id else None
    book = case.edition_on(local_day(case.now)).book
    if parent is not None:
        parent.require_active("form_below")
    allowed = {"professional": book.professional_categories, "civic": book.civic_categories}.get(command.kind)
    shape_fits = (
        unit.kind in UNIT_KINDS[command.kind]
        and (parent.kind if parent else None) in PARENT_KINDS[command.kind]
        and (parent is None or parent.unit_id in case.line_of(unit.id))
        and (command.category in allowed if allowed is not None else command.category is None)
    )
    if not shape_fits:
        raise TeamShapeError(kind=command.kind, category=command.category, allowed=list(allowed or ()))
    return [
        TeamFormed(
            **case.stamp(team_id),
            kind=command.kind,
            category=command.category,
            name=command.name,
            unit_id=command.unit_id,
            parent_team_id=command.parent_team_id,
        )
    ]


def assign_sponsor(command: AssignTeamSponsor, case: Case) -> list[Fact]:
    """A team has one lead (牵头) and any number of partners (配合) (S032)."""
    team = case.team(command.team_id)
    case.require_staff(team.unit_id, "steering", "organiser")
    team.require_active("assign_sponsor")
    if (command.department, command.role) in team.sponsors:
        return []
    if command.role == "lead" and any(role == "lead" for _, role in team.sponsors):
        raise AlreadyExistsError(what="lead sponsor", id=team.id)
    return [TeamSponsorAssigned(**case.stamp(team.id), department=command.department, role=command.role)]


def appoint_leader(command: AppointTeamLeader, case: Case) -> list[Fact]:
    """Leaders are ex officio (S029, S033, S034): a person, whether or not they volunteer."""
    team = case.team(command.team_id)
    case.require_staff(team.unit_id, "steering", "organiser")
    team.require_active("appoint_leader")
    if team.leader_id == command.leader_id:
        return []
    return [
        TeamLeaderAppointed(
            **case.stamp(team.id), leader_id=command.leader_id, previous_leader_id=team.leader_id
        )
    ]


def join(command: JoinTeam, case: Case) -> list[Fact]:
    """By the volunteer, or by staff of the team's unit who enter their wish (flagged ``relayed``)."""
    team, volunteer = case.team(command.team_id), case.volunteer(command.volunteer_id)
    relayed = case.caller.person_id != volunteer.id
    if relayed:
        case.require_staff(team.unit_id, "organiser")
    team.require_active("join")
    if volunteer.withdrawn:
        raise VolunteerWithdrawnError(volunteer_id=volunteer.id)
    if volunteer.id in team.members:
        raise AlreadyMemberError(volunteer_id=volunteer.id)
    return [TeamMemberJoined(**case.stamp(team.id), volunteer_id=volunteer.id, relayed=relayed)]


def leave(command: LeaveTeam, case: Case) -> list[Fact]:
    """By the volunteer, or by staff of the team's unit with a reason."""
    team = case.team(command.team_id)
    if case.caller.person_id != command.volunteer_id:
        case.require_staff(team.unit_id, "organiser")
    if command.volunteer_id not in team.members:
        raise NotMemberError(volunteer_id=command.volunteer_id)
    return [TeamMemberLeft(**case.stamp(team.id), volunteer_id=command.volunteer_id, reason=command.reason)]


def dissolve(command: DissolveTeam, case: Case) -> list[Fact]:
    """All members leave; in a merger those who still take part and are not in the other team join it."""
    team = case.team(command.team_id)
    case.require_staff(team.unit_id, "steering", "organiser")
    team.require_active("dissolve")
    target = case.team(command.merged_into_id) if command.merged_into_id else None
    if target is not None:
        case.require_within(target.unit_id)
        target.require_active("merge")
        if target.id == team.id:
            raise TeamShapeError(kind=team.kind, category=None, allowed=[])
    reason = "team_merged" if target else "team_dissolved"
    members = sorted(team.members)
    facts: list[Fact] = [
        TeamMemberLeft(**case.stamp(team.id), volunteer_id=member, reason=reason) for member in members
    ]
    if target is not None:
        facts += [
            TeamMemberJoined(**case.stamp(target.id), volunteer_id=member, relayed=True)
            for member in members
            if member not in target.members and not case.volunteer(member).withdrawn
        ]
    facts.append(
        TeamDissolved(**case.stamp(team.id), reason=command.reason, merged_into_id=command.merged_into_id)
    )
    return facts


def evolve(state: Team | None, fact: Fact) -> Team:
    version = fact.originator_version
    if isinstance(fact, TeamFormed):
        return Team(fact.originator_id, version, fact.kind, fact.unit_id)
    assert state is not None
    match fact:
        case TeamMemberJoined():
            return replace(state, version=version, members=state.members | {fact.volunteer_id})
        case TeamMemberLeft():
            return replace(state, version=version, members=state.members - {fact.volunteer_id})
        case TeamLeaderAppointed():
            return replace(state, version=version, leader_id=fact.leader_id)
        case TeamSponsorAssigned():
            return replace(state, version=version, sponsors=state.sponsors | {(fact.department, fact.role)})
        case TeamDissolved():
            return replace(state, version=version, dissolved=True)
    return replace(state, version=version)


DECIDERS: dict[type[Command], Callable[[Any, Case], list[Fact]]] = {
    FormTeam: form,
    AssignTeamSponsor: assign_sponsor,
    AppointTeamLeader: appoint_leader,
    JoinTeam: join,
    LeaveTeam: leave,
    DissolveTeam: dissolve,
}
