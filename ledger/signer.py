"""The signer: reads every fact once more, keeps a tree of its own, and signs what only ever grew.

It believes nothing in the database. Each leaf is recomputed from the stored columns; its own frontier lies in a file of
its own, outside the database, and everything it signs extends that. What does not fit is never signed: the signer halts
with a reason and a position, says so in its file, and stays halted until somebody has looked and resets it.

Order of writing: first the state file (synced), then tiles and checkpoint in one transaction. A crash in between leaves
a state that is ahead of what is published; the next start publishes just that. Signatures are deterministic, so it is
the same checkpoint, and there are never two of one size.

    state = {ledger_id, origin, size, frontier, before: {size, frontier}, signed_at, halted}    (JSON, hashes in hex)

``before`` is what was published when ``size`` was signed. What may not live here: proofs, HTTP, and what facts mean.
"""

import json
import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar
from uuid import UUID

from sqlalchemy.exc import DBAPIError, NoResultFound, SQLAlchemyError

from ledger import log_postgres, log_sqlite
from ledger.application import utc_now
from ledger.checkpoint import Checkpoint, Note, SignerKey, sign_checkpoint
from ledger.codec import instant_text
from ledger.errors import (
    LedgerBusyError,
    LedgerDamagedError,
    NoteKeyMalformedError,
    NoteMalformedError,
    SignerHaltedError,
    SignerRunningError,
)
from ledger.log import Head, LedgerLog
from ledger.merkle import Frontier, TileError, TileHashes, grown_tiles, leaf_hash, tree_root
from ledger.own_file import hold, write_whole
from ledger.tree import Published, TreeStore

T = TypeVar("T")
BATCH_FACTS = 1 << 20
"""Facts under one new checkpoint at most: their leaves are held in memory (32 MB)."""
PAUSE_SECONDS = 1.0
"""Between two checkpoints of a running signer: each is a synced write and a transaction."""
CHECK_PAST_SECONDS = 24 * 3600.0
"""A running signer reads everything it signed once more this often, and when it starts."""
RETRY_SECONDS = 0.5
RETRY_SECONDS_MAX = 30.0

HALTS: Mapping[str, tuple[str, str]] = {
    "DATABASE_OLDER": (
        "数据库比已签名的内容旧：末尾被截去，或恢复了旧备份。",
        "The database is older than what was signed: its end was cut off, or an old backup was restored.",
    ),
    "POSITIONS_MISSING": ("缺少事实。", "Facts are missing."),
    "FACT_UNREADABLE": ("有一条事实无法读取。", "A fact cannot be read."),
    "LEAF_HASH_WRONG": ("事实的内容与其哈希不符。", "A fact does not hash to its leaf_hash."),
    "REWRITTEN": (
        "已签名的事实被改写或调换。",
        "Facts that were signed have been rewritten or reordered.",
    ),
    "HEAD_WRONG": ("账本头与事实不符。", "The head of the log does not fit its facts."),
    "CHECKPOINT_FOREIGN": (
        "数据库中最新的检查点不是本签名者发布的：状态文件是旧的或已丢失，有另一个签名者，或检查点被改动。",
        "The newest checkpoint in the database is not this signer's: its state file is old or lost,"
        " another signer is at work, or the checkpoint was altered.",
    ),
    "TILE_WRONG": ("已发布的哈希块被改动。", "Published tiles have been altered."),
    "OTHER_LEDGER": (
        "状态文件属于另一个账本或另一个名称。",
        "The state file belongs to another ledger or another origin.",
    ),
    "STATE_DAMAGED": ("状态文件无法读取。", "The state file cannot be read."),
}
"""Why a signer halts, in Chinese and English. Codes never change their meaning."""

logger = logging.getLogger("wenming.signer")


@dataclass(frozen=True)
class Halt:
    """The reason (a key of `HALTS`), the earliest position it can be pinned to, and when it was met."""

    reason: str
    position: int
    at: str


@dataclass(frozen=True)
class State:
    """What the signer knows of itself; ``before`` and ``signed`` are frontiers of trees it signed."""

    ledger_id: UUID
    origin: str
    before: Frontier
    signed: Frontier
    signed_at: str
    halted: Halt | None = None

    def to_json(self) -> str:
        """The content of the state file."""
        return json.dumps(
            {
                "ledger_id": str(self.ledger_id),
                "origin": self.origin,
                **_frontier_json(self.signed),
                "before": _frontier_json(self.before),
                "signed_at": self.signed_at,
                "halted": vars(self.halted) if self.halted else None,
            },
            indent=1,
        )

    @classmethod
    def from_json(cls, text: str) -> "State":
        """The state in a file; ValueError, KeyError or TypeError if it is none."""
        found = json.loads(text)
        state = cls(
            UUID(found["ledger_id"]),
            found["origin"],
            _frontier(found["before"]),
            _frontier(found),
            found["signed_at"],
            Halt(**found["halted"]) if found["halted"] else None,
        )
        if state.before.size > state.signed.size:
            raise ValueError("what came before is not larger")
        return state


