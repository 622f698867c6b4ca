"""A schema allows what the ledger writes, and nothing that the ledger would not read."""

import dataclasses
import json
from pathlib import Path
from typing import Any, ClassVar
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from ledger.brokers import Topic
from ledger.cloudevents import Message, message_of
from ledger.codec import canonical_json, decode
from ledger.contract import INTEGER_MAX, envelope_schema, headers_schema, schema_of, schemas, written
from ledger.errors import UnreadableFactError
from ledger.events import EVENT_TYPES, UnitRenamed
from ledger.evolution import evolution_problems
from ledger.groupcommit import Row
from ledger.relay_position import RelayPosition
from tests.contract import valid
from tests.county import LEDGER_ID, County, sample_steps
from tests.relay.test_cloudevents import A_FACT, FACTS
from tests.test_golden import SEALED

SCHEMAS = schemas()
ENVELOPE, HEADERS = envelope_schema(), headers_schema()


def schema_for(fact: Row) -> dict[str, Any]:
    return SCHEMAS[f"{fact.topic}.v{json.loads(fact.state)['class_version']}"]


def headers_of(message: Message) -> dict[str, str]:
    return {name: text.decode() for name, text in message.headers}


# --- what the ledger writes is valid ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SCHEMAS)
def test_every_schema_is_one_and_of_the_kind_whose_changes_can_be_judged(name: str) -> None:
    schema = SCHEMAS[name]
    Draft202012Validator.check_schema(schema)
    assert schema["$id"] == f"urn:wenming:schema:{name}"
    assert evolution_problems(schema, schema) == []
    assert schema["description"]


@pytest.mark.parametrize("fact", FACTS, ids=lambda fact: fact.topic)
def test_every_golden_fact_and_its_message_are_valid(fact: Row) -> None:
    message = message_of(LEDGER_ID, fact)
    value, headers = json.loads(message.value), headers_of(message)
    assert valid(schema_for(fact), json.loads(fact.state))
    assert valid(ENVELOPE, value)
    assert valid(HEADERS, headers)
    assert (value.keys(), headers.keys()) == (ENVELOPE["properties"].keys(), HEADERS["properties"].keys())


def test_every_fact_of_a_county_and_its_message_are_valid(sqlite_url: str) -> None:
    county = County(sqlite_url)
    county.tell(sample_steps())
    facts = list(county.log.read(1, county.log.head().size))
    county.close()
    assert len({fact.topic for fact in facts}) > 20
    for fact in facts:
        message = message_of(LEDGER_ID, fact)
        assert valid(schema_for(fact), json.loads(fact.state)), fact.topic
        assert valid(ENVELOPE, json.loads(message.value)), fact.topic
        assert valid(HEADERS, headers_of(message)), fact.topic


@given(st.sampled_from(FACTS), st.integers(1, INTEGER_MAX), st.integers(1, 2**31 - 1), st.uuids(), st.uuids())
def test_every_message_is_valid(fact: Row, position: int, version: int, stream: UUID, ledger: UUID) -> None:
    message = message_of(ledger, Row(position, stream, version, fact.topic, fact.state, fact.leaf_hash))
    assert valid(ENVELOPE, json.loads(message.value))
    assert valid(HEADERS, headers_of(message))


@given(st.sampled_from([None, *FACTS]), st.integers(1, INTEGER_MAX), st.uuids(), st.integers(1, 1_000))
def test_every_position_of_a_relay_is_valid(
    fact: Row | None, position: int, some_id: UUID, partitions: int
) -> None:
    last = None if fact is None else dataclasses.replace(fact, position=position)
    found = RelayPosition.behind(LEDGER_ID, last, Topic("events", some_id, partitions), some_id)
    record = json.loads(found.to_bytes())
    assert valid(SCHEMAS["relay_position.v1"], record)
    assert record.keys() == SCHEMAS["relay_position.v1"]["properties"].keys()
    assert not valid(SCHEMAS["relay_position.v1"], record | {"position": -1})


# --- and nothing else is ---------------------------------------------------------------------------------------------


def readable(fact: Row, state: dict[str, Any]) -> bool:
    """Whether the ledger takes a changed state for a fact."""
    try:
        decode(fact.topic, fact.stream_id, fact.version, canonical_json(state))
    except (UnreadableFactError, TypeError):  # numbers beyond 53 bits have no written form
        return False
    return True


