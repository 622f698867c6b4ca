"""The audit: everything about a stored log that must always hold, checked from the first fact to the last.

It reads the stored columns themselves, inside one read transaction, and trusts none of them: whatever a torn or edited
database holds becomes a `Defect`, never a crash. Nothing here repairs or writes, and nothing here knows a figure:
`projections.replay` compares those.

What it cannot find: whoever owns the database can rewrite history as a whole (states, leaf hashes and the head's
frontier, recomputed to fit), or cut off its end together with the head. Where checkpoints are signed, the first that
does not fit shows it (`ledger.audit_tree`), unless checkpoints and tiles were rewritten too: then only their signatures
do, with the log's public keys, or a checkpoint kept elsewhere. Facts after the newest checkpoint are not signed yet,
and where nothing is signed an earlier root hash, kept elsewhere and compared with `Report.root`, must do. Nor is
anything hashed of command_outcomes: a digest changed for another, or a record of a command that had nothing to do,
cannot be told.
A ledger_id can be changed unnoticed only where no command ever came with a key. That a fact is true is never proven.
"""

import re
import sqlite3
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import date
from functools import cache
from typing import Any, Literal, cast, get_args, get_origin
from uuid import UUID

import orjson
from pydantic.fields import FieldInfo
from sqlalchemy import Connection, Dialect, Table, UniqueConstraint, inspect
from sqlalchemy.engine import Inspector
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from ledger import ids, log_postgres, log_sqlite
from ledger.audit_tree import TreeAudit, Witnessed, require_witnesses
from ledger.checkpoint import VerifierKey
from ledger.codec import EVENTS_BY_TOPIC, decode, instant_text
from ledger.errors import LedgerBusyError, UnreadableFactError
from ledger.events import Code, Fact, Instant, PublicName, Sealed
from ledger.log import LedgerLog
from ledger.merkle import Frontier, leaf_hash
from ledger.schema import metadata
from ledger.tree import tree_metadata

DEFECTS_KEPT = 100
"""Defects told one by one; beyond that they are only counted."""

READ_ROWS = 1_000

