"""Volunteers by id: when they came, where they belong, what categories they declared. No names (design, decision 9)."""

from sqlalchemy import func, select

from ledger.events import VolunteerCategoryDeclared, VolunteerEnrolled, VolunteerWithdrew
from projections.facts import facts_of
from projections.projection import Projection, latest

changes = facts_of("volunteer_changes", VolunteerEnrolled, VolunteerWithdrew)
declared = facts_of("declared_categories", VolunteerCategoryDeclared)

volunteers = Projection(
    name="volunteers",
    version=1,
    select=select(
        changes.c.volunteer_id,
        latest(changes.c.volunteer_number, changes.c.position).label("volunteer_number"),
        latest(changes.c.home_unit_id, changes.c.position).label("home_unit_id"),
        func.min(changes.c.recorded_at).label("enrolled_at"),
        func.count().filter(changes.c.topic == VolunteerWithdrew.TOPIC).label("withdrawn"),
    ).group_by(changes.c.volunteer_id),
)
"""Everybody enrolled, with their public number and home unit."""

volunteer_categories = Projection(
    name="volunteer_categories",
    version=1,
    select=select(declared.c.volunteer_id, declared.c.category, func.count().label("declared")).group_by(
        declared.c.volunteer_id, declared.c.category
    ),
)
"""The categories of S040–S042 each volunteer declared."""
