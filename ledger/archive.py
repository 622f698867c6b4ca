"""The archive: whole segments of the log as typed columns (Parquet), so that history is decoded once and replayed fast.

It is a cache: every row follows from the log, and deleting the directory costs only speed. A segment is a folder named
for its positions, with one file per event type and a manifest that is there only once everything else is: a crash
leaves a folder that nobody reads. Nothing is read from a file that is not, byte for byte, the one its manifest names,
nor from a segment whose first and last facts are not those of this log; `check` compares every row with the log.
Nothing here writes to the log, knows a figure, or opens the log's database with anything but its own driver.
"""

import gc
import hashlib
import os
import re
import shutil
import threading
import types
import typing
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import date, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import orjson
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from sqlalchemy import select

from ledger.codec import EVENTS_BY_TOPIC, canonical_json, decode
from ledger.errors import ArchiveWrongError, LedgerDamagedError
from ledger.events import Fact
from ledger.log import LedgerLog
from ledger.merkle import Frontier, leaf_hash, root_of
from ledger.schema import facts

FORMAT = 2
"""Of the folder, the manifest and the columns. Segments of another format are left out and written anew."""
SEGMENT_POSITIONS = 524_288
"""Facts in a segment: smaller ones make too many files, larger ones leave a longer tail to the log."""
ZSTD_LEVEL = 15
"""Written once, in the background, and read as fast as any other level."""
CHUNK_ROWS = 16_384
"""Facts that are Python objects at one time."""
MANIFEST = "manifest.json"
WRITING = "writing"
"""The folder in which a segment is made: nobody, and no pattern over the others, ever meets a file half written."""
_FOLDER = re.compile(r"(\d{12})-(\d{12})")

Progress = Callable[[str, int, int], None]
"""Called with what is being done, how far, and of how much."""


@dataclass(frozen=True)
class SegmentFile:
    """The facts of one event type in a segment, brought to ``class_version``; ``sha256`` is of the file, in hex."""

    topic: str
    class_version: int
    rows: int
    size_bytes: int
    sha256: str

    @property
    def name(self) -> str:
        """The file's name in its segment's folder."""
        return f"{self.topic}.parquet"


@dataclass(frozen=True)
class Segment:
    """What a manifest says. Hashes are hex; a frontier is that of the tree before the first and after the last fact.

    ``root`` is the RFC 6962 root over the leaf hashes of this segment alone; ``first_leaf`` and ``last_leaf`` are two
    of these, by which the segment is known to be of this log.
    """

    format: int
    ledger_id: str
    first: int
    last: int
    frontier_before: str
    frontier_after: str
    root: str
    first_leaf: str
    last_leaf: str
    files: tuple[SegmentFile, ...]

    @property
    def name(self) -> str:
        """The name of the segment's folder."""
        return folder_name(self.first, self.last)

    @property
    def is_current(self) -> bool:
        """Whether its facts have the shape that this program gives them."""
        return self.format == FORMAT and all(
            file.topic in EVENTS_BY_TOPIC and EVENTS_BY_TOPIC[file.topic].class_version == file.class_version
            for file in self.files
        )


def folder_name(first: int, last: int) -> str:
    """``000000000001-000000262144``: the positions, in an order that is also that of the names."""
    return f"{first:012d}-{last:012d}"


# --- reading ---------------------------------------------------------------------------------------------------------