@pytest.mark.parametrize("fact", FACTS, ids=lambda fact: fact.topic)
def test_a_fact_without_one_of_its_fields_is_not_valid(fact: Row) -> None:
    state = json.loads(fact.state)
    assert set(schema_for(fact)["required"]) == state.keys()
    for name in state:
        assert not valid(schema_for(fact), {n: v for n, v in state.items() if n != name}), name


@pytest.mark.parametrize("fact", FACTS, ids=lambda fact: fact.topic)
def test_what_a_later_program_adds_is_passed_over(fact: Row) -> None:
    assert valid(schema_for(fact), json.loads(fact.state) | {"more": {"than": ["expected"]}})
    assert valid(ENVELOPE, json.loads(message_of(LEDGER_ID, fact).value) | {"traceparent": "00-1-2-03"})


NUMBERS = st.sampled_from([0, 1, -1, 2, 5, 2**31, INTEGER_MAX, -INTEGER_MAX, INTEGER_MAX + 1, 0.5])
TEXTS = st.sampled_from(
    [
        "",
        "a",
        "own_wish\n",
        "Own wish",
        "王小明",
        SEALED,
        SEALED + "=",
        "s1.",
        "s1." + "A" * 16_381,
        "s1." + "A" * 16_382,
        "x" * 64,
        "x" * 65,
        "2026-03-05",
        "2026-03-05T06:00:00.000000Z",
        "2026-03-05T06:00:00Z",
        "2026-03-05T14:00:00.000000+08:00",
        str(LEDGER_ID),
        str(LEDGER_ID).upper(),
        f"{{{LEDGER_ID}}}",
        "machine",
        "5f" * 32,
        "5F" * 32,
        "2026-74WKJ-E9S74-R",
        "2026-74wkj-e9s74-r",
    ]
)
VALUES = st.none() | st.booleans() | NUMBERS | TEXTS | st.text(max_size=70) | st.just([]) | st.just({})


@given(st.sampled_from(FACTS), VALUES, st.data())
def test_a_changed_fact_is_valid_if_and_only_if_the_ledger_could_have_written_it(
    fact: Row, value: Any, data: st.DataObject
) -> None:
    state = json.loads(fact.state)
    state[data.draw(st.sampled_from(sorted(state)))] = value
    assert valid(schema_for(fact), state) == readable(fact, state)


RULE_BOOK = next(fact for fact in FACTS if fact.topic == "rulebook.published")


@given(st.data())
def test_no_rule_book_that_the_ledger_reads_is_refused(data: st.DataObject) -> None:
    """One way only: that its values fit each other (tiers that rise …) is more than a schema can say."""
    state = json.loads(RULE_BOOK.state)
    name = data.draw(st.sampled_from(sorted(state["book"])))
    state["book"][name] = data.draw(VALUES | st.lists(NUMBERS, max_size=3) | st.lists(TEXTS, max_size=3))
    assert valid(schema_for(RULE_BOOK), state) or not readable(RULE_BOOK, state)


@pytest.mark.parametrize("name", [*ENVELOPE["properties"]])
def test_a_message_with_a_wrong_attribute_or_without_it_is_not_valid(name: str) -> None:
    message = message_of(LEDGER_ID, A_FACT)
    value, headers = json.loads(message.value), headers_of(message)
    assert not valid(ENVELOPE, {n: v for n, v in value.items() if n != name})
    for wrong in (None, "", "-", 0, [], {}):
        assert not valid(ENVELOPE, value | {name: wrong}), wrong
    if f"ce_{name}" in headers:
        assert not valid(HEADERS, {n: v for n, v in headers.items() if n != f"ce_{name}"})
        assert not valid(HEADERS, headers | {f"ce_{name}": "-"})


# --- earlier shapes --------------------------------------------------------------------------------------------------


class UnitRenamedAgain(UnitRenamed):
    """An event that has moved on."""

    class_version: ClassVar[int] = 2


def test_an_earlier_shape_keeps_the_schema_it_had(tmp_path: Path) -> None:
    was = schema_of(UnitRenamed, 1)
    (tmp_path / "unit.renamed.v1.json").write_bytes(written(was))
    assert schema_of(UnitRenamedAgain, 1, tmp_path) == was
    assert schema_of(UnitRenamedAgain, 2, tmp_path)["properties"]["class_version"]["const"] == 2


def test_an_earlier_shape_whose_schema_was_lost_is_noticed(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"unit\.renamed\.v1\.json"):
        schema_of(UnitRenamedAgain, 1, tmp_path)


def test_every_event_has_a_schema() -> None:
    assert {schema["title"] for schema in SCHEMAS.values()} >= {event.__name__ for event in EVENT_TYPES}
