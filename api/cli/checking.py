"""`wenming verify` and `rebuild`: everything that must always hold, and the figures computed anew."""

import time
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from api.against import compare, shown, totals_from
from api.cli.given import AsJson, Database, archive_of, open_log, position_of
from api.cli.shown import (
    Differing,
    claims,
    counted,
    say,
    show_comparison,
    show_growth,
    show_json,
    show_opening,
    show_report,
    tree_head,
)
from api.cli.signing import Keys, VerifierKeys, WitnessesMin, WitnessKeys, given_keys
from api.progress import progress
from api.settings import read_clickhouse_settings
from ledger import audit
from ledger.audit.bundled import verify_bundle
from ledger.audit.growth import Earlier, earlier
from ledger.bundle import Opening
from ledger.errors import InvalidRequestError
from ledger.log import LedgerLog
from projections import follower, replay
from projections.figures import all_figures, figure_named


def verify(
    bundle: Annotated[
        Path | None, typer.Argument(help="An offline bundle to check; the ledger if left out.")
    ] = None,
    database: Database = None,
    as_json: AsJson = False,
    figures: Annotated[
        bool, typer.Option(help="Recompute every figure and compare it with its table.")
    ] = True,
    vkey: VerifierKeys = None,
    witness: WitnessKeys = None,
    witnesses_min: WitnessesMin = None,
    since: Annotated[
        Path | None,
        typer.Option(help="An earlier bundle or checkpoint: show that the log only grew since then."),
    ] = None,
    origin: Annotated[
        str | None, typer.Option(help="Which log a bundle must be of; that of the first key if left out.")
    ] = None,
    against: Annotated[
        str | None,
        typer.Option(
            help="Compare another engine's figures with the ledger's, and nothing else: a file of totals "
            "(-: stdin), http://user@host:8123/database, sqlite:///… or postgresql://…"
        ),
    ] = None,
    position: Annotated[
        str | None,
        typer.Option(help="With --against: as of which position or time; where it stands if left out."),
    ] = None,
    password_file: Annotated[
        Path | None,
        typer.Option(help="With --against http://…: the password (or WENMING_CLICKHOUSE_PASSWORD_FILE)."),
    ] = None,
) -> None:
    """Check everything that must always hold: facts, hashes, tree, what was signed, and every figure.

    With the log's public keys, the signatures too; with those of witnesses, who cosigned. Exit code 1 on a defect.

    A bundle needs no ledger and no key store, but a public key that came by another way than the bundle.

    --json prints one object: ok, size, root, checks (how many of each kind were checked), defects (the first hundred:
    position or null, code, zh, en), defect_count, seconds, witnessed (how far each witness cosigned), figures (null if
    they were not compared, or the differing keys of each), since (null, or origin, size and root of the earlier log)
    and bundle (null, or what the bundle claims to be: ledger_id, kind, schema_version, created_at, origin, size, root,
    keys).

    --against --json prints: ok, against, position, engine (facts, last_position, first_missing), findings (code, zh,
    en), compared (how many totals were) and differences (figure, total, ledger, engine).
    """
    if against is not None:
        if bundle is not None or since is not None or vkey or witness:
            raise InvalidRequestError(problem="--against compares figures only: verify the rest by itself")
        _verify_against(database, against, position, password_file, as_json)
    if position is not None or password_file is not None:
        raise InvalidRequestError(problem="--position and --password-file go with --against")
    keys = given_keys(vkey, witness, witnesses_min)
    if not keys.log and bundle:
        raise InvalidRequestError(
            problem="give the log's public key with --vkey: nothing else proves who signed"
        )
    opening, wrong = None, None
    with earlier(since) if since else nullcontext() as kept:
        if bundle is not None:
            found, opening = _verified_bundle(bundle, keys, origin or keys.log[0].name, kept)
        else:
            found, wrong = _verified_log(database, keys, kept, figures)
    whole = found.ok and not any((wrong or {}).values())
    if as_json:
        said = found.to_dict() | {"ok": whole, "figures": None if wrong is None else counted(wrong)}
        show_json(said | {"since": tree_head(kept), "bundle": claims(opening)})
    else:
        show_opening(opening)
        show_report(found, wrong)
        show_growth(kept, found)
    raise typer.Exit(0 if whole else 1)


def _verify_against(
    database: str | None, place: str, position: str | None, password_file: Path | None, as_json: bool
) -> NoReturn:
    password = read_clickhouse_settings(password_file=password_file).password
    with open_log(database) as log:
        asked = None if position is None else position_of(log, position)
        found = compare(
            log, totals_from(place, log.identity.ledger_id, asked, password), asked, archive_of(log)
        )
    show_comparison(shown(place), found, as_json)
    raise typer.Exit(0 if found.ok else 1)


def _verified_bundle(
    file: Path, keys: Keys, origin: str, kept: Earlier | None
) -> tuple[audit.Report, Opening]:
    with progress() as report:
        return verify_bundle(
            file,
            keys.log,
            keys.witnesses,
            keys.witnesses_min,
            origin,
            kept,
            partial(report, "verifying facts"),
        )


def _verified_log(
    database: str | None, keys: Keys, kept: Earlier | None, figures: bool
) -> tuple[audit.Report, Differing | None]:
    with open_log(database) as log:
        with progress() as report:
            found = audit.verify(
                log,
                partial(report, "verifying facts"),
                keys.log,
                keys.witnesses,
                keys.witnesses_min,
                kept,
            )
        return found, _compare(log) if figures and found.ok else None


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
