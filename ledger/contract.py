"""What programs that read the events topic may rely on: the JSON Schema of every fact, of its message, of its headers.

Made from the fact classes themselves and as strict as what `ledger.codec` writes, but open for fields that it does not
know, because a reader is to pass over them. `ledger.asyncapi` says the rest of the contract, `ledger.evolution` what
may change in it. Nothing here reads a ledger or a setting.
"""

import json
import typing
from importlib.resources import files as package_files
from importlib.resources.abc import Traversable
from typing import Any

from pydantic.json_schema import GenerateJsonSchema
from pydantic_core import core_schema as core

from ledger import events
from ledger.cloudevents import CONTENT_TYPE, SEQUENCE_DIGITS, schema_urn
from ledger.events import EVENT_TYPES, Fact

Schema = dict[str, Any]

DIALECT = "https://json-schema.org/draft/2020-12/schema"
INTEGER_MAX = 2**53 - 1
"""The writing rule: no number is so large that a reader with doubles would change it."""
STREAM_VERSION_MAX = 2**31 - 1
"""What CloudEvents calls an Integer."""

_UUID = "[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"
_TYPE = r"[a-z][a-z_]*\.[a-z][a-z_]*\.v[1-9][0-9]*"
INSTANT: Schema = {
    "type": "string",
    "format": "date-time",
    "pattern": r"^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}\.[0-9]{6}Z$",
}
DAY: Schema = {"type": "string", "format": "date", "pattern": "^[0-9]{4}-[0-9]{2}-[0-9]{2}$"}
ID: Schema = {"type": "string", "format": "uuid", "pattern": f"^{_UUID}$"}

ATTRIBUTES: dict[str, Schema] = {
    "dataschema": {
        "type": "string",
        "pattern": f"^urn:wenming:schema:{_TYPE}$",
        "description": "The name of the schema of data.",
    },
    "id": {
        "type": "string",
        "pattern": rf"^{_UUID}\.[1-9][0-9]*$",
        "description": "Names the fact within its ledger: streamid, a dot, streamversion.",
    },
    "leafhash": {
        "type": "string",
        "pattern": "^[0-9a-f]{64}$",
        "description": "The fact's leaf in the ledger's Merkle tree, computed from streamid, streamversion, the topic "
        "and data.",
    },
    "partitionkey": ID | {"description": "The key of the message: the volunteer concerned, else the stream."},
    "sequence": {
        "type": "string",
        "pattern": f"^[0-9]{{{SEQUENCE_DIGITS}}}$",
        "description": "The fact's position in the ledger's log: from 1, without gaps; as text it orders likewise.",
    },
    "source": {
        "type": "string",
        "pattern": f"^urn:uuid:{_UUID}$",
        "description": "The ledger. Several may share a topic.",
    },
    "specversion": {"const": "1.0"},
    "streamid": ID | {"description": "What the fact is part of the life of: a volunteer, an order, a unit …"},
    "streamversion": {
        "type": "integer",
        "minimum": 1,
        "maximum": STREAM_VERSION_MAX,
        "description": "The fact's place in its stream: 1, 2, 3 …",
    },
    "subject": {
        "type": "string",
        "pattern": f"^[a-z][a-z_]*/{_UUID}$",
        "description": "The kind of stream, a slash, streamid.",
    },
    "time": INSTANT | {"description": "When it happened (happened_at of data); not when it was recorded."},
    "type": {
        "type": "string",
        "pattern": f"^{_TYPE}$",
        "description": "The fact's topic and the version of its shape.",
    },
}
"""What stands in a message's value beside ``data``."""
_HEADERS = ("dataschema", "id", "sequence", "source", "specversion", "subject", "time", "type")
"""Those of them that CloudEvents itself defines: they stand in the headers too, under ``ce_…``."""

