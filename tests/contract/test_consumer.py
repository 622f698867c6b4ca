"""The page for those who read the topic: its program reads a real one, and its arithmetic is that of the tree."""

import hashlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kafka import KafkaProducer
from kafka.admin import KafkaAdminClient, NewTopic

from ledger import merkle
from ledger.brokers import Brokers
from ledger.cloudevents import message_of
from ledger.groupcommit import Row
from tests.county import LEDGER_ID, County, name, sample_steps
from tests.docs.test_readme import parse
from tests.relay.test_cloudevents import FACTS

PAGE = Path(__file__).parents[2] / "docs" / "contract" / "README.md"


def blocks() -> list[str]:
    return re.findall(r"^```python\n(.*?)^```$", PAGE.read_text("utf-8"), re.MULTILINE | re.DOTALL)


def run(block: str) -> dict[str, Any]:
    """What the names of a block are after it ran."""
    names: dict[str, Any] = {}
    exec(compile(block, PAGE.name, "exec"), names)
    return names


def test_what_the_page_links_and_tells_people_to_type_is_there() -> None:
    text = PAGE.read_text("utf-8")
    linked = re.findall(r"\]\(([^)]+)\)", text)
    assert len(linked) > 4
    assert [path for path in linked if not (PAGE.parent / path).exists()] == []
    commands = re.findall(r"`wenming ([^`]+)`", text)
    assert len(commands) > 2
    for command in commands:
        parse(command.split(), whole=False)


# --- the program -----------------------------------------------------------------------------------------------------


@pytest.fixture
def facts(sqlite_url: str) -> list[Row]:
    """What happened in a county."""
    county = County(sqlite_url)
    county.tell(sample_steps())
    found = list(county.log.read(1, county.log.head().size))
    county.close()
    return found


@pytest.fixture
def topic(kafka: str) -> str:
    """A topic of this test's own."""
    made = f"contract.{uuid4()}"
    admin = KafkaAdminClient(bootstrap_servers=kafka)
    admin.create_topics([NewTopic(made, 3, 1)])
    admin.close()
    return made


@pytest.fixture
def producer(kafka: str) -> Iterator[KafkaProducer]:
    with KafkaProducer(bootstrap_servers=kafka, transactional_id=f"contract.{uuid4()}") as made:
        made.init_transactions()
        yield made


def send(producer: KafkaProducer, topic: str, facts: list[Row]) -> None:
    for fact in facts:
        message = message_of(LEDGER_ID, fact)
        producer.send(topic, message.value, message.key, message.headers)
    producer.flush()


def minutes_by_unit(facts: list[Row]) -> dict[str, int]:
    found: dict[str, int] = {}
    for fact in facts:
        if fact.topic == "entry.posted":
            state = json.loads(fact.state)
            found[state["unit_id"]] = found.get(state["unit_id"], 0) + state["minutes"]
    return found


@pytest.mark.slow
def test_the_program_on_the_page_counts_what_was_committed_once(
    kafka: str,
    topic: str,
    producer: KafkaProducer,
    facts: list[Row],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    never = [Row(f.position, name("another stream"), f.version, f.topic, f.state, f.leaf_hash) for f in facts]
    producer.begin_transaction()
    send(producer, topic, never)
    producer.abort_transaction()  # these stand in the topic too; the default isolation level would show them
    producer.begin_transaction()
    send(producer, topic, facts)
    producer.commit_transaction()
    monkeypatch.chdir(tmp_path)
    program = blocks()[0]
    for printed, ours in (("localhost:9092", kafka), (Brokers.events, topic)):
        assert printed in program
        program = program.replace(printed, ours)
    expected = sorted(minutes_by_unit(facts).items())
    assert len(expected) > 2
    run(program)["consumer"].close()
    assert capsys.readouterr().out.strip() == str(expected)
    # As after a crash before any offset was committed: everything comes again, and nothing is counted again.
    run(program.replace('group_id="', 'group_id="again-'))["consumer"].close()
    assert capsys.readouterr().out.strip() == str(expected)


# --- the arithmetic --------------------------------------------------------------------------------------------------

ARITHMETIC = run(blocks()[1])


@pytest.mark.parametrize("fact", FACTS, ids=lambda fact: fact.topic)
def test_the_leaf_computed_from_a_message_is_the_one_it_carries(fact: Row) -> None:
    event = json.loads(message_of(LEDGER_ID, fact).value)
    assert ARITHMETIC["leaf_of"](event).hex() == event["leafhash"]
    changed = event | {"data": event["data"] | {"caller_id": str(LEDGER_ID)}}
    assert ARITHMETIC["leaf_of"](changed).hex() != event["leafhash"]


@given(st.integers(1, 70), st.data())
def test_the_root_computed_from_a_path_is_that_of_the_tree(size: int, data: st.DataObject) -> None:
    leaves = [hashlib.sha256(bytes([number])).digest() for number in range(size)]

    def hash_at(height: int, index: int) -> bytes:
        return merkle.root_of(b"".join(leaves[index << height : (index + 1) << height]))

    index = data.draw(st.integers(0, size - 1))
    path = merkle.inclusion_proof(index, size, hash_at)
    root = merkle.root_of(b"".join(leaves))
    assert ARITHMETIC["root_of"](leaves[index], index, size, path) == root
    assert ARITHMETIC["root_of"](hashlib.sha256(b"another").digest(), index, size, path) != root
    with pytest.raises(AssertionError, match="another length"):
        ARITHMETIC["root_of"](leaves[index], index, size, path[:-1] if path else [root])
