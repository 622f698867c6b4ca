"""A published schema may gain fields that may be absent. Whatever else a change would break is said in a sentence."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from ledger.evolution import evolution_problems
from tests.contract import valid

Schema = dict[str, Any]
Change = Callable[[Schema], object]

OLD: Schema = {
    "$id": "urn:wenming:schema:entry.posted.v1",
    "type": "object",
    "description": "An entry.",
    "properties": {
        "minutes": {"type": "integer", "minimum": -10, "maximum": 10},
        "kind": {"type": "string", "enum": ["health", "law"]},
        "code": {"type": "string", "pattern": "^[a-z]+$"},
        "order_id": {"anyOf": [{"type": "string", "format": "uuid"}, {"type": "null"}]},
        "class_version": {"const": 1},
        "name": {"type": "string", "minLength": 1, "maxLength": 60},
        "stars": {"type": "array", "items": {"type": "integer"}, "maxItems": 5},
        "book": {"type": "object", "properties": {"hours": {"type": "integer"}}, "required": ["hours"]},
        "sources": {"type": "object", "additionalProperties": {"type": "string"}},
        "note": {"type": "string"},
    },
    "required": ["code", "kind", "minutes", "order_id"],
}


def field(name: str, *drop: str, **keywords: Any) -> Change:
    """A change of one field's schema."""

    def change(schema: Schema) -> None:
        place = schema["properties"][name]
        for keyword in drop:
            del place[keyword]
        place.update(keywords)

    return change


def after(change: Change, old: Schema = OLD) -> list[str]:
    """What the old schema's readers are told of a change."""
    new = copy.deepcopy(old)
    change(new)
    return evolution_problems(old, new)


