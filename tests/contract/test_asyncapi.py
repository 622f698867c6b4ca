"""The AsyncAPI document is one, says of each message what the message is, and is what lies in `docs/contract`.

`asyncapi-3.1.0.json.gz` is the schema of AsyncAPI documents (schemas/3.1.0.json of the npm package @asyncapi/specs
6.11.1, Apache License 2.0: `asyncapi.LICENSE`, `asyncapi.NOTICE`), packed by gzip and otherwise unchanged.
"""

import gzip
import hashlib
import json
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft7Validator
from referencing import Registry, Resource
from referencing.jsonschema import DRAFT202012

from ledger.asyncapi import asyncapi_document, contract_files
from ledger.cloudevents import message_of
from ledger.contract import schemas
from ledger.groupcommit import Row
from tests.contract import valid
from tests.county import LEDGER_ID
from tests.relay.test_cloudevents import FACTS

HERE = Path(__file__).parent
PUBLISHED = HERE.parents[1] / "docs" / "contract"
OFFICIAL_SHA256 = "51d3274899ad2875f25c18fd1aef4d5512f0a97be785d519740bde55a4162f61"
DOCUMENT = asyncapi_document()


@cache
def official() -> Draft7Validator:
    schema = gzip.decompress((HERE / "asyncapi-3.1.0.json.gz").read_bytes())
    assert hashlib.sha256(schema).hexdigest() == OFFICIAL_SHA256
    return Draft7Validator(json.loads(schema))


def changed(path: str, value: Any) -> dict[str, Any]:
    """The document with something else at one place."""
    document: dict[str, Any] = json.loads(json.dumps(DOCUMENT))
    *parents, last = path.split("/")
    place: Any = document
    for name in parents:
        place = place[name]
    place[last] = value
    return document


def references(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        yield from ([value["$ref"]] if "$ref" in value else [])
        value = list(value.values())
    if isinstance(value, list):
        for one in value:
            yield from references(one)


def test_it_is_a_valid_asyncapi_document() -> None:
    assert [f"{error.json_path}: {error.message}" for error in official().iter_errors(DOCUMENT)] == []


@pytest.mark.parametrize(
    ("path", "wrong"),
    [
        ("operations/sendFacts/action", "publish"),
        ("channels/events/bindings/kafka/partitions", 0),
        ("channels/events/bindings/kafka/topicConfiguration/cleanup.policy", "delete"),
        ("components/messageTraits/fact/correlationId/location", "command_id"),
    ],
)
def test_the_official_schema_would_notice(path: str, wrong: Any) -> None:
    assert list(official().iter_errors(changed(path, wrong)))


def test_everything_it_refers_to_is_in_it() -> None:
    found = set(references(DOCUMENT))
    assert len(found) > 100
    for reference in found:
        place: Any = DOCUMENT
        for name in reference.removeprefix("#/").split("/"):
            place = place[name]
        assert place


@pytest.mark.parametrize("fact", {fact.topic: fact for fact in FACTS}.values(), ids=lambda fact: fact.topic)
def test_each_message_is_described_as_itself_and_as_no_other(fact: Row) -> None:
    value = json.loads(message_of(LEDGER_ID, fact).value)
    registry: Registry[Any] = Registry().with_resource(
        "urn:document", Resource(DOCUMENT, specification=DRAFT202012)
    )
    fitting = [
        name
        for name in DOCUMENT["channels"]["events"]["messages"]
        if valid({"$ref": f"urn:document#/components/messages/{name}/payload"}, value, registry=registry)
    ]
    assert fitting == [value["type"]]


def test_the_channel_has_every_event_and_the_key_is_what_messages_have() -> None:
    around = {"envelope.v1", "headers.v1", "relay_position.v1"}
    assert DOCUMENT["channels"]["events"]["messages"].keys() == schemas().keys() - around
    key = DOCUMENT["components"]["messageTraits"]["fact"]["bindings"]["kafka"]["key"]
    assert all(valid(key, message_of(LEDGER_ID, fact).key.decode()) for fact in FACTS)


def test_what_is_published_is_what_the_code_says_byte_for_byte() -> None:
    """`wenming export contract docs/contract` brings it up to date."""
    found = {path for path in PUBLISHED.rglob("*") if path.is_file() and path.name != "README.md"}
    published = {path.relative_to(PUBLISHED).as_posix(): path.read_bytes() for path in found}
    assert published.keys() == contract_files().keys()
    assert [name for name, content in contract_files().items() if published[name] != content] == []
