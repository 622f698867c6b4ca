"""Facts are for ever: every shape a fact ever had is kept as bytes in `tests/golden` and must still be readable.

So is what was promised about each shape, as a JSON Schema in `tests/golden/schemas`. A golden file is never edited.
`python -m tests.test_golden` writes the ones that are missing and touches no other.
"""

import hashlib
import json
import typing
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any, ClassVar, Literal
from uuid import UUID, uuid5

import pytest
import rfc8785

from ledger import events, merkle
from ledger.codec import EVENTS_BY_TOPIC, decode, encode, upcast
from ledger.contract import schemas, written
from ledger.errors import UnreadableFactError
from ledger.events import EVENT_TYPES, Fact, PublicName
from ledger.evolution import evolution_problems
from ledger.rulebook import RuleBook, default_rulebook

FOLDER = Path(__file__).parent / "golden"
SCHEMAS = FOLDER / "schemas"
SHAPES = ("full", "min")
"""``full``: every field has a value; ``min``: what may be null is null, what may be small is smallest."""

ROOT = UUID("7d1f7f0e-2f63-4c57-9b1d-0a4f6f2f6a51")
HAPPENED_AT = datetime(2026, 3, 5, 6, 0, tzinfo=UTC)
RECORDED_AT = datetime(2026, 3, 5, 9, 0, 0, 250_001, tzinfo=UTC)
SEALED = "s1.S2VlcCB0aGlzIHNlY3JldA"


# --- what the files promise ------------------------------------------------------------------------------------------


def golden_files() -> list[Path]:
    return sorted(FOLDER.glob("*.json"))


