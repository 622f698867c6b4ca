"""A message says its fact, whole and unchanged, to anybody who reads CloudEvents."""

from uuid import UUID

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger.cloudevents import message_of, received
from ledger.errors import MessageMalformedError, UnreadableFactError
from ledger.groupcommit import Row
from ledger.merkle import leaf_hash
from tests.county import LEDGER_ID
from tests.test_golden import golden_files, load


def row(golden: dict[str, object], position: int = 7) -> Row:
    """A golden fact at some position."""
    stream_id, version = UUID(str(golden["stream_id"])), int(str(golden["version"]))
    topic, state = str(golden["topic"]), str(golden["state"]).encode()
    return Row(
        position,
        stream_id,
        version,
        topic,
        state,
        leaf_hash(stream_id.bytes, version, topic.encode(), state),
    )


FACTS = [row(load(path)) for path in golden_files()]
A_FACT = next(fact for fact in FACTS if fact.topic == "entry.posted")


@pytest.mark.parametrize("fact", FACTS, ids=lambda fact: fact.topic)
def test_every_fact_comes_out_of_its_message_as_it_is_stored(fact: Row) -> None:
    found = received(message_of(LEDGER_ID, fact).value)
    assert (found.ledger_id, found.fact) == (LEDGER_ID, fact)


@pytest.mark.parametrize("fact", FACTS, ids=lambda fact: fact.topic)
def test_the_stored_text_travels_byte_for_byte(fact: Row) -> None:
    assert message_of(LEDGER_ID, fact).value.startswith(b'{"data":' + fact.state + b",")


def test_a_message_has_what_cloudevents_asks_for_in_value_and_headers() -> None:
    message = message_of(LEDGER_ID, A_FACT)
    value, headers = orjson.loads(message.value), dict(message.headers)
    assert headers.pop("content-type").startswith(b"application/cloudevents+json")
    own = {"leafhash", "partitionkey", "streamid", "streamversion"}
    assert {f"ce_{name}" for name in value.keys() - own - {"data", "datacontenttype"}} == headers.keys()
    assert all(value[name.removeprefix("ce_")] == text.decode() for name, text in headers.items())
    assert value["specversion"] == "1.0"
    assert value["id"] == f"{A_FACT.stream_id}.{A_FACT.version}"
    assert value["source"] == f"urn:uuid:{LEDGER_ID}"
    assert value["type"] == "entry.posted.v1"
    assert value["dataschema"] == "urn:wenming:schema:entry.posted.v1"
    assert value["sequence"] == "00000000000000000007"
    assert value["time"] == orjson.loads(A_FACT.state)["happened_at"]
    assert all(name.isalnum() and name.islower() and len(name) <= 20 for name in value)


def test_the_key_is_the_volunteer_whom_a_fact_is_about_else_its_stream() -> None:
    for fact in FACTS:
        volunteer = orjson.loads(fact.state).get("volunteer_id")
        assert message_of(LEDGER_ID, fact).key == str(volunteer or fact.stream_id).encode()
    assert any(orjson.loads(fact.state).get("volunteer_id") for fact in FACTS)


def test_a_topic_that_no_event_has_is_not_sent() -> None:
    with pytest.raises(UnreadableFactError) as refused:
        message_of(LEDGER_ID, Row(9, A_FACT.stream_id, 1, "entry.forgotten", b"{}", b""))
    assert refused.value.details["position"] == 9


def test_what_a_newer_program_adds_is_passed_over() -> None:
    value = orjson.loads(message_of(LEDGER_ID, A_FACT).value)
    assert received(orjson.dumps(value | {"traceparent": "00-1-2-03"})).fact == A_FACT


@given(st.binary(max_size=300))
def test_bytes_that_are_no_message_are_never_taken_for_one(value: bytes) -> None:
    with pytest.raises(MessageMalformedError):
        received(value)


@given(st.sampled_from(FACTS), st.data())
def test_any_change_to_what_is_hashed_is_noticed(fact: Row, data: st.DataObject) -> None:
    value = orjson.loads(message_of(LEDGER_ID, fact).value)
    change = data.draw(
        st.sampled_from(
            [
                {"streamversion": fact.version + 1},
                {"streamid": str(LEDGER_ID)},
                {"type": "entry.posted.v1" if fact.topic != "entry.posted" else "order.rated.v1"},
                {"data": value["data"] | {"caller_id": str(LEDGER_ID)}},
                {"data": value["data"] | {"more": 1}},
                {"leafhash": "00" * 32},
                {"sequence": "-"},
                {"source": "elsewhere"},
                {"data": None},
            ]
        )
    )
    with pytest.raises(MessageMalformedError):
        received(orjson.dumps(value | change))


@given(st.sampled_from(FACTS), st.integers(1, 2**53), st.uuids())
def test_order_as_text_is_order_by_position(fact: Row, position: int, ledger_id: UUID) -> None:
    one = Row(position, fact.stream_id, fact.version, fact.topic, fact.state, fact.leaf_hash)
    two = Row(position + 1, fact.stream_id, fact.version, fact.topic, fact.state, fact.leaf_hash)
    values = [orjson.loads(message_of(ledger_id, fact).value) for fact in (one, two)]
    assert values[0]["sequence"] < values[1]["sequence"]
    assert received(message_of(ledger_id, one).value).fact.position == position
