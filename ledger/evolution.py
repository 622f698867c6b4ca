"""What a change of a published JSON Schema would break.

Messages are kept for good and their readers are not ours, so only one change is free: a further field that may be
absent. Everything else is told in a sentence, and belongs into a new version. This judges the part of JSON Schema that
`ledger.contract` writes, and says so where it meets another.
"""

import json
from collections.abc import Iterator, Mapping
from typing import Any

Schema = Mapping[str, Any]

_ANNOTATIONS = frozenset({"$comment", "default", "deprecated", "description", "examples", "title"})
"""What a schema says to people: free to change."""
_STRUCTURE = frozenset({"additionalProperties", "anyOf", "items", "properties", "required"})
_LOWER = frozenset({"minItems", "minLength", "minimum"})
_UPPER = frozenset({"maxItems", "maxLength", "maximum"})
_WHOLE = frozenset({"$id", "$schema", "const", "enum", "format", "pattern", "type"})
"""Keywords whose value either is the same or is another."""
_NULL = {"type": "null"}


def evolution_problems(old: Schema, new: Schema) -> list[str]:
    """What ``new`` breaks that ``old`` promised, a sentence each; empty if it only adds fields that may be absent.

    Without a problem, whatever ``new`` allows is allowed by ``old`` too, for a program that reads with the old schema;
    and the messages of yesterday, which have only the fields of ``old``, are valid under ``new``.
    """
    return list(_compared(old, new, ""))


def _compared(old: Any, new: Any, at: str) -> Iterator[str]:
    if not isinstance(old, Mapping) or not isinstance(new, Mapping):
        if _differ(old, new):
            yield f"{_named(at)} is allowed otherwise than before: {_text(old)}, now {_text(new)}."
        return
    (old, old_null), (new, new_null) = _without_null(old), _without_null(new)
    if new_null and not old_null:
        yield f"{_named(at)} may be null now."
    if old_null and not new_null:
        yield f"{_named(at)} may not be null any more, but earlier messages have null there."
    for keyword in sorted((old.keys() | new.keys()) - _ANNOTATIONS - _STRUCTURE):
        yield from _keyword(keyword, old, new, at)
    yield from _alternatives(old, new, at)
    yield from _items(old, new, at)
    yield from _fields(old, new, at)


def _without_null(schema: Schema) -> tuple[Schema, bool]:
    """What a schema says of values that are not null, and whether null is one of its alternatives."""
    branches = schema.get("anyOf")
    if not isinstance(branches, list) or schema.keys() - _ANNOTATIONS != {"anyOf"}:
        return schema, False
    rest = [branch for branch in branches if _differ(branch, _NULL)]
    if len(rest) == len(branches) or not rest:
        return schema, False
    only = rest[0]
    return (only if len(rest) == 1 and isinstance(only, Mapping) else {"anyOf": rest}), True


# --- one keyword -----------------------------------------------------------------------------------------------------


def _keyword(keyword: str, old: Schema, new: Schema, at: str) -> Iterator[str]:
    was, now = old.get(keyword), new.get(keyword)
    if keyword not in _WHOLE | _LOWER | _UPPER:
        yield f"{_named(at)} is described with {keyword}, which this comparison cannot judge."
    elif keyword not in old or keyword not in new or _differ(was, now):
        if keyword == "enum" and isinstance(was, list) and isinstance(now, list):
            yield from _values(was, now, at)
        elif keyword in _LOWER | _UPPER:
            yield _bound(keyword, was, now, at)
        else:
            yield f"{_named(at)} has another {keyword}: {_text(was)} before, {_text(now)} now."


def _values(was: list[Any], now: list[Any], at: str) -> Iterator[str]:
    before, after = ({_text(value) for value in values} for values in (was, now))
    if more := after - before:
        yield f"{_named(at)} has values that no reader knows yet: {', '.join(sorted(more))}."
    if fewer := before - after:
        yield f"{_named(at)} lacks values that earlier messages have: {', '.join(sorted(fewer))}."


def _bound(keyword: str, was: Any, now: Any, at: str) -> str:
    wider = was is not None and (now is None or (now < was) == (keyword in _LOWER))
    what = "allows more than readers expect" if wider else "allows less than earlier messages have"
    return f"{_named(at)} {what}: {keyword} {_text(was)} before, {_text(now)} now."


# --- what lies inside ------------------------------------------------------------------------------------------------


def _alternatives(old: Schema, new: Schema, at: str) -> Iterator[str]:
    was, now = old.get("anyOf", []), new.get("anyOf", [])
    if len(was) != len(now) or any(evolution_problems(a, b) for a, b in zip(was, now, strict=True)):
        yield f"{_named(at)} has other alternatives (anyOf) than before."


def _items(old: Schema, new: Schema, at: str) -> Iterator[str]:
    yield from _compared(old.get("items", True), new.get("items", True), f"{at}[]")


def _fields(old: Schema, new: Schema, at: str) -> Iterator[str]:
    was, now = old.get("properties", {}), new.get("properties", {})
    needed, needed_now = set(old.get("required", [])), set(new.get("required", []))
    others, others_now = old.get("additionalProperties", True), new.get("additionalProperties", True)
    yield from _compared(others, others_now, f"{at}.*")
    for name in sorted(was.keys() | now.keys() | needed | needed_now):
        field = f"{at}.{name}"
        if name in was and name not in now:
            yield f"{_named(field)} is gone; a field is never removed or renamed."
        elif name in now and name not in was:
            yield from _added(now[name], others, name in needed | needed_now, field)
        else:
            yield from _compared(was.get(name, True), now.get(name, True), field)
            if name in needed - needed_now:
                yield f"{_named(field)} may be absent now, but readers count on it."
            if name in needed_now - needed:
                yield f"{_named(field)} is required now, but earlier messages may lack it."


def _added(field: Any, others: Any, needed: bool, at: str) -> Iterator[str]:
    """Free where the old schema was open and nothing needs the field."""
    if needed:
        yield f"{_named(at)} is new and required, but earlier messages lack it."
    if others is False:
        yield f"{_named(at)} is new, but the old schema allows no further fields."
    elif others is not True:
        yield from _compared(others, field, at)


# --- words -----------------------------------------------------------------------------------------------------------


def _differ(one: Any, other: Any) -> bool:
    """By how they are written: in JSON true is not 1."""
    return _text(one) != _text(other)


def _text(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, sort_keys=True)


def _named(at: str) -> str:
    return f"The field {at.removeprefix('.')}" if at else "The whole"
