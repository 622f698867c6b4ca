"""Many at once: writers and readers of one log, and the same request sent many times."""

import hashlib
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from random import Random
from typing import Any
from uuid import UUID

import psycopg
import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from ledger import audit
from ledger import commands as c
from ledger.application import Answer, Ledger
from ledger.errors import KeyInFlightError
from ledger.log import LedgerLog
from ledger.rules import Caller
from tests.county import SEALED, START, County, name
from tests.faults import Hand, chances, hands, times

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1_800)]

WRITERS, READERS, SECONDS = 12, 3, 30
DAY = START + timedelta(days=1)
RESIDENT = Caller(name("resident"), "resident")


# --- twelve writers --------------------------------------------------------------------------------------------------


def test_nobody_who_reads_along_misses_a_fact_of_twelve_writers(database_url: str) -> None:
    """Twelve processes write, three follow from the first fact on: each sees every fact once, in order of position."""
    county, began, seconds = County(database_url), time.time(), times(SECONDS)
    first = county.log.head().size
    readers = [Hand(hands.tail, database_url) for _ in range(READERS)]
    for reader in readers:
        assert reader.hear() == "listening"
    writers = [Hand(hands.write_for, database_url, began, hand, seconds) for hand in range(WRITERS)]
    written = [placed for writer in writers for placed in writer.hear(seconds + 300)]  # type: ignore[attr-defined]
    county.now = hands.BEGAN + timedelta(days=1)
    county.do(c.RenameUnit(unit_id=county.base, name="最后一条"))  # after which the readers may go
    rows = list(county.log.read())
    there = [(row.position, row.stream_id) for row in rows]
    assert [position for position, _ in there] == list(range(1, len(rows) + 1))
    assert sorted(written) == there[first:-1]
    for reader in readers:
        assert reader.hear(seconds + 300) == there
    assert audit.verify(county.log).ok
    print(f"\n{len(written)} facts by {WRITERS} writers in {seconds} s, each read by {READERS} readers")
    assert len(written) > WRITERS
    county.close()


# --- the same request, many times ------------------------------------------------------------------------------------


def place(number: int) -> c.PlaceOrder:
    return c.PlaceOrder(
        order_id=name("order", number),
        requester_id=RESIDENT.person_id,
        unit_id=hands.STATION,
        activity_kind="health",
        wanted_from=DAY,
        wanted_until=DAY + timedelta(hours=2),
        need=SEALED,
    )


def ledger_over(log: LedgerLog) -> Ledger:
    return Ledger(log, digest=lambda body: hashlib.sha256(body).digest(), clock=lambda: START)


def insisting(ledger: Ledger, number: int, troubles: Counter[str]) -> Answer:
    """As a client should: sent again, under the same key, until there is an answer."""
    while True:
        try:
            return ledger.handle(place(number), RESIDENT, key=str(number))
        except DBAPIError as trouble:  # the connection broke: whether it was done is not known
            troubles[type(trouble).__name__] += 1
        except KeyInFlightError:
            troubles["KEY_IN_FLIGHT"] += 1


def test_a_request_sent_by_two_to_sixteen_at_once_is_done_once(database_url: str) -> None:
    """At two ledgers on one log; on PostgreSQL connections are cut all the while, some of them after the commit."""
    random, number_of_requests = chances("duplicate submissions"), times(2_000)
    county = County(database_url)
    first = county.log.head().size
    ledgers = [ledger_over(LedgerLog.open(database_url, busy_seconds=60)) for _ in range(2)]
    troubles, stop = Counter[str](), threading.Event()
    cutter = threading.Thread(target=cut_connections, args=(database_url, random.random(), stop))
    cutter.start()
    hands_at_once = Counter[int]()
    try:
        with ThreadPoolExecutor(16 * 8) as pool:
            for start in range(0, number_of_requests, 8):  # eight requests at a time
                sent = []
                for number in range(start, min(start + 8, number_of_requests)):
                    copies = random.randint(2, 16)
                    hands_at_once[copies] += 1
                    sent += [(number, ledgers[copy % 2]) for copy in range(copies)]
                random.shuffle(sent)
                answers = list(pool.map(lambda one: (one[0], insisting(one[1], one[0], troubles)), sent))
                check_answers(answers)
    finally:
        stop.set()
        cutter.join()
    county.log.engine.dispose()  # some of its connections were cut
    rows = list(county.log.read(first + 1))
    assert Counter(row.stream_id for row in rows) == {name("order", n): 1 for n in range(number_of_requests)}
    assert audit.verify(county.log).ok
    print(
        f"{number_of_requests} requests, {sum(k * v for k, v in hands_at_once.items())} times sent; {dict(troubles)}"
    )
    if county.log.dialect == "postgresql":
        assert troubles["OperationalError"] > 0
    for ledger in ledgers:
        ledger.ledger_log.close()
    county.close()


def check_answers(answers: list[tuple[int, Answer]]) -> None:
    """All who sent one request heard the same; at most one of them that it was done just now."""
    heard: dict[int, list[Answer]] = {}
    for number, answer in answers:
        heard.setdefault(number, []).append(answer)
    for same in heard.values():
        assert len({(a.command_id, a.first_position, a.last_position, a.facts) for a in same}) == 1
        assert sum(not a.replayed for a in same) <= 1


def cut_connections(url: str, seed: float, stop: threading.Event) -> None:
    """On PostgreSQL, end a random connection of the ledger's every few hundredths of a second."""
    if not url.startswith("postgresql"):
        return
    random = Random(seed)
    with psycopg.connect(url, autocommit=True) as connection:
        while not stop.wait(random.uniform(0.01, 0.1)):
            connection.execute(
                "SELECT pg_terminate_backend(pid) FROM (SELECT pid FROM pg_stat_activity"
                " WHERE datname = current_database() AND pid <> pg_backend_pid() ORDER BY random() LIMIT 1) AS one"
            )


def test_who_repeats_a_request_that_is_still_under_way_is_told_so_after_two_seconds(
    database_url: str,
) -> None:
    """The first one waits for the head, which somebody holds; afterwards everybody hears its answer."""
    county = County(database_url)
    ledger = ledger_over(LedgerLog.open(database_url, busy_seconds=30))
    with ThreadPoolExecutor(16) as pool:
        with county.log.engine.connect() as plain, plain.execution_options(writes=True).begin():
            hold(plain)
            waiting = pool.submit(ledger.handle, place(1), RESIDENT, key="slow")
            time.sleep(0.3)
            began = time.monotonic()
            others = [pool.submit(told, ledger, "slow") for _ in range(15)]
            assert {other.result() for other in others} == {"KEY_IN_FLIGHT"}
            assert 1.9 < time.monotonic() - began < 6
            assert not waiting.done()
        first = waiting.result()
        assert told(ledger, "slow") == (first.command_id, first.first_position)
    assert county.ledger.state(name("order", 1)) is not None
    ledger.ledger_log.close()
    county.close()


def hold(connection: Any) -> None:
    if connection.dialect.name == "postgresql":
        connection.execute(text("SELECT size FROM ledger_lock_head()"))


def told(ledger: Ledger, key: str) -> str | tuple[UUID, int]:
    try:
        answer = ledger.handle(place(1), RESIDENT, key=key)
    except KeyInFlightError as refused:
        return refused.code
    return answer.command_id, answer.first_position
