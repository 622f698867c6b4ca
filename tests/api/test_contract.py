"""The contract over HTTP: the same bytes as the files, for anybody, and what is not in it is said not to be."""

import json

import jsonschema
import pytest

from ledger.asyncapi import contract_files
from ledger.cloudevents import message_of
from tests.api.conftest import LEDGER_ID, Town
from tests.api.test_bad_input import refused

FILES = contract_files()


@pytest.mark.parametrize(
    "path", ["asyncapi.json", "schemas/entry.posted.v1.json", "schemas/envelope.v1.json"]
)
def test_anybody_gets_the_bytes_of_the_files(standing_town: Town, path: str) -> None:
    answer = standing_town.client.get(f"/v1/contract/{path}")
    assert (answer.status_code, answer.content) == (200, FILES[path])
    assert answer.headers["cache-control"] == "public, no-cache"
    kind = (
        "application/vnd.aai.asyncapi+json;version=3.1.0"
        if path == "asyncapi.json"
        else "application/schema+json"
    )
    assert answer.headers["content-type"] == kind


def test_whoever_has_them_already_is_told_so(standing_town: Town) -> None:
    path = "/v1/contract/asyncapi.json"
    tag = standing_town.client.get(path).headers["etag"]
    assert tag.startswith('"')
    for known in (tag, f'"other", W/{tag}', "*"):
        again = standing_town.client.get(path, headers={"If-None-Match": known})
        assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", tag)
    other = standing_town.client.get(
        "/v1/contract/schemas/unit.moved.v1.json", headers={"If-None-Match": tag}
    )
    assert (other.status_code, other.headers["etag"] != tag) == (200, True)


@pytest.mark.parametrize("name", ["entry.posted.v2.json", "entry.posted.v1", "asyncapi.json", "x" * 300])
def test_what_is_not_in_it_is_not_found(standing_town: Town, name: str) -> None:
    problem = refused(standing_town.client.get(f"/v1/contract/schemas/{name}"), 404, "NOT_FOUND")
    assert "asyncapi.json" in problem["detail"]


def test_every_fact_of_the_ledger_is_as_the_schema_that_it_names(standing_town: Town) -> None:
    log = standing_town.parts.log
    for fact in log.read(1, log.head().size):
        event = json.loads(message_of(LEDGER_ID, fact).value)
        name = event["dataschema"].removeprefix("urn:wenming:schema:")
        schema = standing_town.client.get(f"/v1/contract/schemas/{name}.json").json()
        jsonschema.Draft202012Validator(schema).validate(event["data"])
