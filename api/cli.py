"""The command line. Results go to stdout, progress and troubles to stderr; exit code 0 is well, 1 not, 2 usage."""

import json
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any
from uuid import UUID, uuid4

import typer
import uvicorn
from rich.console import Console
from rich.table import Table

from api import parts as wiring
from api.app import create_app
from api.demo import run as demo_run
from api.parts import Parts
from api.progress import progress
from api.settings import Settings, read_settings
from ledger import audit, ids
from ledger.codec import decode
from ledger.commands import PublishRuleBook
from ledger.errors import ExpectedError, InvalidRequestError
from ledger.events import VolunteerEnrolled, VolunteerProfileCorrected
from ledger.log import LedgerLog
from ledger.rulebook import default_rulebook, local_day
from ledger.rules import Caller
from projections import follower, replay
from projections.figures import all_figures
from projections.projection import Projection
from projections.rankings import Ranking, Terms, star_ranking

app = typer.Typer(
    name="wenming",
    help="文明账本 — the volunteer-hours ledger that anybody can question and recompute.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
users = typer.Typer(help="API keys: who may ask, in which role, for which unit.", no_args_is_help=True)
app.add_typer(users, name="user")
out, err = Console(), Console(stderr=True)

Database = Annotated[
    str | None, typer.Option(help="The ledger: sqlite:///file or postgresql://… (or WENMING_DATABASE).")
]
Keys = Annotated[
    str | None, typer.Option(help="The key store (or WENMING_KEYS); beside an SQLite ledger if left out.")
]
AsOf = Annotated[str | None, typer.Option(help="A position, or a time such as 2026-06-30T18:00:00+08:00.")]
Day = Annotated[str | None, typer.Option(help="A local day: only what had happened by its end.")]
AsJson = Annotated[bool, typer.Option("--json", help="JSON for programs.")]
FigureName = Annotated[str, typer.Argument(help="A figure; `wenming rebuild --list` names them.")]


def main() -> None:
    """The entry point: an expected error is two sentences and exit code 1, never a traceback."""
    try:
        app()
    except ExpectedError as error:
        err.print(f"[bold red]{error.code}[/]  ", end="")
        err.print(
            error.sentence_zh, error.sentence_en, sep="\n", markup=False, highlight=False, soft_wrap=True
        )
        sys.exit(1)
    except BrokenPipeError:
        sys.exit(0)
    except OSError as error:
        err.print(f"{type(error).__name__}: {error}", markup=False, highlight=False, soft_wrap=True)
        sys.exit(1)


@contextmanager
def _open(database: str | None, keys: str | None = None) -> Iterator[Parts]:
    with wiring.opened(read_settings(database=database, keys=keys)) as parts:
        yield parts


# --- making, serving -------------------------------------------------------------------------------------------------


@app.command()
def init(
    database: Database = None,
    keys: Keys = None,
    app_login: Annotated[
        str | None, typer.Option(help="PostgreSQL: the login that programs use, if it is not the owner's.")
    ] = None,
    rule_book: Annotated[
        bool, typer.Option(help="Publish the rule book that ships with the product.")
    ] = True,
) -> None:
    """Make a new, empty ledger with its key store, rule book and first administrator. Refuses to do it twice."""
    settings = read_settings(database=database, keys=keys)
    wiring.create(settings, app_login=app_login)
    with wiring.opened(settings) as parts:
        person = uuid4()
        if rule_book:
            today = local_day(parts.ledger.clock())
            command = PublishRuleBook(version=1, effective_on=today, book=default_rulebook())
            parts.ledger.handle(command, Caller(person, "admin"), key="init")
        key = parts.accounts.add(person, "admin")
    out.print(
        f"ledger      {settings.shown()['database']}", f"key store   {settings.shown()['keys']}", sep="\n"
    )
    out.print(f"master key  {settings.master_key}  (keep a copy where the backups are not)")
    out.print(f"admin key   {key}  (shown this once)", highlight=False)


@app.command()
def serve(
    database: Database = None,
    keys: Keys = None,
    host: Annotated[str | None, typer.Option()] = None,
    port: Annotated[int | None, typer.Option()] = None,
    follow: Annotated[bool | None, typer.Option(help="Keep the figures up in this process.")] = None,
) -> None:
    """Serve the API. Refuses a database without a ledger."""
    settings = read_settings(database=database, keys=keys, host=host, port=port, follow=follow)
    with wiring.opened(settings) as parts:
        _serve(parts)


def _serve(parts: Parts) -> None:
    with progress() as report:
        follower.catch_up(parts.log, progress=report)
    uvicorn.run(
        create_app(parts),
        host=parts.settings.host,
        port=parts.settings.port,
        log_level="info",
        server_header=False,
    )


@app.command()
def follow(
    database: Database = None, once: Annotated[bool, typer.Option(help="Catch up and stop.")] = False
) -> None:
    """Keep every figure at the head of the log, until stopped."""
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    with _open_log(database) as log:
        with progress() as report:
            position = follower.catch_up(log, progress=report)
        err.print(f"figures at position {position:,}", highlight=False)
        if not once:
            follower.follow(log, stop)


# --- checking --------------------------------------------------------------------------------------------------------


@app.command()
def verify(
    database: Database = None,
    as_json: AsJson = False,
    figures: Annotated[
        bool, typer.Option(help="Recompute every figure and compare it with its table.")
    ] = True,
) -> None:
    """Check everything that must always hold: facts, hashes, tree, and every figure. Exit code 1 on a defect."""
    with _open_log(database) as log:
        with progress() as report:
            found = audit.verify(log, lambda done, whole: report("verifying facts", done, whole))
        wrong = _compare(log) if figures and found.ok else None
    whole = found.ok and not any((wrong or {}).values())
    if as_json:
        answer = found.to_dict() | {"ok": whole, "figures": None if wrong is None else _counted(wrong)}
        sys.stdout.write(json.dumps(answer, ensure_ascii=False, default=str) + "\n")
    else:
        _print_report(found, wrong)
    raise typer.Exit(0 if whole else 1)


def _compare(log: LedgerLog) -> dict[str, list[tuple[Any, ...]]]:
    with progress() as report:
        report("comparing figures", 0, 1)
        wrong = replay.verify_against_live(log)
        report("comparing figures", 1, 1)
    return wrong


def _counted(wrong: Mapping[str, list[tuple[Any, ...]]]) -> dict[str, dict[str, Any]]:
    return {name: {"differing_keys": len(keys), "first": keys[:10]} for name, keys in wrong.items()}


def _print_report(found: audit.Report, wrong: Mapping[str, list[tuple[Any, ...]]] | None) -> None:
    rate = int(found.size / found.seconds) if found.seconds else 0
    out.print(f"{found.size:,} facts in {found.seconds:.1f} s ({rate:,} a second)", highlight=False)
    out.print(f"root {found.root}", highlight=False)
    table = Table("checked", "how many", box=None)
    for what, count in found.checks.items():
        table.add_row(what, f"{count:,}")
    out.print(table)
    for defect in found.defects:
        where = "" if defect.position is None else f"position {defect.position}: "
        out.print(f"✗ {defect.code}  {where}{defect.en}\n  {defect.zh}", markup=False, highlight=False)
    if found.defect_count > len(found.defects):
        out.print(f"… and {found.defect_count - len(found.defects)} more", highlight=False)
    for name, keys in (wrong or {}).items():
        if keys:
            out.print(
                f"✗ FIGURE_DIFFERS  {name}: {len(keys)} keys, first {keys[0]}", markup=False, highlight=False
            )
    if wrong is not None and not any(wrong.values()):
        out.print(f"✓ {len(wrong)} figures equal what the facts give", highlight=False)
    out.print("✓ no defect" if found.ok else f"✗ {found.defect_count} defects", highlight=False)


@app.command()
def rebuild(
    figures: Annotated[list[str] | None, typer.Argument(help="Which figures; all if left out.")] = None,
    database: Database = None,
    names: Annotated[bool, typer.Option("--list", help="Only name the figures.")] = False,
) -> None:
    """Compute figures anew from the first fact, beside the live tables, and swap them in."""
    if names:
        for figure in all_figures():
            out.print(
                f"{figure.name:24}{', '.join(figure.keys)} → {', '.join(m.name for m in figure.measures)}"
            )
        return
    for name in figures or ():
        _figure(name)
    with _open_log(database) as log, progress() as report:
        started = time.monotonic()
        rows = follower.rebuild(log, figures or None, report)
        seconds = time.monotonic() - started
        size = log.head().size
    for name, count in rows.items():
        out.print(f"{name:24}{count:>12,} rows", highlight=False)
    out.print(f"{size:,} facts in {seconds:.2f} s", highlight=False)


@contextmanager
def _open_log(database: str | None) -> Iterator[LedgerLog]:
    """The log alone: what needs no names needs no keys."""
    settings = read_settings(
        database=database, keys="sqlite:///not-needed", master_key_file=Path("not-needed")
    )
    log = LedgerLog.open(settings.database, busy_seconds=settings.busy_seconds)
    try:
        yield log
    finally:
        log.close()


# --- asking ----------------------------------------------------------------------------------------------------------


def _figure(name: str) -> Projection:
    known = {figure.name: figure for figure in all_figures()}
    if name not in known:
        raise InvalidRequestError(problem=f"no figure is called {name}; there are: {', '.join(known)}")
    return known[name]


def _position(log: LedgerLog, text: str | None) -> int:
    if text is None or text.isdecimal():
        return replay.resolve(log, None if text is None else int(text))
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        moment = datetime.min
    if moment.tzinfo is None:
        raise InvalidRequestError(problem=f"{text} is neither a position nor a time with offset")
    return replay.resolve(log, moment)


def _day(text: str | None) -> date | None:
    try:
        return None if text is None else date.fromisoformat(text)
    except ValueError:
        raise InvalidRequestError(problem=f"{text} is not a day such as 2026-06-30") from None


def _keys(figure: Projection, given: list[str] | None) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for pair in given or ():
        name, equals, value = pair.partition("=")
        if not equals or name not in figure.keys:
            raise InvalidRequestError(
                problem=f"{pair}: give key=value; the keys of {figure.name} are {figure.keys}"
            )
        found[name] = value
    return found


def _show(rows: list[dict[str, Any]], as_json: bool) -> None:
    if as_json:
        for row in rows:
            sys.stdout.write(json.dumps(row, ensure_ascii=False, default=str) + "\n")
        return
    table = Table(*(rows[0] if rows else ["nothing"]), box=None)
    for row in rows:
        table.add_row(*("" if value is None else str(value) for value in row.values()))
    out.print(table)


@app.command(name="replay")
def replay_(
    figure: FigureName,
    where: Annotated[list[str] | None, typer.Argument(help="key=value, to keep some rows.")] = None,
    as_of: AsOf = None,
    effective_on: Day = None,
    database: Database = None,
    as_json: AsJson = False,
) -> None:
    """A figure as of any moment, computed from the facts alone."""
    chosen = _figure(figure)
    with _open_log(database) as log:
        rows = replay.as_of(
            log, chosen, _position(log, as_of), effective_on=_day(effective_on), where=_keys(chosen, where)
        )
    _show(rows, as_json)


@app.command()
def diff(
    figure: FigureName,
    before: Annotated[str, typer.Argument(help="A position or a time.")],
    after: Annotated[str | None, typer.Argument(help="A position or a time; now if left out.")] = None,
    database: Database = None,
    as_json: AsJson = False,
) -> None:
    """What changed in a figure between two moments, with the facts in between that changed it."""
    chosen = _figure(figure)
    with _open_log(database) as log:
        changes = replay.diff(log, chosen, _position(log, before), _position(log, after))
    rows = []
    for change in changes:
        for measure in (m.name for m in chosen.measures):
            old, new = (side.get(measure) if side else None for side in (change.before, change.after))
            if old != new:
                key = dict(zip(chosen.keys, change.key, strict=True))
                rows.append(
                    {**key, "measure": measure, "before": old, "after": new, "facts": list(change.positions)}
                )
    _show(rows, as_json)


@app.command()
def explain(
    figure: FigureName,
    key: Annotated[list[str], typer.Argument(help="key=value, one for each key you want to fix.")],
    as_of: AsOf = None,
    database: Database = None,
    as_json: AsJson = False,
) -> None:
    """The facts behind one figure, each with its own share; the shares add up to the figure."""
    chosen = _figure(figure)
    with _open_log(database) as log:
        rows = replay.explain(log, chosen, _keys(chosen, key), _position(log, as_of))
    _show(rows, as_json)


@app.command()
def ranking(
    first_on: Day = None,
    last_on: Day = None,
    unit: Annotated[UUID | None, typer.Option(help="Hours served for this unit and those below it.")] = None,
    rating_min: Annotated[str | None, typer.Option(help="A minimum mean, such as 4.5.")] = None,
    ratings_min: Annotated[int, typer.Option(help="…over at least so many ratings.")] = 0,
    star: Annotated[int | None, typer.Option(help="Only those who stand at this star.")] = None,
    as_of: AsOf = None,
    effective_on: Day = None,
    limit: Annotated[int, typer.Option(min=1, max=100_000)] = 20,
    database: Database = None,
    as_json: AsJson = False,
) -> None:
    """The star ranking for the committee; --json gives each row's entry ids."""
    try:
        least = None if rating_min is None else Decimal(rating_min)
    except ArithmeticError:
        raise InvalidRequestError(problem=f"rating-min: {rating_min} is not a number") from None
    terms = Terms(
        first_on=_day(first_on),
        last_on=_day(last_on),
        unit_id=str(unit) if unit else None,
        rating_min=least,
        ratings_min=ratings_min,
        star=star,
        limit=limit,
    )
    with _open_log(database) as log:
        position = None if as_of is None else _position(log, as_of)
        if position is None and effective_on is None:
            follower.catch_up(log)
        found = star_ranking(log, terms, position, effective_on=_day(effective_on))
    if as_json:
        sys.stdout.write(json.dumps(asdict(found), ensure_ascii=False, default=str) + "\n")
    else:
        _print_ranking(found, lambda _: "")


def _print_ranking(found: Ranking, name_of: Callable[[str], str]) -> None:
    out.print(
        f"position {found.position:,} · rule book {found.rulebook_version} on {found.judged_on} · "
        f"{found.qualified:,} qualify",
        highlight=False,
    )
    names = [name_of(row.volunteer_id) for row in found.rows]
    table = Table(
        "rank", "number", *(["name"] if any(names) else []), "hours", "star", "rating", "n", box=None
    )
    for row, name in zip(found.rows, names, strict=True):
        stars = "★" * row.star + "☆" * (len(found.star_thresholds) - row.star)
        hours = f"{row.minutes // 60}:{row.minutes % 60:02}"
        shown = [name] if any(names) else []
        table.add_row(
            str(row.rank),
            row.volunteer_number,
            *shown,
            hours,
            stars,
            row.rating_mean or "–",
            str(row.ratings),
        )
    out.print(table)
    out.print(found.tie_rule["zh"], found.tie_rule["en"], sep="\n", style="dim", highlight=False)


# --- accounts and settings -------------------------------------------------------------------------------------------


@users.command("add")
def user_add(
    role: Annotated[
        str, typer.Argument(help="resident, volunteer, organiser, recorder, dispatcher, auditor, …")
    ],
    person: Annotated[UUID | None, typer.Option(help="Whose key it is; a new person if left out.")] = None,
    unit: Annotated[
        UUID | None, typer.Option(help="The unit they act for; the whole county if left out.")
    ] = None,
    expires: Annotated[
        str | None, typer.Option(help="A time with offset after which the key opens nothing.")
    ] = None,
    database: Database = None,
    keys: Keys = None,
) -> None:
    """Make an API key. It is shown this once."""
    until = _moment(expires)
    with _open(database, keys) as parts:
        if unit is not None and getattr(parts.ledger.state(unit), "stream", None) != "unit":
            raise InvalidRequestError(problem=f"there is no unit {unit}")
        who = person or uuid4()
        key = parts.accounts.add(who, role, unit, expires_at=until)
    out.print(f"person {who}\nkey    {key}", highlight=False)


def _moment(text: str | None) -> datetime | None:
    if text is None:
        return None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        moment = datetime.min
    if moment.tzinfo is None:
        raise InvalidRequestError(problem=f"{text} is not a time with offset")
    return moment.astimezone(UTC)


@users.command("list")
def user_list(database: Database = None, keys: Keys = None, as_json: AsJson = False) -> None:
    """Every account, revoked ones too; keys are never shown again."""
    with _open(database, keys) as parts:
        _show([asdict(account) for account in parts.accounts.listed()], as_json)


@users.command("revoke")
def user_revoke(key_id: str, database: Database = None, keys: Keys = None) -> None:
    """From now on this key opens nothing."""
    with _open(database, keys) as parts:
        parts.accounts.revoke(key_id)
    out.print(f"revoked {key_id}", highlight=False)


@app.command()
def config(database: Database = None, keys: Keys = None) -> None:
    """Every setting as it stands, passwords hidden."""
    for name, value in read_settings(database=database, keys=keys).shown().items():
        out.print(f"WENMING_{name.upper():18}{value}", highlight=False)


# --- the demonstration -----------------------------------------------------------------------------------------------


@app.command()
def demo(
    serve: Annotated[bool, typer.Option(help="Serve it at the end.")] = True,
    volunteers: Annotated[int, typer.Option(min=20, max=100_000)] = 2000,
    months: Annotated[int, typer.Option(min=2, max=24)] = 6,
    seed: int = 1,
    database: Database = None,
    port: Annotated[int | None, typer.Option()] = None,
) -> None:
    """Gangu county, invented people, months of history: made, verified, rebuilt, ranked and served."""
    settings = _demo_settings(database, port)
    plan = demo_run.Plan(volunteers, months, seed)
    parts = demo_run.open_demo(settings, plan)
    try:
        if demo_run.is_complete(parts):
            out.print(
                f"reusing {settings.shown()['database']} ({parts.log.head().size:,} facts)", highlight=False
            )
        else:
            _make_demo(parts, plan)
        if serve:
            out.print(
                f"http://{settings.host}:{settings.port}  (keys: {_sample_file(settings)}; stop: Ctrl-C)"
            )
            _serve(parts)
    finally:
        parts.close()


def _demo_settings(database: str | None, port: int | None) -> Settings:
    url = database or "sqlite:///.wenming/demo.db"
    keys = None
    if url.startswith("postgresql"):
        keys = f"sqlite:///.wenming/{url.rsplit('/', 1)[-1].partition('?')[0]}.keys.db"
        Path(".wenming").mkdir(exist_ok=True)
    return read_settings(database=url, keys=keys, port=port, follow=True)


def _sample_file(settings: Settings) -> Path:
    return settings.master_key.with_name(settings.master_key.name.replace(".master", "") + ".sample-keys.txt")


def _make_demo(parts: Parts, plan: demo_run.Plan) -> None:
    times: dict[str, float] = {}
    with progress() as report:
        with _timed(times, "telling"):
            told = demo_run.fill(parts, plan, report)
        with _timed(times, "verifying"):
            found = audit.verify(parts.log, lambda done, whole: report("verifying facts", done, whole))
        with _timed(times, "rebuilding"):
            follower.rebuild(parts.log, progress=report)
        with _timed(times, "comparing"):
            wrong = replay.verify_against_live(parts.log)
    _print_told(told, times)
    _print_report(found, wrong)
    if not found.ok or any(wrong.values()) or told.refused:
        err.print(f"[red]the demonstration is not whole[/]: honest requests refused {dict(told.refused)}")
        raise typer.Exit(1)
    _print_ranking(
        star_ranking(parts.log, Terms(limit=10)), lambda volunteer: _name_of(parts, UUID(volunteer))
    )
    _write_samples(parts, plan)


@contextmanager
def _timed(times: dict[str, float], what: str) -> Iterator[None]:
    started = time.monotonic()
    yield
    times[what] = time.monotonic() - started


def _print_told(told: demo_run.Told, times: Mapping[str, float]) -> None:
    out.print(f"{told.commands:,} commands, {told.facts:,} facts", highlight=False)
    out.print(" · ".join(f"{what} {seconds:.1f} s" for what, seconds in times.items()), highlight=False)
    table = Table("fraud attempted", "", "tries", "refused with", box=None)
    for kind, (_, what) in demo_run.KINDS.items():
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


def _write_samples(parts: Parts, plan: demo_run.Plan) -> None:
    lines = [f"{key}  {what}" for what, key in demo_run.sample_accounts(parts, plan)]
    file = _sample_file(parts.settings)
    file.touch(mode=0o600)
    file.write_text("\n".join(lines) + "\n", "utf-8")
    centre = ids.unit_id(parts.log.identity.ledger_id, "centre", None)
    out.print(f"sample keys: {file} · the centre: {centre}", highlight=False)


if __name__ == "__main__":
    main()
