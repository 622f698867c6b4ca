"""`wenming work`: figures that workers feed from the events topic, in a store of their own."""

import signal
import threading
from contextlib import closing
from typing import Annotated
from uuid import UUID

import typer

from api.cli.given import AsJson
from api.cli.relaying import Bootstrap, TopicName, quiet_kafka
from api.cli.shown import complain, say, show_json, show_rows
from api.settings import read_kafka_settings, read_worker_settings
from ledger.brokers import Brokers
from projections import worker
from projections.worker_store import WorkerStore, stands_at


def work(
    store: Annotated[
        str | None,
        typer.Option(
            help="The figures: sqlite:///file or postgresql://…, an own one (or WENMING_WORKER_STORE)."
        ),
    ] = None,
    ledger: Annotated[
        UUID | None,
        typer.Option(help="Whose: with it the store is made if it is missing (or WENMING_WORKER_LEDGER)."),
    ] = None,
    bootstrap: Bootstrap = None,
    topic: TopicName = None,
    once: Annotated[bool, typer.Option("--once", help="Take what is in the topic now, and stop.")] = False,
    status: Annotated[
        bool, typer.Option("--status", help="Only say how far each partition was taken.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Feed figures from the events topic, as one worker of the group of the store. One for each partition at most."""
    settings = read_worker_settings(store=store, ledger=ledger)
    brokers = read_kafka_settings(bootstrap=bootstrap, topic=topic).brokers()
    with quiet_kafka(), closing(_opened(settings.store, settings.ledger, brokers)) as opened:
        if status:
            _show_status(opened, brokers, as_json)
            return
        stop = threading.Event()
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: stop.set())
        worker.work(opened, brokers, stop, once=once)
        complain(_standing(opened))


def _opened(url: str, ledger: UUID | None, brokers: Brokers) -> WorkerStore:
    """The store, made for ``ledger`` if it is not there; checked against the topic as it is."""
    topic = brokers.events_topic()
    if ledger is not None:
        return WorkerStore.make(url, ledger, topic)
    store = WorkerStore.open(url)
    try:
        store.require(topic=topic)
    except BaseException:
        store.close()
        raise
    return store


def _standing(store: WorkerStore) -> str:
    facts, last = stands_at(store.places().values())
    if facts == last:
        return f"figures at position {facts:,}"
    return f"figures of {facts:,} facts, the last at position {last:,}: between two positions"


def _show_status(store: WorkerStore, brokers: Brokers, as_json: bool) -> None:
    lags = worker.status(store, brokers)
    facts, last = stands_at(lag.place for lag in lags)
    rows = [vars(lag.place) | {"end_offset": lag.end_offset, "behind": lag.offsets} for lag in lags]
    if as_json:
        show_json(
            {
                "ledger_id": store.ledger_id,
                "group": store.group,
                "facts": facts,
                "last_sequence": last,
                "position": facts if facts == last else None,
                "partitions": rows,
            }
        )
        return
    show_rows(rows, as_json=False)
    say(_standing(store), f"  ledger {store.ledger_id}, {store.topic.name}", f"  group {store.group}")
