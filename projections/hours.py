"""Who has served how long?"""

from typing import Any

from sqlalchemy import Text, func, select

from ledger.events import EntryPosted
from projections.facts import facts_of
from projections.moment import Moment
from projections.projection import Projection

entries = facts_of("entries", EntryPosted)
month = func.substr(entries.c.served_on, 1, 7, type_=Text()).label("month")
"""Of the local day served: ``2026-03``."""
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

volunteer_days = Projection(
    name="volunteer_days",
    version=1,
    select=select(
        entries.c.volunteer_id,
        entries.c.served_on,
        entries.c.unit_id,
        entries.c.source_class,
        minutes,
        services,
    ).group_by(entries.c.volunteer_id, entries.c.served_on, entries.c.unit_id, entries.c.source_class),
)
"""The same by local day and by the unit served: what months, periods and rankings are made from (T34)."""

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


def hours_of(moment: Moment, volunteer_id: str) -> list[dict[str, Any]]:
    """Minutes and services of one volunteer by source class."""
    table = volunteer_hours.table()
    return moment.rows(
        select(table.c.source_class, table.c.minutes, table.c.services)
        .where(table.c.volunteer_id == volunteer_id)
        .order_by(table.c.source_class)
    )


def months_of(moment: Moment, volunteer_id: str) -> list[dict[str, Any]]:
    """Minutes and services of one volunteer by month and source class."""
    table = volunteer_days.table()
    by = (func.substr(table.c.served_on, 1, 7, type_=Text()).label("month"), table.c.source_class)
    return moment.rows(
        select(*by, func.sum(table.c.minutes).label("minutes"), func.sum(table.c.services).label("services"))
        .where(table.c.volunteer_id == volunteer_id)
        .group_by(*by)
        .order_by(*by)
    )


def kinds_of(moment: Moment, volunteer_id: str) -> list[dict[str, Any]]:
    """Minutes and services of one volunteer by kind of activity."""
    table = volunteer_kinds.table()
    return moment.rows(
        select(table.c.activity_kind, table.c.minutes, table.c.services)
        .where(table.c.volunteer_id == volunteer_id)
        .order_by(table.c.activity_kind)
    )
