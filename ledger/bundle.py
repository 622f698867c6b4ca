"""The offline bundle: a whole log up to its newest checkpoint in one zip file, for whoever has no database.

    README.txt   ledger.json   keys.txt   checkpoint
    then, for each 65,536 facts k = 0, 1, …:
        checkpoints/<k>.ndjson    earlier checkpoints whose size lies among these facts
        tile/<level>/<index>      the tiles whose last fact is one of these (c2sp.org/tlog-tiles)
        facts/<k>.ndjson          the facts, one a line

A bundle has one spelling. Its entries are stored, not compressed, in just this order, at one fixed time, with the
shortest headers there are; what is read is compared with what would be written, byte for byte. So the same log gives
the same bytes, and nothing can be hidden in a bundle: no second entry of a name, no path of another kind, nothing that
unpacks to more than it is, nothing before, between or after.

What may not live here: databases, and whether what a bundle says is true; `ledger.audit.bundled` checks that.
"""

import os
import re
import struct
from binascii import crc32
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import IO
from uuid import UUID

import orjson

from ledger.checkpoint import NOTE_BYTES_MAX, Checkpoint, Note, VerifierKey
from ledger.codec import canonical_json
from ledger.errors import (
    BundleWrongError,
    CheckpointMalformedError,
    NoteKeyMalformedError,
    NoteMalformedError,
)
from ledger.merkle import SIZE_MAX, TILE_HEIGHT, TILE_WIDTH, Tile

FORMAT = "wenming-bundle/1"
CHUNK_FACTS = TILE_WIDTH * TILE_WIDTH
"""Facts in one entry: those under one full tile of level 1."""
SMALL_BYTES_MAX = 1 << 20
"""Of the entries that are read whole."""
LINE_BYTES_MAX = 2 << 20
CHECKPOINTS_BYTES_MAX = 256 << 20
"""Of one chunk: as many checkpoints as facts, each cosigned by dozens."""
BLOCK_BYTES = 1 << 20

README = """\
文明账本离线证据包 · Offline bundle of a Wenming Ledger
======================================================

This file is a whole log of facts up to one signed checkpoint. To check it you need neither the ledger nor a network:

    wenming verify BUNDLE.zip --vkey KEY

KEY must come to you by another way than this file: keys.txt says which keys the sender claims, and proves nothing.

Entries (all of them stored, not compressed):

ledger.json              which ledger it is, how many facts there are, and the root hash over them
keys.txt                 the public keys that the sender claims, one a line (C2SP vkey)
checkpoint               the newest checkpoint, signed (C2SP signed-note, tlog-checkpoint)
checkpoints/<k>.ndjson   earlier checkpoints: {"note": "..."} a line
tile/<level>/<index>     hashes of the tree (C2SP tlog-tiles)
facts/<k>.ndjson         the facts in the order in which they were recorded, 65,536 a file, one a line:

    {"position":P,"stream_id":"S","topic":"T","version":V,"state":STATE}

STATE is exactly the text that is hashed: the characters from after "state": up to the last brace of the line. With no
program of ours, a fact's leaf in the tree (RFC 6962) is

    entry = "volunteer-ledger/event/v1" 00 | S (16 bytes) | u64be V | u16be length of T | T | SHA-256(STATE)
    leaf  = SHA-256(00 | entry)

本文件是截至某个已签名检查点的全部事实，无需账本、无需网络即可核对。
核对用的公钥必须另行取得：keys.txt 只是发送方的声明，不构成证明。
姓名、身份证号、电话、地址在事实中只有密文（s1. 开头），本文件不含任何密钥；
编号、时间、时长、单位等是明文，请按内部资料保管。

Names, numbers and addresses are sealed (s1....) and no key is in this file; ids, times, minutes and units are in clear.
Whoever holds it can count the hours behind every pseudonymous id: hand it to nobody who may not see those.
"""


