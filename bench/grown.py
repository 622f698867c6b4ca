"""Large ledgers, made fast: many counties' years beside each other, as a log, as an archive, or as both.

Every county is the invented year of `bench.facts` (up to a million facts) with ids of its own, and the first fact of
each comes before the second of any. So each county's hours are spread as in a real one, and no two counties share an
order or a person. An archive is written as typed columns, without facts ever being Python objects: of 100 million facts
there is no log, and its leaf hashes are nobody's.
"""

import re
from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from hashlib import sha256
from pathlib import Path
from uuid import UUID

import pyarrow as pa
import pyarrow.compute as pc
from eventsourcing.persistence import StoredEvent
from sqlalchemy import select

from bench import facts
from ledger import archive
from ledger.archive import Archive, Segment
from ledger.codec import decode
from ledger.log import LedgerLog
from ledger.merkle import Frontier
from ledger.schema import facts as facts_table

Stretch = tuple[int, int, bytes, tuple[Frontier, Frontier]]
"""A segment to be written: its first and last position, leaf hashes, and the frontiers before and after it."""
COUNTY = 1_000_000
"""Facts of one county, at most."""
APPENDED = 5_000
_ID = re.compile(rb"([0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12})")


def counties(count: int) -> tuple[int, int]:
    """How many counties with how many facts each make ``count`` facts, or nearly."""
    copies = -(-count // COUNTY)
    return copies, count // copies


def mask(copy: int) -> bytes:
    """What distinguishes the ids of one county from those of the first: bits to turn, the UUID version's not."""
    bits = bytearray(sha256(copy.to_bytes(8, "big")).digest()[:16] if copy else bytes(16))
    bits[6] &= 0x0F
    bits[8] &= 0x3F
    return bytes(bits)


# --- a log -----------------------------------------------------------------------------------------------------------


def write_log(log: LedgerLog, count: int) -> None:
    """Append the counties' facts to an empty log."""
    waiting: list[StoredEvent] = []
    for event in _events(*counties(count)):
        waiting.append(event)
        if len(waiting) == APPENDED:
            log.insert_events(waiting)
            waiting = []
    log.insert_events(waiting)


def _events(copies: int, size: int) -> Iterator[StoredEvent]:
    masks = [int.from_bytes(mask(copy), "big") for copy in range(copies)]
    for event in facts.stored_facts(size):
        assert isinstance(event.originator_id, UUID)
        pieces = _ID.split(event.state)
        for bits in masks:
            own = pieces.copy()
            own[1::2] = (_other(text, bits) for text in pieces[1::2])
            stream = UUID(int=event.originator_id.int ^ bits)
            yield StoredEvent(stream, event.originator_version, event.topic, b"".join(own))


@lru_cache(maxsize=1 << 18)
def _other(text: bytes, bits: int) -> bytes:
    return str(UUID(int=UUID(text.decode()).int ^ bits)).encode()


# --- an archive ------------------------------------------------------------------------------------------------------


class Columns:
    """One county's facts as columns, from which any stretch of many counties' is cut."""

    def __init__(self, size: int) -> None:
        typed = archive.TypedFacts()
        for position, event in enumerate(facts.stored_facts(size), start=1):
            assert isinstance(event.originator_id, UUID)
            typed.add(
                position, decode(event.topic, event.originator_id, event.originator_version, event.state)
            )
        self._tables = typed.tables()
        self._positions = {topic: table["position"].to_pylist() for topic, table in self._tables.items()}

    def between(self, first: int, last: int, copies: int) -> dict[str, pa.Table]:
        """The facts at these positions when ``copies`` counties take turns."""
        found = {}
        for topic in self._tables:
            parts = [self._of(topic, copy, first, last, copies) for copy in range(copies)]
            whole = pa.concat_tables([part for part in parts if len(part)] or parts[:1])
            if len(whole):
                found[topic] = whole.take(pc.sort_indices(whole["position"]))
        return found

    def _of(self, topic: str, copy: int, first: int, last: int, copies: int) -> pa.Table:
        positions = self._positions[topic]
        low = bisect_left(positions, -((copy + 1 - first) // copies) + 1)
        high = bisect_right(positions, (last - copy - 1) // copies + 1)
        part = self._tables[topic].slice(low, max(0, high - low))
        place = pc.add(pc.multiply(pc.subtract(part["position"], 1), copies), copy + 1)
        columns = [
            place
            if name == "position"
            else _turned(part[name], mask(copy))
            if part[name].type == pa.uuid()
            else part[name]
            for name in part.column_names
        ]
        return pa.table(columns, names=part.column_names)


def _turned(column: pa.ChunkedArray, bits: bytes) -> pa.Array:
    """The same ids with some bits turned."""
    empty = pa.array([], pa.binary(16))
    ids = pa.concat_arrays([chunk.storage for chunk in column.chunks] + [empty, empty])
    known, data = ids.buffers()
    size = 16 * len(ids)
    held = int.from_bytes(memoryview(data)[16 * ids.offset :][:size], "little")
    turned = (held ^ int.from_bytes(bits * len(ids), "little")).to_bytes(size, "little")
    if ids.offset:
        raise ValueError("joined columns begin at their beginning")
    storage = pa.Array.from_buffers(pa.binary(16), len(ids), [known, pa.py_buffer(turned)])
    return pa.ExtensionArray.from_storage(pa.uuid(), storage)


def write_archive(
    log: LedgerLog, directory: Path, count: int, size: int = archive.SEGMENT_POSITIONS, *, whole: bool = True
) -> list[Segment]:
    """Archive the counties' facts. Without ``whole`` no log holds them, and the last segment is shorter.

    What is written for a log that holds them is what `ledger.archive.write` would write, and passes its check.
    """
    copies, each = counties(count)
    county, end = Columns(each), copies * each
    directory.mkdir(parents=True, exist_ok=True)

    def write(stretch: Stretch) -> Segment:
        first, last, leaves, frontiers = stretch
        leaves = leaves or bytes(32 * (last - first + 1))
        tables = county.between(first, last, copies)
        return archive.write_columns(directory, log.identity.ledger_id, first, tables, leaves, frontiers)

    stop = end // size * size if whole else end
    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(write, _stretches(log if whole else None, stop, size)))


def _stretches(log: LedgerLog | None, stop: int, size: int) -> Iterator[Stretch]:
    frontier = Frontier()
    for first in range(1, stop + 1, size):
        last = min(first + size - 1, stop)
        if log is None:
            yield first, last, b"", (Frontier(), Frontier())
            continue
        leaves, before = _leaves(log, first, last), frontier.copy()
        for at in range(0, len(leaves), 32):
            frontier.append(leaves[at : at + 32])
        yield first, last, leaves, (before, frontier.copy())


def _leaves(log: LedgerLog, first: int, last: int) -> bytes:
    query = select(facts_table.c.leaf_hash).where(facts_table.c.position.between(first, last))
    with log.engine.connect() as connection:
        rows = connection.execute(query.order_by(facts_table.c.position))
        return b"".join(bytes(row[0]) for row in rows)


class WithoutLog(Archive):
    """An archive of facts that no log holds: nothing can be asked of the log to see whether it is of this one."""

    def _require_ours(self, segment: Segment) -> None:
        """Taken at its word."""
        del segment
