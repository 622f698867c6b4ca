"""The audit: everything about a stored log that must always hold, checked from the first fact to the last.

It reads the stored columns themselves, inside one read transaction, and trusts none of them: whatever a torn or edited
database holds becomes a `Defect`, never a crash. Nothing here repairs or writes, and nothing here knows a figure:
`projections.replay` compares those.

What it cannot find: whoever owns the database can rewrite history as a whole (states, leaf hashes and the head's
frontier, recomputed to fit), or cut off its end together with the head. Where checkpoints are signed, the first that
does not fit shows it (`ledger.audit.tree`), unless checkpoints and tiles were rewritten too: then only their signatures
do, with the log's public keys, or a checkpoint kept elsewhere. Facts after the newest checkpoint are not signed yet,
and where nothing is signed an earlier root hash, kept elsewhere and compared with `Report.root`, must do. Nor is
anything hashed of command_outcomes: a digest changed for another, or a record of a command that had nothing to do,
cannot be told. No more can the signed_at of a checkpoint, which is no part of what is signed.
A ledger_id can be changed unnoticed only where no command ever came with a key. That a fact is true is never proven.
"""

import time
from collections.abc import Callable, Sequence

from sqlalchemy import Connection

from ledger.audit.columns import Source, raw_columns, snapshot, tolerant
from ledger.audit.facts import Facts, read_facts
from ledger.audit.forms import written_forms
from ledger.audit.growth import Earlier, Growth
from ledger.audit.head import check_identity, compare_head, read_head
from ledger.audit.outcomes import Outcomes
from ledger.audit.report import DEFECTS_KEPT, Defect, Findings, Report
from ledger.audit.sharing import helpers_for
from ledger.audit.structure import check_structure, checking_file
from ledger.audit.tree import StoredTree, TreeAudit, origin_of, require_witnesses
from ledger.checkpoint import VerifierKey
from ledger.codec import instant_text
from ledger.log import LedgerLog
from ledger.merkle import Frontier
from ledger.tree import tree_metadata

__all__ = ["DEFECTS_KEPT", "Defect", "Report", "verify", "written_forms"]


def verify(
    log: LedgerLog,
    progress: Callable[[int, int], None] | None = None,
    log_keys: Sequence[VerifierKey] = (),
    witness_keys: Sequence[VerifierKey] = (),
    witnesses_min: int = 0,
    since: Earlier | None = None,
    helpers: int | None = None,
) -> Report:
    """Check the whole log as of one moment; ``progress`` is told (facts done, facts in all) now and then.

    Checkpoints and tiles are checked where there are any; with ``log_keys``, their signatures by one of these too;
    of ``witness_keys``, at least ``witnesses_min`` must have cosigned the newest one; with ``since``, the log only grew
    since then. ``helpers`` processes share the work: as many as the log is worth if None.
    Raises LEDGER_BUSY if the database is held, BUNDLE_WRONG if what was kept is no bundle, and what the driver says if
    the connection is lost: these are no defects.
    """
    started = time.monotonic()
    findings = Findings("tables", "guards", "identity", "head")
    growth = Growth(since, findings) if since is not None else None
    with snapshot(log) as connection:
        readable = check_structure(connection, findings)
        with checking_file(log, findings), raw_columns(connection):
            source = Source(connection, findings, readable)
            check_identity(source, log, findings)
            head = read_head(source, findings)
            outcomes = Outcomes(log.identity.ledger_id, source, findings)
            stored = _stored_tree(connection, source, findings)
            tree = None
            if stored is not None:
                tree = TreeAudit(
                    stored.size, stored.tile, findings.found, log_keys, witness_keys, witnesses_min
                )
                for checkpoint in stored.checkpoints:
                    tree.expect(*checkpoint)
            facts = Facts(
                instant_text(log.identity.created_at), source.text, outcomes, tree, growth, findings
            )
            expected = head.size if head else 0
            read_facts(
                source.facts(),
                facts,
                expected,
                progress,
                helpers_for(expected) if helpers is None else helpers,
            )
            outcomes.finish()
            if tree is not None and stored is not None:
                with tolerant(findings, "tree_tiles"):
                    tree.finish(facts.frontier)
                    stored.count_tiles()
                findings.checks |= tree.checks
            else:
                require_witnesses(findings.found, 0, 0, witnesses_min)
            if head is not None and "facts" in readable:
                compare_head(head, facts, findings)
            if growth is not None:
                _compare_growth(growth, log, stored, facts.frontier, log_keys)
    return Report(
        facts.frontier.size,
        facts.frontier.root().hex(),
        {**findings.checks, **facts.checks, "outcomes": outcomes.checked},
        tuple(findings.defects),
        findings.count,
        round(time.monotonic() - started, 3),
        () if tree is None else tree.witnessed,
    )


def _stored_tree(connection: Connection, source: Source, findings: Findings) -> StoredTree | None:
    """What was signed; None where nothing was, or its tables cannot be read."""
    if not tree_metadata.tables.keys() <= source.readable:
        return None
    with tolerant(findings, "checkpoints"):
        return StoredTree(connection, findings.found, lambda: tolerant(findings, "tree_tiles"))
    return None


def _compare_growth(
    growth: Growth, log: LedgerLog, stored: StoredTree | None, tree: Frontier, keys: Sequence[VerifierKey]
) -> None:
    """What the earlier log says of itself, and its tree, beside this one."""
    newest = stored.checkpoints[-1] if stored is not None and stored.checkpoints else None
    now = {
        "ledger_id": str(log.identity.ledger_id),
        "kind": log.identity.kind,
        "created_at": instant_text(log.identity.created_at),
    }
    growth.compare(None if newest is None else origin_of(newest[2]), now, keys)
    if stored is None or newest is None:
        growth.finish(tree, None)
    else:
        growth.finish(tree, newest[:2], lambda tile: stored.tile(tile.level, tile.index)[1])