class Archive:
    """A ledger's archive as readers use it; safe to keep while segments are added, replaced or deleted."""

    def __init__(self, log: LedgerLog, directory: Path) -> None:
        self.directory = directory
        self._log = log
        self._whole: set[tuple[str, int, int]] = set()
        self._ours: set[tuple[str, str]] = set()

    def segments(self, low: int, high: int) -> list[Segment]:
        """The segments that hold facts after ``low`` up to ``high``, in order, none overlapping another.

        Raises ARCHIVE_WRONG for one with a damaged manifest or of another ledger.
        """
        found: list[Segment] = []
        for first, last in _folders(self.directory):
            if last <= low or first > high or (found and first <= found[-1].last):
                continue
            segment = read_manifest(self.directory, first, last)
            if segment is not None and segment.is_current:
                self._require_ours(segment)
                found.append(segment)
        return found

    def readable(
        self, low: int, high: int, topics: Collection[str]
    ) -> tuple[list[Segment], dict[str, list[Path]]]:
        """`segments` that have all their files of some event types, and these files by event type.

        A segment of which a file is gone is half deleted and left out; ARCHIVE_WRONG for a file that is there and not
        byte for byte what its manifest names.
        """
        whole: list[Segment] = []
        found: dict[str, list[Path]] = {}
        for segment in self.segments(low, high):
            try:
                own = self.files(segment, topics)
            except FileNotFoundError:
                continue
            whole.append(segment)
            for topic, path in own.items():
                found.setdefault(topic, []).append(path)
        return whole, found

    def files(self, segment: Segment, topics: Collection[str]) -> dict[str, Path]:
        """A segment's files of some event types, each whole (ARCHIVE_WRONG); FileNotFoundError if one is gone."""
        return {file.topic: self._whole_file(segment, file) for file in segment.files if file.topic in topics}

    def _whole_file(self, segment: Segment, file: SegmentFile) -> Path:
        path = self.directory / segment.name / file.name
        stat = path.stat()
        seen = (f"{path} {file.sha256}", stat.st_size, stat.st_mtime_ns)
        if seen not in self._whole:
            _require_whole(path, segment, file)
            self._whole.add(seen)
        return path

    def _require_ours(self, segment: Segment) -> None:
        ends = (segment.name, segment.first_leaf + segment.last_leaf)
        if segment.ledger_id != str(self._log.identity.ledger_id):
            raise ArchiveWrongError(segment=segment.name, problem=f"it is of ledger {segment.ledger_id}")
        if ends in self._ours:
            return
        query = select(facts.c.leaf_hash).where(facts.c.position.in_((segment.first, segment.last)))
        with self._log.engine.connect() as connection:
            leaves = [bytes(row[0]).hex() for row in connection.execute(query.order_by(facts.c.position))]
        if leaves != [segment.first_leaf, segment.last_leaf][: segment.last - segment.first + 1]:
            raise ArchiveWrongError(segment=segment.name, problem="its facts are not those of this log")
        self._ours.add(ends)


def _folders(directory: Path) -> list[tuple[int, int]]:
    """The positions of the folders that have a manifest, in order."""
    try:
        names = [match for path in directory.iterdir() if (match := _FOLDER.fullmatch(path.name))]
    except FileNotFoundError:
        return []
    return sorted(
        (int(match[1]), int(match[2])) for match in names if (directory / match[0] / MANIFEST).is_file()
    )


def is_up_to(directory: Path, whole: int, size: int) -> bool:
    """Whether every segment of ``size`` facts up to position ``whole`` is there, in today's shape."""
    try:
        found = (read_manifest(directory, first, first + size - 1) for first in range(1, whole + 1, size))
        return all(segment is not None and segment.is_current for segment in found)
    except ArchiveWrongError:  # is written anew
        return False


def read_manifest(directory: Path, first: int, last: int) -> Segment | None:
    """The manifest of a segment; None if there is none, ARCHIVE_WRONG if it does not read as one."""
    name = folder_name(first, last)
    try:
        fields = orjson.loads((directory / name / MANIFEST).read_bytes())
        if fields["format"] != FORMAT:
            return Segment(**{**fields, "files": ()})
        segment = Segment(**{**fields, "files": tuple(SegmentFile(**file) for file in fields["files"])})
        rows = sum(file.rows for file in segment.files)
        if (segment.first, segment.last, rows) == (first, last, last - first + 1):
            return segment
    except FileNotFoundError:
        return None
    except (ValueError, TypeError, KeyError):
        pass
    raise ArchiveWrongError(segment=name, problem=f"{MANIFEST} is damaged")


def _require_whole(path: Path, segment: Segment, file: SegmentFile) -> None:
    if _sha256(path) != file.sha256:
        raise ArchiveWrongError(segment=segment.name, problem=f"{file.name} is not as it was written")


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


# --- writing ---------------------------------------------------------------------------------------------------------


