"""Making an offline bundle of a log: everything up to its newest checkpoint, checked before it gets its name."""

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO

from ledger.audit import Report
from ledger.audit.bundled import verify_bundle
from ledger.bundle import (
    Contents,
    ZipWriter,
    checkpoint_of,
    checkpoints_path,
    chunk_count,
    chunk_positions,
    chunk_tiles,
    fact_line,
    facts_path,
    note_line,
    write_opening,
)
from ledger.checkpoint import VerifierKey
from ledger.codec import instant_text
from ledger.errors import BundleExistsError, LedgerDamagedError, NotFoundError
from ledger.log import LedgerLog
from ledger.merkle import TileError, tile_hashes
from ledger.tree import Published, TreeStore

Progress = Callable[[str, int, int], None]
"""Told what is being done, how far, and of how much."""


def export_bundle(log: LedgerLog, path: Path, keys: Sequence[VerifierKey], progress: Progress) -> Report:
    """Write the bundle of ``log`` to a new file, then check it as its receiver will; what that check said.

    ``keys`` are named in it, and must have signed every checkpoint. The same log and checkpoints give the same bytes.
    A crash leaves at most a file ending in ``.part``. NOT_FOUND before the first checkpoint; BUNDLE_EXISTS, because an
    older bundle is evidence and is never overwritten; LEDGER_DAMAGED if the log does not fit what it signed.
    """
    newest = TreeStore(log).latest()
    if newest is None:
        raise NotFoundError(what="checkpoint: nothing is signed yet")
    if path.exists():
        raise BundleExistsError(file=path.name)
    part = path.with_name(path.name + ".part")
    try:
        with part.open("wb") as file:
            _write(file, log, newest, keys, progress)
            file.flush()
            os.fsync(file.fileno())
        report, _ = verify_bundle(
            part, keys, progress=lambda done, whole: progress("checking the bundle", done, whole)
        )
        if not report.ok:
            first = report.defects[0]
            raise LedgerDamagedError(
                position=first.position or newest.size, problem=f"{first.code}: {first.en}"
            )
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
    return report


def _write(
    file: IO[bytes], log: LedgerLog, newest: Published, keys: Sequence[VerifierKey], progress: Progress
) -> None:
    store, writer, size = TreeStore(log), ZipWriter(file), newest.size
    known = log.identity
    contents = Contents(
        str(known.ledger_id),
        known.kind,
        known.schema_version,
        instant_text(known.created_at),
        checkpoint_of(newest.note, "checkpoint").origin,
        size,
        newest.root.hex(),
    )
    write_opening(writer, contents, keys, newest.note)
    for chunk in range(chunk_count(size)):
        first, last = chunk_positions(chunk, size)
        earlier = store.between(first, min(last, size - 1))
        writer.add(checkpoints_path(chunk), [b"".join(note_line(one.note) for one in earlier)])
        for tile in chunk_tiles(chunk, size):
            try:
                hashes = tile_hashes(tile, store.read_tile(tile.level, tile.index))
            except TileError as error:
                raise LedgerDamagedError(position=first, problem=str(error)) from None
            writer.add(tile.path, [hashes])
        writer.add(facts_path(chunk), _lines(log, first, last))
        progress("writing the bundle", last, size)
    writer.finish()


def _lines(log: LedgerLog, first: int, last: int) -> Iterator[bytes]:
    """The facts of a chunk, some at a time. LEDGER_DAMAGED where one is missing."""
    expected, lines = first, []
    for row in log.read(first, last):
        if row.position != expected:
            break
        lines.append(fact_line(row.position, str(row.stream_id), row.version, row.topic, row.state))
        expected += 1
        if len(lines) == 1_000:
            yield b"".join(lines)
            lines = []
    yield b"".join(lines)
    if expected <= last:
        raise LedgerDamagedError(position=expected, problem="a fact is missing")
