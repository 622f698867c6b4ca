"""Who stands where? The committee's star ranking (T34, S091), with everything needed to check each row by hand.

A ranking is a question, not a fact: minutes against the thresholds of a rule book. Granting a star is for people.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from fractions import Fraction
from typing import Any

from sqlalchemy import ColumnElement, Select, func, select, true

from ledger.archive import Archive
from ledger.errors import UnknownUnitError
from ledger.events import SourceClass
from ledger.log import LedgerLog
from ledger.rulebook import Edition, local_day
from projections import replay
from projections.engine import facts_in_store
from projections.hours import entries, volunteer_days, volunteer_hours
from projections.moment import Moment
from projections.people import volunteers
from projections.ratings import volunteer_ratings
from projections.units import subtree, units

TIE_RULE = {
    "zh": "计入时长多者在前；时长相同者名次并列，下一名次顺延（1、2、2、4），并列者按志愿者编号排列。",
    "en": "More counted minutes first; equal minutes share a rank and the next rank is skipped (1, 2, 2, 4); "
    "equals are listed by volunteer number.",
}
"""Printed with every ranking."""

ALL_CLASSES: tuple[SourceClass, ...] = ("machine", "confirmed", "backfilled", "imported")
FIGURES = (volunteer_days, volunteer_hours, volunteer_ratings, volunteers, units)

days, totals, ratings, people = (
    figure.table() for figure in (volunteer_days, volunteer_hours, volunteer_ratings, volunteers)
)


@dataclass(frozen=True)
class Terms:
    """What is counted and who is listed; every term is optional.

    ``first_on`` … ``last_on``: local days served, both included. ``unit_id``: served for that unit or any below it.
    ``rating_min`` with ``ratings_min``: only those whose mean is at least that, over at least so many ratings.
    ``minutes_min``: at least so many counted minutes. ``star``: only those who stand at exactly that star.
    """

    first_on: date | None = None
    last_on: date | None = None
    unit_id: str | None = None
    source_classes: tuple[SourceClass, ...] = ALL_CLASSES
    rating_min: Decimal | None = None
    ratings_min: int = 0
    minutes_min: int = 1
    star: int | None = None
    limit: int = 100


@dataclass(frozen=True)
class Standing:
    """One row. ``star_minutes`` are the person's minutes of the counted classes in the whole county since they began.

    ``entry_ids`` are the entries, reversals among them, whose minutes add up to ``minutes``.
    """

    rank: int
    volunteer_id: str
    volunteer_number: str
    withdrawn: bool
    minutes: int
    services: int
    minutes_by_class: Mapping[str, int]
    rating_sum: int
    ratings: int
    star_minutes: int
    star: int
    entry_ids: tuple[str, ...]

    @property
    def rating_mean(self) -> str | None:
        """To two decimals, half up, for people; comparisons use the exact fraction."""
        if not self.ratings:
            return None
        return str((Decimal(self.rating_sum) / self.ratings).quantize(Decimal("0.01"), "ROUND_HALF_UP"))


@dataclass(frozen=True)
class Ranking:
    """Rows with all they rest on: the position, the terms, the rule book and the tie rule."""

    position: int
    judged_on: date
    terms: Terms
    rulebook_version: int
    star_thresholds: tuple[int, ...]
    tie_rule: Mapping[str, str]
    qualified: int
    rows: tuple[Standing, ...]


def star_ranking(
    log: LedgerLog,
    terms: Terms,
    position: int | None = None,
    *,
    effective_on: date | None = None,
    judged_on: date | None = None,
    archive: Archive | None = None,
) -> Ranking:
    """The ranking now, or as of ``position`` / ``effective_on``.

    Stars are told by the edition in force on ``judged_on``; left out, on ``effective_on`` or else on the local day
    of the last fact. The unit tree is the one of the same moment.
    """
    with replay.at(log, FIGURES, position, effective_on=effective_on, archive=archive) as moment:
        reached = moment.position
        day = judged_on or effective_on or local_day(replay.recorded_at(log, reached))
        edition = replay.edition_on(log, day, reached)
        found = _ranked(_qualified(moment, terms, edition))
        listed = found[: terms.limit]
        behind = _entries_behind(log, moment, terms, [row["volunteer_id"] for row in listed], effective_on)
    rows = tuple(_standing(row, behind.get(row["volunteer_id"], ())) for row in listed)
    book = edition.book
    return Ranking(
        reached, day, terms, edition.version, book.star_minutes, TIE_RULE, qualified=len(found), rows=rows
    )


def _counted(terms: Terms, inside: set[str] | None) -> ColumnElement[bool]:
    """Which rows of `volunteer_days` the terms count."""
    condition: ColumnElement[bool] = days.c.source_class.in_(terms.source_classes)
    if terms.first_on:
        condition &= days.c.served_on >= terms.first_on.isoformat()
    if terms.last_on:
        condition &= days.c.served_on <= terms.last_on.isoformat()
    if inside is not None:
        condition &= days.c.unit_id.in_(sorted(inside))
    return condition


def _inside(moment: Moment, terms: Terms) -> set[str] | None:
    if terms.unit_id is None:
        return None
    table = units.table()
    tree = moment.rows(select(table.c.unit_id, table.c.parent_id))
    if not any(row["unit_id"] == terms.unit_id for row in tree):
        raise UnknownUnitError(id=terms.unit_id)
    return subtree(tree, terms.unit_id)


def _question(terms: Terms, inside: set[str] | None) -> Select[Any]:
    by_class = [
        func.sum(days.c.minutes).filter(days.c.source_class == source).label(f"minutes_{source}")
        for source in ALL_CLASSES
    ]
    counted = (
        select(
            days.c.volunteer_id,
            func.sum(days.c.minutes).label("minutes"),
            func.sum(days.c.services).label("services"),
            *by_class,
        )
        .where(_counted(terms, inside))
        .group_by(days.c.volunteer_id)
        .having(func.sum(days.c.minutes) >= terms.minutes_min)
        .subquery()
    )
    whole = (
        select(totals.c.volunteer_id, func.sum(totals.c.minutes).label("star_minutes"))
        .where(totals.c.source_class.in_(terms.source_classes))
        .group_by(totals.c.volunteer_id)
        .subquery()
    )
    return (
        select(
            counted,
            whole.c.star_minutes,
            people.c.volunteer_number,
            people.c.withdrawn,
            func.coalesce(ratings.c.score, 0).label("rating_sum"),
            func.coalesce(ratings.c.ratings, 0).label("ratings"),
        )
        .select_from(counted)
        .join(whole, whole.c.volunteer_id == counted.c.volunteer_id)
        .join(people, people.c.volunteer_id == counted.c.volunteer_id)
        .outerjoin(ratings, ratings.c.volunteer_id == counted.c.volunteer_id)
        .where(func.coalesce(ratings.c.ratings, 0) >= terms.ratings_min if terms.ratings_min else true())
    )


def _qualified(moment: Moment, terms: Terms, edition: Edition) -> list[dict[str, Any]]:
    rows = moment.rows(_question(terms, _inside(moment, terms)))
    for row in rows:
        row["star"] = edition.book.star_of(row["star_minutes"])
    return [row for row in rows if _rated_enough(row, terms) and terms.star in (None, row["star"])]


def _rated_enough(row: Mapping[str, Any], terms: Terms) -> bool:
    if terms.rating_min is None:
        return True
    return row["ratings"] > 0 and Fraction(row["rating_sum"], row["ratings"]) >= Fraction(terms.rating_min)


def _ranked(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """In order, with standard competition ranks; `TIE_RULE` says the same in words."""
    rows.sort(key=lambda row: (-row["minutes"], row["volunteer_number"], row["volunteer_id"]))
    rank, before = 0, None
    for place, row in enumerate(rows, start=1):
        if row["minutes"] != before:
            rank, before = place, row["minutes"]
        row["rank"] = rank
    return rows


def _entries_behind(
    log: LedgerLog, moment: Moment, terms: Terms, listed: Sequence[str], effective_on: date | None
) -> dict[str, tuple[str, ...]]:
    """The entry ids behind each listed row, in the order of the log."""
    inside = _inside(moment, terms)
    wanted = (
        entries.c.volunteer_id,
        entries.c.entry_id,
        entries.c.served_on,
        entries.c.unit_id,
        entries.c.source_class,
    )
    found: dict[str, list[str]] = {}
    for row in facts_in_store(log, wanted, moment.position, listed, replay.end_of(effective_on)):
        volunteer_id, entry_id, served_on, unit_id, source_class = row
        if (
            source_class in terms.source_classes
            and (terms.first_on is None or served_on >= terms.first_on.isoformat())
            and (terms.last_on is None or served_on <= terms.last_on.isoformat())
            and (inside is None or unit_id in inside)
        ):
            found.setdefault(volunteer_id, []).append(entry_id)
    return {volunteer: tuple(entry_ids) for volunteer, entry_ids in found.items()}


def _standing(row: Mapping[str, Any], entry_ids: tuple[str, ...]) -> Standing:
    return Standing(
        rank=row["rank"],
        volunteer_id=row["volunteer_id"],
        volunteer_number=row["volunteer_number"],
        withdrawn=bool(row["withdrawn"]),
        minutes=int(row["minutes"]),
        services=int(row["services"]),
        minutes_by_class={s: int(row[f"minutes_{s}"] or 0) for s in ALL_CLASSES},
        rating_sum=int(row["rating_sum"]),
        ratings=int(row["ratings"]),
        star_minutes=int(row["star_minutes"]),
        star=row["star"],
        entry_ids=entry_ids,
    )