def write(
    log: LedgerLog, directory: Path, size: int = SEGMENT_POSITIONS, progress: Progress | None = None
) -> list[Segment]:
    """Archive every whole segment that is not there yet; the new ones. Damaged, foreign or older ones are replaced."""
    directory.mkdir(parents=True, exist_ok=True)
    written = []
    with _only_writer(directory):
        archive, frontier = Archive(log, directory), Frontier()
        whole = log.head().size // size * size
        for first in range(1, whole + 1, size):
            segment = _usable(archive, first, first + size - 1, frontier)
            if segment is None:
                segment = _write_segment(log, directory, first, first + size - 1, frontier)
                written.append(segment)
            frontier = Frontier(segment.last, bytes.fromhex(segment.frontier_after))
            if progress:
                progress("archiving", segment.last, whole)
        _remove_older(directory, whole)
    return written


def _remove_older(directory: Path, whole: int) -> None:
    """Segments in a shape that nobody reads any more, once others hold their facts."""
    for first, last in _folders(directory):
        with suppress(ArchiveWrongError):
            segment = read_manifest(directory, first, last)
            if segment is not None and not segment.is_current and last <= whole:
                _remove(directory / segment.name)


def _remove(folder: Path) -> None:
    (folder / MANIFEST).unlink(missing_ok=True)  # first, so that nobody reads a folder half gone
    shutil.rmtree(folder)


def _usable(archive: Archive, first: int, last: int, frontier: Frontier) -> Segment | None:
    """The segment, if it is there, whole, of this log, of today's shape, and follows the one before it."""
    try:
        segment = read_manifest(archive.directory, first, last)
        if segment is None or not segment.is_current:
            return None
        if segment.frontier_before != frontier.to_bytes().hex():
            return None
        archive._require_ours(segment)
        archive.files(segment, EVENTS_BY_TOPIC)
    except (ArchiveWrongError, FileNotFoundError):
        return None
    return segment


def _write_segment(log: LedgerLog, directory: Path, first: int, last: int, before: Frontier) -> Segment:
    made = _Columns(log, first, last, before)
    frontiers = before, made.frontier
    return write_columns(
        directory, log.identity.ledger_id, first, made.tables(), bytes(made.leaves), frontiers
    )


def write_columns(
    directory: Path,
    ledger_id: UUID,
    first: int,
    tables: Mapping[str, pa.Table],
    leaves: bytes,
    frontiers: tuple[Frontier, Frontier],
) -> Segment:
    """One segment from its columns, leaf hashes and frontiers before and after, in place of what is there."""
    last = first + len(leaves) // 32 - 1
    place = directory / folder_name(first, last)
    folder = directory / WRITING / place.name
    for old in (folder, place):
        if old.exists():
            _remove(old)
    folder.mkdir(parents=True)
    files = tuple(_write_file(folder, topic, table) for topic, table in sorted(tables.items()))
    before, after = (frontier.to_bytes().hex() for frontier in frontiers)
    ends = leaves[:32].hex(), leaves[-32:].hex()
    segment = Segment(FORMAT, str(ledger_id), first, last, before, after, root_of(leaves).hex(), *ends, files)
    _write_manifest(folder, segment)
    folder.rename(place)
    _sync(directory)
    return segment


def _write_file(folder: Path, topic: str, table: pa.Table) -> SegmentFile:
    path = folder / f"{topic}.parquet"
    encodings = {name: _encoding(name, table.column(name)) for name in table.column_names}
    pq.write_table(
        table,
        path,
        compression="zstd",
        compression_level=ZSTD_LEVEL,
        use_dictionary=[name for name, encoding in encodings.items() if encoding is None],
        column_encoding={name: encoding for name, encoding in encodings.items() if encoding is not None},
        write_statistics=["position"],
        store_schema=False,  # Parquet's own types say it all
    )
    _sync(path)
    return SegmentFile(
        topic, EVENTS_BY_TOPIC[topic].class_version, len(table), path.stat().st_size, _sha256(path)
    )