_STAMP = {
    "happened_at": "When it took effect in the world.",
    "recorded_at": "When the ledger took it down; never before that of an earlier position.",
    "command_id": "The request that led to it. Facts of one request share it and were recorded together.",
    "caller_id": "The person who made that request: a pseudonymous id.",
    "class_version": "The version of this shape.",
}
_MEANINGS: tuple[tuple[object, str], ...] = (
    (events.Sealed, "Personal fields, encrypted; opaque outside the ledger, and for everybody once they are erased."),
    (events.Code, "A short machine word."),
    (events.PublicName, "The name of an organisation, never of a person."),
    (events.Digest, "A SHA-256 in hexadecimal."),
    (events.VerifierKeyText, "A public Ed25519 key as signed notes name it: name+key id+base64(0x01 | key)."),
    (events.SignedText, "A text that somebody signed, with its signatures."),
)  # fmt: skip
_OLDER = package_files("ledger").joinpath("data", "schemas")


# --- facts -----------------------------------------------------------------------------------------------------------


def schema_of(event: type[Fact], class_version: int, older: Traversable = _OLDER) -> Schema:
    """The schema of the stored text of ``event`` in one of its class versions.

    Today's is made from the class. Of an older version nothing is left in the code but its upcast: its schema is kept
    as a file in ``older`` (the golden one, copied there when the class moved on); `FileNotFoundError` if it is not.
    """
    if class_version == event.class_version:
        return _today(event)
    kept: Schema = json.loads(older.joinpath(f"{event.TOPIC}.v{class_version}.json").read_text("utf-8"))
    return kept


def _today(event: type[Fact]) -> Schema:
    made = event.model_json_schema(mode="serialization", schema_generator=_AsWritten)
    made = _open(_inlined(made, made.pop("$defs", {})))
    properties = made["properties"]
    del properties["originator_id"], properties["originator_version"]
    properties["class_version"] = {"const": event.class_version, "type": "integer"}
    for name, meaning in {**_meanings(event), **_STAMP}.items():
        properties[name]["description"] = meaning
    return {
        **made,
        "$schema": DIALECT,
        "$id": schema_urn(event.TOPIC, event.class_version),
        "required": sorted(properties),
    }


class _AsWritten(GenerateJsonSchema):
    """Values as the codec writes them: fewer than a model would take."""

    def datetime_schema(self, schema: core.DatetimeSchema) -> Schema:  # noqa: ARG002
        return dict(INSTANT)

    def date_schema(self, schema: core.DateSchema) -> Schema:  # noqa: ARG002
        return dict(DAY)

    def uuid_schema(self, schema: core.UuidSchema) -> Schema:  # noqa: ARG002
        return dict(ID)

    def int_schema(self, schema: core.IntSchema) -> Schema:
        return {"minimum": -INTEGER_MAX, "maximum": INTEGER_MAX, **super().int_schema(schema)}

    def field_title_should_be_set(self, schema: Any) -> bool:  # noqa: ARG002
        return False


def _inlined(schema: Any, definitions: Schema) -> Any:
    """Without references: inside an AsyncAPI document a reference would point into that document."""
    if isinstance(schema, list):
        return [_inlined(one, definitions) for one in schema]
    if not isinstance(schema, dict):
        return schema
    if "$ref" in schema:
        return _inlined(definitions[schema["$ref"].rpartition("/")[2]], definitions)
    return {name: _inlined(value, definitions) for name, value in schema.items()}