@dataclass(frozen=True)
class Contents:
    """What a bundle says it holds: which ledger, and the tree of its newest checkpoint. Claimed, not proven."""

    ledger_id: str
    kind: str
    schema_version: int
    created_at: str
    origin: str
    size: int
    root: str

    def to_json(self) -> bytes:
        """The content of ledger.json."""
        return canonical_json({"format": FORMAT, **asdict(self)}) + b"\n"

    @classmethod
    def from_json(cls, data: bytes) -> "Contents":
        """What ledger.json says, if it is written as we write it. BUNDLE_WRONG."""
        try:
            fields = orjson.loads(data)
            if fields.pop("format") != FORMAT:
                raise BundleWrongError(place="ledger.json", problem=f"it is not of the format {FORMAT}")
            found = cls(**fields)
            is_ours = found.to_json() == data and found._is_possible()
        except (ValueError, TypeError, AttributeError, KeyError):
            is_ours = False
        if not is_ours:
            raise BundleWrongError(place="ledger.json", problem="it is not as a bundle has it")
        return found

    def _is_possible(self) -> bool:
        """Whether a ledger may say so; ValueError, TypeError or AttributeError for what is not even of its kind."""
        return (
            str(UUID(self.ledger_id)) == self.ledger_id
            and self.kind in ("production", "demo")
            and type(self.schema_version) is int
            and _INSTANT(self.created_at) is not None
            and type(self.origin) is str
            and type(self.size) is int
            and 0 < self.size <= SIZE_MAX
            and len(bytes.fromhex(self.root)) == 32
        )


_INSTANT = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}\.[0-9]{6}Z").fullmatch


# --- what lies where -------------------------------------------------------------------------------------------------


