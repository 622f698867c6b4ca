"""What the worker processes of the longer tests do (see `tests.faults.Hand`)."""

import logging
import threading
from multiprocessing.connection import Connection

from ledger.brokers import Brokers
from projections import worker
from projections.worker_store import WorkerStore

SESSION_SECONDS = 2.0
"""A worker that is gone is missed soon, and its partitions go to others."""


def feed(telling: Connection, url: str, address: str, topic: str, batch: int) -> None:
    """Work for ever, in batches of so many messages."""
    logging.getLogger("kafka").setLevel(logging.CRITICAL)
    worker.BATCH_MESSAGES = batch
    store = WorkerStore.open(url)
    telling.send("at work")
    worker.work(store, Brokers(address, topic), threading.Event(), session_seconds=SESSION_SECONDS)