def _open(schema: Any) -> Any:
    """Our models take no field they do not know; whoever reads passes over it."""
    if isinstance(schema, list):
        return [_open(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    opened = {name: _open(value) for name, value in schema.items()}
    if opened.get("additionalProperties") is False:
        del opened["additionalProperties"]
    return opened


def _meanings(event: type[Fact]) -> dict[str, str]:
    hints = typing.get_type_hints(event, include_extras=True).items()
    return {
        name: meaning
        for name, hint in hints
        for kind, meaning in _MEANINGS
        if kind in (hint, *typing.get_args(hint))
    }


# --- messages --------------------------------------------------------------------------------------------------------


def envelope_schema() -> Schema:
    """The schema of a message's value, whatever fact it says."""
    data = {
        "type": "object",
        "description": "The fact as it is stored; dataschema names its schema.",
        "properties": {
            **{name: {**INSTANT, "description": _STAMP[name]} for name in ("happened_at", "recorded_at")},
            **{name: {**ID, "description": _STAMP[name]} for name in ("command_id", "caller_id")},
            "class_version": {
                "type": "integer",
                "minimum": 1,
                "maximum": INTEGER_MAX,
                "description": _STAMP["class_version"],
            },
        },
        "required": sorted(_STAMP),
    }
    properties = {**ATTRIBUTES, "data": data, "datacontenttype": {"const": "application/json"}}
    return {
        "$schema": DIALECT,
        "$id": schema_urn("envelope", 1),
        "title": "Envelope",
        "description": "A fact as a CloudEvent 1.0 in structured JSON; further attributes may come.",
        "type": "object",
        "properties": properties,
        "required": sorted(properties),
    }


def headers_schema() -> Schema:
    """The schema of a message's headers, their values read as UTF-8."""
    properties = {
        **{f"ce_{name}": ATTRIBUTES[name] for name in _HEADERS},
        "content-type": {"const": CONTENT_TYPE.decode()},
    }
    return {
        "$schema": DIALECT,
        "$id": schema_urn("headers", 1),
        "title": "Headers",
        "description": "The attributes of CloudEvents itself once more, for those who route without reading the value.",
        "type": "object",
        "properties": properties,
        "required": sorted(properties),
    }


def relay_position_schema() -> Schema:
    """The schema of the record in which a relay keeps how far it came (`ledger.relay_position`)."""
    event_id = {name: ATTRIBUTES["id"][name] for name in ("type", "pattern")}
    leaf_hash = {name: ATTRIBUTES["leafhash"][name] for name in ("type", "pattern")}
    properties = {
        "event_id": {
            "anyOf": [event_id, {"type": "null"}],
            "description": "The id of the fact at position; null before the first.",
        },
        "leaf_hash": {
            "anyOf": [leaf_hash, {"type": "null"}],
            "description": "The leafhash of the fact at position; null before the first.",
        },
        "ledger_id": ID | {"description": "The ledger, as in source."},
        "partitions": {
            "type": "integer",
            "minimum": 1,
            "maximum": INTEGER_MAX,
            "description": "How many the events topic has.",
        },
        "position": {
            "type": "integer",
            "minimum": 0,
            "maximum": INTEGER_MAX,
            "description": "The facts up to this one, included, stand in the events topic.",
        },
        "relay_id": ID | {"description": "The process that wrote this; a newer one stops an older."},
        "topic_id": ID | {"description": "Kafka's own id of the events topic."},
    }
    return {
        "$schema": DIALECT,
        "$id": schema_urn("relay_position", 1),
        "title": "RelayPosition",
        "description": "How far one ledger's facts were sent.",
        "type": "object",
        "properties": properties,
        "required": sorted(properties),
    }


# --- all of them -----------------------------------------------------------------------------------------------------


def schemas() -> dict[str, Schema]:
    """Every schema by its name, which is its ``$id`` without ``urn:wenming:schema:`` (``entry.posted.v1``)."""
    of_facts = [schema_of(event, version) for event, version in versions()]
    around = [envelope_schema(), headers_schema(), relay_position_schema()]
    return {schema["$id"].rpartition(":")[2]: schema for schema in (*of_facts, *around)}


def versions() -> list[tuple[type[Fact], int]]:
    """Every event type with each version that its facts were ever written in."""
    return [(event, version) for event in EVENT_TYPES for version in range(1, event.class_version + 1)]


def written(document: Schema) -> bytes:
    """A schema or document as a file: sorted and indented, so that a difference is one line."""
    return (json.dumps(document, ensure_ascii=False, indent=2, sort_keys=True) + "\n").encode()
