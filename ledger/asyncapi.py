"""The events topic as an AsyncAPI document: where it is, what is sent there, in what order and how often.

Generated, so that it says what `ledger.cloudevents` sends and `ledger.contract` describes. It needs no other file.
"""

from collections.abc import Mapping
from typing import Any

from ledger.brokers import EVENTS, POSITIONS, Brokers
from ledger.cloudevents import CONTENT_TYPE, schema_urn
from ledger.contract import (
    ID,
    Schema,
    envelope_schema,
    headers_schema,
    relay_position_schema,
    schema_of,
    schemas,
    versions,
    written,
)
from ledger.events import Fact

ASYNCAPI_VERSION = "3.1.0"
CONTRACT_VERSION = "1.0.0"
"""Of the document. A further event or an optional field raises the middle number; nothing raises the first."""
KAFKA_BINDING = "0.5.0"
_CONFIGURED = ("cleanup.policy", "retention.ms", "retention.bytes")
"""What readers should know of how the topics are set up: these AsyncAPI has words for."""

_ABOUT = """\
Every fact of a ledger of volunteer hours, as it was recorded: who enrolled, what was ordered, served, rated, corrected,
certified. Any figure can be computed from them and from nothing else.

**Order.** Facts of one key keep their order: the key is the volunteer whom a fact is about, else the stream it belongs
to. Within a partition the `sequence` of one `source` rises. Between partitions nothing is promised; sort by `sequence`
for the order of the log.

**Exactly once.** The ledger sends in transactions and remembers in the same transaction how far it got: no fact is
missing and none is committed twice, whatever is killed meanwhile. That holds for readers with
`isolation.level=read_committed`; any other sees what was never committed. Your own reading may still happen twice,
after a crash before your offsets were committed: `source`, `streamid` and `streamversion` together name a fact, always
and everywhere.

**For good.** Facts are never changed, removed or compacted away, and the topic has no expiry. A mistake is corrected by
a further fact.

**Personal data.** Ids are pseudonyms. Names, numbers, addresses and free text leave only sealed, under a key per person
that does not leave the ledger. After an erasure (`subject.erased.v1`) that key is gone, everywhere at once.

**Change.** Fields and attributes may be added that may be absent: pass over what you do not know. Anything else gets a
new `type` (`entry.posted.v2`); facts of the earlier type stay as they are.

**Proof.** `leafhash` is the fact's leaf in a Merkle tree (RFC 6962) whose root is signed and witnessed: that a message
is what the ledger recorded can be shown without trusting the broker, or the ledger.
"""


def asyncapi_document() -> Schema:
    """The whole document, as JSON."""
    names = [schema_urn(event.TOPIC, version).rpartition(":")[2] for event, version in versions()]
    return {
        "asyncapi": ASYNCAPI_VERSION,
        "id": "urn:wenming:ledger",
        "info": {
            "title": "Wenming Ledger 文明账本: events",
            "version": CONTRACT_VERSION,
            "description": _ABOUT,
            "license": {"name": "MIT"},
        },
        "defaultContentType": CONTENT_TYPE.decode(),
        "servers": {
            "kafka": {
                "host": "{bootstrap}",
                "protocol": "kafka",
                "description": "Apache Kafka 4. Whoever runs it says where, and with which TLS and SASL.",
                "variables": {
                    "bootstrap": {
                        "default": "localhost:9092",
                        "description": "host:port of any broker.",
                    }
                },
            }
        },
        "channels": {"events": _events(names), "relayPosition": _positions()},
        "operations": _operations(),
        "components": {
            "messages": {
                **dict(zip(names, (_message(*one) for one in versions()), strict=True)),
                "relay_position": _position_message(),
            },
            "messageTraits": {"fact": _trait()},
            "schemas": {
                "envelope": _inside(envelope_schema()),
                "headers": _inside(headers_schema()),
                "relay_position": _inside(relay_position_schema()),
                **dict(zip(names, (_inside(schema_of(*one)) for one in versions()), strict=True)),
            },
        },
    }


def _events(names: list[str]) -> Schema:
    return {
        "address": Brokers.events,
        "title": "Facts",
        "description": "Every fact of one or several ledgers (`source` tells them apart), from the first on. The name "
        "is the usual one; whoever runs the ledger may have chosen another. The number of partitions never changes.",
        "servers": [{"$ref": "#/servers/kafka"}],
        "messages": {name: {"$ref": f"#/components/messages/{name}"} for name in names},
        "bindings": _topic(Brokers.partitions, EVENTS),
    }


