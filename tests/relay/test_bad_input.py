"""What can be wrong between ledger and Kafka: each has its own answer, and no fact is lost or doubled by it."""

import re
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from kafka.admin import (
    ACL,
    ACLOperation,
    ACLPermissionType,
    ConfigResource,
    KafkaAdminClient,
    ResourcePattern,
    ResourceType,
)

from ledger.brokers import Brokers, _easily_lost, login_of
from ledger.errors import EventTooLargeError, KafkaRefusedError, KafkaUnreachableError
from ledger.relay import Relay
from tests.broker import ACCOUNTS, KafkaBroker
from tests.cli import wenming
from tests.county import County, sample_steps
from tests.relay.topic import brokers_at, read_topic, require_exactly_the_log
from tests.services import free_port


@pytest.fixture
def county(sqlite_url: str) -> Iterator[County]:
    made = County(sqlite_url)
    made.tell(sample_steps()[:3])
    yield made
    made.close()


@pytest.fixture
def kafka_settings(monkeypatch: pytest.MonkeyPatch, kafka: str) -> Brokers:
    """Environment variables that name a topic of its own."""
    brokers = brokers_at(kafka)
    monkeypatch.setenv("WENMING_KAFKA_BOOTSTRAP", kafka)
    monkeypatch.setenv("WENMING_KAFKA_TOPIC", brokers.events)
    monkeypatch.setenv("WENMING_KAFKA_PARTITIONS", "3")
    monkeypatch.setenv("WENMING_KAFKA_REPLICATION", "1")
    return brokers


def user(broker: KafkaBroker, events: str, name: str, password: str) -> Brokers:
    login = login_of("sasl_plaintext", "PLAIN", name, password, None)
    return Brokers(broker.sasl_address, events, 3, 1, login)


