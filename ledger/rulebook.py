"""The rule book: what the county decided about hours, stars and deadlines, as data with a source for each value.

Published as facts (`rulebook.published`), picked by local service day; no constant in code decides an hour.
"""

import tomllib
from bisect import bisect_right
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from functools import lru_cache
from importlib.resources import files
from typing import Annotated
from zoneinfo import ZoneInfo

from pydantic import BaseModel, ConfigDict, Field, model_validator

CHINA = ZoneInfo("Asia/Shanghai")
"""The county's civil time. Never a fixed +08:00: Shanghai kept summer time from 1986 to 1991."""


class RuleBook(BaseModel):
    """One edition of the rules; every number is whole and in the unit its name ends with."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    star_minutes: tuple[Annotated[int, Field(ge=1)], ...] = Field(min_length=1, max_length=10)
    """Minutes at which star 1, 2, 3 … stands, strictly rising (2.5, G02)."""
    day_minutes_free: int = Field(ge=1, le=1440)
    """Minutes a person may serve on one local day without approval (F02, first tier)."""
    day_minutes_parent: int = Field(ge=1, le=1440)
    """Up to here the parent unit may approve (F02, second tier)."""
    day_minutes_max: int = Field(ge=1, le=1440)
    """More than this is never recorded (F02)."""
    session_minutes_min: int = Field(ge=1, le=1440)
    session_minutes_max: int = Field(ge=1, le=1440)
    record_working_days: int = Field(ge=0, le=366)
    """Working days after the service within which record and rating are in time (L15)."""
    offer_hours: int = Field(ge=1, le=720)
    """Hours a volunteer has to answer an offer (G04)."""
    rating_min: int = Field(ge=0, le=100)
    rating_max: int = Field(ge=1, le=100)
    professional_categories: tuple[str, ...]
    """The professional teams under the corps (S031)."""
    civic_categories: tuple[str, ...]
    """The civic teams by kind of member (S035)."""
    volunteer_categories: tuple[str, ...]
    """Who may join, as categories (S040–S042)."""
    calendar_years: tuple[int, ...]
    """The years whose public holidays the two lists below know."""
    holidays: tuple[date, ...]
    """Statutory days off that would otherwise be working days."""
    makeup_workdays: tuple[date, ...]
    """Weekend days worked in exchange."""
    sources: dict[str, str]
    """Where each value comes from, by field name."""

    @model_validator(mode="after")
    def _consistent(self) -> "RuleBook":
        if list(self.star_minutes) != sorted(set(self.star_minutes)):
            raise ValueError("star_minutes must rise strictly")
        if not self.day_minutes_free <= self.day_minutes_parent <= self.day_minutes_max:
            raise ValueError("day tiers must rise")
        if self.session_minutes_min > self.session_minutes_max or self.rating_min >= self.rating_max:
            raise ValueError("a minimum stands above its maximum")
        unsourced = set(type(self).model_fields) - {"sources"} - set(self.sources)
        if unsourced:
            raise ValueError(f"no source named for: {', '.join(sorted(unsourced))}")
        return self

    def star_of(self, minutes: int) -> int:
        """The star that ``minutes`` stand at: 0 below the first threshold, else the number of thresholds reached."""
        return bisect_right(self.star_minutes, minutes)

    def is_working_day(self, day: date) -> bool:
        """Whether ``day`` is worked; beyond `calendar_years` this is the provisional Monday-to-Friday answer."""
        return _is_worked(day, _set_of(self.holidays), _set_of(self.makeup_workdays))

    def knows_calendar_of(self, day: date) -> bool:
        """False where the answer of `is_working_day` is provisional (Mon–Fri)."""
        return day.year in self.calendar_years

    def record_deadline(self, served_on: date) -> date:
        """The last local day on which a service of ``served_on`` is recorded (or rated) in time (L15)."""
        return self.working_days_after(served_on, self.record_working_days)

    def working_days_after(self, day: date, working_days: int) -> date:
        """The day on which that many working days after ``day`` have passed."""
        return _deadline(self.holidays, self.makeup_workdays, working_days, day)


# Remembered beside the book, not in it: what stands in a book is written, hashed and compared as it is.


@lru_cache(maxsize=64)
def _set_of(days: tuple[date, ...]) -> frozenset[date]:
    return frozenset(days)


@lru_cache(maxsize=8192)
def _deadline(
    holidays: tuple[date, ...], makeup_workdays: tuple[date, ...], working_days: int, served_on: date
) -> date:
    days_off, worked = _set_of(holidays), _set_of(makeup_workdays)
    day, left = served_on, working_days
    while left > 0:
        day += timedelta(days=1)
        left -= _is_worked(day, days_off, worked)
    return day


def _is_worked(day: date, holidays: frozenset[date], makeup_workdays: frozenset[date]) -> bool:
    return day in makeup_workdays or (day.weekday() < 5 and day not in holidays)


@dataclass(frozen=True)
class Edition:
    """A rule book with its version and the first local day it applies to."""

    version: int
    effective_on: date
    book: RuleBook


@dataclass(frozen=True)
class RuleBooks:
    """The whole effective-dated history; later editions win on their days."""

    editions: tuple[Edition, ...] = ()

    def on(self, day: date) -> Edition | None:
        """The edition in force on a local day; None before the first one took effect."""
        in_force = [e for e in self.editions if e.effective_on <= day]
        return max(in_force, key=lambda e: (e.effective_on, e.version)) if in_force else None

    def version(self, version: int) -> Edition | None:
        """The edition of that number, or None."""
        return next((e for e in self.editions if e.version == version), None)


def local_day(instant: datetime) -> date:
    """The calendar day of an instant in the county."""
    return instant.astimezone(CHINA).date()


def default_rulebook() -> RuleBook:
    """The edition that ships with the product, each value with its source: `ledger/data/rulebook.toml`."""
    return RuleBook.model_validate(
        tomllib.loads(files("ledger").joinpath("data/rulebook.toml").read_text("utf-8"))
    )
