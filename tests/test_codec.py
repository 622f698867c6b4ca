"""Stored bytes that are not exactly what we would write are refused in our own words, whatever they are."""

import re
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID, uuid4

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger import codec
from ledger.codec import decode, encode
from ledger.errors import UnreadableFactError
from ledger.events import Fact, UnitRenamed

NOW = datetime(2026, 3, 1, tzinfo=UTC)
STREAM = uuid4()
FACT = UnitRenamed(
    originator_id=STREAM,
    originator_version=1,
    happened_at=NOW,
    recorded_at=NOW,
    command_id=uuid4(),
    caller_id=UUID("abcdef00-0000-4000-8000-000000000001"),
    name="站",
)
STATE = encode(FACT)

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=10,
)


@given(st.binary(max_size=60))
def test_no_bytes_crash_the_reader(state: bytes) -> None:
    with pytest.raises(UnreadableFactError):
        decode("unit.renamed", STREAM, 1, state)


@given(st.sampled_from(sorted(orjson.loads(STATE))), json_values)
def test_a_field_with_any_other_value_is_read_or_refused(field: str, value: object) -> None:
    changed = {**orjson.loads(STATE), field: value}
    try:
        state = orjson.dumps(changed, option=orjson.OPT_SORT_KEYS)
    except TypeError:
        return
    try:
        fact = decode("unit.renamed", STREAM, 1, state)
    except UnreadableFactError:
        return
    assert encode(fact) == state


@pytest.mark.parametrize(
    "state",
    [
        STATE.replace(b'"name":', b'"name": '),
        STATE.replace(b'"class_version":1', b'"class_version":1180591620717411303424'),
        STATE.replace(b'"class_version":1', b'"class_version":9007199254740993'),
        STATE.replace(b'"class_version":1', b'"class_version":2'),
        STATE.replace(b'"class_version":1', b'"class_version":true'),
        STATE.replace(b"000000Z", b"000000+00:00"),
        STATE.replace(b"abcdef00", b"ABCDEF00"),
        STATE[:-1] + b',"originator_id":"x"}',
        b"[" * 2000 + b"]" * 2000,
        b'{"class_version":1' + b',"name":' + b"[" * 500 + b"]" * 500 + b"}",
    ],
    ids=range(10),
)
def test_another_written_form_is_refused(state: bytes) -> None:
    with pytest.raises(UnreadableFactError):
        decode("unit.renamed", STREAM, 1, state)


def test_a_number_beyond_what_json_holds_exactly_is_refused() -> None:
    golden = orjson.loads((Path(__file__).parent / "golden" / "entry.posted.v1.full.json").read_bytes())
    state = golden["state"].encode()
    large = re.sub(rb'"minutes":-?[0-9]+', b'"minutes":9007199254740993', state)
    assert large != state
    with pytest.raises(UnreadableFactError):
        decode("entry.posted", UUID(golden["stream_id"]), golden["version"], large)


def test_an_older_version_keeps_its_written_form_where_no_upcast_touched_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Newer(UnitRenamed):
        class_version = 2
        reason: str

        @staticmethod
        def upcast_v1_v2(fields: dict[str, object]) -> None:
            fields["reason"] = "unknown"

    known: dict[str, type[Fact]] = {**codec.EVENTS_BY_TOPIC, "unit.renamed": Newer}
    monkeypatch.setattr(codec, "EVENTS_BY_TOPIC", known)
    fact = decode("unit.renamed", STREAM, 1, STATE)
    assert isinstance(fact, Newer)
    assert fact.reason == "unknown"
    with pytest.raises(UnreadableFactError):
        decode("unit.renamed", STREAM, 1, STATE.replace(b"abcdef00", b"ABCDEF00"))
