"""A topic filled as the relay fills it, and what must hold of figures that workers made of it."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from itertools import islice
from typing import TypeVar
from uuid import UUID, uuid4

from kafka import KafkaProducer
from kafka.admin import KafkaAdminClient, NewTopic
from sqlalchemy import select

from ledger.cloudevents import Message, message_of
from ledger.groupcommit import Row as Fact
from ledger.log import LedgerLog
from projections import follower
from projections.engine import Row
from projections.figures import all_figures
from projections.worker_store import WorkerStore
from tests.county import LEDGER_ID

OTHER_LEDGER = UUID("0b7c1c3e-6a55-4a1d-9d6a-3f2f4f1f0a02")
T = TypeVar("T")
Tables = dict[str, list[Row]]
"""All rows of every figure, hidden columns included, in the order of their keys."""


def new_topic(address: str, partitions: int = 3, name: str = "") -> str:
    """A topic of its own for every test."""
    name = name or f"events.{uuid4().hex}"
    with closing(KafkaAdminClient(bootstrap_servers=address)) as admin:
        admin.create_topics([NewTopic(name, partitions, 1)])
    return name


@contextmanager
def sender(address: str) -> Iterator[KafkaProducer]:
    """A producer of transactions."""
    producer = KafkaProducer(
        bootstrap_servers=address, transactional_id=uuid4().hex, linger_ms=5, metrics_enabled=False
    )
    try:
        producer.init_transactions()
        yield producer
    finally:
        producer.close()


def send(
    producer: KafkaProducer, topic: str, messages: Iterable[Message | bytes], partition: int | None = None
) -> None:
    """One transaction; what is bytes alone is the value of a message that no ledger sent."""
    producer.begin_transaction()
    send_open(producer, topic, messages, partition)
    producer.commit_transaction()


def send_open(
    producer: KafkaProducer, topic: str, messages: Iterable[Message | bytes], partition: int | None = None
) -> None:
    """In the transaction that is open."""
    sent = []
    for one in messages:
        if isinstance(one, bytes):
            sent.append(producer.send(topic, one, partition=partition))
        else:
            sent.append(
                producer.send(topic, one.value, key=one.key, headers=one.headers, partition=partition)
            )
    producer.flush()
    for future in sent:
        future.get(30)


def fill(
    address: str,
    topic: str,
    facts: Sequence[Fact],
    *,
    size: int = 50,
    ledger_id: UUID = LEDGER_ID,
    accidents: bool = True,
) -> None:
    """The facts in transactions, with some that are aborted and another ledger's facts in between."""
    with sender(address) as producer:
        for number, some in enumerate(chunked(facts, size)):
            messages = [message_of(ledger_id, fact) for fact in some]
            if accidents and number % 3 == 1:
                producer.begin_transaction()
                send_open(producer, topic, messages[: len(messages) // 2 + 1])
                producer.abort_transaction()
                send(producer, topic, [message_of(OTHER_LEDGER, fact) for fact in some[:7]])
            send(producer, topic, messages)


def chunked(things: Iterable[T], size: int) -> Iterator[list[T]]:
    rest = iter(things)
    while some := list(islice(rest, size)):
        yield some


def followed(log: LedgerLog) -> Tables:
    """The tables that are fed from the log."""
    follower.catch_up(log)
    found = {}
    with log.engine.connect() as connection:
        for figure in all_figures():
            table = figure.table()
            rows = connection.execute(select(*(table.c[name] for name in figure.columns)))
            found[figure.name] = sorted(
                (tuple(row) for row in rows),
                key=lambda row: row[: len(figure.keys)],
            )
    return found


def tables(store: WorkerStore) -> Tables:
    """The tables that workers fed."""
    with store.moment() as moment:
        return {figure.name: moment.table(figure) for figure in all_figures()}
