"""``python -m bench.workers``: how many facts a second workers count into figures, by how many there are.

A private broker's topic of 12 partitions is filled once, in transactions as the relay's. Then, for each kind of store
and number of workers, a new store is fed to the topic's end; every worker is a process. All figures are kept. Workers,
broker and database share one machine: what more workers gain is what its cores have left.
"""

import argparse
import json
import logging
import os
import resource
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from statistics import median
from uuid import uuid4

from bench import facts
from bench.size import machine
from ledger.brokers import Brokers
from ledger.cloudevents import message_of
from ledger.groupcommit import Row as Fact
from ledger.merkle import leaf_hash
from projections import worker
from projections.figures import all_figures
from projections.worker_store import WorkerStore, stands_at
from tests.broker import private_broker
from tests.services import fresh_database, private_server
from tests.workers import chunked, new_topic, send, sender

PARTITIONS = 12
IN_A_TRANSACTION = 2_000
RUNS = (("sqlite", 1), ("postgresql", 1), ("postgresql", 2), ("postgresql", 4))
Figures = dict[str, float]


def main(arguments: list[str] | None = None) -> None:
    """Measure, print, write; or be one worker."""
    asked = _asked(arguments)
    if asked.store:
        _work(asked)
        return
    found: dict[str, list[Figures]] = {}
    with private_broker() as broker, private_server() as server:
        brokers = Brokers(broker.address, new_topic(broker.address, PARTITIONS))
        _say(f"filling the topic with {asked.facts:,} facts")
        _fill(brokers, asked.facts)
        for round_ in range(asked.rounds):
            for store, workers in RUNS:
                _say(f"round {round_ + 1}: {workers} on {store}")
                with _place(store, server.address) as url:
                    found.setdefault(f"{store} {workers}", []).append(
                        _run(url, brokers, workers, asked.facts)
                    )
    print(text(found))
    shown = machine()
    print(
        f"{asked.facts:,} facts, {PARTITIONS} partitions, {len(all_figures())} figures, {asked.rounds} rounds "
        f"(medians); load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores"
    )
    document = {
        "command": "python -m bench.workers " + " ".join(arguments or sys.argv[1:]),
        **shown,
        "facts": asked.facts,
        "partitions": PARTITIONS,
        "runs": found,
    }
    Path(asked.output).write_text(json.dumps(document, ensure_ascii=False, indent=2) + "\n", "utf-8")
    print(f"written: {asked.output}")


def _asked(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser("python -m bench.workers", description=__doc__)
    parser.add_argument("--facts", type=int, default=300_000, help="facts in the topic")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--output", default="bench-workers.json", help="the JSON file")
    for hidden in ("--store", "--bootstrap", "--topic"):
        parser.add_argument(hidden, default="", help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


def _say(what: str) -> None:
    print(f"… {what}", file=sys.stderr, flush=True)


def _fill(brokers: Brokers, count: int) -> None:
    with sender(brokers.bootstrap) as producer:
        for some in chunked(_stored(count), IN_A_TRANSACTION):
            send(producer, brokers.events, [message_of(facts.LEDGER_ID, fact) for fact in some])


def _stored(count: int) -> Iterator[Fact]:
    """The invented facts as a log stores them."""
    for position, one in enumerate(facts.stored_facts(count), start=1):
        stream, version = one.originator_id, one.originator_version
        assert not isinstance(stream, str)
        leaf = leaf_hash(stream.bytes, version, one.topic.encode(), one.state)
        yield Fact(position, stream, version, one.topic, one.state, leaf)


@contextmanager
def _place(store: str, server: str) -> Iterator[str]:
    """An empty place for a store."""
    with ExitStack() as stack:
        if store == "postgresql":
            yield stack.enter_context(fresh_database(server, f"w{uuid4().hex[:12]}"))
        else:
            yield f"sqlite:///{stack.enter_context(tempfile.TemporaryDirectory())}/figures.db"


def _run(url: str, brokers: Brokers, workers: int, count: int) -> Figures:
    """From the moment all workers may begin until the store stands at the end of the topic."""
    with closing(WorkerStore.make(url, facts.LEDGER_ID, brokers.events_topic())) as store:
        given = ("--store", url, "--bootstrap", brokers.bootstrap, "--topic", brokers.events)
        command = [sys.executable, "-m", "bench.workers", *given]
        processes = [
            subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            for _ in range(workers)
        ]
        try:
            for process in processes:
                _line(process)
            started = time.perf_counter()
            for process in processes:
                print(file=process.stdin, flush=True)
            times = _watched(store, count, processes)
            seconds = time.perf_counter() - started
            spent = [float(_line(process)) for process in processes]
        finally:
            for process in processes:
                process.kill()
                process.wait()
        if stands_at(store.places().values()) != (count, count):
            raise AssertionError("the figures are not those of all facts")
    (low, first), (high, last) = times
    return {
        "facts_per_second": count / seconds,
        "in_the_middle": (high - low) / (last - first) if last > first else 0.0,
        "cpu_microseconds_per_fact": 1e6 * sum(spent) / count,
        "load": os.getloadavg()[0],
    }


def _line(process: "subprocess.Popen[str]") -> str:
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        raise AssertionError("a worker ended by itself")
    return line


def _watched(
    store: WorkerStore, count: int, processes: Sequence["subprocess.Popen[str]"]
) -> tuple[tuple[int, float], tuple[int, float]]:
    """Waits for the end; when a fifth, and when four fifths of the facts were counted, or the first time after that."""
    marks: list[tuple[int, float]] = []
    while (taken := stands_at(store.places().values())[0]) < count:
        if len(marks) < 2 and taken >= count * (1, 4)[len(marks)] // 5:
            marks.append((taken, time.perf_counter()))
        if any(process.poll() not in (None, 0) for process in processes):
            raise AssertionError("a worker ended by itself")
        time.sleep(0.05)
    end = (count, time.perf_counter())
    marks += [end] * (2 - len(marks))
    return marks[0], marks[1]


def _work(asked: argparse.Namespace) -> None:
    """One worker: it waits for a line before it begins, and tells what processor time it took."""
    logging.getLogger("kafka").setLevel(logging.CRITICAL)
    brokers = Brokers(asked.bootstrap, asked.topic)
    with closing(WorkerStore.open(asked.store)) as store:
        print("ready", flush=True)
        sys.stdin.readline()
        before = _processor_seconds()
        worker.work(store, brokers, threading.Event(), once=True)
        print(_processor_seconds() - before, flush=True)


def _processor_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def text(found: Mapping[str, Sequence[Figures]]) -> str:
    """The table: a line a run."""
    lines = [f"{'store':<12}{'workers':>8}{'facts/s':>10}{'in the middle':>15}{'worker CPU a fact':>20}"]
    for name, rounds in found.items():
        store, workers = name.split()
        whole, middle, spent = (
            median(figures[key] for figures in rounds)
            for key in ("facts_per_second", "in_the_middle", "cpu_microseconds_per_fact")
        )
        lines.append(f"{store:<12}{workers:>8}{whole:>10,.0f}{middle:>15,.0f}{spent:>17,.0f} µs")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
