"""Kafka as the ledger needs it: how it is reached, what its topics must be, and what it says as errors of ours.

Everything that kafka-python is told stands here. Nothing here reads the log.
"""

import logging
import re
import ssl
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from kafka import KafkaConsumer, KafkaProducer, TopicPartition
from kafka.admin import AbortTransactionSpec, ConfigResource, KafkaAdminClient
from kafka.errors import (
    AuthorizationError,
    IncompatibleBrokerVersion,
    InvalidReplicationFactorError,
    InvalidTopicError,
    KafkaConfigurationError,
    KafkaConnectionError,
    KafkaError,
    KafkaTimeoutError,
    SaslAuthenticationFailedError,
    TopicAlreadyExistsError,
    UnsupportedSaslMechanismError,
)

from ledger.errors import (
    ExpectedError,
    KafkaRefusedError,
    KafkaUnreachableError,
    TopicMissingError,
    TopicWrongError,
)

CONNECT_SECONDS = 10.0
MESSAGE_BYTES_MIN = 1_048_588
"""What the topics must take, which is Kafka's default: facts travel in batches, and the largest is a tenth of it."""
BATCH_BYTES = MESSAGE_BYTES_MIN // 2
REQUEST_BYTES = 16 * 1_048_576
"""No limit of ours: it is the topic that says what is too large."""

EVENTS = {
    "cleanup.policy": "delete",
    "retention.ms": "-1",
    "retention.bytes": "-1",
    "unclean.leader.election.enable": "false",
}
"""Facts are for ever: nothing expires, nothing is compacted away, and no broker that missed some may lead."""
POSITIONS = {
    "cleanup.policy": "compact",
    "segment.bytes": str(1_048_576),
    "segment.ms": str(3_600_000),
    "unclean.leader.election.enable": "false",
}
"""Only the newest position counts. Small segments are compacted soon, so that whoever starts has little to read."""
logger = logging.getLogger("wenming.relay")
_ENDED = {"Empty", "CompleteCommit", "CompleteAbort"}
_CODE = re.compile(r"^\[Error -?\d+\] ")
_REQUIRED = {
    "events": EVENTS,
    "position": {name: POSITIONS[name] for name in ("cleanup.policy", "unclean.leader.election.enable")},
}
_NEEDED = {"events": {"DESCRIBE", "READ", "WRITE"}, "position": {"DESCRIBE", "READ", "WRITE"}}


@dataclass(frozen=True)
class Topic:
    """A topic as the brokers describe it."""

    name: str
    topic_id: UUID
    partitions: int


