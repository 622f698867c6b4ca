"""``python -m bench.relay``: how fast facts leave for a real Kafka, and how soon after their command a reader has them.

On a private broker (see `tests.broker`) unless one is named. Throughput is that of a relay with a backlog, from the end
of its first transaction to the end of its last. Latency is from before the command to the committed record in a
reader's hands, one command after the other, with a relay that runs beside.
"""

import argparse
import gc
import hashlib
import json
import os
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from uuid import uuid4

from kafka import KafkaConsumer, TopicPartition

from api.cli.relaying import GARBAGE_OBJECTS
from bench import facts
from bench.measuring import milliseconds
from bench.size import machine
from ledger import commands, ids
from ledger.application import Ledger
from ledger.brokers import Brokers
from ledger.cloudevents import received
from ledger.log import LedgerLog
from ledger.relay import Relay
from ledger.rules import Caller
from tests.broker import private_broker
from tests.services import fresh_database, postgres_server

BATCHES = (100, 500, 2_000)
COMMANDS = 200
WARM = 10
"""Commands before those that count."""
PARTITIONS = 12
ADMIN = Caller(uuid4(), "admin")


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser("python -m bench.relay", description=__doc__)
    parser.add_argument("--facts", type=int, default=100_000, help="the backlog")
    parser.add_argument(
        "--commands", type=int, default=COMMANDS, help="commands whose records are waited for"
    )
    parser.add_argument("--kafka", help="brokers to use, host:port; left out, a private one is started")
    parser.add_argument("--output", type=Path, default=Path("relay.json"), help="the JSON file")
    asked = parser.parse_args(arguments)
    with (
        TemporaryDirectory(prefix="wenming-bench-") as folder,
        _broker(asked.kafka) as (address, broker),
        postgres_server() as server,
        fresh_database(server, f"b{uuid4().hex[:12]}") as postgres,
    ):
        urls = {"sqlite": f"sqlite:///{folder}/ledger.db", "postgresql": postgres}
        found = {name: _measured(url, address, asked.facts, asked.commands) for name, url in urls.items()}
    document = {**machine(), "facts": asked.facts, "broker": broker, "figures": found}
    asked.output.write_text(json.dumps(document, indent=2) + "\n", "utf-8")
    print(_text(document))


@contextmanager
def _broker(given: str | None) -> Iterator[tuple[str, dict[str, float]]]:
    if given:
        yield given, {}
        return
    started = time.perf_counter()
    with private_broker() as broker:
        start = time.perf_counter() - started
        yield broker.address, {"start_seconds": start, "resident_mib": broker.resident_bytes / 2**20}


def _measured(url: str, address: str, count: int, asked: int) -> dict[str, float]:
    gc.set_threshold(GARBAGE_OBJECTS)  # as `wenming relay` does
    log = LedgerLog.create(url, ledger_id=facts.LEDGER_ID, kind="demo", created_at=facts.START)
    with closing(log):
        facts.write(log, count)
        rates = {f"facts_per_second_{batch}": _throughput(log, address, batch) for batch in BATCHES}
        return rates | _latency(log, address, asked)


def _topic(log: LedgerLog, address: str) -> Brokers:
    brokers = Brokers(address, f"bench-{uuid4().hex[:10]}", PARTITIONS, 1)
    brokers.create_topics(log.identity.ledger_id)
    return brokers


def _throughput(log: LedgerLog, address: str, batch: int) -> float:
    """Facts a second, while there is a backlog."""
    told: list[tuple[int, float]] = []
    relay = Relay(log, _topic(log, address), batch_facts=batch)
    relay.once(progress=lambda _what, done, _whole: told.append((done, time.perf_counter())))
    (first, began), (last, ended) = told[0], told[-1]
    return (last - first) / (ended - began)


def _latency(log: LedgerLog, address: str, count: int) -> dict[str, float]:
    """Milliseconds from before a command to its record in a reader's hands, and to the command's own answer."""
    ledger = Ledger(log, digest=lambda body: hashlib.sha256(body).digest())
    unit = ids.unit_id(facts.LEDGER_ID, "institute", "620523100")
    brokers = _topic(log, address)
    relay, stop = Relay(log, brokers), threading.Event()
    relay.once()
    runs = threading.Thread(target=relay.run, args=(stop,), name="relay")
    reader = brokers.consumer()
    reader.assign([TopicPartition(brokers.events, number) for number in range(PARTITIONS)])
    reader.seek_to_end()
    answered, read = [], []
    runs.start()
    try:
        for number in range(count + WARM):
            started = time.perf_counter()
            answer = ledger.handle(commands.RenameUnit(unit_id=unit, name=f"所{number}"), ADMIN)
            answered.append(time.perf_counter() - started)
            _wait_for(reader, answer.last_position)
            read.append(time.perf_counter() - started)
    finally:
        stop.set()
        runs.join()
        reader.close()
    return {
        f"{name}_ms_{percent}": milliseconds(times[WARM:], percent)
        for name, times in (("command", answered), ("record", read))
        for percent in (50, 99)
    }


def _wait_for(reader: KafkaConsumer, position: int) -> None:
    while True:
        for records in reader.poll(timeout_ms=1_000).values():
            if any(received(one.value).fact.position >= position for one in records):
                return


def _text(document: dict[str, Any]) -> str:
    """The table: a line a figure, a column a database."""
    names = list(document["figures"])
    lines = {
        f"facts_per_second_{batch}": f"published, {batch:,} facts a transaction, facts/s" for batch in BATCHES
    }
    lines |= {
        f"{key}_ms_{percent}": f"{text}, p{percent}, ms"
        for key, text in (("command", "command answered"), ("record", "command to committed record"))
        for percent in (50, 99)
    }
    rows = [("", *names)] + [
        (text, *(f"{document['figures'][name][key]:,.1f}" for name in names)) for key, text in lines.items()
    ]
    table = "\n".join(f"{row[0]:52}" + "".join(f"{cell:>14}" for cell in row[1:]) for row in rows)
    broker = document["broker"]
    started = f"broker {broker['start_seconds']:.1f} s, {broker['resident_mib']:.0f} MiB; " if broker else ""
    return f"{table}\n{document['facts']:,} facts; {started}load {os.getloadavg()[0]:.1f}"


if __name__ == "__main__":
    main()
