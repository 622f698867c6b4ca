"""What an audit says: its defects, each a code, a position and a sentence in two languages, and the report of them."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import orjson

from ledger.audit.tree import Witnessed

DEFECTS_KEPT = 100
"""Defects told one by one; beyond that they are only counted."""

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
    "CHECKPOINT_ORIGIN_WRONG": (
        "大小为 {size} 的检查点属于另一个账本名称。",
        "The checkpoint of size {size} is of a log of another name.",
    ),
    "COSIGNATURES_TOO_FEW": (
        "最新的检查点（大小 {size}）有 {count} 个已知见证人副署，要求至少 {minimum} 个；"
        "副署足够的最新检查点大小为 {enough}。",
        "The newest checkpoint (size {size}) is cosigned by {count} of the known witnesses, and at least {minimum} are"
        " asked for; the newest that has enough is of size {enough}.",
    ),
    "BUNDLE_COUNT_WRONG": (
        "证据包的 {path} 应有第 {first} 至 {last} 条事实，实有 {lines} 行。",
        "{path} of the bundle should hold the facts at positions {first} to {last}, and holds {lines} lines.",
    ),
    "SINCE_LEDGER_DIFFERS": (
        "较早的证据来自另一个账本（{what}不同）。",
        "The earlier evidence is of another ledger: its {what} differs.",
    ),
    "SINCE_LARGER": (
        "较早的检查点已有 {old} 条事实，现在只有 {size} 条：第 {first} 条起被截去。",
        "The earlier checkpoint had {old} facts already, and now there are {size}: those from position {first} on"
        " were cut off.",
    ),
    "SINCE_FACT_DIFFERS": (
        "第 {position} 条事实与较早证据中的不同。",
        "The fact at position {position} is not the one of the earlier bundle.",
    ),
    "SINCE_ROOT_DIFFERS": (
        "前 {old} 条事实与较早的检查点不符：其中有内容在那之后被改写、调换或删去。",
        "The first {old} facts do not fit the earlier checkpoint: some were rewritten, reordered or removed since.",
    ),
    "SINCE_PROOF_WRONG": (
        "自大小 {old} 至 {size} 的一致性证明不成立。",
        "The consistency proof from size {old} to size {size} does not hold.",
    ),
    "SINCE_NOTE_WRONG": (
        "较早的检查点没有已知密钥的有效签名。",
        "The earlier checkpoint is not validly signed by a known key.",
    ),
    "SINCE_KEYS_DIFFER": (
        "较早证据所列的公钥 {key} 不在现在的公钥之中。",
        "The earlier bundle names the public key {key}, which is not among the keys of now.",
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


class Findings:
    """Defects as they are met, and what was checked."""

    def __init__(self, *kinds: str) -> None:
        self.defects: list[Defect] = []
        self.count = 0
        self.checks: dict[str, int] = dict.fromkeys(kinds, 0)

    def found(self, position: int | None, code: str, **details: object) -> None:
        self.count += 1
        if len(self.defects) < DEFECTS_KEPT:
            zh, en = SENTENCES[code]
            words = {"position": position, **details}
            self.defects.append(Defect(position, code, zh.format_map(words), en.format_map(words)))

    def put_first(self, others: "Findings") -> None:
        """Defects that were met meanwhile and are to be told before these."""
        self.count += others.count
        self.defects[:0] = others.defects
        del self.defects[DEFECTS_KEPT:]

    def checked(self, what: str) -> None:
        self.checks[what] += 1