@dataclass(frozen=True)
class Brokers:
    """A Kafka cluster and the ledger's topics on it. ``login`` holds secrets: never shown."""

    bootstrap: str
    events: str = "volunteer.ledger.events.v1"
    partitions: int = 12
    replication: int = 3
    login: Mapping[str, Any] = field(default_factory=dict, repr=False)

    def positions(self, ledger_id: UUID) -> str:
        """The topic of one relay's position.

        One for each ledger: whoever reads committed records waits for every open transaction of a partition, and
        another ledger's must never hide our own newest position from us.
        """
        return f"{self.events}.relay-position.{ledger_id}"

    # -- clients --

    def producer(self, transactional_id: str, transaction_seconds: float) -> KafkaProducer:
        """A transactional producer; the caller closes it. KAFKA_UNREACHABLE, KAFKA_REFUSED."""
        milliseconds = int(transaction_seconds * 1000)
        return self._made(
            KafkaProducer,
            transactional_id=transactional_id,
            acks="all",
            transaction_timeout_ms=milliseconds,
            delivery_timeout_ms=milliseconds,
            max_block_ms=milliseconds,
            request_timeout_ms=milliseconds // 2,
            retry_backoff_ms=10,
            linger_ms=milliseconds
            // 2,  # nothing is sent before it is flushed: threads of Python only take turns
            batch_size=BATCH_BYTES,
            max_request_size=REQUEST_BYTES,
            allow_auto_create_topics=False,
        )

    def consumer(self, group: str | None = None, *, committed: bool = True, **more: Any) -> KafkaConsumer:
        """A consumer of committed records (or of all there are); the caller closes it. Errors as `producer`."""
        return self._made(
            KafkaConsumer,
            group_id=group,
            isolation_level="read_committed" if committed else "read_uncommitted",
            enable_auto_commit=False,
            **{"auto_offset_reset": "earliest", **more},
        )

    def _made(self, kind: Any, **options: Any) -> Any:
        with _last_trouble() as trouble:
            try:
                return kind(
                    bootstrap_servers=self.bootstrap.split(","),
                    bootstrap_timeout_ms=int(CONNECT_SECONDS * 1000),
                    **self.login,
                    **options,
                )
            except (KafkaError, OSError, ValueError) as error:
                if "sasl" in str(self.login.get("security_protocol", "")).lower() and trouble.was_hung_up:
                    problem = "the broker hangs up: user or password, or another protocol on that port"
                    raise KafkaRefusedError(problem=problem) from None
                raise self.as_ours(trouble.last or error) or error from None

    def as_ours(self, error: BaseException) -> ExpectedError | None:
        """What Kafka says, as an error that tells what to do; None for what may pass by itself."""
        if isinstance(error, SaslAuthenticationFailedError | UnsupportedSaslMechanismError):
            return KafkaRefusedError(problem=f"login ({_sentence(error)})")
        if isinstance(error, AuthorizationError):
            return KafkaRefusedError(problem=f"{type(error).__name__} {_sentence(error)}")
        if isinstance(error, KafkaConfigurationError | IncompatibleBrokerVersion | ValueError):
            return KafkaUnreachableError(servers=self.bootstrap, problem=_sentence(error))
        if isinstance(error, KafkaError | OSError):
            return KafkaUnreachableError(servers=self.bootstrap, problem=_sentence(error))
        return None

    # -- topics --

    @contextmanager
    def _admin(self) -> Iterator[KafkaAdminClient]:
        admin = self._made(KafkaAdminClient)
        try:
            yield admin
        except KafkaError as error:
            raise self.as_ours(error) or error from None
        finally:
            with suppress(KafkaError):
                admin.close()

    def create_topics(self, ledger_id: UUID) -> list[str]:
        """Make those of the ledger's two topics that are not there yet; their names.

        One that is there is left as it is: `require_topics` says what is wrong with it.
        """
        wanted = {
            self.events: (self.partitions, EVENTS),
            self.positions(ledger_id): (1, POSITIONS),
        }
        made = []
        with self._admin() as admin:
            there = {
                topic["name"] for topic in admin.describe_topics(list(wanted)) if not topic["error_code"]
            }
            for name, (partitions, configs) in wanted.items():
                if name in there:
                    continue
                options = {
                    "num_partitions": partitions,
                    "replication_factor": self.replication,
                    "configs": {**configs, "min.insync.replicas": str(max(1, self.replication - 1))},
                }
                try:
                    admin.create_topics({name: options}, wait_for_metadata=True)
                except TopicAlreadyExistsError:  # somebody else made it just now
                    continue
                except (InvalidReplicationFactorError, InvalidTopicError) as error:
                    raise TopicWrongError(topic=name, problem=_sentence(error)) from None
                made.append(name)
        return made

    def events_topic(self) -> Topic:
        """The events topic as it is, for who only reads it. TOPIC_MISSING, TOPIC_WRONG, KAFKA_REFUSED."""
        with self._admin() as admin:
            (found,) = admin.describe_topics([self.events])
        _require_there(self.events, found, {"DESCRIBE", "READ"})
        return Topic(self.events, UUID(str(found["topic_id"])), len(found["partitions"]))

    def has_ended(self, transactional_id: str) -> bool:
        """Whether the last transaction under this name is over, as its coordinator says."""
        with self._admin() as admin:
            (known,) = admin.describe_transactions([transactional_id]).values()
        return str(getattr(known.state, "value", known.state)) in _ENDED

    def open_transactions(
        self, transactional_id: str, partitions: list[TopicPartition]
    ) -> list[TopicPartition]:
        """Those of some partitions where a transaction under this name stands open."""
        with self._admin() as admin:
            (known,) = admin.describe_transactions([transactional_id]).values()
            found = admin.describe_producers(partitions)
        return [
            partition
            for partition, state in found.items()
            for one in state.active_producers
            if one.producer_id == known.producer_id and one.current_transaction_start_offset >= 0
        ]

    def abort_open(self, transactional_id: str, partitions: list[TopicPartition]) -> None:
        """Take back what hangs there, as ``kafka-transactions.sh abort`` does. It needs ALTER or CLUSTER_ACTION."""
        with self._admin() as admin:
            (known,) = admin.describe_transactions([transactional_id]).values()
            for partition, state in admin.describe_producers(partitions).items():
                for one in state.active_producers:
                    if one.producer_id == known.producer_id and one.current_transaction_start_offset >= 0:
                        end = AbortTransactionSpec(
                            partition, one.producer_id, one.producer_epoch, one.coordinator_epoch
                        )
                        admin.abort_transaction(end)

    def require_topics(self, ledger_id: UUID) -> Topic:
        """The events topic, once both topics are as they must be. TOPIC_MISSING, TOPIC_WRONG, KAFKA_REFUSED."""
        names = {"events": self.events, "position": self.positions(ledger_id)}
        with self._admin() as admin:
            found = {topic["name"]: topic for topic in admin.describe_topics(list(names.values()))}
            for use, name in names.items():
                _require_there(name, found.get(name), _NEEDED[use])
            resources = [ConfigResource("topic", name) for name in names.values()]
            configs = _configs(admin, resources)
        partitions = {"events": self.partitions, "position": 1}
        for use, name in names.items():
            there = len(found[name]["partitions"])
            problems = _differences(configs.get(name, {}), _REQUIRED[use])
            problems += _easily_lost(configs.get(name, {}), found[name]["partitions"])
            if there != partitions[use]:
                problems.insert(0, f"{there} partitions, not {partitions[use]}")
            if problems:
                raise TopicWrongError(topic=name, problem="; ".join(problems))
        events = found[self.events]
        return Topic(self.events, UUID(str(events["topic_id"])), len(events["partitions"]))


