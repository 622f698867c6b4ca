"""`wenming init`, `serve` and `follow`: a ledger is made, served, and its figures are kept up."""

import signal
import threading
from typing import Annotated
from uuid import uuid4

import typer
import uvicorn

from api import parts as wiring
from api.app import create_app
from api.archiver import keeping_archive
from api.cli.given import Database, Keys, archive_of, growing_archive, open_log
from api.cli.shown import complain, say
from api.parts import Parts
from api.problems import FiguresBehindError
from api.progress import progress
from api.settings import read_settings
from api.signing import require_signing
from ledger.commands import PublishRuleBook
from ledger.errors import LedgerExistsError
from ledger.rulebook import default_rulebook, local_day
from ledger.rules import Caller
from projections import follower


def init(
    database: Database = None,
    keys: Keys = None,
    app_login: Annotated[
        str | None, typer.Option(help="PostgreSQL: the login that programs use, if it is not the owner's.")
    ] = None,
    rule_book: Annotated[
        bool, typer.Option(help="Publish the rule book that ships with the product.")
    ] = True,
    if_missing: Annotated[
        bool, typer.Option("--if-missing", help="Finish what is missing; a whole ledger is left as it is.")
    ] = False,
) -> None:
    """Make a new, empty ledger with its key store, rule book and first administrator. Refuses to do it twice."""
    settings = read_settings(database=database, keys=keys)
    try:
        wiring.create(settings, app_login=app_login)
    except LedgerExistsError:
        if not if_missing:
            raise
    with wiring.opened(settings) as parts:
        if if_missing and parts.accounts.listed():  # the administrator is made last
            say(f"ledger      {settings.shown()['database']}  (there already)")
            return
        administrator = Caller(uuid4(), "admin")
        if rule_book and parts.log.head().size == 0:
            today = local_day(parts.ledger.clock())
            command = PublishRuleBook(version=1, effective_on=today, book=default_rulebook())
            parts.ledger.handle(command, administrator, key="init")
        key = parts.accounts.add(administrator.person_id, "admin")
    shown = settings.shown()
    say(f"ledger      {shown['database']}", f"key store   {shown['keys']}")
    say(f"master key  {settings.master_key}  (keep a copy where the backups are not)")
    say(f"admin key   {key}  (shown this once)")


def serve(
    database: Database = None,
    keys: Keys = None,
    host: Annotated[str | None, typer.Option()] = None,
    port: Annotated[int | None, typer.Option()] = None,
    follow: Annotated[bool | None, typer.Option(help="Keep the figures up in this process.")] = None,
) -> None:
    """Serve the API. Refuses a database without a ledger."""
    settings = read_settings(database=database, keys=keys, host=host, port=port, follow=follow)
    require_signing(settings)
    with wiring.opened(settings) as parts:
        serve_parts(parts)


def serve_parts(parts: Parts) -> None:
    """Serve an open ledger until told to stop, its figures brought up first."""
    with progress() as report:
        follower.catch_up(parts.log, progress=report, archive=parts.archive)
    uvicorn.run(
        create_app(parts),
        host=parts.settings.host,
        port=parts.settings.port,
        log_level="info",
        server_header=False,
    )


def follow(
    database: Database = None,
    once: Annotated[bool, typer.Option(help="Catch up and stop.")] = False,
    status: Annotated[
        bool,
        typer.Option("--status", help="Only say how far the figures are, beside a process that follows."),
    ] = False,
    lag_seconds_max: Annotated[
        float, typer.Option(min=0, help="--status fails if a fact has waited longer than this.")
    ] = 60.0,
) -> None:
    """Keep every figure at the head of the log, until stopped."""
    if status:
        _show_status(database, lag_seconds_max)
        return
    stop = threading.Event()
    if not once:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: stop.set())
    with open_log(database) as log:
        with progress() as report:
            position = follower.catch_up(log, progress=report, archive=archive_of(log))
        complain(f"figures at position {position:,}")
        if not once:
            with keeping_archive(log, growing_archive(log)):
                follower.follow(log, stop, archive_of(log))


def _show_status(database: str | None, lag_seconds_max: float) -> None:
    """How far the slowest figure is; PROJECTION_BEHIND if a fact has waited for it longer than ``lag_seconds_max``."""
    with open_log(database) as log:
        slowest = max(follower.status(log), key=lambda figure: (figure.lag_seconds, figure.lag_facts))
    if slowest.lag_seconds > lag_seconds_max:
        raise FiguresBehindError(position=slowest.position, wanted=slowest.head)
    say(f"figures at position {slowest.position:,} of {slowest.head:,}")