FREE: dict[str, Change] = {
    "nothing": lambda _: None,
    "an optional field": lambda s: s["properties"].update(more={"type": "string"}),
    "an optional field within": lambda s: s["properties"]["book"]["properties"].update(more={}),
    "words for people": lambda s: s.update(description="An entry of minutes.", title="Entry"),
    "words about a field": field("minutes", description="Whole minutes."),
    "words about one that may be null": field("order_id", description="The order, if any."),
    "another order": lambda s: s.update(required=["order_id", "minutes", "kind", "code"]),
    "another order of values": field("kind", enum=["law", "health"]),
    "a further text where any text may be": lambda s: s["properties"]["sources"].update(
        properties={"more": {"type": "string"}}
    ),
}  # fmt: skip
BROKEN: dict[str, tuple[Change, list[str]]] = {
    "a field removed": (
        lambda s: s["properties"].pop("note"),
        ["The field note is gone; a field is never removed or renamed."],
    ),
    "a field renamed": (
        lambda s: s["properties"].update(remark=s["properties"].pop("note")),
        ["The field note is gone; a field is never removed or renamed."],
    ),
    "a field made nullable": (
        field("minutes", *OLD["properties"]["minutes"], anyOf=[OLD["properties"]["minutes"], {"type": "null"}]),
        ["The field minutes may be null now."],
    ),
    "a field never null any more": (
        field("order_id", "anyOf", type="string", format="uuid"),
        ["The field order_id may not be null any more, but earlier messages have null there."],
    ),
    "another type": (
        field("minutes", type="string"),
        ['The field minutes has another type: "integer" before, "string" now.'],
    ),
    "any type": (field("note", "type"), ['The field note has another type: "string" before, null now.']),
    "another pattern": (
        field("code", pattern="^[a-z_]+$"),
        ['The field code has another pattern: "^[a-z]+$" before, "^[a-z_]+$" now.'],
    ),
    "no pattern": (field("code", "pattern"), ['The field code has another pattern: "^[a-z]+$" before, null now.']),
    "a pattern where there was none": (
        field("note", pattern="^a"),
        ['The field note has another pattern: null before, "^a" now.'],
    ),
    "more values": (
        field("kind", enum=["health", "law", "relief"]),
        ['The field kind has values that no reader knows yet: "relief".'],
    ),
    "fewer values": (
        field("kind", enum=["law"]),
        ['The field kind lacks values that earlier messages have: "health".'],
    ),
    "any value": (
        field("kind", "enum"),
        ['The field kind has another enum: ["health", "law"] before, null now.'],
    ),
    "another constant": (
        field("class_version", const=2),
        ["The field class_version has another const: 1 before, 2 now."],
    ),
    "true for 1": (
        field("class_version", const=True),
        ["The field class_version has another const: 1 before, true now."],
    ),
    "a smaller minimum": (
        field("minutes", minimum=-20),
        ["The field minutes allows more than readers expect: minimum -10 before, -20 now."],
    ),
    "a larger minimum": (
        field("minutes", minimum=0),
        ["The field minutes allows less than earlier messages have: minimum -10 before, 0 now."],
    ),
    "no maximum": (
        field("minutes", "maximum"),
        ["The field minutes allows more than readers expect: maximum 10 before, null now."],
    ),
    "a maximum where there was none": (
        field("stars", items={"type": "integer", "maximum": 5}),
        ["The field stars[] allows less than earlier messages have: maximum null before, 5 now."],
    ),
    "longer text": (
        field("name", maxLength=61),
        ["The field name allows more than readers expect: maxLength 60 before, 61 now."],
    ),
    "more items": (
        field("stars", maxItems=6),
        ["The field stars allows more than readers expect: maxItems 5 before, 6 now."],
    ),
    "other items": (
        field("stars", items={"type": "string"}),
        ['The field stars[] has another type: "integer" before, "string" now.'],
    ),
    "any items": (
        field("stars", "items"),
        ['The field stars[] is allowed otherwise than before: {"type": "integer"}, now true.'],
    ),
    "a required field dropped": (
        lambda s: s["required"].remove("kind"),
        ["The field kind may be absent now, but readers count on it."],
    ),
    "a field required that was not": (
        lambda s: s["required"].append("note"),
        ["The field note is required now, but earlier messages may lack it."],
    ),
    "a new field required": (
        lambda s: (s["properties"].update(more={}), s["required"].append("more")),
        ["The field more is new and required, but earlier messages lack it."],
    ),
    "a required name without a field": (
        lambda s: s["required"].append("more"),
        ["The field more is required now, but earlier messages may lack it."],
    ),
    "a change within": (
        lambda s: s["properties"]["book"]["properties"]["hours"].update(type="number"),
        ['The field book.hours has another type: "integer" before, "number" now.'],
    ),
    "a number where any text may be": (
        lambda s: s["properties"]["sources"].update(properties={"more": {"type": "integer"}}),
        ['The field sources.more has another type: "string" before, "integer" now.'],
    ),
    "other further fields": (
        lambda s: s["properties"]["sources"].update(additionalProperties={"type": "integer"}),
        ['The field sources.* has another type: "string" before, "integer" now.'],
    ),
    "closed": (
        lambda s: s.update(additionalProperties=False),
        ["The field * is allowed otherwise than before: true, now false."],
    ),
    "another alternative": (
        field("order_id", anyOf=[{"type": "integer"}, {"type": "string"}, {"type": "null"}]),
        [
            "The field order_id has another format: \"uuid\" before, null now.",
            "The field order_id has another type: \"string\" before, null now.",
            "The field order_id has other alternatives (anyOf) than before.",
        ],
    ),
    "another name": (
        lambda s: s.update({"$id": "urn:other"}),
        ['The whole has another $id: "urn:wenming:schema:entry.posted.v1" before, "urn:other" now.'],
    ),
    "what cannot be judged": (
        lambda s: s.update(minProperties=1),
        ["The whole is described with minProperties, which this comparison cannot judge."],
    ),
    "nothing at all": (
        lambda s: s["properties"].update(note=False),
        ['The field note is allowed otherwise than before: {"type": "string"}, now false.'],
    ),
}  # fmt: skip


