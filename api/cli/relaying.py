"""`wenming topic` and `wenming relay`: facts leave for Kafka, exactly once."""

import gc
import logging
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Annotated

import typer
from kafka.errors import KafkaError

from api.cli.given import Database, open_log
from api.cli.shown import complain, say
from api.progress import progress
from api.relay_metrics import serving_metrics
from api.settings import KafkaSettings, read_kafka_settings
from ledger.brokers import Brokers
from ledger.errors import RelayBehindError, RelayPositionMissingError
from ledger.log import LedgerLog
from ledger.relay import Relay, lag_behind
from ledger.relay_position import PositionTopic

Bootstrap = Annotated[
    str | None, typer.Option(help="Kafka, host:port with commas between (or WENMING_KAFKA_BOOTSTRAP).")
]
TopicName = Annotated[
    str | None, typer.Option("--topic", help="The topic that carries the facts (or WENMING_KAFKA_TOPIC).")
]
Partitions = Annotated[
    int | None, typer.Option(help="Of the events topic, for ever (or WENMING_KAFKA_PARTITIONS; 12).")
]
STATUS_SECONDS = 10.0
GARBAGE_OBJECTS = 50_000
"""Thousands of objects a transaction, all short-lived: looking for cycles among them costs an eighth of the time."""


def create(
    database: Database = None,
    bootstrap: Bootstrap = None,
    topic: TopicName = None,
    partitions: Partitions = None,
    replication: Annotated[
        int | None, typer.Option(help="Brokers that keep each record (or WENMING_KAFKA_REPLICATION; 3).")
    ] = None,
) -> None:
    """Make the topics that a ledger's facts leave by, where they are missing, and check those that are there."""
    settings = read_kafka_settings(
        bootstrap=bootstrap, topic=topic, partitions=partitions, replication=replication
    )
    with open_log(database) as log:
        brokers, ledger_id = settings.brokers(), log.identity.ledger_id
        made = brokers.create_topics(ledger_id)
        brokers.require_topics(ledger_id)
    for name in (brokers.events, brokers.positions(ledger_id)):
        say(f"✓ {name}  ({'made' if name in made else 'there already'})")


def check(
    database: Database = None,
    bootstrap: Bootstrap = None,
    topic: TopicName = None,
    partitions: Partitions = None,
) -> None:
    """Check the topics: that they are there, as they must be, and may be written by whoever logs in."""
    settings = read_kafka_settings(bootstrap=bootstrap, topic=topic, partitions=partitions)
    with open_log(database) as log:
        found = settings.brokers().require_topics(log.identity.ledger_id)
    say(f"✓ {found.name}  {found.partitions} partitions, id {found.topic_id}")


def relay(
    database: Database = None,
    bootstrap: Bootstrap = None,
    topic: TopicName = None,
    partitions: Partitions = None,
    once: Annotated[bool, typer.Option(help="Publish what there is and stop.")] = False,
    from_topic: Annotated[
        bool,
        typer.Option("--from-topic", help="Go on behind what the topic holds, when the position is lost."),
    ] = False,
    status: Annotated[bool, typer.Option("--status", help="Only say how far the topic is behind.")] = False,
    lag_max: Annotated[
        int | None, typer.Option(min=0, help="With --status: more facts behind than this is a failure.")
    ] = None,
    lag_seconds_max: Annotated[
        float | None,
        typer.Option(min=0, help="With --status: a fact that has waited longer than this is a failure."),
    ] = None,
    metrics_port: Annotated[
        int | None, typer.Option(help="Serve /metrics for Prometheus (or WENMING_KAFKA_METRICS_PORT).")
    ] = None,
) -> None:
    """Publish every fact to Kafka, exactly once and in order, until stopped. A newer relay takes over an older one."""
    settings = read_kafka_settings(
        bootstrap=bootstrap, topic=topic, partitions=partitions, metrics_port=metrics_port
    )
    with open_log(database) as log, quiet_kafka():
        gc.set_threshold(GARBAGE_OBJECTS)
        brokers = settings.brokers()
        if status:
            _show_status(log, brokers, lag_max, lag_seconds_max)
            return
        made = Relay(log, brokers, transaction_seconds=settings.transaction_seconds)
        with progress() as report:
            if once:
                made.once(from_topic=from_topic, progress=report)
            else:
                _run(made, settings, from_topic)
    complain(f"published up to position {made.state.position:,}")


def _run(made: Relay, settings: KafkaSettings, from_topic: bool) -> None:
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    with serving_metrics(made, settings.metrics_host, settings.metrics_port), _telling(made, stop):
        made.run(stop, from_topic=from_topic)


@contextmanager
def _telling(made: Relay, stop: threading.Event) -> Iterator[None]:
    """A line now and then: how far, and how far behind."""

    def tell() -> None:
        told = -1
        while not stop.wait(STATUS_SECONDS):
            with suppress(Exception):  # the database is away: the relay itself says so
                lag = made.lag()
                if made.state.position != told or lag.facts:
                    told = made.state.position
                    complain(f"position {told:,}, behind {lag.facts:,} facts, {lag.seconds:.0f} s")

    thread = threading.Thread(target=tell, name="relay-status", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def _show_status(
    log: LedgerLog, brokers: Brokers, lag_max: int | None, lag_seconds_max: float | None
) -> None:
    """From the position topic alone, beside a relay that runs. RELAY_BEHIND, RELAY_POSITION_MISSING."""
    brokers.require_topics(log.identity.ledger_id)
    try:
        with PositionTopic(brokers, log.identity.ledger_id) as positions:
            newest = positions.read(STATUS_SECONDS)
    except KafkaError as error:
        raise brokers.as_ours(error) or error from None
    if newest is None:
        raise RelayPositionMissingError(topic=brokers.events)
    lag = lag_behind(log, newest.position)
    say(
        f"published up to position {newest.position:,}; behind {lag.facts:,} facts, {lag.seconds:.0f} s",
        f"  {brokers.events}, {newest.partitions} partitions; relay {newest.relay_id}",
    )
    is_late = lag_seconds_max is not None and lag.seconds > lag_seconds_max
    if is_late or (lag_max is not None and lag.facts > lag_max):
        raise RelayBehindError(facts=lag.facts, seconds=round(lag.seconds))


@contextmanager
def quiet_kafka() -> Iterator[None]:
    """kafka-python logs every lost connection several times; what matters is told in our words."""
    logger, nowhere = logging.getLogger("kafka"), logging.NullHandler()
    propagated, logger.propagate = logger.propagate, False
    logger.addHandler(nowhere)
    try:
        yield
    finally:
        logger.removeHandler(nowhere)
        logger.propagate = propagated