def _encoding(name: str, column: pa.ChunkedArray) -> str | None:
    """The Parquet encoding in which a column is small; None for a dictionary.

    Positions and moments rise slowly. Nothing makes random ids smaller, so nine bytes in ten are ids. Those that never
    repeat, and those that repeat beside each other (of an order, of a command), are left as they are: zstd takes about
    one byte for one beside its like and four for one further back, and a dictionary the bits of its index for each.
    """
    if name == "position" or column.type == pa.timestamp("us"):
        return "DELTA_BINARY_PACKED"
    if name == "version":
        return "BYTE_STREAM_SPLIT"
    if column.type != pa.uuid():
        return None
    ids = pa.chunked_array([chunk.storage for chunk in column.chunks], pa.binary(16)).combine_chunks()
    rows, distinct = len(ids), pc.count_distinct(ids).as_py()
    apart = distinct if rows < 2 else 1 + (pc.sum(pc.not_equal(ids[1:], ids[:-1])).as_py() or 0)
    index_bytes = rows * max(1, (distinct - 1).bit_length()) / 8
    return "PLAIN" if rows - apart + 4 * (apart - distinct) < index_bytes else None


def _write_manifest(folder: Path, segment: Segment) -> None:
    """Everything else is on the disk when the manifest appears, and it appears whole."""
    beside = folder / f"{MANIFEST}.new"
    beside.write_bytes(orjson.dumps(asdict(segment), option=orjson.OPT_INDENT_2))
    _sync(beside)
    _sync(folder)
    beside.replace(folder / MANIFEST)
    _sync(folder)


def _sync(path: Path) -> None:
    if path.is_dir() and os.name == "nt":
        return  # Windows opens no folder
    handle = os.open(path, os.O_RDONLY if os.name != "nt" else os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


_writing = threading.Lock()


@contextmanager
def _only_writer(directory: Path) -> Iterator[None]:
    """One process at a time writes an archive; the lock goes with the process, so a crash leaves none behind."""
    with _writing, (directory / "archive.lock").open("wb") as file:
        if os.name != "nt":
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX)
        yield


# --- facts as columns ------------------------------------------------------------------------------------------------


class TypedFacts:
    """Facts as typed columns by event type, taken one after the other; few are Python objects at one time."""

    def __init__(self) -> None:
        self._rows: dict[str, list[tuple[Any, ...]]] = {}
        self._batches: dict[str, list[pa.RecordBatch]] = {}

    def add(self, position: int, fact: Fact) -> None:
        """Take the fact at a position."""
        values = (getattr(fact, name) for name in _fields(type(fact)))
        held = self._rows.setdefault(fact.TOPIC, [])
        held.append((position, fact.originator_id, fact.originator_version, *values))
        if len(held) >= CHUNK_ROWS:
            self._turn(fact.TOPIC)

    def tables(self) -> dict[str, pa.Table]:
        """By topic: ``position``, ``stream_id``, ``version``, and every field of the event."""
        for topic in list(self._rows):
            self._turn(topic)
        return {topic: pa.Table.from_batches(batches) for topic, batches in self._batches.items() if batches}

    def _turn(self, topic: str) -> None:
        rows = self._rows.pop(topic, None)
        if rows:
            kinds = column_kinds(EVENTS_BY_TOPIC[topic])
            arrays = [
                _array(kind, values)
                for kind, values in zip(kinds.values(), zip(*rows, strict=True), strict=True)
            ]
            self._batches.setdefault(topic, []).append(pa.RecordBatch.from_arrays(arrays, names=list(kinds)))