def load(path: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads(path.read_text("utf-8"))
    return loaded


def read(golden: dict[str, Any]) -> Fact:
    return decode(
        golden["topic"], UUID(golden["stream_id"]), golden["version"], golden["state"].encode("utf-8")
    )


def independent_leaf(golden: dict[str, Any]) -> bytes:
    """The leaf of audit.md, written down a second time with nothing but hashlib."""
    topic = golden["topic"].encode("ascii")
    entry = b"volunteer-ledger/event/v1\x00"
    entry += bytes.fromhex(golden["stream_id"].replace("-", ""))
    entry += golden["version"].to_bytes(8, "big")
    entry += len(topic).to_bytes(2, "big") + topic
    entry += hashlib.sha256(golden["state"].encode("utf-8")).digest()
    return hashlib.sha256(b"\x00" + entry).digest()


each_file = pytest.mark.parametrize("path", golden_files(), ids=lambda path: path.stem)


def test_every_version_of_every_event_has_both_files_and_no_file_is_left_over() -> None:
    expected = {
        f"{event.TOPIC}.v{version}.{shape}.json"
        for event in EVENT_TYPES
        for version in range(1, event.class_version + 1)
        for shape in SHAPES
    }
    assert {path.name for path in FOLDER.iterdir() if path != SCHEMAS} == expected


@each_file
def test_a_file_is_named_for_what_it_holds(path: Path) -> None:
    golden = load(path)
    assert set(golden) == {"topic", "class_version", "stream_id", "version", "state", "leaf_hash"}
    assert path.stem.rsplit(".", 1)[0] == f"{golden['topic']}.v{golden['class_version']}"
    assert json.loads(golden["state"])["class_version"] == golden["class_version"]


@each_file
def test_it_is_read_and_written_again_to_the_same_bytes(path: Path) -> None:
    golden = load(path)
    fact = read(golden)
    assert (type(fact).TOPIC, str(fact.originator_id), fact.originator_version) == (
        golden["topic"],
        golden["stream_id"],
        golden["version"],
    )
    if golden["class_version"] == type(fact).class_version:
        assert encode(fact).decode("utf-8") == golden["state"]
    else:  # an old shape: what it was upcast to is a fact of today
        assert decode(fact.TOPIC, fact.originator_id, fact.originator_version, encode(fact)) == fact


@each_file
def test_its_state_is_what_rfc_8785_would_write(path: Path) -> None:
    state = load(path)["state"]
    assert rfc8785.dumps(json.loads(state)).decode("utf-8") == state


@each_file
def test_its_leaf_is_the_one_computed_by_hand(path: Path) -> None:
    golden = load(path)
    leaf = merkle.leaf_hash(
        UUID(golden["stream_id"]).bytes,
        golden["version"],
        golden["topic"].encode(),
        golden["state"].encode("utf-8"),
    )
    assert leaf.hex() == golden["leaf_hash"] == independent_leaf(golden).hex()


@each_file
def test_full_has_no_null_and_min_has_one_wherever_it_may(path: Path) -> None:
    golden = load(path)
    fields = json.loads(golden["state"])
    if path.stem.endswith(".full"):
        assert None not in fields.values()
    elif golden["class_version"] == EVENTS_BY_TOPIC[golden["topic"]].class_version:
        assert {name for name, value in fields.items() if value is None} == nullable_fields(golden["topic"])


@each_file
def test_a_state_with_one_more_space_or_one_field_less_is_refused(path: Path) -> None:
    golden = load(path)
    spaced = {**golden, "state": golden["state"].replace(":", ": ", 1)}
    fields = json.loads(golden["state"])
    del fields["recorded_at"]
    cut = {**golden, "state": rfc8785.dumps(fields).decode("utf-8")}
    for changed in (spaced, cut):
        with pytest.raises(UnreadableFactError):
            read(changed)


def nullable_fields(topic: str) -> set[str]:
    """The fields that may be null, read off the class as it is today."""
    fields = EVENTS_BY_TOPIC[topic].model_fields.items()
    return {name for name, field in fields if type(None) in typing.get_args(field.annotation)}


# --- what was promised about them ------------------------------------------------------------------------------------


TODAY = schemas()


@pytest.mark.parametrize("name", TODAY)
def test_every_promise_about_a_shape_is_kept(name: str) -> None:
    golden = SCHEMAS / f"{name}.json"
    if not golden.exists():
        pytest.fail(
            f"{golden.name} is not in tests/golden/schemas; uv run python -m tests.test_golden writes it"
        )
    assert evolution_problems(load(golden), TODAY[name]) == []


def test_no_promise_is_forgotten() -> None:
    assert {path.stem for path in SCHEMAS.iterdir()} <= TODAY.keys()


# --- old shapes ------------------------------------------------------------------------------------------------------


class BenchMoved(Fact):
    """A fact that only this test knows, in its third shape: v1 had hours, v2 minutes, v3 adds who carried it."""

    TOPIC = "bench.moved"
    STREAM = "bench"
    class_version: ClassVar[int] = 3
    minutes: int
    name: PublicName
    carried_by_id: UUID | None

    @staticmethod
    def upcast_v1_v2(fields: dict[str, Any]) -> None:
        fields["minutes"] = fields.pop("hours") * 60

    @staticmethod
    def upcast_v2_v3(fields: dict[str, Any]) -> None:
        fields["carried_by_id"] = None


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> BenchMoved:
    """A fact of the newest shape, whose class the codec knows for the length of one test."""
    monkeypatch.setitem(typing.cast("dict[str, type[Fact]]", EVENTS_BY_TOPIC), BenchMoved.TOPIC, BenchMoved)
    return BenchMoved(**stamp("bench.moved", "full"), minutes=120, name="长椅", carried_by_id=None)


def written_as(bench: BenchMoved, class_version: Any, **own: Any) -> bytes:
    """The canonical state of the same fact in another shape."""
    fields: dict[str, Any] = json.loads(encode(bench))
    for name in ("minutes", "name", "carried_by_id"):
        del fields[name]
    return rfc8785.dumps({**fields, **own, "class_version": class_version})


def decoded(bench: BenchMoved, state: bytes) -> Fact:
    return decode(bench.TOPIC, bench.originator_id, bench.originator_version, state)


def test_every_older_shape_is_brought_to_the_newest_one_step_at_a_time(bench: BenchMoved) -> None:
    assert decoded(bench, written_as(bench, 1, hours=2, name="长椅")) == bench
    assert decoded(bench, written_as(bench, 2, minutes=120, name="长椅")) == bench
    assert decoded(bench, written_as(bench, 3, minutes=120, name="长椅", carried_by_id=None)) == bench


def test_a_shape_from_the_future_or_none_at_all_is_refused(bench: BenchMoved) -> None:
    for strange in (4, 0, -1, True, None, "1"):
        with pytest.raises(UnreadableFactError):
            decoded(bench, written_as(bench, strange, minutes=120, name="长椅", carried_by_id=None))


def test_an_old_shape_under_a_new_number_is_refused(bench: BenchMoved) -> None:
    with pytest.raises(UnreadableFactError):
        decoded(bench, written_as(bench, 2, hours=2, name="长椅"))
    with pytest.raises(UnreadableFactError):
        decoded(bench, written_as(bench, 3, minutes=120, name="长椅"))


def test_an_old_shape_must_be_canonical_too(bench: BenchMoved) -> None:
    state = written_as(bench, 1, hours=2, name="长椅")
    with pytest.raises(UnreadableFactError):
        decoded(bench, state.replace(b'"hours":2', b'"hours": 2'))


def test_upcasting_the_newest_shape_changes_nothing() -> None:
    fields: dict[str, Any] = {"minutes": 5}
    upcast(BenchMoved, fields, 3)
    assert fields == {"minutes": 5}


@pytest.mark.parametrize("event", EVENT_TYPES, ids=lambda event: event.TOPIC)
def test_every_older_version_of_an_event_has_its_upcast(event: type[Fact]) -> None:
    steps = [f"upcast_v{version}_v{version + 1}" for version in range(1, event.class_version)]
    assert [name for name in vars(event) if name.startswith("upcast_")] == steps


# --- writing the missing ones ----------------------------------------------------------------------------------------

Shape = Literal["full", "min"]

SPECIAL: dict[tuple[str, Shape], dict[str, object]] = {
    ("unit.established", "full"): {
        "kind": "base",
        "division_code": "620523100",
        "department": "culture_bureau",
    },
    ("team.formed", "full"): {"kind": "civic", "category": "five_elders"},
    ("session.recorded", "full"): {"source_class": "backfilled", "late": True},
    ("entry.posted", "full"): {"minutes": -140, "services": -1, "source_class": "backfilled"},
    ("entry.posted", "min"): {"minutes": 1, "services": 0},
    ("correction.requested", "full"): {"kind": "amend"},
    ("correction.requested", "min"): {"kind": "reverse"},
    ("rating.credited", "full"): {"score": -5, "ratings": -1},
    ("rating.credited", "min"): {"score": 1, "ratings": 1},
    ("order.rated", "full"): {"score": 5},
    ("order.rating_withdrawn", "full"): {"score": 5},
}
"""Values that make a golden fact one that could have happened, where the field alone does not say it."""


def stamp(topic: str, shape: str) -> events.Stamp:
    full = shape == "full"
    return events.Stamp(
        originator_id=uuid5(ROOT, topic),
        originator_version=41_207 if full else 1,
        happened_at=HAPPENED_AT,
        recorded_at=RECORDED_AT if full else HAPPENED_AT,
        command_id=uuid5(ROOT, "command"),
        caller_id=uuid5(ROOT, "caller"),
    )


def sample(event: type[Fact], shape: Shape) -> Fact:
    """A fact of ``event`` with a value for every own field."""
    hints = typing.get_type_hints(event, include_extras=True)
    own = [name for name in event.model_fields if name not in Fact.model_fields]
    values = {name: sample_value(name, hints[name], shape) for name in own}
    fields = {**stamp(event.TOPIC, shape), **values, **SPECIAL.get((event.TOPIC, shape), {})}
    return event.model_validate(fields)


def sample_value(name: str, hint: Any, shape: Shape) -> object:
    full, choices = shape == "full", typing.get_args(hint)
    if type(None) in choices:
        (inner,) = (choice for choice in choices if choice is not type(None))
        return sample_value(name, inner, shape) if full else None
    if typing.get_origin(hint) is Literal:
        return choices[-1] if full else choices[0]
    if hint == events.Instant:
        later = name in ("ended_at", "wanted_until", "expires_at")
        return HAPPENED_AT + timedelta(hours=2) if later else HAPPENED_AT
    plain: dict[object, tuple[object, object]] = {
        events.Sealed: (SEALED, "s1.A"),
        events.Code: ("own_wish.v2-b", "a"),
        events.CertificateNumber: ("2026-74WKJ-E9S74-R", "2026-00000-00000-H"),
        events.Digest: ("5f" * 32, "00" * 32),
        events.VerifierKeyText: (
            "ledger.example/gangu+4d3c2b1a+AeHjNyWJHJLlLkwnsp1zRZ8ZXvDk8Rm3cEHmQ8A9ZCyA",
            "a+00000000+AQAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA",
        ),
        events.SignedText: ("账本\n41207\n\n— ledger.example/gangu AAECAw==\n", "a"),
        events.PublicName: ("大像山镇新时代文明实践所 “家门口”\\/é𠮷", "所"),
        UUID: (uuid5(ROOT, name), uuid5(ROOT, name)),
        date: (date(2026, 3, 5), date(2026, 1, 1)),
        bool: (True, False),
        int: (1_000 if name == "rulebook_version" else 7, 2 if name == "revision" else 1),
        RuleBook: (default_rulebook(), smallest_rulebook()),
    }
    return plain[hint][0 if full else 1]


def smallest_rulebook() -> RuleBook:
    """A book with one star and no lists, each value with a source."""
    values: dict[str, Any] = dict.fromkeys(
        (
            "day_minutes_free",
            "day_minutes_parent",
            "day_minutes_max",
            "session_minutes_min",
            "session_minutes_max",
            "offer_hours",
            "rating_max",
        ),
        1,
    )
    values |= {"star_minutes": (1,), "record_working_days": 0, "rating_min": 0}
    for name in RuleBook.model_fields.keys() - values.keys() - {"sources"}:
        values[name] = ()
    return RuleBook(**values, sources=dict.fromkeys(values, "a test"))


def golden_of(fact: Fact) -> dict[str, Any]:
    golden = {
        "topic": fact.TOPIC,
        "class_version": type(fact).class_version,
        "stream_id": str(fact.originator_id),
        "version": fact.originator_version,
        "state": encode(fact).decode("utf-8"),
    }
    return {**golden, "leaf_hash": independent_leaf(golden).hex()}


def write_missing(folder: Path) -> list[str]:
    """Write the files of today's event versions that are not there yet; the names of those written."""
    written = []
    for event in EVENT_TYPES:
        for shape in typing.get_args(Shape):
            path = folder / f"{event.TOPIC}.v{event.class_version}.{shape}.json"
            if not path.exists():
                text = json.dumps(golden_of(sample(event, shape)), ensure_ascii=False, indent=1)
                path.write_text(text + "\n", "utf-8")
                written.append(path.name)
    return written


def write_missing_schemas(folder: Path) -> list[str]:
    """Write the schemas that are not there yet, as they are today; the names of those written."""
    missing = {name: schema for name, schema in TODAY.items() if not (folder / f"{name}.json").exists()}
    for name, schema in missing.items():
        (folder / f"{name}.json").write_bytes(written(schema))
    return list(missing)


def test_the_writer_adds_what_is_missing_and_touches_nothing_else(tmp_path: Path) -> None:
    kept = tmp_path / "unit.renamed.v1.full.json"
    kept.write_text("as it was")
    assert len(write_missing(tmp_path)) == 2 * len(EVENT_TYPES) - 1
    assert kept.read_text() == "as it was"
    assert write_missing(tmp_path) == []


def test_the_writer_of_schemas_touches_nothing_else_either(tmp_path: Path) -> None:
    kept = tmp_path / "unit.renamed.v1.json"
    kept.write_text("as it was")
    assert len(write_missing_schemas(tmp_path)) == len(TODAY) - 1
    assert kept.read_text() == "as it was"
    assert write_missing_schemas(tmp_path) == []


if __name__ == "__main__":
    for file_name in [*write_missing(FOLDER), *write_missing_schemas(SCHEMAS)]:
        print(file_name)