def _require_there(name: str, topic: Mapping[str, Any] | None, needed: Collection[str]) -> None:
    code = 3 if topic is None else topic["error_code"]
    if code == 29:  # TOPIC_AUTHORIZATION_FAILED
        raise KafkaRefusedError(problem=f"topic {name}: may not even be described")
    if code == 3 or not topic or not topic["partitions"]:
        raise TopicMissingError(topic=name)
    if code != 0:
        raise TopicWrongError(topic=name, problem=f"Kafka's error {code}")
    allowed = topic.get("authorized_operations")
    if allowed and (missing := sorted(set(needed) - {str(one) for one in allowed})):
        raise KafkaRefusedError(problem=f"topic {name}: needs {', '.join(missing)}")


def _configs(admin: KafkaAdminClient, resources: list[ConfigResource]) -> Mapping[str, Mapping[str, str]]:
    """Settings by topic; none where they may not be looked at (DESCRIBE_CONFIGS), which is said in the log."""
    try:
        found = admin.describe_configs(resources, config_filter="all").get("topic", {})
    except AuthorizationError:
        logger.warning("the settings of the topics are not checked: that needs DescribeConfigs")
        return {}
    return {name: {key: str(one["value"]) for key, one in values.items()} for name, values in found.items()}


def _differences(configs: Mapping[str, str], required: Mapping[str, str]) -> list[str]:
    problems = [
        f"{name} is {configs[name]}, not {value}"
        for name, value in required.items()
        if name in configs and configs[name] != value
    ]
    largest = configs.get("max.message.bytes")
    if largest is not None and int(largest) < MESSAGE_BYTES_MIN:
        problems.append(f"max.message.bytes is {largest}, below {MESSAGE_BYTES_MIN}")
    return problems


def _easily_lost(configs: Mapping[str, str], partitions: Sequence[Mapping[str, Any]]) -> list[str]:
    """With several replicas, an acknowledged record must stand on two of them at least."""
    replicas = min(len(partition["replica_nodes"]) for partition in partitions)
    enough = int(configs.get("min.insync.replicas", "2"))
    if replicas < 2 or enough >= 2:
        return []
    return [f"min.insync.replicas is {enough} with {replicas} replicas: an acknowledged fact may be lost"]


def login_of(
    protocol: str, mechanism: str | None, user: str | None, password: str | None, ca_file: str | None
) -> dict[str, Any]:
    """What kafka-python's clients are told about TLS and who logs in; OSError for a CA file that cannot be read."""
    login: dict[str, Any] = {"security_protocol": protocol.upper()}
    if "ssl" in protocol:
        login["ssl_context"] = ssl.create_default_context(cafile=ca_file)
    if "sasl" in protocol:
        login |= {
            "sasl_mechanism": mechanism,
            "sasl_plain_username": user,
            "sasl_plain_password": password,
        }
    return login


class _LastTrouble(logging.Handler):
    """The newest exception that kafka-python only wrote to its log: why it could not connect, say."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.last: BaseException | None = None

    @property
    def was_hung_up(self) -> bool:
        """A login that fails is mostly seen as nothing but a lost connection."""
        return isinstance(self.last, KafkaConnectionError) and "disconnected" in str(self.last)

    def emit(self, record: logging.LogRecord) -> None:
        arguments = record.args if isinstance(record.args, tuple) else ()
        for argument in arguments:
            # That it gave up explains nothing, and a wrong password shows only once, between lost connections.
            if isinstance(argument, KafkaTimeoutError) or isinstance(
                self.last, SaslAuthenticationFailedError
            ):
                continue
            if isinstance(argument, KafkaError):
                self.last = argument


@contextmanager
def _last_trouble() -> Iterator[_LastTrouble]:
    """While a client connects, its troubles are kept instead of logged: the last one is told in our words."""
    logger, trouble = logging.getLogger("kafka"), _LastTrouble()
    propagated, logger.propagate = logger.propagate, False
    logger.addHandler(trouble)
    try:
        yield trouble
    finally:
        logger.removeHandler(trouble)
        logger.propagate = propagated


def _sentence(error: BaseException) -> str:
    """One line without the class's own noise."""
    text = (str(error) or type(error).__name__).strip().splitlines()[0]
    return _CODE.sub("", text)[:300]
