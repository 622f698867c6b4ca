"""The audit of an offline bundle: each fact, the tree, what was signed, and whether the log only grew; no database.

It is the same as that of a log, over other rows: a fact's stored leaf hash is the one of the bundle's tile. What a
bundle does not hold cannot be checked: figures, guards, and what commands led to. Its keys are a claim, not believed.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from ledger.audit.facts import Facts, read_facts
from ledger.audit.growth import Earlier, Growth
from ledger.audit.report import Findings, Report
from ledger.audit.sharing import helpers_for
from ledger.audit.tree import TreeAudit
from ledger.bundle import (
    CHECKPOINTS_BYTES_MAX,
    Opening,
    ZipReader,
    checkpoint_of,
    checkpoints_path,
    chunk_count,
    chunk_positions,
    chunk_tiles,
    facts_path,
    read_fact,
    read_note,
    read_opening,
)
from ledger.checkpoint import VerifierKey
from ledger.errors import BundleWrongError
from ledger.merkle import Tile, TileHashes, consistency_proof

BATCH_FACTS, BATCH_BYTES = 1_000, 2 << 20
"""Facts that are examined together, and their bytes: a forger may write long ones."""


def verify_bundle(
    path: Path,
    log_keys: Sequence[VerifierKey],
    witness_keys: Sequence[VerifierKey] = (),
    witnesses_min: int = 0,
    origin: str | None = None,
    since: Earlier | None = None,
    progress: Callable[[int, int], None] | None = None,
    helpers: int | None = None,
) -> tuple[Report, Opening]:
    """Check a bundle, and tell what it claims to be. With no keys, only that it fits itself.

    ``origin`` is the name of the log that it must be of, any if None; of ``witness_keys``, at least ``witnesses_min``
    must have cosigned its checkpoint. BUNDLE_WRONG if it is not written as one is:
    then there is nothing to check. Memory does not grow with the bundle.
    """
    started = time.monotonic()
    findings = Findings()
    growth = Growth(since, findings) if since is not None else None
    with path.open("rb") as file:
        bundle = _Bundle(ZipReader(file), findings, growth)
        contents = bundle.opening.contents
        tree = TreeAudit(
            contents.size,
            bundle.tile,
            findings.found,
            log_keys,
            witness_keys,
            witnesses_min,
            origin or contents.origin,
        )
        bundle.expect = tree.expect
        facts = Facts(contents.created_at, _text, None, tree, growth, findings)
        share = helpers_for(contents.size) if helpers is None else helpers
        read_facts(bundle.facts(), facts, contents.size, progress, share)
        tree.finish(facts.frontier)
        bundle.reader.finish()
    if growth is not None:
        _compare_growth(growth, bundle, facts, log_keys)
    report = Report(
        facts.frontier.size,
        facts.frontier.root().hex(),
        {
            "entries": bundle.reader.count,
            **facts.checks,
            **tree.checks,
        },
        tuple(findings.defects),
        findings.count,
        round(time.monotonic() - started, 3),
        tree.witnessed,
    )
    return report, bundle.opening


def _text(value: object) -> str | None:
    return value if type(value) is str else None


def _compare_growth(growth: Growth, bundle: "_Bundle", facts: Facts, keys: Sequence[VerifierKey]) -> None:
    contents, checkpoint = bundle.opening.contents, bundle.opening.checkpoint
    now = {"ledger_id": contents.ledger_id, "kind": contents.kind, "created_at": contents.created_at}
    growth.compare(contents.origin, now, keys)
    growth.compare_keys(bundle.opening.keys)
    growth.finish(facts.frontier, (checkpoint.size, checkpoint.root), lambda tile: bundle.kept(tile))


class _Bundle:
    """The rows of a bundle, with what was signed beside them, chunk by chunk."""

    def __init__(self, reader: ZipReader, findings: Findings, growth: Growth | None) -> None:
        self.reader, self._findings = reader, findings
        self.opening = read_opening(reader)
        self._size = self.opening.contents.size
        self.expect: Callable[[int, bytes, bytes], None]
        self._tiles: dict[tuple[int, int], tuple[int, bytes]] = {}
        self._kept: dict[tuple[int, int], bytes] = {}
        self._to_keep = _tiles_of_proof(growth.size, self._size) if growth is not None else frozenset()

    def tile(self, level: int, index: int) -> tuple[int | None, bytes]:
        """Width and hashes of a tile, once: each is compared once."""
        return self._tiles.pop((level, index), (None, b""))

    def kept(self, tile: Tile) -> bytes:
        """The hashes of a tile that the consistency proof needs."""
        return self._kept.get((tile.level, tile.index), b"")

    def facts(self) -> Iterator[Sequence[Sequence[Any]]]:
        """Rows in the order in which they lie there."""
        for chunk in range(chunk_count(self._size)):
            first, last = chunk_positions(chunk, self._size)
            self._read_checkpoints(chunk, first, last)
            leaves = self._read_tiles(chunk)
            yield from self._read_chunk(facts_path(chunk), first, last, leaves)

    def _read_checkpoints(self, chunk: int, first: int, last: int) -> None:
        """Earlier checkpoints, the smallest first; the newest comes after all of them."""
        path, before = checkpoints_path(chunk), first - 1
        for lines in self.reader.lines(path, CHECKPOINTS_BYTES_MAX):
            for line in lines:
                note = read_note(line, path)
                said = checkpoint_of(note, path)
                if not before < said.size <= last or said.size == self._size:
                    raise BundleWrongError(
                        place=path, problem=f"the checkpoint of size {said.size} has no place here"
                    )
                before = said.size
                self.expect(said.size, said.root, note.encode())
        if last == self._size:
            newest = self.opening.checkpoint
            self.expect(newest.size, newest.root, self.opening.note.encode())

    def _read_tiles(self, chunk: int) -> bytes:
        """The tiles of a chunk are held until they are compared; the leaf hashes among them."""
        leaves = bytearray()
        for tile in chunk_tiles(chunk, self._size):
            data = self.reader.whole(tile.path)
            if len(data) != 32 * tile.width:
                raise BundleWrongError(
                    place=tile.path, problem="it has not the length of a tile of this width"
                )
            key = tile.level, tile.index
            self._tiles[key] = tile.width, data
            if key in self._to_keep:
                self._kept[key] = data
            if tile.level == 0:
                leaves += data
        return bytes(leaves)

    def _read_chunk(self, path: str, first: int, last: int, leaves: bytes) -> Iterator[list[Any]]:
        count = length = 0
        rows: list[Any] = []
        for lines in self.reader.lines(path):
            for line in lines:
                position, stream_id, version, topic, state = read_fact(line, path)
                at = 32 * (position - first)
                leaf = leaves[at : at + 32] if at >= 0 else b""
                rows.append((position, stream_id, version, topic, state, leaf))
                count, length = count + 1, length + len(line)
                if len(rows) == BATCH_FACTS or length > BATCH_BYTES:
                    yield rows
                    rows, length = [], 0
        if rows:
            yield rows
        if count != last - first + 1:
            self._findings.found(first, "BUNDLE_COUNT_WRONG", path=path, first=first, last=last, lines=count)


def _tiles_of_proof(old_size: int, size: int) -> frozenset[tuple[int, int]]:
    """Level and index of each tile that the consistency proof between two sizes reads."""
    read: set[tuple[int, int]] = set()

    def note_down(tile: Tile) -> bytes:
        read.add((tile.level, tile.index))
        return bytes(32 * tile.width)

    if 0 < old_size <= size:
        consistency_proof(old_size, size, TileHashes(size, note_down))
    return frozenset(read)
