"""Fact ⇄ canonical bytes.

The writing rule (audit.md, Leaf): JSON with sorted ASCII keys and no spaces, no floats, integers within ±(2^53 − 1),
every field written (null explicit), instants as fixed-width UTC. For our values that equals RFC 8785.
What is hashed is the stored bytes, so reading checks that they are exactly what writing would give:
a fact that decodes but would be written otherwise is refused.
"""

from collections.abc import Mapping
from datetime import date, datetime
from typing import Any
from uuid import UUID

import orjson
from eventsourcing.domain import DomainEventProtocol
from eventsourcing.persistence import Mapper, StoredEvent, Transcoder
from pydantic import BaseModel, ValidationError

from ledger.errors import UnreadableFactError
from ledger.events import EVENT_TYPES, Fact

EVENTS_BY_TOPIC: Mapping[str, type[Fact]] = {event.TOPIC: event for event in EVENT_TYPES}
_OPTIONS = orjson.OPT_SORT_KEYS | orjson.OPT_PASSTHROUGH_DATETIME | orjson.OPT_STRICT_INTEGER


def instant_text(instant: datetime) -> str:
    """A UTC instant as the one text form facts use: ``2026-11-23T10:00:00.000000Z``."""
    return instant.isoformat(timespec="microseconds")[:26] + "Z"


def canonical_json(value: object) -> bytes:
    """``value`` (dicts, lists, text, whole numbers, instants in UTC, days, UUIDs, models) in the one written form."""
    return orjson.dumps(value, _plain, _OPTIONS)


def _plain(value: object) -> object:
    if isinstance(value, datetime):
        return instant_text(value)
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, BaseModel):
        return value.__dict__
    raise TypeError(f"{type(value).__name__} has no written form")


def encode(fact: Fact) -> bytes:
    """The bytes that are stored and hashed for ``fact`` (its stream and version stand beside them, not in them)."""
    state = dict(fact.__dict__)
    del state["originator_id"], state["originator_version"]
    state["class_version"] = type(fact).class_version
    return canonical_json(state)


def decode(topic: str, stream_id: UUID, version: int, state: bytes) -> Fact:
    """The fact behind stored bytes, upcast to its newest class version.

    Raises `UnreadableFactError` for an unknown topic, a class version from the future, values a fact may not have,
    and bytes that are not in the one written form.
    """
    event_class = EVENTS_BY_TOPIC.get(topic)
    if event_class is None:
        raise UnreadableFactError(topic=topic, problem="unknown topic")
    fields = _loads(topic, state)
    written_as = fields.pop("class_version", None)
    is_current = type(written_as) is int and written_as == event_class.class_version
    kept = {} if is_current else _upcast_written(event_class, fields, written_as, state)
    fields["originator_id"], fields["originator_version"] = stream_id, version
    try:
        fact = event_class.model_validate(fields)
    except ValidationError as error:
        # Not str(error): that would repeat stored values in logs.
        where = ", ".join(sorted({".".join(map(str, e["loc"])) for e in error.errors(include_input=False)}))
        raise UnreadableFactError(topic=topic, problem=f"not valid: {where}") from None
    # The fact, written anew, gives the stored bytes; of an older version, the fields that no upcast touched.
    anew = _written_anew(fact)
    if (
        anew != state
        if is_current
        else any(orjson.loads(anew or b"{}").get(name) != kept[name] for name in kept)
    ):
        raise UnreadableFactError(topic=topic, problem="not in canonical form")
    return fact


def _upcast_written(
    event_class: type[Fact], fields: dict[str, Any], written_as: object, state: bytes
) -> dict[str, Any]:
    """Upcast the fields of an older version in place; what no upcast touched, as it was written."""
    written = dict(fields)
    upcast(event_class, fields, written_as)
    if _in_writing({**written, "class_version": written_as}) != state:
        raise UnreadableFactError(topic=event_class.TOPIC, problem="not in canonical form")
    return {name: value for name, value in written.items() if name in fields and fields[name] == value}


def upcast(event_class: type[Fact], fields: dict[str, Any], written_as: object) -> None:
    """Bring ``fields`` of an older class version to the current one, in place, one version at a time."""
    if type(written_as) is not int or not 1 <= written_as <= event_class.class_version:
        raise UnreadableFactError(
            topic=event_class.TOPIC, problem=f"class version {written_as!r} is not known"
        )
    for version in range(written_as, event_class.class_version):
        getattr(event_class, f"upcast_v{version}_v{version + 1}")(fields)


def _loads(topic: str, state: bytes) -> dict[str, Any]:
    try:
        fields = orjson.loads(state)
    except orjson.JSONDecodeError:
        raise UnreadableFactError(topic=topic, problem="not JSON") from None
    if not isinstance(fields, dict) or not fields.keys().isdisjoint(("originator_id", "originator_version")):
        raise UnreadableFactError(topic=topic, problem="not in canonical form")
    return fields


def _written_anew(fact: Fact) -> bytes | None:
    try:
        return encode(fact)
    except TypeError:  # numbers beyond 53 bits
        return None


def _in_writing(fields: dict[str, Any]) -> bytes | None:
    try:
        return canonical_json(fields)
    except TypeError:  # numbers beyond 53 bits, or nested too deep to be ours
        return None


class FactMapper(Mapper[UUID]):
    """The package's mapper, but with our topics, our bytes and full validation when reading."""

    def to_stored_event(self, domain_event: DomainEventProtocol[UUID]) -> StoredEvent:
        assert isinstance(domain_event, Fact)
        return StoredEvent(
            domain_event.originator_id,
            domain_event.originator_version,
            domain_event.TOPIC,
            encode(domain_event),
        )

    def to_domain_event(self, stored_event: StoredEvent) -> Fact:
        assert isinstance(stored_event.originator_id, UUID)
        return decode(
            stored_event.topic,
            stored_event.originator_id,
            stored_event.originator_version,
            stored_event.state,
        )


class FactTranscoder(Transcoder):
    """The canonical JSON above, for parts of the package that ask for a transcoder."""

    def encode(self, obj: Any) -> bytes:
        return canonical_json(obj)

    def decode(self, data: bytes) -> Any:
        return orjson.loads(data)