@pytest.mark.parametrize("change", FREE.values(), ids=FREE)
def test_what_breaks_nobody_is_free(change: Change) -> None:
    assert after(change) == []


@pytest.mark.parametrize(("change", "told"), BROKEN.values(), ids=BROKEN)
def test_what_would_break_a_reader_is_said(change: Change, told: list[str]) -> None:
    assert after(change) == told


def test_a_field_for_an_old_schema_that_allows_no_other_is_not_free() -> None:
    closed = OLD | {"additionalProperties": False}
    assert after(FREE["an optional field"], closed) == [
        "The field more is new, but the old schema allows no further fields."
    ]


def test_every_change_is_said_at_once() -> None:
    told = after(lambda s: [change(s) for change in (BROKEN["a field removed"][0], BROKEN["more values"][0])])
    assert len(told) == 2


# --- what the sentences mean -----------------------------------------------------------------------------------------

NAMES = st.sampled_from(["a", "b", "c", "d"])
PATTERNS = st.sampled_from(["^[a-z]{1,3}$", "^[a-c]{1,3}$", "^[0-9]{2}$", "^s1\\.[a-z]+$"])
SMALL = st.integers(-3, 3)


def texts() -> st.SearchStrategy[Schema]:
    patterned = PATTERNS.map(lambda pattern: {"type": "string", "pattern": pattern})
    lengths = st.tuples(st.integers(0, 2), st.integers(2, 4))
    return patterned | lengths.map(lambda two: {"type": "string", "minLength": two[0], "maxLength": two[1]})


def numbers() -> st.SearchStrategy[Schema]:
    bounds = st.fixed_dictionaries({}, optional={"minimum": st.integers(-3, 0), "maximum": st.integers(0, 3)})
    return bounds.map(lambda bounds: {"type": "integer", **bounds})


def choices() -> st.SearchStrategy[Schema]:
    values = st.lists(st.sampled_from(["law", "health", 1, True]), min_size=1, unique_by=str)
    return values.map(lambda values: {"enum": values}) | SMALL.map(lambda value: {"const": value})


def within(inner: st.SearchStrategy[Schema]) -> st.SearchStrategy[Schema]:
    """Lists, fields that may be null, and things with fields, over schemas of what lies inside."""
    nullable = inner.map(lambda schema: {"anyOf": [schema, {"type": "null"}]})
    return nullable | inner.map(lambda schema: {"type": "array", "items": schema}) | objects(inner)


@st.composite
def objects(draw: st.DrawFn, inner: st.SearchStrategy[Schema]) -> Schema:
    properties = draw(st.dictionaries(NAMES, inner, min_size=1))
    made: Schema = {"type": "object", "properties": properties}
    made["required"] = sorted(draw(st.sets(st.sampled_from(sorted(properties)))))
    others = draw(st.sampled_from([None, None, False, {"type": "integer"}]))
    return made if others is None else made | {"additionalProperties": others}


LEAVES = texts() | numbers() | choices() | st.just({"type": "boolean"})
SCHEMAS = objects(st.recursive(LEAVES, within, max_leaves=5))


def instances(schema: Any) -> st.SearchStrategy[Any]:
    """What a schema allows (of further fields, some)."""
    if "anyOf" in schema:
        return st.one_of(*map(instances, schema["anyOf"]))
    if "enum" in schema:
        return st.sampled_from(schema["enum"])
    if "const" in schema:
        return st.just(schema["const"])
    match schema.get("type"):
        case "string" if "pattern" in schema:
            return st.from_regex(schema["pattern"].replace("$", r"\Z"))
        case "string":
            return st.text(min_size=schema["minLength"], max_size=schema["maxLength"])
        case "integer":
            return st.integers(schema.get("minimum", -9), schema.get("maximum", 9))
        case "array":
            return st.lists(instances(schema["items"]), max_size=2)
        case "object":
            return things(schema)
        case kind:
            return {"boolean": st.booleans(), "null": st.none()}[kind]