def _positions() -> Schema:
    return {
        "address": f"{Brokers.events}.relay-position.{{ledger_id}}",
        "title": "The relay's own memory",
        "description": "How far one ledger's facts were sent, written in the same transaction as they. For whoever "
        "watches the relay; no reader of facts needs it.",
        "servers": [{"$ref": "#/servers/kafka"}],
        "parameters": {"ledger_id": {"description": "The ledger's id, as in `source`."}},
        "messages": {"relay_position": {"$ref": "#/components/messages/relay_position"}},
        "bindings": _topic(1, POSITIONS),
    }


def _topic(partitions: int, configs: Mapping[str, str]) -> Schema:
    """The Kafka binding of a channel, as `wenming topic create` makes its topic."""
    told = {name: configs[name] for name in _CONFIGURED if name in configs}
    topic = {
        "partitions": partitions,
        "replicas": Brokers.replication,
        "topicConfiguration": {
            name: value.split(",") if name == "cleanup.policy" else int(value) for name, value in told.items()
        },
        "bindingVersion": KAFKA_BINDING,
    }
    return {"kafka": topic}


def _operations() -> Schema:
    """Seen from the ledger: its relay sends, and its projection workers receive as any other program would."""
    channel = {"$ref": "#/channels/events"}
    return {
        "sendFacts": {
            "action": "send",
            "channel": channel,
            "title": "The ledger sends",
            "summary": "`wenming relay` sends every fact once, in the order of the log. Nobody else may write here.",
        },
        "sendPosition": {
            "action": "send",
            "channel": {"$ref": "#/channels/relayPosition"},
            "title": "The relay remembers",
            "summary": "`wenming relay` writes how far it came, with the facts or with none of them.",
        },
        "receiveFacts": {
            "action": "receive",
            "channel": channel,
            "title": "Programs receive",
            "summary": "Projection workers, and any program that reads with isolation.level=read_committed.",
            "description": "Commit your offsets after what you made of the facts is safe, and let `source`, `streamid` "
            "and `streamversion` keep you from counting one twice. Read from the earliest offset to have all of them.",
            "bindings": {
                "kafka": {
                    "groupId": {"type": "string", "description": "Your own: one group a purpose."},
                    "bindingVersion": KAFKA_BINDING,
                }
            },
        },
    }


def _trait() -> Schema:
    """What every message has, whatever it says."""
    return {
        "contentType": CONTENT_TYPE.decode(),
        "headers": {"$ref": "#/components/schemas/headers"},
        "correlationId": {
            "description": "The request that led to the fact; facts of one request were recorded together.",
            "location": "$message.payload#/data/command_id",
        },
        "bindings": {
            "kafka": {
                "key": ID
                | {"description": "The volunteer whom the fact is about, else its stream; as UTF-8."},
                "bindingVersion": KAFKA_BINDING,
            }
        },
    }


def _message(event: type[Fact], class_version: int) -> Schema:
    urn = schema_urn(event.TOPIC, class_version)
    name = urn.rpartition(":")[2]
    says: dict[str, Any] = {
        "data": {"$ref": f"#/components/schemas/{name}"},
        "dataschema": {"const": urn},
        "type": {"const": name},
    }
    return {
        "name": name,
        "title": event.__name__,
        "summary": (event.__doc__ or "").partition("\n")[0],
        "tags": [{"name": event.STREAM}],
        "traits": [{"$ref": "#/components/messageTraits/fact"}],
        "payload": {"allOf": [{"$ref": "#/components/schemas/envelope"}, {"properties": says}]},
    }


def _position_message() -> Schema:
    key = ID | {"description": "The ledger; as UTF-8."}
    return {
        "name": "relay_position",
        "title": "RelayPosition",
        "summary": "The facts up to here stand in the topic.",
        "contentType": "application/json",
        "payload": {"$ref": "#/components/schemas/relay_position"},
        "bindings": {"kafka": {"key": key, "bindingVersion": KAFKA_BINDING}},
    }


def _inside(schema: Schema) -> Schema:
    """A schema as part of the document, under whose name and dialect it stands there; both mean the same here."""
    return {name: value for name, value in schema.items() if name not in ("$id", "$schema")}


def contract_files() -> dict[str, bytes]:
    """The whole contract as files, by path: ``asyncapi.json``, and every schema as ``schemas/entry.posted.v1.json``."""
    made = {f"schemas/{name}.json": written(schema) for name, schema in schemas().items()}
    return {"asyncapi.json": written(asyncapi_document()), **made}