def chunk_count(size: int) -> int:
    """How many chunks a log of this size has."""
    return -(-size // CHUNK_FACTS)


def chunk_positions(chunk: int, size: int) -> tuple[int, int]:
    """The first and the last position of a chunk."""
    return chunk * CHUNK_FACTS + 1, min(size, (chunk + 1) * CHUNK_FACTS)


def checkpoints_path(chunk: int) -> str:
    return f"checkpoints/{chunk:06d}.ndjson"


def facts_path(chunk: int) -> str:
    return f"facts/{chunk:06d}.ndjson"


def chunk_tiles(chunk: int, size: int) -> list[Tile]:
    """The tiles of a tree of ``size`` whose last leaf is of this chunk, lower levels first."""
    first, last = chunk_positions(chunk, size)
    found, level, row = [], 0, size
    while row:
        start = ((first - 1) >> (TILE_HEIGHT * level)) // TILE_WIDTH
        for index in range(start, -(-row // TILE_WIDTH)):
            tile = Tile(level, index, min(TILE_WIDTH, row - index * TILE_WIDTH))
            end = (index * TILE_WIDTH + tile.width) << (TILE_HEIGHT * level)
            if end > last:
                break
            if end >= first:
                found.append(tile)
        level, row = level + 1, row >> TILE_HEIGHT
    return found


# --- lines -----------------------------------------------------------------------------------------------------------

BundledRow = tuple[int, str, int, str, str]
"""Position, stream id, version, topic and state."""
_FACT = re.compile(
    rb'\{"position":([1-9][0-9]{0,18}),"stream_id":"([0-9a-f-]{36})","topic":"([a-z0-9_.]{1,64})",'
    rb'"version":([1-9][0-9]{0,18}),"state":(\{[^\n]*\})\}'
).fullmatch


def fact_line(position: int, stream_id: str, version: int, topic: str, state: bytes) -> bytes:
    """A fact as a bundle has it. BUNDLE_WRONG if it could not be read back."""
    line = b'{"position":%d,"stream_id":"%b","topic":"%b","version":%d,"state":%b}' % (
        position, stream_id.encode(), topic.encode(), version, state
    )  # fmt: skip
    if _FACT(line) is None or len(line) > LINE_BYTES_MAX:
        raise BundleWrongError(place=f"position {position}", problem="this fact has no line of its own")
    return line + b"\n"


def read_fact(line: bytes, place: str) -> BundledRow:
    """The fact of a line. BUNDLE_WRONG."""
    match = _FACT(line)
    if match is None:
        raise BundleWrongError(place=place, problem="a line is not that of a fact")
    position, stream_id, topic, version, state = match.groups()
    try:
        return int(position), stream_id.decode(), int(version), topic.decode(), state.decode()
    except UnicodeDecodeError:
        raise BundleWrongError(
            place=place, problem=f"the fact at position {int(position)} is not UTF-8"
        ) from None


def note_line(note: str) -> bytes:
    """An earlier checkpoint as a bundle has it."""
    return canonical_json({"note": note}) + b"\n"


def read_note(line: bytes, place: str) -> str:
    """The note of a line. BUNDLE_WRONG."""
    try:
        note = orjson.loads(line)["note"]
    except (ValueError, TypeError, KeyError):
        note = None
    if type(note) is not str or note_line(note) != line + b"\n":
        raise BundleWrongError(place=place, problem="a line is not that of a checkpoint")
    return note


def checkpoint_of(note: str, place: str) -> Checkpoint:
    """What a note says, whoever signed it. BUNDLE_WRONG."""
    try:
        return Checkpoint.parse(Note.parse(note.encode()).text)
    except (NoteMalformedError, CheckpointMalformedError) as error:
        raise BundleWrongError(place=place, problem=str(error)) from None


def read_keys(data: bytes) -> tuple[VerifierKey, ...]:
    """The claimed keys of keys.txt. BUNDLE_WRONG."""
    try:
        keys = tuple(VerifierKey.from_text(line) for line in data.decode().split("\n")[:-1])
    except (UnicodeDecodeError, NoteKeyMalformedError):
        raise BundleWrongError(place="keys.txt", problem="a line is not a public key") from None
    if keys_text(keys) != data:
        raise BundleWrongError(place="keys.txt", problem="it is not written as a bundle has it")
    return keys


def keys_text(keys: Iterable[VerifierKey]) -> bytes:
    """The content of keys.txt."""
    return "".join(f"{key.to_text()}\n" for key in keys).encode()


# --- the zip file, in its one spelling -------------------------------------------------------------------------------

_DATE = 1 << 5 | 1
"""The first day a zip file knows: 1 January 1980, 00:00."""
_LOCAL, _CENTRAL, _END = b"PK\x03\x04", b"PK\x01\x02", b"PK\x05\x06"
_END_64, _LOCATOR_64 = b"PK\x06\x06", b"PK\x06\x07"
_SHORT_MAX, _LONG_MAX = 0xFFFF, 0xFFFFFFFF
_LOCAL_BYTES = 30


def _local(path: bytes, crc: int, size: int) -> bytes:
    fields = struct.pack("<HHHHHIIIHH", 20, 0, 0, 0, _DATE, crc, size, size, len(path), 0)
    return _LOCAL + fields + path


def _central(path: bytes, crc: int, size: int, offset: int) -> bytes:
    """An entry of the directory; an offset beyond 32 bits stands in a ZIP64 field."""
    is_far = offset >= _LONG_MAX
    extra = struct.pack("<HHQ", 1, 8, offset) if is_far else b""
    version = 45 if is_far else 20
    fields = struct.pack(
        "<HHHHHHIIIHHHHHII", version, version, 0, 0, 0, _DATE, crc, size, size, len(path), len(extra), 0, 0, 0, 0,
        _LONG_MAX if is_far else offset,
    )  # fmt: skip
    return _CENTRAL + fields + path + extra


def _end(count: int, start: int, length: int) -> bytes:
    """The end record, after the ZIP64 one where a number is beyond it."""
    far = b""
    if count >= _SHORT_MAX or start >= _LONG_MAX or length >= _LONG_MAX:
        far = _END_64 + struct.pack("<QHHIIQQQQ", 44, 45, 45, 0, 0, count, count, length, start)
        far += _LOCATOR_64 + struct.pack("<IQI", 0, start + length, 1)
    shown = min(count, _SHORT_MAX)
    return (
        far
        + _END
        + struct.pack("<HHHHIIH", 0, 0, shown, shown, min(length, _LONG_MAX), min(start, _LONG_MAX), 0)
    )


class ZipWriter:
    """Writes entries one after the other to a file that can seek, and the directory at the end."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._directory = bytearray()
        self._count = 0

    def add(self, path: str, content: Iterable[bytes]) -> None:
        """An entry out of its pieces. BUNDLE_WRONG if it is larger than 4 GiB."""
        name, offset = path.encode("ascii"), self._file.tell()
        self._file.write(_local(name, 0, 0))
        crc = size = 0
        for piece in content:
            self._file.write(piece)
            crc, size = crc32(piece, crc), size + len(piece)
        if size >= _LONG_MAX:
            raise BundleWrongError(place=path, problem="it would be larger than 4 GiB")
        end = self._file.tell()
        self._file.seek(offset)
        self._file.write(_local(name, crc, size))
        self._file.seek(end)
        self._directory += _central(name, crc, size, offset)
        self._count += 1

    def finish(self) -> None:
        """The directory, after which nothing may come."""
        start = self._file.tell()
        self._file.write(self._directory)
        self._file.write(_end(self._count, start, len(self._directory)))


class ZipReader:
    """Reads the entries that must come next, each checked against its CRC; BUNDLE_WRONG at the first other byte."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._offset = 0
        self._directory = bytearray()
        self.count = 0

    def entry(self, path: str, size_max: int = _LONG_MAX - 1) -> Iterator[bytes]:
        """The content of the next entry, in blocks; it must be ``path`` and no larger than ``size_max``."""
        crc, size = self._begin(path, size_max)
        left, computed = size, 0
        while left:
            block = self._read(min(left, BLOCK_BYTES), path)
            computed, left = crc32(block, computed), left - len(block)
            yield block
        if computed != crc:
            raise BundleWrongError(place=path, problem="its content does not have its CRC")

    def whole(self, path: str, size_max: int = SMALL_BYTES_MAX) -> bytes:
        """The next entry at once."""
        return b"".join(self.entry(path, size_max))

    def skip(self, path: str) -> None:
        """Pass over the next entry; its content is not looked at."""
        _, size = self._begin(path, _LONG_MAX - 1)
        self._file.seek(size, os.SEEK_CUR)
        self._offset += size

    def lines(self, path: str, size_max: int = _LONG_MAX - 1) -> Iterator[list[bytes]]:
        """The next entry in lines, some thousands at a time."""
        rest = b""
        for block in self.entry(path, size_max):
            *whole, rest = (rest + block).split(b"\n")
            if len(rest) > LINE_BYTES_MAX:
                raise BundleWrongError(place=path, problem=f"a line is longer than {LINE_BYTES_MAX} bytes")
            yield whole
        if rest:
            raise BundleWrongError(place=path, problem="the last line is not ended by a newline")

    def finish(self) -> None:
        """What is left is the directory of just what was read, and then the file ends."""
        start = self._offset
        expected = bytes(self._directory) + _end(self.count, start, len(self._directory))
        if self._file.read(len(expected) + 1) != expected:
            raise BundleWrongError(
                place="the end", problem="the directory is not that of the entries, or more follows"
            )

    def _begin(self, path: str, size_max: int) -> tuple[int, int]:
        name, offset = path.encode("ascii"), self._offset
        header = self._read(_LOCAL_BYTES + len(name), path)
        crc, size = struct.unpack_from("<II", header, 14)
        if header != _local(name, crc, size):
            raise BundleWrongError(
                place=path, problem="another entry, or something else, stands in its place"
            )
        if size > size_max:
            raise BundleWrongError(place=path, problem=f"it is larger than {size_max} bytes")
        self._directory += _central(name, crc, size, offset)
        self.count += 1
        return crc, size

    def _read(self, length: int, path: str) -> bytes:
        data = self._file.read(length)
        if len(data) != length:
            raise BundleWrongError(place=path, problem="the file ends before it does")
        self._offset += length
        return data


# --- reading a bundle ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Opening:
    """The first entries: what the bundle claims to be, its claimed keys, and its newest checkpoint."""

    contents: Contents
    keys: tuple[VerifierKey, ...]
    note: str
    checkpoint: Checkpoint


def read_opening(reader: ZipReader) -> Opening:
    """The entries before the first chunk, which must agree with each other. BUNDLE_WRONG."""
    reader.whole("README.txt")
    contents = Contents.from_json(reader.whole("ledger.json"))
    keys = read_keys(reader.whole("keys.txt"))
    try:
        note = reader.whole("checkpoint", NOTE_BYTES_MAX).decode()
    except UnicodeDecodeError:
        raise BundleWrongError(place="checkpoint", problem="it is not UTF-8") from None
    said = checkpoint_of(note, "checkpoint")
    if (said.origin, said.size, said.root.hex()) != (contents.origin, contents.size, contents.root):
        raise BundleWrongError(place="ledger.json", problem="it does not say what the checkpoint says")
    return Opening(contents, keys, note, said)


def write_opening(writer: ZipWriter, contents: Contents, keys: Iterable[VerifierKey], note: str) -> None:
    """The entries before the first chunk."""
    writer.add("README.txt", [README.encode()])
    writer.add("ledger.json", [contents.to_json()])
    writer.add("keys.txt", [keys_text(keys)])
    writer.add("checkpoint", [note.encode()])