class _Columns:
    """The facts of a range as typed columns; each checked against its leaf hash and by the codec."""

    def __init__(self, log: LedgerLog, first: int, last: int, before: Frontier) -> None:
        self.frontier = before.copy()
        self.leaves = bytearray()
        self._typed = TypedFacts()
        with _no_garbage_collection():
            for row in log.read(first, last):
                leaf = leaf_hash(row.stream_id.bytes, row.version, row.topic.encode(), row.state)
                if leaf != row.leaf_hash or row.position != first + len(self.leaves) // 32:
                    raise LedgerDamagedError(position=row.position, problem="the fact does not fit its hash")
                self.frontier.append(leaf)
                self.leaves += leaf
                self._typed.add(row.position, decode(row.topic, row.stream_id, row.version, row.state))
        if len(self.leaves) != 32 * (last - first + 1):
            raise LedgerDamagedError(position=first + len(self.leaves) // 32, problem="the fact is missing")

    def tables(self) -> dict[str, pa.Table]:
        """See `TypedFacts`."""
        return self._typed.tables()


def _fields(event: type[Fact]) -> list[str]:
    return [name for name in event.model_fields if name not in ("originator_id", "originator_version")]


def column_kinds(event: type[Fact]) -> dict[str, pa.DataType]:
    """The columns of an event's file: ids as UUID, moments as UTC timestamps, days as dates, a whole book as JSON."""
    own = {"position": pa.int64(), "stream_id": pa.uuid(), "version": pa.int64()}
    return own | {name: _kind(event.model_fields[name].annotation) for name in _fields(event)}


def _kind(annotation: object) -> pa.DataType:
    origin = typing.get_origin(annotation)
    if origin is typing.Annotated:
        return _kind(typing.get_args(annotation)[0])
    if origin in (types.UnionType, typing.Union):
        (inner,) = (a for a in typing.get_args(annotation) if a is not type(None))
        return _kind(inner)
    if origin is typing.Literal:
        return pa.int64() if isinstance(typing.get_args(annotation)[0], int) else pa.string()
    known: Mapping[object, pa.DataType] = {
        int: pa.int64(),
        bool: pa.bool_(),
        UUID: pa.uuid(),
        date: pa.date32(),
        datetime: pa.timestamp("us"),
    }
    return known.get(annotation, pa.string())


def _array(kind: pa.DataType, values: Sequence[Any]) -> pa.Array:
    if kind == pa.uuid():
        stored = pa.array([None if value is None else value.bytes for value in values], pa.binary(16))
        return pa.ExtensionArray.from_storage(kind, stored)
    if kind == pa.string():
        values = [
            value if value is None or isinstance(value, str) else canonical_json(value).decode()
            for value in values
        ]
    return pa.array(values, kind)


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


# --- checking --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Checked:
    """What a check found: how many facts are archived, in how many bytes, and each segment that is wrong."""

    segments: int
    facts: int
    size_bytes: int
    wrong: tuple[ArchiveWrongError, ...]


def check(log: LedgerLog, directory: Path, progress: Progress | None = None) -> Checked:
    """Compare every file with its manifest and every row with the log, whose facts must hash to the frontiers.

    Segments that readers leave out (of an older shape) are left out here too.
    """
    archive, folders = Archive(log, directory), _folders(directory)
    counted = rows = size = 0
    wrong: list[ArchiveWrongError] = []
    frontier = Frontier()
    for done, (first, last) in enumerate(folders, start=1):
        try:
            segment = read_manifest(directory, first, last)
            if segment is None or not segment.is_current:
                continue
            counted, rows = counted + 1, rows + last - first + 1
            size += sum(file.size_bytes for file in segment.files)
            archive._require_ours(segment)
            archive.files(segment, EVENTS_BY_TOPIC)
            frontier = _check_segment(log, directory, segment, _frontier_at(log, first - 1, frontier))
        except ArchiveWrongError as error:
            wrong.append(error)
        except FileNotFoundError as error:
            missing = Path(error.filename).name
            wrong.append(ArchiveWrongError(segment=folder_name(first, last), problem=f"{missing} is missing"))
        if progress:
            progress("checking the archive", done, len(folders))
    return Checked(counted, rows, size, tuple(wrong))


def _check_segment(log: LedgerLog, directory: Path, segment: Segment, before: Frontier) -> Frontier:
    made = _Columns(log, segment.first, segment.last, before)
    expected = (before.to_bytes().hex(), made.frontier.to_bytes().hex(), root_of(bytes(made.leaves)).hex())
    if (segment.frontier_before, segment.frontier_after, segment.root) != expected:
        raise ArchiveWrongError(segment=segment.name, problem="its hashes do not lead to those of the log")
    tables = made.tables()
    if sorted(tables) != sorted(file.topic for file in segment.files):
        raise ArchiveWrongError(segment=segment.name, problem="its event types are not those of the log")
    for topic, table in tables.items():
        path = directory / segment.name / f"{topic}.parquet"
        if not pq.ParquetFile(path).read().equals(table):
            raise ArchiveWrongError(segment=segment.name, problem=f"{topic} is not what the log says")
    return made.frontier


def _frontier_at(log: LedgerLog, size: int, known: Frontier) -> Frontier:
    """The frontier over the first ``size`` facts, grown from one over fewer of them, or from nothing."""
    grown = known.copy() if known.size <= size else Frontier()
    for row in log.read(grown.size + 1, size) if grown.size < size else ():
        grown.append(row.leaf_hash)
    return grown
