"""The command line. Results go to stdout, progress and troubles to stderr; exit code 0 is well, 1 not, 2 usage.

Each module holds the commands of one purpose; `given` and `shown` are what they share. Here they get their names.
"""

import sys

import typer
from sqlalchemy.exc import OperationalError

from api.cli import (
    accounts,
    archiving,
    asking,
    certificates,
    certifying,
    checking,
    demo,
    erasing,
    exporting,
    making,
    relaying,
    rotating,
    signing,
    witnessing,
    working,
)
from api.cli.shown import complain, err, fit
from ledger.errors import ExpectedError

app = typer.Typer(
    name="wenming",
    help="文明账本 — the volunteer-hours ledger that anybody can question and recompute.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command()(making.init)
app.command()(making.serve)
app.command()(making.follow)
app.command()(checking.verify)
app.command()(checking.rebuild)
app.command()(archiving.archive)
app.command()(asking.replay)
app.command()(asking.diff)
app.command()(asking.explain)
app.command("what-if")(asking.what_if)
app.command()(asking.ranking)

users = typer.Typer(help="API keys: who may ask, in which role, for which unit.", no_args_is_help=True)
users.command()(accounts.add)
users.command("list")(accounts.listed)
users.command()(accounts.revoke)
app.add_typer(users, name="user")

signing_keys = typer.Typer(help="The keys that sign checkpoints, and the master key.", no_args_is_help=True)
signing_keys.command()(signing.new)
signing_keys.command()(rotating.rotate_master)
app.add_typer(signing_keys, name="key")
topics = typer.Typer(help="The Kafka topics that facts leave by.", no_args_is_help=True)
topics.command()(relaying.create)
topics.command()(relaying.check)
app.add_typer(topics, name="topic")
app.command()(relaying.relay)
app.command()(working.work)

app.command()(signing.sign)
app.command()(signing.checkpoint)
app.command()(signing.prove)
app.command("check-proof")(signing.check_proof)
app.command("check-certificate")(certifying.check_certificate)
app.command()(witnessing.witness)

exports = typer.Typer(help="Files for those who have no access to the ledger.", no_args_is_help=True)
exports.command()(exporting.bundle)
exports.command()(exporting.contract)
exports.command()(exporting.sql)
app.add_typer(exports, name="export")


issued = typer.Typer(
    help="Certificates of service: issued, printed, revoked and listed.", no_args_is_help=True
)
issued.command()(certificates.issue)
issued.command("print")(certificates.print_)
issued.command("revoke")(certificates.revoke_)
issued.command("list")(certificates.list_)
app.add_typer(issued, name="certificate")

app.command()(erasing.erase)
app.command()(accounts.config)
app.command()(demo.demo)


def main() -> None:
    """The entry point: an expected error is two sentences and exit code 1, never a traceback."""
    fit()
    try:
        app()
    except ExpectedError as error:
        err.print(f"[bold red]{error.code}[/]  ", end="")
        complain(error.sentence_zh, error.sentence_en)
        sys.exit(1)
    except BrokenPipeError:
        sys.exit(0)
    except OperationalError as error:  # no server there, or it lets nobody in
        complain(f"{type(error.orig).__name__}: {error.orig}")
        sys.exit(1)
    except OSError as error:
        complain(f"{type(error).__name__}: {error}")
        sys.exit(1)
