"""Who has served how long?"""

from sqlalchemy import Connection, Text, func, select

from ledger.events import EntryPosted
from projections.facts import facts_of
from projections.projection import Projection

entries = facts_of("entries", EntryPosted)
month = func.substr(entries.c.served_on, 1, 7, type_=Text()).label("month")
minutes = func.sum(entries.c.minutes).label("minutes")
services = func.sum(entries.c.services).label("services")

volunteer_hours = Projection(
    name="volunteer_hours",
    version=1,
    select=select(entries.c.volunteer_id, entries.c.source_class, minutes, services).group_by(
        entries.c.volunteer_id, entries.c.source_class
    ),
)
"""Minutes and services of each volunteer by source class (T24)."""

volunteer_months = Projection(
    name="volunteer_months",
    version=1,
    select=select(
        entries.c.volunteer_id, month, entries.c.unit_id, entries.c.source_class, minutes, services
    ).group_by(entries.c.volunteer_id, month, entries.c.unit_id, entries.c.source_class),
)
"""The same by month and by the unit served: what rankings are made from (T34)."""

volunteer_kinds = Projection(
    name="volunteer_kinds",
    version=1,
    select=select(entries.c.volunteer_id, entries.c.activity_kind, minutes, services).group_by(
        entries.c.volunteer_id, entries.c.activity_kind
    ),
)
"""By kind of activity (S061)."""

unit_months = Projection(
    name="unit_months",
    version=1,
    select=select(
        entries.c.unit_id, month, entries.c.source_class, entries.c.activity_kind, minutes, services
    ).group_by(entries.c.unit_id, month, entries.c.source_class, entries.c.activity_kind),
)
"""Minutes served for each unit by month, class and kind."""


def hours_of(connection: Connection, volunteer_id: str) -> dict[str, tuple[int, int]]:
    """Minutes and services of one volunteer by source class, as the live table has them."""
    table = volunteer_hours.table()
    rows = connection.execute(
        select(table.c.source_class, table.c.minutes, table.c.services).where(
            table.c.volunteer_id == volunteer_id
        )
    )
    return {row.source_class: (row.minutes, row.services) for row in rows}