SENTENCES: Mapping[str, tuple[str, str]] = {
    "TABLE_MISSING": ("缺少数据表 {table}。", "The table {table} is missing."),
    "TABLE_CHANGED": (
        "数据表 {table} 的列或唯一约束与建库时不同。",
        "The columns or unique keys of {table} are not as they were created.",
    ),
    "GUARD_MISSING": (
        "缺少防篡改保护：{guard}。请查明由谁移除。",
        "A guard against changes is missing: {guard}. Find out who removed it.",
    ),
    "GUARD_CHANGED": (
        "防篡改保护 {guard} 与建库时不同。",
        "A guard against changes is not as it was created: {guard}.",
    ),
    "GUARD_UNKNOWN": (
        "账本的数据表上有来历不明的触发器：{guard}。",
        "A trigger that is none of ours stands on a table of the ledger: {guard}.",
    ),
    "FILE_DAMAGED": (
        "数据库文件的完整性检查报告：{problem}。请从备份恢复。",
        "The database's own integrity check reports: {problem}. Restore from a backup.",
    ),
    "UNREADABLE": (
        "数据表 {table} 读到一半出错，其后的内容未能检查。请从备份恢复。",
        "Reading {table} failed part of the way; the rest of it is not checked. Restore from a backup.",
    ),
    "COLUMN_MALFORMED": (
        "{table} 的 {column} 列不是规定的形式。",
        "The column {column} of {table} does not have the one form it may have.",
    ),
    "IDENTITY_MISSING": (
        "ledger_identity 应有一行，实有 {rows} 行。",
        "ledger_identity holds {rows} rows, not one.",
    ),
    "IDENTITY_CHANGED": (
        "ledger_identity 的 {column} 列与打开账本时不同，或写法不规范。",
        "The column {column} of ledger_identity differs from when the ledger was opened, or is written otherwise.",
    ),
    "HEAD_MISSING": ("ledger_head 应有一行，实有 {rows} 行。", "ledger_head holds {rows} rows, not one."),
    "HEAD_SIZE_WRONG": (
        "账本头记 {size} 条事实，实际到第 {last} 条为止。",
        "The head counts {size} facts, but they end at position {last}.",
    ),
    "HEAD_FRONTIER_WRONG": (
        "第 {first} 至 {last} 条事实与账本头的哈希不符：其中有内容被改写，但无法指明是哪一条。",
        "Positions {first} to {last} do not hash to what the head holds: some of them were rewritten; which ones,"
        " the head alone cannot tell.",
    ),
    "HEAD_RECORDED_AT_WRONG": (
        "账本头的记录时间与最后一条事实不符。",
        "The head's recorded_at is not that of the newest fact.",
    ),
    "POSITIONS_MISSING": (
        "缺少第 {first} 至 {last} 条事实。",
        "The facts at positions {first} to {last} are missing.",
    ),
    "POSITION_WRONG": (
        "有一条事实的位置不合规：位置从 1 起逐一递增、不重复。",
        "A fact stands at a position that is below 1, taken already, or no whole number.",
    ),
    "VERSION_WRONG": (
        "第 {position} 条事实在其流中应为第 {expected} 版，实记为另一版。",
        "The fact at position {position} should be version {expected} of its stream, and is not.",
    ),
    "TOPIC_UNKNOWN": (
        "第 {position} 条事实的主题不在目录中。",
        "The fact at position {position} has a topic that is not in the catalogue.",
    ),
    "STATE_UNREADABLE": (
        "第 {position} 条事实的内容无法读取：{problem}。",
        "The state of the fact at position {position} cannot be read: {problem}.",
    ),
    "RECORDED_BACKWARDS": (
        "第 {position} 条事实的记录时间早于其前一条。",
        "The fact at position {position} was recorded before the one that precedes it.",
    ),
    "LEAF_HASH_WRONG": (
        "第 {position} 条事实的内容与其哈希不符。",
        "The fact at position {position} does not hash to its leaf_hash.",
    ),
    "CHECKPOINT_WRONG": (
        "大小为 {size} 的检查点与事实不符：第 {first} 至 {size} 条之中，有已签名的事实被改写、调换或删去。",
        "The checkpoint of size {size} does not fit the facts: of those at positions {first} to {size}, which were"
        " signed, some were rewritten, reordered or removed.",
    ),
    "CHECKPOINT_NOTE_WRONG": (
        "大小为 {size} 的检查点，其签名文本与所记不符，或没有已知密钥的签名。",
        "The note of the checkpoint of size {size} does not say what stands beside it, or no known key signed it.",
    ),
    "COSIGNATURES_TOO_FEW": (
        "最新的检查点（大小 {size}）有 {count} 个已知见证人副署，要求至少 {minimum} 个；"
        "副署足够的最新检查点大小为 {enough}。",
        "The newest checkpoint (size {size}) is cosigned by {count} of the known witnesses, and at least {minimum} are"
        " asked for; the newest that has enough is of size {enough}.",
    ),
    "TILE_WRONG": (
        "哈希块 {path} 与事实不符，自第 {first} 条起。",
        "The tile {path} does not fit the facts, from position {first} on.",
    ),
    "TILES_COUNT_WRONG": (
        "应有 {expected} 个哈希块，实有 {stored} 个。",
        "There should be {expected} tiles, and there are {stored}.",
    ),
    "OUTCOME_RANGE_WRONG": (
        "一条命令记录所指的第 {first} 至 {last} 条，并不正好是一条命令的全部事实。",
        "A command's record names positions {first} to {last}; these are not just the facts of one command.",
    ),
    "OUTCOMES_OVERLAP": (
        "两条命令记录都占用第 {position} 条事实。",
        "Two records of commands claim the fact at position {position}.",
    ),
    "OUTCOME_COMMAND_WRONG": (
        "一条命令记录的 command_id 与其幂等键或事实不符（第 {first} 条起）。",
        "A command's record (from position {first}) has a command_id that is not that of its key, or of its facts.",
    ),
    "OUTCOME_PERSON_WRONG": (
        "一条命令记录的 person_id 不是第 {first} 条事实的提交人。",
        "A command's record names somebody else than the caller of the fact at position {first}.",
    ),
    "OUTCOME_MISSING": (
        "第 {first} 条起的事实来自带幂等键的命令，其命令记录却不存在。",
        "The facts from position {first} came with an idempotency key, but the record of their command is missing.",
    ),
}
"""What each defect code says, in Chinese and English; a stored value is never repeated in a sentence."""


@dataclass(frozen=True)
class Defect:
    """One thing that does not hold; ``position`` is the earliest it can be pinned to, None if it is no fact's."""

    position: int | None
    code: str
    zh: str
    en: str


