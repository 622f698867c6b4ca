"""What docs/growing.md lets the relay and a reader do on a guarded cluster is enough, and not more than enough."""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from uuid import UUID, uuid4

import pytest
from kafka.admin import (
    ACL,
    ACLFilter,
    ACLOperation,
    ACLPermissionType,
    ACLResourcePatternType,
    KafkaAdminClient,
    ResourcePattern,
    ResourcePatternFilter,
    ResourceType,
)
from kafka.errors import KafkaError

from ledger.brokers import Brokers, login_of
from ledger.errors import KafkaRefusedError, TopicMissingError
from ledger.log import LedgerLog
from ledger.relay import Relay
from tests.broker import ACCOUNTS, KafkaBroker
from tests.cli import wenming

PAGE = (Path(__file__).parent.parent.parent / "docs/growing.md").read_text("utf-8")
KINDS = {
    "topic": ResourceType.TOPIC,
    "transactional id": ResourceType.TRANSACTIONAL_ID,
    "group": ResourceType.GROUP,
}
Right = tuple[ResourceType, str, ACLOperation]


def rights_of(who: str, names: dict[str, str]) -> list[Right]:
    """The rows of the page's table about one role, one right each."""
    rows = re.findall(rf"^\| {who} \| ([a-z ]+) `([^`]+)` \| ([A-Z, ]+) \|", PAGE, re.MULTILINE)
    assert rows
    return [
        (KINDS[kind], names[resource], ACLOperation[operation])
        for kind, resource, operations in rows
        for operation in operations.split(", ")
    ]


@pytest.fixture
def log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LedgerLog]:
    monkeypatch.chdir(tmp_path)
    assert wenming("init", "--database", f"sqlite:///{tmp_path}/ledger.db").code == 0
    log = LedgerLog.open(f"sqlite:///{tmp_path}/ledger.db")
    yield log
    log.close()


@pytest.fixture
def guarded(kafka_broker: KafkaBroker) -> Brokers:
    """The cluster as `relay` sees it, who may do nothing yet."""
    login = login_of("sasl_plaintext", "PLAIN", "relay", ACCOUNTS["relay"], None)
    return Brokers(kafka_broker.sasl_address, f"rights-{uuid4().hex}", 2, 1, login)


@contextmanager
def allowed(broker: KafkaBroker, rights: Sequence[Right]) -> Iterator[None]:
    admin = KafkaAdminClient(bootstrap_servers=broker.address)
    given = ("User:relay", "*")
    admin.create_acls(
        [
            ACL(*given, operation, ACLPermissionType.ALLOW, ResourcePattern(kind, name))
            for kind, name, operation in rights
        ]
    )
    try:
        yield
    finally:
        filters = [
            ACLFilter(
                *given,
                operation,
                ACLPermissionType.ANY,
                ResourcePatternFilter(kind, name, ACLResourcePatternType.LITERAL),
            )
            for kind, name, operation in rights
        ]
        admin.delete_acls(filters)
        admin.close()


def names_for(brokers: Brokers, ledger_id: UUID) -> dict[str, str]:
    """What stands in the table, for a topic and a ledger of one's own."""
    return {
        "volunteer.ledger.events.v1": brokers.events,
        "volunteer.ledger.events.v1.relay-position.LEDGER": brokers.positions(ledger_id),
        "LEDGER.relay": f"{ledger_id}.relay",
        "GROUP": f"group-{ledger_id}",
    }


@pytest.mark.slow  # about 5 s
def test_with_these_rights_topics_are_made_and_facts_leave_and_without_any_of_them_not(
    kafka_broker: KafkaBroker, guarded: Brokers, log: LedgerLog
) -> None:
    ledger_id = log.identity.ledger_id
    names = names_for(guarded, ledger_id)
    with allowed(kafka_broker, rights_of("maker of the topics", names)):
        assert len(guarded.create_topics(ledger_id)) == 2
        assert guarded.require_topics(ledger_id).partitions == 2
    rights = rights_of("relay", names)
    for missing in rights:
        with (
            allowed(kafka_broker, [right for right in rights if right != missing]),
            pytest.raises((KafkaRefusedError, TopicMissingError)),
        ):
            Relay(log, guarded, transaction_seconds=5).once()
    with allowed(kafka_broker, rights):
        relay = Relay(log, guarded)
        relay.once()
        assert relay.state.position == 1


@pytest.mark.slow  # about 5 s
def test_with_these_rights_a_group_reads_and_without_any_of_them_not(
    kafka_broker: KafkaBroker, guarded: Brokers, log: LedgerLog
) -> None:
    public = Brokers(kafka_broker.address, guarded.events, 2, 1)
    public.create_topics(log.identity.ledger_id)
    Relay(log, public).once()
    names = names_for(guarded, log.identity.ledger_id)
    rights = rights_of("worker", names)

    def read(seconds: int) -> int:
        consumer = guarded.consumer(names["GROUP"], consumer_timeout_ms=seconds * 1000)
        try:
            consumer.partitions_for_topic(guarded.events)
            consumer.subscribe([guarded.events])
            next(consumer)
            consumer.commit()
            return 1
        finally:
            consumer.close()

    for missing in rights:
        with (
            allowed(kafka_broker, [right for right in rights if right != missing]),
            pytest.raises((KafkaError, StopIteration)),
        ):
            read(3)
    with allowed(kafka_broker, rights):
        assert read(20) == 1
