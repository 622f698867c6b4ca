"""`wenming demo`: Gangu county, invented people, months of history. The only command that knows the demonstration."""

import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Annotated
from uuid import UUID

import typer
from rich.table import Table
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError

from api.cli.given import Database
from api.cli.making import serve_parts
from api.cli.shown import complain, out, say, show_ranking, show_report
from api.demo import run
from api.parts import Parts
from api.progress import progress
from api.settings import Settings, read_settings
from api.signing import signer_of
from ledger import audit, ids
from ledger.checkpoint import VerifierKey
from ledger.codec import decode
from ledger.events import VolunteerEnrolled, VolunteerProfileCorrected
from ledger.signing_keys import create_key_file, read_key_files
from ledger.tree import TreeStore
from projections import follower, replay
from projections.rankings import Terms, star_ranking

PLACE = "sqlite:///.wenming/demo.db"


def demo(
    serve: Annotated[bool, typer.Option(help="Serve it at the end.")] = True,
    volunteers: Annotated[int, typer.Option(min=20, max=100_000)] = 2000,
    months: Annotated[int, typer.Option(min=2, max=24)] = 6,
    seed: int = 1,
    database: Database = None,
    port: Annotated[int | None, typer.Option()] = None,
) -> None:
    """Gangu county, invented people, months of history: made, verified, rebuilt, ranked and served."""
    settings = _settings(database or PLACE, port)
    plan = run.Plan(volunteers, months, seed)
    with closing(run.open_demo(settings, plan)) as parts:
        _require_signing_key(parts)
        if run.is_complete(parts):
            _reuse(parts, plan)
        else:
            _make(parts, plan)
        say(f"public key: {_vkey(parts).to_text()}  (wenming verify --vkey KEY, wenming check-proof)")
        _show_certificate(parts, plan)
        if serve:
            say(f"http://{settings.host}:{settings.port}  (keys: {_sample_file(settings)}; stop: Ctrl-C)")
            serve_parts(parts)


def _settings(database: str, port: int | None) -> Settings:
    """Keys of its own beside the demonstration, whatever the environment says about those of a real ledger."""
    keys = _beside(database).with_suffix(".keys.db")
    signing_key = _beside(database).with_suffix(".signing.key")
    settings = read_settings(
        database=database,
        keys=f"sqlite:///{keys}",
        master_key_file=keys.with_suffix(".master"),
        certificate_key=_beside(database).with_suffix(".issuer.key"),
        port=port,
        follow=True,
        signing_key=signing_key,
        signer_state=signing_key.with_suffix(".state.json"),
    )
    return settings.model_copy(update={"witnesses": None})


def _beside(database: str) -> Path:
    """The file of a ledger on SQLite; for one on PostgreSQL, a name where SQLite demonstrations lie."""
    try:
        url = make_url(database)
    except ArgumentError:
        return Path("none")  # the settings say what is wrong with it
    name = url.database or "none"
    return Path(name) if url.get_backend_name() == "sqlite" else Path(".wenming", name).with_suffix(".db")


def _sample_file(settings: Settings) -> Path:
    return settings.master_key.with_name(settings.master_key.name.replace(".master", "") + ".sample-keys.txt")


def _require_signing_key(parts: Parts) -> None:
    """The key that signs the demonstration's checkpoints, made where there is none."""
    file = parts.settings.signing_key
    if file is not None and not file.exists():
        create_key_file(file, f"wenming.example/demo/{parts.log.identity.ledger_id}")


def _vkey(parts: Parts) -> VerifierKey:
    file = parts.settings.signing_key
    return read_key_files([] if file is None else [file])[0].verifier_key


def _sign(parts: Parts) -> None:
    with signer_of(parts.log, parts.settings) as signer:
        signer.sign_once()


def _reuse(parts: Parts, plan: run.Plan) -> None:
    say(f"reusing {parts.settings.shown()['database']} ({parts.log.head().size:,} facts)")
    if TreeStore(parts.log).latest() is None:  # stopped just before that, or made by an earlier version
        _sign(parts)
    if parts.log.identity.ledger_id != plan.ledger_id:
        complain("It was made with other parameters; for these, choose another --database.")
    elif not _sample_file(parts.settings).exists():  # stopped just before, or removed since
        _write_samples(parts, plan)


def _make(parts: Parts, plan: run.Plan) -> None:
    times: dict[str, float] = {}
    with progress() as report:
        with _timed(times, "telling"):
            told = run.fill(parts, plan, report)
            run.certify_sample(parts, plan)
        with _timed(times, "signing"):
            _sign(parts)
        with _timed(times, "verifying"):
            found = audit.verify(
                parts.log, lambda done, whole: report("verifying facts", done, whole), [_vkey(parts)]
            )
        with _timed(times, "rebuilding"):
            follower.rebuild(parts.log, progress=report)
        with _timed(times, "comparing"):
            wrong = replay.verify_against_live(parts.log)
    _show_told(told, times)
    show_report(found, wrong)
    if not found.ok or any(wrong.values()) or told.refused:
        complain(f"the demonstration is not whole: honest requests refused {dict(told.refused)}")
        raise typer.Exit(1)
    show_ranking(star_ranking(parts.log, Terms(limit=10)), lambda volunteer: _name_of(parts, UUID(volunteer)))
    _write_samples(parts, plan)


def _show_certificate(parts: Parts, plan: run.Plan) -> None:
    """Where to look at the sample certificate; its document is printed once it is signed."""
    if parts.log.identity.ledger_id != plan.ledger_id:
        return
    number = run.certify_sample(parts, plan)
    if number is None:
        return
    say(f"a certificate to check: {parts.settings.public_address}/verify/{number}")
    file, signed = _beside(parts.settings.database).with_suffix(".certificate.pdf"), parts.log.head().size
    if run.print_sample(parts, plan, number, file):
        if parts.log.head().size > signed:  # a print is a fact
            _sign(parts)
        say(f"and its document: {file}")


@contextmanager
def _timed(times: dict[str, float], what: str) -> Iterator[None]:
    started = time.monotonic()
    yield
    times[what] = time.monotonic() - started


def _show_told(told: run.Told, times: Mapping[str, float]) -> None:
    say(f"{told.commands:,} commands, {told.facts:,} facts")
    say(" · ".join(f"{what} {seconds:.1f} s" for what, seconds in times.items()))
    table = Table("fraud attempted", "", "tries", "refused with", box=None)
    for kind, (_, what) in run.KINDS.items():
        codes = told.attempts.get(kind, Counter[str]())
        answers = ", ".join(f"{code} × {count}" for code, count in sorted(codes.items()))
        table.add_row(kind, what, str(sum(codes.values())), answers)
    out.print(table)


def _name_of(parts: Parts, volunteer_id: UUID) -> str:
    """Unsealed in memory, for this line only."""
    for row in reversed(parts.log.stream(volunteer_id)):
        fact = decode(row.topic, row.stream_id, row.version, row.state)
        if isinstance(fact, VolunteerEnrolled | VolunteerProfileCorrected):
            profile = parts.keys.unseal(row.topic, fact.profile)
            return (profile or {}).get("name") or "〔已删除〕"
    return ""


def _write_samples(parts: Parts, plan: run.Plan) -> None:
    lines = [f"{key}  {what}" for what, key in run.sample_accounts(parts, plan)]
    file = _sample_file(parts.settings)
    file.touch(mode=0o600)
    file.write_text("\n".join(lines) + "\n", "utf-8")
    centre = ids.unit_id(parts.log.identity.ledger_id, "centre", None)
    say(f"sample keys: {file} · the centre: {centre}")