@dataclass(frozen=True)
class Report:
    """What an audit found.

    ``size`` is how many facts were read, ``root`` the RFC 6962 root over them in hex, recomputed from their columns;
    ``checks`` says how many of each kind of thing were checked, ``defects`` holds the first hundred of
    ``defect_count``. ``witnessed`` says how far each known witness has cosigned.
    """

    size: int
    root: str
    checks: Mapping[str, int]
    defects: tuple[Defect, ...]
    defect_count: int
    seconds: float
    witnessed: tuple[Witnessed, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether everything holds."""
        return self.defect_count == 0

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON, ``ok`` included."""
        return {"ok": self.ok, **asdict(self)}

    def to_json(self) -> str:
        """The report as a JSON document."""
        return orjson.dumps(self.to_dict(), option=orjson.OPT_INDENT_2).decode()


def verify(
    log: LedgerLog,
    progress: Callable[[int, int], None] | None = None,
    log_keys: Sequence[VerifierKey] = (),
    witness_keys: Sequence[VerifierKey] = (),
    witnesses_min: int = 0,
) -> Report:
    """Check the whole log as of one moment; ``progress`` is told (facts done, facts in all) now and then.

    Checkpoints and tiles are checked where there are any; with ``log_keys``, their signatures by one of these too;
    with ``witness_keys``, at least ``witnesses_min`` of these must have cosigned the newest one.
    Raises LEDGER_BUSY if the database is held, and what the driver says if the connection is lost: neither is a defect.
    """
    started = time.monotonic()
    findings = _Findings()
    with _snapshot(log) as connection:
        readable = _check_structure(connection, findings)
        with _raw_columns(connection):
            source = _Source(connection, findings, readable)
            _check_identity(source, log, findings)
            head = _read_head(source, findings)
            outcomes = _Outcomes(log.identity.ledger_id, source, findings)
            tree = _tree_audit(connection, source, findings, log_keys, witness_keys, witnesses_min)
            facts = _Facts(instant_text(log.identity.created_at), source.text, outcomes, tree, findings)
            _read_facts(source, facts, head.size if head else 0, progress)
            outcomes.finish()
            if tree is not None:
                with _tolerant(findings, "tree_tiles"):
                    tree.finish(facts.frontier)
                findings.checks |= {"checkpoints": tree.checkpoints, "tiles": tree.tiles}
                if tree.checkpoints_of_other_keys:
                    findings.checks["checkpoints of keys not given"] = tree.checkpoints_of_other_keys
            else:
                require_witnesses(findings.found, 0, 0, witnesses_min)
            if head is not None and "facts" in readable:
                _compare_head(head, facts, findings)
    return Report(
        facts.frontier.size,
        facts.frontier.root().hex(),
        {**findings.checks, **facts.checks, "outcomes": outcomes.checked},
        tuple(findings.defects),
        findings.count,
        round(time.monotonic() - started, 3),
        () if tree is None else tree.witnessed,
    )


class _Findings:
    """Defects as they are met, and what was checked."""

    def __init__(self) -> None:
        self.defects: list[Defect] = []
        self.count = 0
        self.checks: dict[str, int] = {"tables": 0, "guards": 0, "identity": 0, "head": 0}

    def found(self, position: int | None, code: str, **details: object) -> None:
        self.count += 1
        if len(self.defects) < DEFECTS_KEPT:
            zh, en = SENTENCES[code]
            words = {"position": position, **details}
            self.defects.append(Defect(position, code, zh.format_map(words), en.format_map(words)))

    def checked(self, what: str) -> None:
        self.checks[what] += 1


# --- reading stored columns as they are --------------------------------------------------------


@contextmanager
def _snapshot(log: LedgerLog) -> Iterator[Connection]:
    """A read transaction that sees one moment of the log, however long the audit takes."""
    try:
        with log.engine.connect() as connection:
            if log.dialect == "postgresql":
                connection.exec_driver_sql("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
            yield connection
    except DBAPIError as error:
        if log_sqlite.is_busy(error) or log_postgres.is_busy(error):
            raise LedgerBusyError(seconds=log.busy_seconds) from None
        raise


@contextmanager
def _raw_columns(connection: Connection) -> Iterator[None]:
    """On SQLite, read TEXT as bytearray, BLOB as bytes: the storage class shows, and broken text can be read."""
    driver = cast(Any, connection.connection.driver_connection)
    if connection.dialect.name != "sqlite":
        yield
        return
    driver.text_factory = bytearray
    try:
        yield
    finally:
        driver.text_factory = str


def _sqlite_text(value: object) -> str | None:
    """A TEXT column's text; None for another storage class or text that is not UTF-8."""
    if type(value) is not bytearray:
        return None
    try:
        return value.decode()
    except UnicodeDecodeError:
        return None


def _postgres_text(value: object) -> str | None:
    return value if type(value) is str else None


def _is_trouble_of_ours(error: Exception) -> bool:
    """Whether reading failed for want of a lock or a connection, which says nothing about what is stored."""
    lost = isinstance(error, DBAPIError) and error.connection_invalidated
    return lost or log_sqlite.is_busy(error) or log_postgres.is_busy(error)


@contextmanager
def _tolerant(findings: _Findings, table: str) -> Iterator[None]:
    """What is stored may stop a reader; that is a defect of its own, and the audit goes on with what comes next."""
    try:
        yield
    except (SQLAlchemyError, sqlite3.Error, UnicodeError) as error:
        if _is_trouble_of_ours(error):
            raise
        findings.found(None, "UNREADABLE", table=table)


class _Source:
    """The rows of the log's tables inside the snapshot; a table that cannot be read further is a defect and ends."""

    def __init__(self, connection: Connection, findings: _Findings, readable: frozenset[str]) -> None:
        self._connection = connection.execution_options(stream_results=True, max_row_buffer=READ_ROWS)
        self._findings = findings
        self.readable = readable
        is_sqlite = connection.dialect.name == "sqlite"
        self.text: Callable[[object], str | None] = _sqlite_text if is_sqlite else _postgres_text
        self._uuid = "{}" if is_sqlite else "{}::text"

    def facts(self) -> Iterator[list[Any]]:
        """Rows in the order of positions, some thousands at a time."""
        columns = f"position, {self._uuid.format('stream_id')}, version, topic, state, leaf_hash"
        return self._batches("facts", f"SELECT {columns} FROM facts ORDER BY position")

    def outcomes(self) -> Iterator[Any]:
        """Rows in the order of the positions they name."""
        person, command = self._uuid.format("person_id"), self._uuid.format("command_id")
        columns = f"{person}, command_key, digest, {command}, first_position, last_position"
        query = f"SELECT {columns} FROM command_outcomes ORDER BY first_position, last_position"
        for batch in self._batches("command_outcomes", query):
            yield from batch

    def heads(self) -> list[Any]:
        """What should be one row."""
        query = "SELECT single, size, frontier, recorded_at FROM ledger_head LIMIT 9"
        return [row for batch in self._batches("ledger_head", query) for row in batch]

    def identities(self) -> list[Any]:
        """What should be one row."""
        ledger_id = self._uuid.format("ledger_id")
        query = f"SELECT single, {ledger_id}, kind, schema_version, created_at FROM ledger_identity LIMIT 9"
        return [row for batch in self._batches("ledger_identity", query) for row in batch]

    def _batches(self, table: str, query: str) -> Generator[list[Any], None, None]:
        if table not in self.readable:
            return
        with _tolerant(self._findings, table):
            yield from self._connection.exec_driver_sql(query).partitions(READ_ROWS)  # type: ignore[misc]


# --- the facts -----------------------------------------------------------------------------------


_UUID_TEXT = "[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"
_DAY_TEXT = (
    "[12][0-9]{3}-(?:(?:0[1-9]|1[0-2])-(?:0[1-9]|1[0-9]|2[0-8])"
    "|(?:0[13-9]|1[0-2])-(?:29|30)|(?:0[13578]|1[02])-31)"
)
_INSTANT_TEXT = f"{_DAY_TEXT}T(?:[01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9]\\.[0-9]{{6}}Z"
_is_uuid = re.compile(_UUID_TEXT).fullmatch
_is_instant = re.compile(_INSTANT_TEXT).fullmatch
_NOWHERE = UUID(int=0)
_WRITTEN: tuple[tuple[Any, str], ...] = (
    (UUID, f'"{_UUID_TEXT}"'),
    (Instant, f'"{_INSTANT_TEXT}"'),
    (date, f'"{_DAY_TEXT}"'),
    (bool, "(?:true|false)"),
    (type(None), "null"),
    (Sealed, r'"s1\.[A-Za-z0-9_-]{1,16381}"'),
    (Code, '"[a-z0-9][a-z0-9_.-]{0,63}"'),
    (PublicName, r'"[^\x00-\x1f\x7f<>"\\]{1,60}"'),
)
"""Kinds of field and a regular expression for (most of) what `codec.encode` writes for them."""


class _Facts:
    """Takes facts in the order of positions and says of each what does not hold."""

    def __init__(
        self,
        created_at: str,
        text: Callable[[object], str | None],
        outcomes: "_Outcomes",
        tree: TreeAudit | None,
        findings: _Findings,
    ) -> None:
        self.last = 0
        self.newest = created_at
        self.frontier = Frontier()
        self._states_read = 0
        self._versions: dict[str, int] = {}
        self._forms = written_forms()
        self._text = text
        self._outcomes = outcomes
        self._tree = tree
        self._findings = findings

    @property
    def checks(self) -> dict[str, int]:
        facts = self.frontier.size
        return {
            "facts": facts,
            "streams": len(self._versions),
            "states": self._states_read,
            "leaf_hashes": facts,
        }

    def take(self, row: Any) -> None:
        """Check the next fact."""
        position, stream_id, version, topic, state, leaf = row
        self._check_position(position)
        stream_text = self._column("stream_id", self._text(stream_id))
        topic_text = self._column("topic", self._text(topic))
        state_text = self._column("state", self._text(state))
        if type(version) is not int:
            version = self._column("version", None)
        raw_id = self._check_stream(stream_text, version)
        self._check_state(topic_text, state_text)
        if raw_id is None or version is None or topic_text is None or state_text is None:
            self._append(leaf if type(leaf) is bytes and len(leaf) == 32 else bytes(32))
        else:
            self._check_leaf(leaf, raw_id, version, topic_text.encode(), state_text.encode())

    def _column(self, column: str, value: str | None) -> str | None:
        if value is None:
            self._findings.found(self.last, "COLUMN_MALFORMED", table="facts", column=column)
        return value

    def _check_position(self, position: object) -> None:
        if position == self.last + 1 and type(position) is int:
            self.last = position
        elif type(position) is int and position > self.last:
            first = self.last + 1
            self._findings.found(first, "POSITIONS_MISSING", first=first, last=position - 1)
            self.last = position
        else:
            self._findings.found(position if type(position) is int else None, "POSITION_WRONG")

    def _check_stream(self, stream_id: str | None, version: int | None) -> bytes | None:
        """The stream's 16 bytes, or None if its id is malformed; only well-formed ids are counted on."""
        if stream_id is None:
            return None
        before = self._versions.get(stream_id)
        if before is None:
            if _is_uuid(stream_id) is None:
                self._column("stream_id", None)
                return None
            before = 0
        if version != before + 1:
            self._findings.found(self.last, "VERSION_WRONG", expected=before + 1)
        self._versions[stream_id] = before + 1 if version is None else version
        return bytes.fromhex(stream_id.replace("-", ""))

    def _check_state(self, topic: str | None, state: str | None) -> None:
        stamp = self._stamp(topic, state) if topic is not None and state is not None else None
        if stamp is None:
            self._outcomes.fact(self.last, None, None)
            return
        caller_id, command_id, recorded_at = stamp
        self._states_read += 1
        if recorded_at < self.newest:
            self._findings.found(self.last, "RECORDED_BACKWARDS")
        else:
            self.newest = recorded_at
        self._outcomes.fact(self.last, command_id, caller_id)

    def _stamp(self, topic: str, state: str) -> tuple[str, ...] | None:
        """Caller, command and recording time of a sound state; what no written form covers is decoded in full."""
        form = self._forms.get(topic)
        match = form.fullmatch(state) if form is not None else None
        if match is not None:
            return match.groups()
        if topic not in EVENTS_BY_TOPIC:
            self._findings.found(self.last, "TOPIC_UNKNOWN")
            return None
        try:
            fact = decode(topic, _NOWHERE, 1, state.encode())
        except (
            Exception
        ) as error:  # decoding, upcasts included, meets values that nobody wrote: any failure is one
            problem = error.details["problem"] if isinstance(error, UnreadableFactError) else "not valid"
            self._findings.found(self.last, "STATE_UNREADABLE", problem=problem)
            return None
        return str(fact.caller_id), str(fact.command_id), instant_text(fact.recorded_at)

    def _check_leaf(self, leaf: object, stream_id: bytes, version: int, topic: bytes, state: bytes) -> None:
        try:
            computed = leaf_hash(stream_id, version, topic, state)
        except OverflowError:  # a version or a topic that no entry has room for
            computed = bytes(32)
        if leaf != computed or type(leaf) is not bytes:
            self._findings.found(self.last, "LEAF_HASH_WRONG")
        self._append(computed)

    def _append(self, leaf: bytes) -> None:
        self.frontier.append(leaf)
        if self._tree is not None:
            self._tree.leaf(leaf, self.frontier)


def _tree_audit(
    connection: Connection,
    source: _Source,
    findings: _Findings,
    log_keys: Sequence[VerifierKey],
    witness_keys: Sequence[VerifierKey],
    witnesses_min: int,
) -> TreeAudit | None:
    """What was signed, ready to be compared; None where nothing was, or its tables cannot be read."""
    if not tree_metadata.tables.keys() <= source.readable:
        return None
    with _tolerant(findings, "checkpoints"):
        return TreeAudit(
            connection,
            findings.found,
            lambda: _tolerant(findings, "tree_tiles"),
            log_keys,
            witness_keys,
            witnesses_min,
        )
    return None


def _read_facts(
    source: _Source, facts: _Facts, expected: int, progress: Callable[[int, int], None] | None
) -> None:
    take = facts.take
    for batch in source.facts():
        for row in batch:
            take(row)
        if progress is not None:
            done = facts.frontier.size
            progress(done, max(done, expected))


@cache
def written_forms() -> Mapping[str, re.Pattern[str]]:
    """By topic, a pattern of states that are sure to be sound; see `written_form`."""
    forms = {topic: written_form(event_class) for topic, event_class in EVENTS_BY_TOPIC.items()}
    return {topic: form for topic, form in forms.items() if form is not None}


def written_form(event_class: type[Fact]) -> re.Pattern[str] | None:
    """A pattern of whole states of a fact class; its groups are caller_id, command_id and recorded_at.

    Whatever it matches, `codec.decode` accepts and `codec.encode` writes again letter for letter, so a state that
    matches need not be decoded (which takes seven times as long). It need not match everything: the 29th of February,
    a name with quotation marks or an older class version is decoded. None for a class with fields it cannot describe.
    """
    decorators = event_class.__pydantic_decorators__
    if decorators.model_validators or decorators.field_validators:
        return None
    patterns: dict[str, str | None] = {"class_version": str(event_class.class_version)}
    for name, field in event_class.model_fields.items():
        if name not in ("originator_id", "originator_version"):
            patterns[name] = _written(field)
    for name in ("caller_id", "command_id"):
        patterns[name] = f'"({_UUID_TEXT})"'
    patterns["recorded_at"] = f'"({_INSTANT_TEXT})"'
    if None in patterns.values():
        return None
    return re.compile(r"\{" + ",".join(f'"{name}":{patterns[name]}' for name in sorted(patterns)) + r"\}")


def _written(field: FieldInfo) -> str | None:
    """The pattern for one field's values, or None if there is none for its kind."""
    for kind, pattern in _WRITTEN:
        if _kind(FieldInfo.from_annotation(kind)) == _kind(field):
            return pattern
    if field.annotation is int:
        return _written_number(field.metadata)
    if field.metadata:
        return None
    if get_origin(field.annotation) is Literal:
        return f"(?:{'|'.join(re.escape(orjson.dumps(v).decode()) for v in get_args(field.annotation))})"
    options = [_written(FieldInfo.from_annotation(kind)) for kind in get_args(field.annotation)]
    patterns = [option for option in options if option is not None]
    return f"(?:{'|'.join(patterns)})" if patterns and len(patterns) == len(options) else None


def _kind(field: FieldInfo) -> tuple[object, str]:
    return field.annotation, repr(field.metadata)


def _written_number(bounds: list[Any]) -> str | None:
    """Whole numbers of up to 15 digits, from a lower bound of 0 to 9 or between two small bounds."""
    low = next((bound.ge for bound in bounds if hasattr(bound, "ge")), None)
    high = next((bound.le for bound in bounds if hasattr(bound, "le")), None)
    if len(bounds) != (low is not None) + (high is not None):
        return None
    if low is not None and high is not None and high - low < 10:
        return f"(?:{'|'.join(str(number) for number in range(low, high + 1))})"
    if high is None and low is not None and 0 <= low <= 9:
        return f"(?:[{low}-9]|[1-9][0-9]{{1,14}})"
    return None if bounds else "(?:0|-?[1-9][0-9]{0,14})"


# --- what commands led to ------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Outcome:
    person_id: str
    command_id: str
    first: int
    last: int


class _Outcomes:
    """Walks command_outcomes beside the facts: each record covers just the facts of its command.

    Facts of one command stand together. A command with a key has an id that follows from it (a version-5 UUID), so
    its facts must have a record; a record without facts names the position where they would have begun.
    """

    def __init__(self, ledger_id: UUID, source: _Source, findings: _Findings) -> None:
        self.checked = 0
        self._ledger_id = ledger_id
        self._has_table = "command_outcomes" in source.readable
        self._text = source.text
        self._findings = findings
        self._first, self._last = 1, 0
        self._command_id: str | None = None
        self._caller_id: str | None = None
        self._claimed = 0
        self._sound = (outcome for row in source.outcomes() if (outcome := self._read(row)) is not None)
        self._next = next(self._sound, None)

    def fact(self, position: int, command_id: str | None, caller_id: str | None) -> None:
        """The next fact; it ends the run of the command before it if it is another's."""
        if command_id != self._command_id or caller_id != self._caller_id:
            self._end_run()
            self._first, self._command_id, self._caller_id = position, command_id, caller_id
        self._last = position

    def finish(self) -> None:
        """There are no more facts: what is left may only be records of commands that had nothing to do."""
        self._end_run()
        while (outcome := self._next) is not None:
            self._next = next(self._sound, None)
            if (outcome.first, outcome.last) != (self._last + 1, self._last):
                self._wrong(outcome, "OUTCOME_RANGE_WRONG")

    def _end_run(self) -> None:
        """Compare the run of one command's facts with the records that begin no later than it ends."""
        recorded = False
        while (outcome := self._next) is not None and outcome.first <= self._last:
            self._next = next(self._sound, None)
            recorded |= outcome.first <= outcome.last
            self._compare(outcome)
        from_key = self._command_id is not None and self._command_id[14] == "5"
        if from_key and not recorded and self._has_table:
            self._findings.found(self._first, "OUTCOME_MISSING", first=self._first)

    def _compare(self, outcome: _Outcome) -> None:
        if outcome.first <= min(outcome.last, self._claimed):
            self._findings.found(outcome.first, "OUTCOMES_OVERLAP")
        self._claimed = max(self._claimed, outcome.last)
        if outcome.first != self._first or outcome.last not in (self._last, self._first - 1):
            self._wrong(outcome, "OUTCOME_RANGE_WRONG")
        elif outcome.last == self._last and self._command_id is not None:
            if outcome.command_id != self._command_id:
                self._wrong(outcome, "OUTCOME_COMMAND_WRONG")
            if outcome.person_id != self._caller_id:
                self._wrong(outcome, "OUTCOME_PERSON_WRONG")

    def _wrong(self, outcome: _Outcome, code: str) -> None:
        self._findings.found(max(outcome.first, 1), code, first=outcome.first, last=outcome.last)

    def _read(self, row: Any) -> _Outcome | None:
        """A record whose columns are sound and whose command id follows from its key, or None and a defect."""
        self.checked += 1
        person, key, digest, command, first, last = row
        person_id, command_key, command_id = self._text(person), self._text(key), self._text(command)
        malformed = {
            "person_id": person_id is None or _is_uuid(person_id) is None,
            "command_key": command_key is None,
            "digest": type(digest) is not bytes or len(digest) != 32,
            "command_id": command_id is None or _is_uuid(command_id) is None,
            "first_position": type(first) is not int or first < 1,
            "last_position": type(last) is not int or (type(first) is int and last < first - 1),
        }
        at = first if not malformed["first_position"] else None
        for column in (name for name, wrong in malformed.items() if wrong):
            self._findings.found(at, "COLUMN_MALFORMED", table="command_outcomes", column=column)
        hopeless = {name for name, wrong in malformed.items() if wrong} - {"digest"}
        if hopeless:
            return None
        outcome = _Outcome(cast(str, person_id), cast(str, command_id), first, last)
        derived = ids.command_id(self._ledger_id, UUID(outcome.person_id), cast(str, command_key))
        if outcome.command_id != str(derived):
            self._wrong(outcome, "OUTCOME_COMMAND_WRONG")
        return outcome


# --- head and identity ---------------------------------------------------------------------------


@dataclass(frozen=True)
class _Head:
    """The head's columns; None where one is malformed."""

    size: int
    frontier: Frontier | None
    recorded_at: str | None


def _read_head(source: _Source, findings: _Findings) -> _Head | None:
    """The head, or None if there is not one head with a size to compare with."""
    if "ledger_head" not in source.readable:
        return None
    rows = source.heads()
    findings.checked("head")
    if len(rows) != 1:
        findings.found(None, "HEAD_MISSING", rows=len(rows))
        return None
    single, size, hashes, recorded = rows[0]
    recorded_at = source.text(recorded)
    malformed = {
        "single": type(single) is not int or single != 1,
        "size": type(size) is not int or size < 0,
        "recorded_at": recorded_at is None or _is_instant(recorded_at) is None,
    }
    frontier = None
    if not malformed["size"]:
        malformed["frontier"] = type(hashes) is not bytes or len(hashes) != 32 * size.bit_count()
        frontier = None if malformed["frontier"] else Frontier(size, hashes)
    for column in (name for name, wrong in malformed.items() if wrong):
        findings.found(None, "COLUMN_MALFORMED", table="ledger_head", column=column)
    return None if malformed["size"] else _Head(size, frontier, recorded_at)


def _compare_head(head: _Head, facts: _Facts, findings: _Findings) -> None:
    """Whether the head ends where the facts end, at their time, over their hashes."""
    if head.size != facts.last:
        findings.found(min(head.size, facts.last) + 1, "HEAD_SIZE_WRONG", size=head.size, last=facts.last)
    if head.recorded_at is not None and head.recorded_at != facts.newest:
        findings.found(facts.last or None, "HEAD_RECORDED_AT_WRONG")
    if head.frontier is None or head.size != facts.frontier.size:
        return
    first, heights = 1, [bit for bit in reversed(range(head.size.bit_length())) if head.size >> bit & 1]
    for height, kept, computed in zip(heights, head.frontier.hashes, facts.frontier.hashes, strict=True):
        if kept != computed:
            findings.found(first, "HEAD_FRONTIER_WRONG", first=first, last=first + (1 << height) - 1)
        first += 1 << height


def _check_identity(source: _Source, log: LedgerLog, findings: _Findings) -> None:
    """The identity row is, letter for letter, what the ledger was opened as."""
    if "ledger_identity" not in source.readable:
        return
    rows = source.identities()
    findings.checked("identity")
    if len(rows) != 1:
        findings.found(None, "IDENTITY_MISSING", rows=len(rows))
        return
    single, ledger_id, kind, schema_version, created_at = rows[0]
    known = log.identity
    same = {
        "single": type(single) is int and single == 1,
        "ledger_id": source.text(ledger_id) == str(known.ledger_id),
        "kind": source.text(kind) == known.kind,
        "schema_version": type(schema_version) is int and schema_version == known.schema_version,
        "created_at": source.text(created_at) == instant_text(known.created_at),
    }
    for column in (name for name, holds in same.items() if not holds):
        findings.found(None, "IDENTITY_CHANGED", column=column)


# --- tables and guards ---------------------------------------------------------------------------


def _check_structure(connection: Connection, findings: _Findings) -> frozenset[str]:
    """Check the file, the tables and the guards; the names of the tables that have their columns and can be read."""
    present: set[str] = set()
    readable: set[str] = set()
    with _tolerant(findings, "the schema"):
        present.update(inspect(connection).get_table_names())
    is_signed = not present.isdisjoint(tree_metadata.tables)
    for table in [*metadata.sorted_tables, *(tree_metadata.sorted_tables if is_signed else ())]:
        if table.name not in present:
            findings.found(None, "TABLE_MISSING", table=table.name)
            continue
        with _tolerant(findings, table.name):
            if _check_table(inspect(connection), table, connection.dialect, findings):
                readable.add(table.name)
    with _tolerant(findings, "the schema"):
        if connection.dialect.name == "sqlite":
            _check_sqlite_guards(connection, findings)
            _check_sqlite_file(connection, findings)
        else:
            _check_postgres_guards(connection, findings)
    return frozenset(readable)


def _check_table(inspector: Inspector, table: Table, dialect: Dialect, findings: _Findings) -> bool:
    """Whether the table has its columns; that they and the unique keys are as created is checked besides."""
    findings.checked("tables")
    stored = {
        column["name"]: (str(column["type"]), column["nullable"])
        for column in inspector.get_columns(table.name)
    }
    created = {
        column.name: (column.type.compile(dialect=dialect), bool(column.nullable)) for column in table.columns
    }
    keys = {tuple(inspector.get_pk_constraint(table.name)["constrained_columns"])}
    keys |= {tuple(key["column_names"]) for key in inspector.get_unique_constraints(table.name)}
    created_keys = {
        tuple(key.columns.keys())
        for key in table.constraints
        if key is table.primary_key or isinstance(key, UniqueConstraint)
    }
    if stored != created or keys != created_keys:
        findings.found(None, "TABLE_CHANGED", table=table.name)
    return set(created) <= set(stored)


def _compare_guards(stored: Mapping[str, object], created: Mapping[str, object], findings: _Findings) -> None:
    for guard, shape in created.items():
        findings.checked("guards")
        if guard not in stored:
            findings.found(None, "GUARD_MISSING", guard=guard)
        elif stored[guard] != shape:
            findings.found(None, "GUARD_CHANGED", guard=guard)
    for guard in sorted(set(stored) - set(created)):
        findings.found(None, "GUARD_UNKNOWN", guard=guard)


def _check_sqlite_guards(connection: Connection, findings: _Findings) -> None:
    """The triggers on our tables are those that `log_sqlite.protect` creates, word for word."""
    tables = ", ".join(f"'{name}'" for name in metadata.tables)
    query = f"SELECT name, sql FROM sqlite_master WHERE type = 'trigger' AND tbl_name COLLATE NOCASE IN ({tables})"
    stored = {row[0]: row[1] for row in connection.exec_driver_sql(query)}
    created = {name: f"CREATE TRIGGER {name} {body}" for name, body in log_sqlite.GUARDS.items()}
    _compare_guards(stored, created, findings)


def _check_sqlite_file(connection: Connection, findings: _Findings) -> None:
    """SQLite's own full check: pages, and every index entry against its row."""
    findings.checks["file"] = 1
    for (line,) in connection.exec_driver_sql(f"PRAGMA integrity_check({DEFECTS_KEPT})"):
        if line != "ok":
            findings.found(None, "FILE_DAMAGED", problem=line)


_KEEP, _STAY = 2 + 8 + 16 + 32, 2 + 8 + 32
"""pg_trigger.tgtype: BEFORE (2) each statement of DELETE (8), UPDATE (16), TRUNCATE (32)."""

_POSTGRES_TRIGGERS = """
SELECT 'trigger ' || t.tgname, c.relname, t.tgenabled::text, t.tgtype::int, p.proname,
       t.tgqual IS NULL AND t.tgattr::text = ''
FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid JOIN pg_proc p ON p.oid = t.tgfoid
WHERE NOT t.tgisinternal AND c.relnamespace = current_schema()::regnamespace AND c.relname = ANY(%s)"""

_POSTGRES_FUNCTIONS = """
SELECT 'function ' || p.proname, p.prosrc, p.prosecdef, o.rolname, coalesce(array_to_string(p.proconfig, ';'), ''),
       has_function_privilege('public', p.oid, 'EXECUTE')
FROM pg_proc p JOIN pg_roles o ON o.oid = p.proowner
WHERE p.pronamespace = current_schema()::regnamespace AND p.proname = ANY(%s)"""

_POSTGRES_TABLES = """
SELECT 'table ' || c.relname, c.relkind::text, o.rolname, c.relhasrules, c.relrowsecurity,
       has_table_privilege(app.oid, c.oid, 'INSERT, UPDATE, DELETE, TRUNCATE, TRIGGER')
       OR has_any_column_privilege(app.oid, c.oid, 'INSERT, UPDATE')
FROM pg_class c JOIN pg_roles o ON o.oid = c.relowner CROSS JOIN (SELECT oid FROM pg_roles WHERE rolname = %s) app
WHERE c.relnamespace = current_schema()::regnamespace AND c.relname = ANY(%s)"""

_POSTGRES_ROLES = """
SELECT 'role ' || r.rolname, r.rolcanlogin, r.rolsuper, r.rolcreaterole,
       EXISTS (SELECT 1 FROM pg_roles o WHERE o.rolname = %s AND o.oid <> r.oid AND pg_has_role(r.oid, o.oid, 'MEMBER'))
FROM pg_roles r WHERE r.rolname = ANY(%s)"""


def _check_postgres_guards(connection: Connection, findings: _Findings) -> None:
    """Triggers fire always, the functions read as created, and the application's role can only read and call them."""
    owner, app = log_postgres.roles_of(connection.engine.url.database or "")
    tables, functions = list(log_postgres.TABLES), _postgres_functions(owner)
    stored: dict[str, object] = {}
    for query, values in (
        (_POSTGRES_TRIGGERS, (tables,)),
        (_POSTGRES_FUNCTIONS, ([name.removeprefix("function ") for name in functions],)),
        (_POSTGRES_TABLES, (app, tables)),
        (_POSTGRES_ROLES, (owner, [owner, app])),
    ):
        stored.update({row[0]: tuple(row[1:]) for row in connection.exec_driver_sql(query, values)})
    created: dict[str, object] = {
        f"trigger {name}": (table, "A", _STAY if table == "ledger_head" else _KEEP, "ledger_refuse", True)
        for name, table in log_postgres.GUARDS.items()
    }
    created |= functions
    created |= {f"table {table}": ("r", owner, False, False, False) for table in tables}
    created |= {f"role {role}": (False, False, False, False) for role in (owner, app)}
    _compare_guards(stored, created, findings)


def _postgres_functions(owner: str) -> dict[str, object]:
    """Each function of `log_postgres` as the catalogue shows it: body, rights, owner, search path, closed to others."""
    path = "search_path=public, pg_temp"
    shapes = {
        "ledger_lock_head": (log_postgres.LOCK_HEAD, True, path),
        "ledger_append": (log_postgres.APPEND, True, path),
        "ledger_refuse": (log_postgres.REFUSE, False, ""),
    }
    return {
        f"function {name}": (source.split("$$")[1], definer, owner, settings, False)
        for name, (source, definer, settings) in shapes.items()
    }
