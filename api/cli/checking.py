"""`wenming verify` and `rebuild`: everything that must always hold, and the figures computed anew."""

import time
from typing import Annotated, Any

import typer

from api.cli.given import AsJson, Database, archive_of, figure_named, open_log
from api.cli.shown import counted, say, show_json, show_report
from api.cli.signing import VerifierKeys, WitnessesMin, WitnessKeys, given_keys
from api.progress import progress
from ledger import audit
from ledger.log import LedgerLog
from projections import follower, replay
from projections.figures import all_figures


def verify(
    database: Database = None,
    as_json: AsJson = False,
    figures: Annotated[
        bool, typer.Option(help="Recompute every figure and compare it with its table.")
    ] = True,
    vkey: VerifierKeys = None,
    witness: WitnessKeys = None,
    witnesses_min: WitnessesMin = 0,
) -> None:
    """Check everything that must always hold: facts, hashes, tree, what was signed, and every figure.

    With the log's public keys, the signatures too; with those of witnesses, who cosigned. Exit code 1 on a defect.
    """
    keys, witnesses = given_keys(vkey, witness, witnesses_min)
    with open_log(database) as log:
        with progress() as report:
            found = audit.verify(
                log,
                lambda done, whole: report("verifying facts", done, whole),
                keys,
                witnesses,
                witnesses_min,
            )
        wrong = _compare(log) if figures and found.ok else None
    whole = found.ok and not any((wrong or {}).values())
    if as_json:
        show_json(found.to_dict() | {"ok": whole, "figures": None if wrong is None else counted(wrong)})
    else:
        show_report(found, wrong)
    raise typer.Exit(0 if whole else 1)


def _compare(log: LedgerLog) -> dict[str, list[tuple[Any, ...]]]:
    with progress() as report:
        report("comparing figures", 0, 1)
        wrong = replay.verify_against_live(log)
        report("comparing figures", 1, 1)
    return wrong


def rebuild(
    figures: Annotated[list[str] | None, typer.Argument(help="Which figures; all if left out.")] = None,
    database: Database = None,
    names: Annotated[bool, typer.Option("--list", help="Only name the figures.")] = False,
) -> None:
    """Compute figures anew from the first fact, beside the live tables, and swap them in."""
    if names:
        for figure in all_figures():
            measures = ", ".join(measure.name for measure in figure.measures)
            say(f"{figure.name:24}{', '.join(figure.keys)} → {measures}")
        return
    for name in figures or ():
        figure_named(name)
    with open_log(database) as log, progress() as report:
        started = time.monotonic()
        rows = follower.rebuild(log, figures or None, report, archive=archive_of(log))
        seconds = time.monotonic() - started
        size = log.head().size
    for name, count in rows.items():
        say(f"{name:24}{count:>12,} rows")
    say(f"{size:,} facts in {seconds:.2f} s")
