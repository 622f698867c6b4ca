"""The tree of units, at any moment (S012–S018, T01, T02)."""

from collections.abc import Iterable, Mapping
from typing import Any

from sqlalchemy import func, select

from ledger.events import UnitEstablished, UnitMoved, UnitRenamed, UnitRoleAssigned, UnitRoleEnded
from projections.facts import facts_of
from projections.moment import Moment
from projections.projection import Projection, latest

changes = facts_of("unit_changes", UnitEstablished, UnitRenamed, UnitMoved)
posts = facts_of("unit_posts", UnitRoleAssigned, UnitRoleEnded)

units = Projection(
    name="units",
    version=1,
    select=select(
        changes.c.unit_id,
        latest(changes.c.kind, changes.c.position).label("kind"),
        latest(changes.c.name, changes.c.position).label("name"),
        latest(changes.c.parent_id, changes.c.position).label("parent_id"),
        latest(changes.c.division_code, changes.c.position).label("division_code"),
        latest(changes.c.department, changes.c.position).label("department"),
    ).group_by(changes.c.unit_id),
)
"""Each unit with its latest name and parent."""

unit_roles = Projection(
    name="unit_roles",
    version=1,
    select=select(
        posts.c.unit_id,
        posts.c.role,
        posts.c.person_id,
        func.count().filter(posts.c.topic == UnitRoleAssigned.TOPIC).label("assigned"),
        func.count().filter(posts.c.topic == UnitRoleEnded.TOPIC).label("ended"),
        func.max(posts.c.happened_at).label("changed_at"),
    ).group_by(posts.c.unit_id, posts.c.role, posts.c.person_id),
)
"""Who was put in which post how often; somebody holds it who was put there more often than out of it."""


def subtree(rows: Iterable[Mapping[str, Any]], root: str) -> set[str]:
    """The unit ``root`` and everything below it, in a unit table of one moment."""
    children: dict[str, list[str]] = {}
    for row in rows:
        children.setdefault(row["parent_id"] or "", []).append(row["unit_id"])
    inside, open_ = {root}, [root]
    while open_:
        for child in children.get(open_.pop(), []):
            inside.add(child)
            open_.append(child)
    return inside


def holders(moment: Moment) -> dict[str, list[dict[str, str]]]:
    """Who holds which post, by unit."""
    table = unit_roles.table()
    held: dict[str, list[dict[str, str]]] = {}
    query = select(table.c.unit_id, table.c.role, table.c.person_id).where(table.c.assigned > table.c.ended)
    for row in moment.rows(query.order_by(table.c.unit_id, table.c.role, table.c.person_id)):
        held.setdefault(row["unit_id"], []).append({"role": row["role"], "person_id": row["person_id"]})
    return held