def read_state(file: Path) -> State:
    """What a signer says of itself, read beside it while it runs. SIGNER_HALTED if it is, or if that cannot be read."""
    try:
        state = State.from_json(file.read_text("utf-8"))
    except (ValueError, KeyError, TypeError, AttributeError):
        raise _error(Halt("STATE_DAMAGED", 0, instant_text(utc_now()))) from None
    if state.halted is not None:
        raise _error(state.halted)
    return state


class _Stop(Exception):
    """Something does not fit; becomes a halt."""

    def __init__(self, reason: str, position: int) -> None:
        super().__init__(reason)
        self.reason, self.position = reason, position


class Signer:
    """One log's signer. It holds its state file alone from the start until `close`. SIGNER_RUNNING.

    ``keys`` sign every new checkpoint, each with a line of its own: while keys change, the old one and the new one.
    """

    def __init__(
        self,
        log: LedgerLog,
        state_file: Path,
        keys: Sequence[SignerKey],
        origin: str,
        clock: Callable[[], datetime] = utc_now,
    ) -> None:
        if not keys:
            raise NoteKeyMalformedError(problem="no signing key was given")
        self.log, self.origin = log, origin
        self._file, self._keys, self._clock = state_file, tuple(keys), clock
        self._store = TreeStore(log)
        self._check_at = time.monotonic()
        lock = hold(state_file)
        if lock is None:
            raise SignerRunningError(file=str(state_file))
        self._lock = lock

    def __enter__(self) -> "Signer":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let another signer have the state file."""
        self._lock.close()

    # -- what it is asked --

    def sign_once(self) -> int:
        """Check and sign everything up to the head; the size that is signed and published now.

        SIGNER_HALTED; LEDGER_BUSY and whatever the database says leave a state that the next call goes on from.
        """
        return self._guarded(self._sign)

    def check_past(self) -> int:
        """Read every signed fact once more and compare with the own frontier; the size. SIGNER_HALTED."""
        return self._guarded(self._check_past)

    def run(self, stop: threading.Event) -> None:
        """Check the past, then follow the log until ``stop``. SIGNER_HALTED ends it; a database away is tried again."""
        pause = RETRY_SECONDS
        while not stop.is_set():
            began = time.monotonic()
            try:
                self._follow(stop)
            except (SQLAlchemyError, LedgerBusyError, OSError) as trouble:
                if time.monotonic() - began > RETRY_SECONDS_MAX:  # all was well in between
                    pause = RETRY_SECONDS
                logger.warning("signing waits %.1f s: %s", pause, type(trouble).__name__)
                stop.wait(pause)
                pause = min(pause * 2, RETRY_SECONDS_MAX)

    def halted(self) -> Halt | None:
        """Why it signs nothing; None while all is well. SIGNER_HALTED if even that cannot be read."""
        return self._guarded(lambda state: state.halted, even_halted=True)

    def reset(self) -> Halt | None:
        """Forget that it halted, and tell why it had. What made it halt halts it again unless it was put right."""
        return self._guarded(self._reset, even_halted=True)

    def _reset(self, state: State) -> Halt | None:
        if state.halted is not None:
            self._save(replace(state, halted=None))
        return state.halted

    def _follow(self, stop: threading.Event) -> None:
        with self.log.waiting() as wait:
            while not stop.is_set():
                if time.monotonic() >= self._check_at:
                    self.check_past()
                    self._check_at = time.monotonic() + CHECK_PAST_SECONDS
                size = self.sign_once()
                stop.wait(PAUSE_SECONDS)
                if not stop.is_set():
                    wait(size, 0.25)

    def _guarded(self, work: Callable[[State], T], *, even_halted: bool = False) -> T:
        state = self._load()
        if state.halted is not None and not even_halted:
            raise _error(state.halted)
        try:
            return work(state)
        except _Stop as stop:
            halt = Halt(stop.reason, stop.position, instant_text(self._clock()))
            # Read again: what was signed before it met this stays signed.
            self._save(replace(self._load(), halted=halt))
            raise _error(halt) from None
        except DBAPIError as error:
            if log_sqlite.is_busy(error) or log_postgres.is_busy(error):
                raise LedgerBusyError(seconds=self.log.busy_seconds) from None
            raise

    # -- signing --

    def _sign(self, state: State) -> int:
        head = self._head()
        if head.size < state.signed.size:
            raise _Stop("DATABASE_OLDER", head.size + 1)
        self._store.prepare()
        self._settle(state)
        while state.signed.size < head.size:
            state = self._extend(state, head)
        self._compare(state.signed, head)
        return state.signed.size

    def _head(self) -> Head:
        try:
            return self.log.head()
        except (LedgerDamagedError, NoResultFound, ValueError, TypeError):
            raise _Stop("HEAD_WRONG", 1) from None

    def _extend(self, state: State, head: Head) -> State:
        """One more checkpoint: read, compare, remember, publish."""
        start, end = state.signed.size, min(head.size, state.signed.size + BATCH_FACTS)
        leaves = self._leaves(start + 1, end)
        grown = _grown(state.signed, leaves)
        if end == head.size:
            self._compare(grown, head)
        tiles = self._tiles(state.signed, leaves)
        new = replace(state, before=state.signed, signed=grown, signed_at=instant_text(self._clock()))
        self._save(new)
        self._publish(new, tiles)
        return new

    def _leaves(self, first: int, last: int) -> bytes:
        """The leaf hashes of these positions, each recomputed from its columns and compared with the stored one."""
        leaves, expected = bytearray(), first
        try:
            for row in self.log.read(first, last):
                if row.position != expected:
                    raise _Stop("POSITIONS_MISSING", expected)
                leaf = leaf_hash(row.stream_id.bytes, row.version, row.topic.encode(), row.state)
                if leaf != row.leaf_hash:
                    raise _Stop("LEAF_HASH_WRONG", expected)
                leaves += leaf
                expected += 1
        except (
            ValueError,
            TypeError,
            AttributeError,
            OverflowError,
        ):  # whatever a torn column makes of a reader
            raise _Stop("FACT_UNREADABLE", expected) from None
        except DBAPIError as error:
            if "Could not decode" not in str(error.orig):  # SQLite's word for text that is not UTF-8
                raise
            raise _Stop("FACT_UNREADABLE", expected) from None
        if expected <= last:
            raise _Stop("POSITIONS_MISSING", expected)
        return bytes(leaves)

    def _compare(self, own: Frontier, head: Head) -> None:
        """The log's own frontier must be ours: this is where a past that was rewritten to fit itself shows."""
        if own.size == head.size and own.hashes != head.frontier.hashes:
            self._check_past(self._load())
            raise _Stop("HEAD_WRONG", head.size)

    def _tiles(self, signed: Frontier, leaves: bytes) -> list[Any]:
        """The tiles that follow. The stored ones they grow from must be those of the tree that was signed."""
        read = self._store.read_tile
        try:
            hashes = TileHashes(signed.size, lambda tile: read(tile.level, tile.index))
            if tree_root(signed.size, hashes) != signed.root():
                raise _Stop("TILE_WRONG", signed.size)
            return list(grown_tiles(signed.size, leaves, lambda tile: read(tile.level, tile.index)))
        except TileError:
            raise _Stop("TILE_WRONG", signed.size) from None

    # -- publishing --

    def _settle(self, state: State) -> None:
        """What is published is what was signed. If a crash came in between, publish what the state says."""
        last = self._store.latest()
        found = last.size if last else 0
        if found == state.signed.size:
            if last is not None:
                self._renew(state, last)
        elif found == state.before.size:
            self._require_own(last, state.before)
            leaves = self._leaves(found + 1, state.signed.size)
            if _grown(state.before, leaves).hashes != state.signed.hashes:
                raise _Stop("REWRITTEN", found + 1)
            self._publish(state, self._tiles(state.before, leaves))
        elif found < state.before.size:
            raise _Stop("DATABASE_OLDER", found + 1)
        else:
            raise _Stop("CHECKPOINT_FOREIGN", found)

    def _renew(self, state: State, last: Published) -> None:
        """Let every key of now sign the newest checkpoint; signatures of others (witnesses, old keys) stay."""
        self._require_own(last, state.signed)
        note = Note.parse(last.note.encode())
        ours = self._note(state.signed).signatures
        if set(ours) <= set(note.signatures):
            return
        renewed = replace(last, note=note.with_signatures(ours).to_bytes().decode())
        with self._store.writing() as connection:
            if self._store.latest_in(connection) == last:
                self._store.write(connection, (), renewed)

    def _require_own(self, last: Published | None, own: Frontier) -> None:
        """The published checkpoint is the one this signer made of ``own``."""
        if last is None:
            return
        try:
            text = Note.parse(last.note.encode()).text
        except NoteMalformedError:
            raise _Stop("CHECKPOINT_FOREIGN", last.size) from None
        if last.root != own.root() or text != self._checkpoint(own).to_text():
            raise _Stop("CHECKPOINT_FOREIGN", last.size)

    def _publish(self, state: State, tiles: Sequence[Any]) -> None:
        """Tiles and checkpoint in one transaction, if nobody has published since ``before``."""
        signed = state.signed
        note = self._note(signed).to_bytes().decode()
        with self._store.writing() as connection:
            last = self._store.latest_in(connection)
            if (last.size if last else 0) != state.before.size:
                raise _Stop("CHECKPOINT_FOREIGN", last.size if last else 0)
            self._store.write(connection, tiles, Published(signed.size, signed.root(), state.signed_at, note))

    def _checkpoint(self, tree: Frontier) -> Checkpoint:
        return Checkpoint(self.origin, tree.size, tree.root())

    def _note(self, tree: Frontier) -> Note:
        return sign_checkpoint(self._checkpoint(tree), self._keys)

    # -- the past --

    def _check_past(self, state: State) -> int:
        size, frontier = state.signed.size, Frontier()
        if self._head().size < size:
            raise _Stop("DATABASE_OLDER", self._head().size + 1)
        rewritten = None
        for start in range(0, size, BATCH_FACTS):
            leaves = self._leaves(start + 1, min(size, start + BATCH_FACTS))
            rewritten = rewritten or self._first_unlike_its_tile(start, leaves)
            frontier = _grown(frontier, leaves)
        if frontier.hashes != state.signed.hashes:
            raise _Stop("REWRITTEN", rewritten or _first_apart(frontier, state.signed))
        return size

    def _first_unlike_its_tile(self, start: int, leaves: bytes) -> int | None:
        """The first position whose leaf is not the published one; None if all are, or tiles are missing."""
        for offset in range(0, len(leaves), 32 * 256):
            chunk = leaves[offset : offset + 32 * 256]
            try:
                stored = self._store.read_tile(0, start // 256 + offset // (32 * 256))
            except TileError:
                return None
            for at in range(0, len(chunk), 32):
                if chunk[at : at + 32] != stored[at : at + 32]:
                    return start + (offset + at) // 32 + 1
        return None

    # -- the state file --

    def _load(self) -> State:
        """The state; a new one where there is no file. A state that cannot be read is never replaced."""
        try:
            state = State.from_json(self._file.read_text("utf-8"))
        except FileNotFoundError:
            now = instant_text(self._clock())
            return State(self.log.identity.ledger_id, self.origin, Frontier(), Frontier(), now)
        except (ValueError, KeyError, TypeError, AttributeError):
            raise _error(Halt("STATE_DAMAGED", 0, instant_text(self._clock()))) from None
        if (state.ledger_id, state.origin) != (self.log.identity.ledger_id, self.origin):
            raise _error(Halt("OTHER_LEDGER", 0, instant_text(self._clock())))
        return state

    def _save(self, state: State) -> None:
        write_whole(self._file, state.to_json().encode() + b"\n")


def _grown(tree: Frontier, leaves: bytes) -> Frontier:
    grown = tree.copy()
    for at in range(0, len(leaves), 32):
        grown.append(leaves[at : at + 32])
    return grown


def _first_apart(found: Frontier, own: Frontier) -> int:
    """Where the first complete subtree begins that is not as it was signed."""
    first, heights = 1, [bit for bit in reversed(range(own.size.bit_length())) if own.size >> bit & 1]
    for height, one, other in zip(heights, found.hashes, own.hashes, strict=True):
        if one != other:
            return first
        first += 1 << height
    return first


def _frontier_json(tree: Frontier) -> dict[str, Any]:
    return {"size": tree.size, "frontier": tree.to_bytes().hex()}


def _frontier(found: Mapping[str, Any]) -> Frontier:
    return Frontier(found["size"], bytes.fromhex(found["frontier"]))


def _error(halt: Halt) -> SignerHaltedError:
    zh, en = HALTS[halt.reason]
    return SignerHaltedError(
        reason=halt.reason, position=halt.position, at=halt.at, problem_zh=zh, problem_en=en
    )
