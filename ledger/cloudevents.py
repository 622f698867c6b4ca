"""A fact as it leaves: one CloudEvents 1.0 message, and back.

The stored text travels unchanged as ``data`` in a structured JSON value, so that whoever receives it can compute the
leaf hash anew. CloudEvents' own attributes stand in the headers too (``ce_…``), for those who route without reading.
Nothing here knows Kafka.
"""

from dataclasses import dataclass
from uuid import UUID

import orjson

from ledger.codec import EVENTS_BY_TOPIC, canonical_json
from ledger.errors import MessageMalformedError, UnreadableFactError
from ledger.groupcommit import Row
from ledger.merkle import leaf_hash

CONTENT_TYPE = b"application/cloudevents+json; charset=UTF-8"
SEQUENCE_DIGITS = 20
"""Enough for every position, and text of one width orders like the number."""

_HEADERS = tuple(
    (name, f"ce_{name}")
    for name in ("dataschema", "id", "sequence", "source", "specversion", "subject", "time", "type")
)
"""What CloudEvents itself defines; our own additions stand in the value alone. Each header costs as much as a hash."""

Header = tuple[str, bytes]


@dataclass(frozen=True, slots=True)
class Message:
    """What is sent: ``key`` decides the partition, ``headers`` repeat the attributes of ``value``."""

    key: bytes
    value: bytes
    headers: list[Header]


@dataclass(frozen=True, slots=True)
class Received:
    """A fact that came in a message: which ledger's, and the fact as that ledger's log stores it."""

    ledger_id: UUID
    fact: Row


def schema_urn(topic: str, class_version: int) -> str:
    """The name of the JSON Schema of a fact's ``data``: ``urn:wenming:schema:entry.posted.v1``."""
    return f"urn:wenming:schema:{topic}.v{class_version}"


def source_of(ledger_id: UUID) -> str:
    """The CloudEvents ``source`` of a ledger."""
    return f"urn:uuid:{ledger_id}"


def message_of(ledger_id: UUID, fact: Row) -> Message:
    """The message that says ``fact``; UNREADABLE_FACT for a topic that no event of this program has.

    Its key is the volunteer whom the fact is about, else its stream: facts of one key keep their order.
    """
    event = EVENTS_BY_TOPIC.get(fact.topic)
    if event is None:
        raise UnreadableFactError(topic=fact.topic, position=fact.position, problem="unknown topic")
    state = orjson.loads(fact.state)
    stream_id = str(fact.stream_id)
    key = state.get("volunteer_id") or stream_id
    schema = schema_urn(fact.topic, state["class_version"])
    attributes = {
        "dataschema": schema,
        "id": f"{stream_id}.{fact.version}",
        "leafhash": fact.leaf_hash.hex(),
        "partitionkey": key,
        "sequence": str(fact.position).zfill(SEQUENCE_DIGITS),
        "source": source_of(ledger_id),
        "specversion": "1.0",
        "streamid": stream_id,
        "streamversion": fact.version,
        "subject": f"{event.STREAM}/{stream_id}",
        "time": state["happened_at"],
        "type": schema.rpartition(":")[2],
    }
    # "data" sorts before "dataschema": the whole value is in the one written form, its data byte for byte as stored.
    value = (
        b'{"data":' + fact.state + b',"datacontenttype":"application/json",' + canonical_json(attributes)[1:]
    )
    headers = [(header, str(attributes[name]).encode()) for name, header in _HEADERS]
    return Message(key.encode(), value, [("content-type", CONTENT_TYPE), *headers])


def received(value: bytes) -> Received:
    """The fact in a message's value; MESSAGE_MALFORMED if it cannot be read, or its leaf hash is not that of its fact.

    Attributes that a newer program adds are passed over, and so is how its JSON is written: what counts is that the
    canonical form of ``data`` gives the leaf that the ledger's tree has.
    """
    try:
        envelope = orjson.loads(value)
        topic = envelope["type"].rpartition(".v")[0]
        stream_id, version = UUID(envelope["streamid"]), envelope["streamversion"]
        state = canonical_json(envelope["data"])
        leaf = leaf_hash(stream_id.bytes, version, topic.encode(), state)
        fact = Row(int(envelope["sequence"]), stream_id, version, topic, state, leaf)
        ledger_id = UUID(envelope["source"].removeprefix("urn:uuid:"))
        claimed = envelope["leafhash"]
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise MessageMalformedError(problem=f"it cannot be read ({type(error).__name__})") from None
    if leaf.hex() != claimed:
        raise MessageMalformedError(
            problem="its leaf hash is not that of its fact; it was changed on the way"
        )
    return Received(ledger_id, fact)