def things(schema: Schema) -> st.SearchStrategy[dict[str, Any]]:
    fields = {name: instances(field) for name, field in schema["properties"].items()}
    needed = {name: fields.pop(name) for name in schema["required"]}
    others = schema.get("additionalProperties")
    if isinstance(others, dict):
        fields["further"] = instances(others)
    return st.fixed_dictionaries(needed, optional=fields)


def places(schema: Schema) -> list[Schema]:
    """The schema and every thing with fields in it."""
    inner = [*schema.get("properties", {}).values(), *schema.get("anyOf", [])]
    inner += [schema["items"]] if "items" in schema else []
    return [*([schema] if "properties" in schema else []), *(found for one in inner for found in places(one))]


@st.composite
def freely_changed(draw: st.DrawFn, old: Schema) -> Schema:
    """The schema with further optional fields and other words, where the old one is open."""
    new = copy.deepcopy(old)
    for place in draw(st.lists(st.sampled_from(places(new)), max_size=3)):
        place["description"] = draw(st.text(max_size=5))
        others = place.get("additionalProperties", True)
        if others is not False:
            name = draw(st.sampled_from(["x", "y"]))
            place["properties"].setdefault(name, draw(LEAVES) if others is True else others)
    return new


@st.composite
def changed(draw: st.DrawFn, old: Schema) -> Schema:
    """The schema with one field of it gone, renamed, new, needed, not needed, null or something else."""
    new = copy.deepcopy(old)
    place = draw(st.sampled_from(places(new)))
    properties, required = place["properties"], place["required"]
    name = draw(st.sampled_from(sorted(properties)))
    match draw(st.sampled_from(["gone", "renamed", "new", "needed", "null", "other", "others"])):
        case "gone":
            del properties[name]
        case "renamed":
            properties["x"] = properties.pop(name)
        case "new":
            properties["x"] = draw(LEAVES)
            required.append("x")
        case "needed":
            (required.remove if name in required else required.append)(name)
        case "null":
            properties[name] = {"anyOf": [properties[name], {"type": "null"}]}
        case "other":
            properties[name] = draw(LEAVES)
        case "others":
            place["additionalProperties"] = draw(st.sampled_from([True, False, {"type": "boolean"}]))
    place["required"] = sorted(set(required) & properties.keys())
    return new


def without_further(instance: Any, old: Schema) -> Any:
    """What a reader with the old schema sees: the fields it names, at every depth."""
    if "anyOf" in old:
        return instance if instance is None else without_further(instance, old["anyOf"][0])
    if isinstance(instance, list):
        return [without_further(one, old["items"]) for one in instance]
    if not isinstance(instance, dict):
        return instance
    fields = old["properties"].items()
    return {name: without_further(instance[name], field) for name, field in fields if name in instance}


@given(SCHEMAS.flatmap(lambda old: st.tuples(st.just(old), freely_changed(old) | changed(old))), st.data())
def test_without_a_problem_old_readers_take_new_messages_and_new_readers_old_ones(
    both: tuple[Schema, Schema], data: st.DataObject
) -> None:
    old, new = both
    assume(evolution_problems(old, new) == [])
    message = data.draw(instances(new))
    assert valid(old, message)
    assert valid(old, without_further(message, old))
    assert valid(new, data.draw(instances(old)))


@given(SCHEMAS.flatmap(lambda old: st.tuples(st.just(old), freely_changed(old))))
def test_fields_that_may_be_absent_are_always_free(both: tuple[Schema, Schema]) -> None:
    assert evolution_problems(*both) == []


@given(SCHEMAS.flatmap(lambda old: st.tuples(st.just(old), changed(old))), st.data())
def test_whoever_may_be_surprised_was_warned(both: tuple[Schema, Schema], data: st.DataObject) -> None:
    old, new = both
    surprised = not valid(old, data.draw(instances(new))) or not valid(new, data.draw(instances(old)))
    assert evolution_problems(old, new) if surprised else True