# --- the command line ------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_topics_relay_and_status_from_the_command_line(county: County, kafka_settings: Brokers) -> None:
    for command in (["topic", "create"], ["topic", "check"], ["relay", "--once"]):
        done = wenming(*command, "--database", county.url)
        assert done.code == 0, done.err
    status = wenming("relay", "--status", "--lag-max", 0, "--database", county.url)
    assert (status.code, f"position {county.log.head().size}" in status.out) == (0, True)
    county.place(county.station)
    late = wenming("relay", "--status", "--lag-max", 0, "--database", county.url)
    assert late.code == 1
    assert late.err.startswith("RELAY_BEHIND")
    require_exactly_the_log(kafka_settings, county.log, county.log.head().size - 1)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "code"),
    [
        (["relay", "--once"], "TOPIC_MISSING"),
        (["relay"], "TOPIC_MISSING"),
        (["relay", "--status"], "TOPIC_MISSING"),
        (["topic", "check"], "TOPIC_MISSING"),
        (["topic", "create", "--replication", "3"], "TOPIC_WRONG"),
    ],
)
def test_a_command_that_cannot_be_done_says_so_in_two_sentences(
    county: County, kafka_settings: Brokers, command: list[str], code: str
) -> None:
    done = wenming(*command, "--database", county.url)
    assert done.code == 1
    assert done.err.startswith(f"{code}  ")
    assert len(done.err.strip().splitlines()) == 2
    assert "Traceback" not in done.err
    assert kafka_settings.events in done.err


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("BOOTSTRAP", "nowhere"),
        ("BOOTSTRAP", "host:0"),
        ("BOOTSTRAP", "host:port,127.0.0.1:9092"),
        ("TOPIC", "a topic"),
        ("PARTITIONS", "0"),
        ("PROTOCOL", "sasl_plaintext"),
        ("PROTOCOL", "http"),
    ],
)
def test_a_wrong_setting_is_named(
    county: County, monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(f"WENMING_KAFKA_{name}", value)
    done = wenming("relay", "--once", "--database", county.url)
    assert done.code == 1
    assert done.err.startswith("INVALID_REQUEST")
    assert name.lower() in done.err or (name, value) == ("PROTOCOL", "sasl_plaintext")


def test_a_password_file_that_is_not_there_is_named_and_never_shown(
    county: County, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    settings = {"PROTOCOL": "sasl_plaintext", "USER": "relay", "PASSWORD_FILE": str(tmp_path / "none")}
    for name, value in settings.items():
        monkeypatch.setenv(f"WENMING_KAFKA_{name}", value)
    done = wenming("relay", "--once", "--database", county.url)
    assert (done.code, done.err.split()[0]) == (1, "INVALID_REQUEST")


# --- brokers ---------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_wrong_address_is_told_apart_from_a_wrong_password(
    county: County, kafka_broker: KafkaBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ledger.brokers.CONNECT_SECONDS", 4.0)
    nobody = Brokers(f"127.0.0.1:{free_port()}", "t", 3, 1)
    with pytest.raises(KafkaUnreachableError) as refused:
        Relay(county.log, nobody).once()
    assert "ECONNREFUSED" in str(refused.value.details["problem"])
    with pytest.raises(KafkaRefusedError) as wrong:
        Relay(county.log, user(kafka_broker, "t", "relay", "wrong")).once()
    assert re.search("login|password", str(wrong.value.details["problem"]))
    assert "wrong" not in str(wrong.value)


def allow(broker: KafkaBroker, kind: ResourceType, name: str, *operations: ACLOperation) -> None:
    with closing(KafkaAdminClient(bootstrap_servers=broker.address)) as admin:
        admin.create_acls(
            [
                ACL("User:relay", "*", operation, ACLPermissionType.ALLOW, ResourcePattern(kind, name))
                for operation in operations
            ]
        )


@pytest.mark.slow
def test_acls_are_needed_one_by_one_and_the_last_one_lets_the_facts_out(
    county: County, kafka_broker: KafkaBroker
) -> None:
    """What stands in docs/growing.md as the rights of a relay: these, and no more."""
    ledger_id = county.log.identity.ledger_id
    owner = brokers_at(kafka_broker.address)
    owner.create_topics(ledger_id)
    relay = user(kafka_broker, owner.events, "relay", ACCOUNTS["relay"])
    every: list[tuple[ResourceType, str, list[ACLOperation]]] = [
        (ResourceType.TOPIC, owner.events, [ACLOperation.READ, ACLOperation.WRITE]),
        (ResourceType.TOPIC, owner.positions(ledger_id), [ACLOperation.READ, ACLOperation.WRITE]),
        (ResourceType.TRANSACTIONAL_ID, f"{ledger_id}.relay", [ACLOperation.WRITE]),
    ]
    for kind, name, operations in every:
        with pytest.raises(KafkaRefusedError) as refused:
            Relay(county.log, relay).once()
        assert "secret" not in str(refused.value)
        assert read_topic(owner) == []
        allow(kafka_broker, kind, name, *operations)
    Relay(county.log, relay).once()
    require_exactly_the_log(owner, county.log)


@pytest.mark.slow
def test_whoever_may_only_read_cannot_publish(county: County, kafka_broker: KafkaBroker) -> None:
    ledger_id = county.log.identity.ledger_id
    owner = brokers_at(kafka_broker.address)
    owner.create_topics(ledger_id)
    for name in (owner.events, owner.positions(ledger_id)):
        allow(kafka_broker, ResourceType.TOPIC, name, ACLOperation.READ)
    with pytest.raises(KafkaRefusedError) as refused:
        Relay(county.log, user(kafka_broker, owner.events, "relay", ACCOUNTS["relay"])).once()
    assert "WRITE" in str(refused.value.details["problem"])
    assert read_topic(owner) == []


# --- facts -----------------------------------------------------------------------------------------------------------


def shrink(brokers: Brokers, size: int) -> None:
    with closing(KafkaAdminClient(bootstrap_servers=brokers.bootstrap)) as admin:
        admin.alter_configs([ConfigResource("topic", brokers.events, {"max.message.bytes": str(size)})])


@pytest.mark.slow
def test_a_fact_too_large_is_named_and_nothing_is_skipped(
    county: County, kafka: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    brokers = brokers_at(kafka)
    brokers.create_topics(county.log.identity.ledger_id)
    monkeypatch.setattr("ledger.brokers.MESSAGE_BYTES_MIN", 0)
    shrink(brokers, 2_000)
    with pytest.raises(EventTooLargeError) as refused:
        Relay(county.log, brokers).once()
    book = next(row for row in county.log.read() if row.topic == "rulebook.published")
    assert refused.value.details["position"] == book.position
    assert read_topic(brokers) == []
    shrink(brokers, 1_048_588)
    Relay(county.log, brokers).once()
    require_exactly_the_log(brokers, county.log)


@pytest.mark.slow
def test_a_fact_beyond_every_limit_of_the_client_is_named_too(
    county: County, kafka: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    brokers = brokers_at(kafka)
    brokers.create_topics(county.log.identity.ledger_id)
    monkeypatch.setattr("ledger.brokers.REQUEST_BYTES", 2_000)
    with pytest.raises(EventTooLargeError):
        Relay(county.log, brokers).once()
    assert read_topic(brokers) == []


def test_a_login_is_never_shown() -> None:
    login: dict[str, Any] = login_of("sasl_plaintext", "PLAIN", "relay", "secret", None)
    assert "secret" not in repr(Brokers("h:1", login=login))


@pytest.mark.parametrize(
    ("replicas", "enough", "told"), [(1, "1", 0), (3, "2", 0), (2, "2", 0), (3, "1", 1), (2, "1", 1)]
)
def test_with_several_replicas_a_record_must_stand_on_two_before_it_counts(
    replicas: int, enough: str, told: int
) -> None:
    described = [{"replica_nodes": list(range(replicas))}]
    assert len(_easily_lost({"min.insync.replicas": enough}, described)) == told
