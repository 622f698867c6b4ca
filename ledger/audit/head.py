"""The two tables of one row: where the log ends, and which ledger it is."""

from dataclasses import dataclass

from ledger.audit.columns import Source
from ledger.audit.facts import Facts
from ledger.audit.forms import is_instant
from ledger.audit.report import Findings
from ledger.codec import instant_text
from ledger.log import LedgerLog
from ledger.merkle import Frontier


@dataclass(frozen=True)
class _Head:
    """The head's columns; None where one is malformed."""

    size: int
    frontier: Frontier | None
    recorded_at: str | None


def read_head(source: Source, findings: Findings) -> _Head | None:
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
        "recorded_at": recorded_at is None or is_instant(recorded_at) is None,
    }
    frontier = None
    if not malformed["size"]:
        malformed["frontier"] = type(hashes) is not bytes or len(hashes) != 32 * size.bit_count()
        frontier = None if malformed["frontier"] else Frontier(size, hashes)
    for column in (name for name, wrong in malformed.items() if wrong):
        findings.found(None, "COLUMN_MALFORMED", table="ledger_head", column=column)
    return None if malformed["size"] else _Head(size, frontier, recorded_at)


def compare_head(head: _Head, facts: Facts, findings: Findings) -> None:
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


def check_identity(source: Source, log: LedgerLog, findings: Findings) -> None:
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
