"""How a state is written: a pattern for each event, so that a state that matches need not be decoded to be believed.

A pattern says less than `ledger.codec` accepts, never more; what none covers is decoded in full.
"""

import re
from collections.abc import Mapping
from datetime import date
from functools import cache
from typing import Any, Literal, get_args, get_origin
from uuid import UUID

import orjson
from pydantic.fields import FieldInfo

from ledger.codec import EVENTS_BY_TOPIC
from ledger.events import Code, Fact, Instant, PublicName, Sealed
from ledger.plain import UUID_TEXT

_DAY_TEXT = (
    "[12][0-9]{3}-(?:(?:0[1-9]|1[0-2])-(?:0[1-9]|1[0-9]|2[0-8])"
    "|(?:0[13-9]|1[0-2])-(?:29|30)|(?:0[13578]|1[02])-31)"
)
INSTANT_TEXT = f"{_DAY_TEXT}T(?:[01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9]\\.[0-9]{{6}}Z"
is_uuid = re.compile(UUID_TEXT).fullmatch
is_instant = re.compile(INSTANT_TEXT).fullmatch
_WRITTEN: tuple[tuple[Any, str], ...] = (
    (UUID, f'"{UUID_TEXT}"'),
    (Instant, f'"{INSTANT_TEXT}"'),
    (date, f'"{_DAY_TEXT}"'),
    (bool, "(?:true|false)"),
    (type(None), "null"),
    (Sealed, r'"s1\.[A-Za-z0-9_-]{1,16381}"'),
    (Code, '"[a-z0-9][a-z0-9_.-]{0,63}"'),
    (PublicName, r'"[^\x00-\x1f\x7f<>"\\]{1,60}"'),
)
"""Kinds of field and a regular expression for (most of) what `codec.encode` writes for them."""


@cache
def written_forms() -> Mapping[str, re.Pattern[str]]:
    """By topic, a pattern of states that are sure to be sound; see `written_form`."""
    forms = {topic: written_form(event_class) for topic, event_class in EVENTS_BY_TOPIC.items()}
    return {topic: form for topic, form in forms.items() if form is not None}


def written_form(event_class: type[Fact]) -> re.Pattern[str] | None:
    """A pattern of whole states of a fact class; its groups are caller_id, command_id and recorded_at.

    Whatever it matches, `codec.decode` accepts and `codec.encode` writes again letter for letter, so a state that
    matches need not be decoded (which takes seven times as long). It need not match everything: the 29th of February,
    a name with quotation marks or an older class version is decoded. None for a class with fields it cannot describe.
    """
    decorators = event_class.__pydantic_decorators__
    if decorators.model_validators or decorators.field_validators:
        return None
    patterns: dict[str, str | None] = {"class_version": str(event_class.class_version)}
    for name, field in event_class.model_fields.items():
        if name not in ("originator_id", "originator_version"):
            patterns[name] = _written(field)
    for name in ("caller_id", "command_id"):
        patterns[name] = f'"({UUID_TEXT})"'
    patterns["recorded_at"] = f'"({INSTANT_TEXT})"'
    if None in patterns.values():
        return None
    return re.compile(r"\{" + ",".join(f'"{name}":{patterns[name]}' for name in sorted(patterns)) + r"\}")


def _written(field: FieldInfo) -> str | None:
    """The pattern for one field's values, or None if there is none for its kind."""
    for kind, pattern in _WRITTEN:
        if _kind(FieldInfo.from_annotation(kind)) == _kind(field):
            return pattern
    if field.annotation is int:
        return _written_number(field.metadata)
    if field.metadata:
        return None
    if get_origin(field.annotation) is Literal:
        return f"(?:{'|'.join(re.escape(orjson.dumps(v).decode()) for v in get_args(field.annotation))})"
    options = [_written(FieldInfo.from_annotation(kind)) for kind in get_args(field.annotation)]
    patterns = [option for option in options if option is not None]
    return f"(?:{'|'.join(patterns)})" if patterns and len(patterns) == len(options) else None


def _kind(field: FieldInfo) -> tuple[object, str]:
    return field.annotation, repr(field.metadata)


def _written_number(bounds: list[Any]) -> str | None:
    """Whole numbers of up to 15 digits, from a lower bound of 0 to 9 or between two small bounds."""
    low = next((bound.ge for bound in bounds if hasattr(bound, "ge")), None)
    high = next((bound.le for bound in bounds if hasattr(bound, "le")), None)
    if len(bounds) != (low is not None) + (high is not None):
        return None
    if low is not None and high is not None and high - low < 10:
        return f"(?:{'|'.join(str(number) for number in range(low, high + 1))})"
    if high is None and low is not None and 0 <= low <= 9:
        return f"(?:[{low}-9]|[1-9][0-9]{{1,14}})"
    return None if bounds else "(?:0|-?[1-9][0-9]{0,14})"
