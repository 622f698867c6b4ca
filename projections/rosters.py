"""Teams and who belongs to them (S029–S036, T03, T04)."""

from typing import Any

from sqlalchemy import func, select

from ledger.events import (
    TeamDissolved,
    TeamFormed,
    TeamLeaderAppointed,
    TeamMemberJoined,
    TeamMemberLeft,
    TeamSponsorAssigned,
)
from projections.facts import facts_of
from projections.moment import Moment
from projections.people import volunteers
from projections.projection import Projection, latest

changes = facts_of("team_changes", TeamFormed, TeamLeaderAppointed, TeamDissolved)
moves = facts_of("team_moves", TeamMemberJoined, TeamMemberLeft)
sponsorships = facts_of("team_sponsorships", TeamSponsorAssigned)

teams = Projection(
    name="teams",
    version=1,
    select=select(
        changes.c.team_id,
        latest(changes.c.kind, changes.c.position).label("kind"),
        latest(changes.c.category, changes.c.position).label("category"),
        latest(changes.c.name, changes.c.position).label("name"),
        latest(changes.c.unit_id, changes.c.position).label("unit_id"),
        latest(changes.c.parent_team_id, changes.c.position).label("parent_team_id"),
        latest(changes.c.leader_id, changes.c.position).label("leader_id"),
        func.count().filter(changes.c.topic == TeamDissolved.TOPIC).label("dissolved"),
    ).group_by(changes.c.team_id),
)
"""Each team with its kind, place and leader."""

roster = Projection(
    name="roster",
    version=1,
    select=select(
        moves.c.team_id,
        moves.c.volunteer_id,
        func.count().filter(moves.c.topic == TeamMemberJoined.TOPIC).label("joined"),
        func.count().filter(moves.c.topic == TeamMemberLeft.TOPIC).label("left_count"),
        func.max(moves.c.happened_at).filter(moves.c.topic == TeamMemberJoined.TOPIC).label("joined_at"),
        func.max(moves.c.happened_at).filter(moves.c.topic == TeamMemberLeft.TOPIC).label("left_at"),
    ).group_by(moves.c.team_id, moves.c.volunteer_id),
)
"""Who joined and left which team; a member is somebody who joined more often than they left."""

team_sponsors = Projection(
    name="team_sponsors",
    version=1,
    select=select(
        sponsorships.c.team_id,
        sponsorships.c.department,
        sponsorships.c.role,
        func.count().label("assigned"),
    ).group_by(sponsorships.c.team_id, sponsorships.c.department, sponsorships.c.role),
)
"""Which department leads or partners a team (S032)."""


def members(moment: Moment, team_id: str) -> list[dict[str, Any]]:
    """The team's members by number: ids, numbers, home units, and since when; no names."""
    table, people = roster.table(), volunteers.table()
    return moment.rows(
        select(table.c.volunteer_id, people.c.volunteer_number, people.c.home_unit_id, table.c.joined_at)
        .join(people, people.c.volunteer_id == table.c.volunteer_id)
        .where(table.c.team_id == team_id, table.c.joined > table.c.left_count)
        .order_by(people.c.volunteer_number, table.c.volunteer_id)
    )
