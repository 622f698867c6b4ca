"""The private broker is a real one: it answers, survives being killed, and lets nobody in who may not."""

import time

import pytest
from kafka import KafkaConsumer, KafkaProducer, TopicPartition
from kafka.admin import KafkaAdminClient, NewTopic
from kafka.errors import KafkaError, TopicAuthorizationFailedError

from tests.broker import ACCOUNTS, KafkaBroker, private_broker

pytestmark = pytest.mark.slow  # it needs a broker, and a minute


def test_what_was_acknowledged_outlives_a_killed_broker() -> None:
    started = time.monotonic()
    with private_broker() as broker:
        print(f"started in {time.monotonic() - started:.1f} s, {broker.resident_bytes / 2**20:.0f} MiB")
        admin = KafkaAdminClient(bootstrap_servers=broker.address)
        admin.create_topics([NewTopic("kept", 1, 1)])
        admin.close()
        with KafkaProducer(bootstrap_servers=broker.address) as producer:
            producer.send("kept", b"a fact").get(20)
        broker.kill()
        started = time.monotonic()
        broker.start()
        print(f"started again in {time.monotonic() - started:.1f} s")
        consumer = KafkaConsumer(bootstrap_servers=broker.address, auto_offset_reset="earliest")
        consumer.assign([TopicPartition("kept", 0)])
        assert next(consumer).value == b"a fact"
        consumer.close()


def test_whom_no_acl_names_may_do_nothing(kafka_broker: KafkaBroker) -> None:
    admin = KafkaAdminClient(bootstrap_servers=kafka_broker.address)
    admin.create_topics([NewTopic("guarded", 1, 1)])
    admin.close()
    login = {"security_protocol": "SASL_PLAINTEXT", "sasl_mechanism": "PLAIN"}
    with (
        KafkaProducer(
            bootstrap_servers=kafka_broker.sasl_address,
            sasl_plain_username="nobody",
            sasl_plain_password=ACCOUNTS["nobody"],
            max_block_ms=5_000,
            enable_idempotence=False,
            **login,
        ) as producer,
        pytest.raises(TopicAuthorizationFailedError),
    ):
        producer.send("guarded", b"a fact").get(10)


def test_a_wrong_password_is_not_let_in(kafka_broker: KafkaBroker) -> None:
    with pytest.raises(KafkaError):
        KafkaAdminClient(
            bootstrap_servers=kafka_broker.sasl_address,
            security_protocol="SASL_PLAINTEXT",
            sasl_mechanism="PLAIN",
            sasl_plain_username="relay",
            sasl_plain_password="wrong",
            bootstrap_timeout_ms=5_000,
        )
