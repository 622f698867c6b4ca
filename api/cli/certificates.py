"""`wenming certificate issue|print|revoke|list`: the same as over HTTP, for who has the keys of this installation.

Whoever issues, prints or revokes says by their own API key who they are; the rules are the same as anywhere.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated
from uuid import UUID, uuid4

import typer
from pydantic import ValidationError

from api.certificates import Issuer, Period, Printer, Wish, number_in, revoke
from api.cli.given import AsJson, Database, Keys, day_of, open_log, open_parts
from api.cli.shown import say, show_rows
from api.identity import require_writer
from api.parts import Parts
from api.personal import Reader
from ledger.certificates import require_number
from ledger.errors import InvalidRequestError, Refusal
from ledger.rules import Caller
from ledger.tree import TreeStore
from projections import follower, replay
from projections.certificates import Which, certificates, listed, reversal_days

ApiKey = Annotated[
    str,
    typer.Option(
        "--api-key", envvar="WENMING_API_KEY", help="Whose certificate it is, or staff of their unit."
    ),
]
Number = Annotated[str, typer.Argument(help="As it is printed; small letters and spaces do not matter.")]


def issue(
    volunteer: Annotated[UUID, typer.Argument(help="Whose service.")],
    first_on: Annotated[str, typer.Argument(help="The first day, such as 2026-01-01.")],
    last_on: Annotated[str, typer.Argument(help="The last day, included.")],
    api_key: ApiKey,
    replaces: Annotated[
        str | None, typer.Option(help="An earlier certificate it stands in place of.")
    ] = None,
    database: Database = None,
    keys: Keys = None,
) -> None:
    """Certify a person's service in a period. The number is printed; every figure is the ledger's own."""
    first, last = day_of(first_on), day_of(last_on)
    assert first is not None
    assert last is not None
    old = None if replaces is None else require_number(replaces)
    with open_parts(database, keys) as parts, _sensible():
        who = _who(parts, api_key)
        wish = Wish(volunteer, Period(first_on=first, last_on=last), uuid4().hex, old)
        (answer,) = Issuer(Reader(parts, who, "cli"), who).issue([wish])
    if isinstance(answer, Refusal):
        raise answer
    say(number_in(answer.facts))


def print_(
    number: Number,
    file: Annotated[Path, typer.Argument(help="Where the PDF is to be; never overwritten.")],
    api_key: ApiKey,
    database: Database = None,
    keys: Keys = None,
) -> None:
    """Make the document of a certificate, once a signed checkpoint covers it."""
    if file.exists():
        raise InvalidRequestError(problem=f"{file} exists already and is not overwritten")
    with open_parts(database, keys) as parts:
        who = _who(parts, api_key)
        printer = Printer(Reader(parts, who, "cli"), who, TreeStore(parts.log))
        _, document = printer.print(require_number(number))
    file.write_bytes(document.pdf)
    say(document.sha256)


def revoke_(
    number: Number,
    reason: Annotated[str, typer.Argument(help="A short word, such as issued_by_mistake.")],
    api_key: ApiKey,
    database: Database = None,
    keys: Keys = None,
) -> None:
    """Declare a certificate void: by another person than who issued it."""
    with open_parts(database, keys) as parts, _sensible():
        answer = revoke(parts, _who(parts, api_key), require_number(number), reason, None, uuid4().hex)
    say(f"revoked at position {answer.last_position:,}")


def list_(
    touched: Annotated[
        bool, typer.Option("--touched", help="Only those with an entry corrected since they were issued.")
    ] = False,
    volunteer: Annotated[UUID | None, typer.Option(help="Only those of this person.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=1_000_000)] = 1000,
    database: Database = None,
    as_json: AsJson = False,
) -> None:
    """The register, newest first: numbers, figures and status, no names."""
    with open_log(database) as log:
        follower.catch_up(log)
        which = Which(volunteer_id=None if volunteer is None else str(volunteer), touched=touched)
        with replay.at(log, (certificates, reversal_days)) as moment:
            found = listed(moment, which, limit=limit)
    columns = (
        "certificate_number",
        "status",
        "first_on",
        "last_on",
        "minutes",
        "issued_at",
        "prints",
        "volunteer_id",
    )
    show_rows([{name: row[name] for name in columns} for row in found], as_json)


def _who(parts: Parts, api_key: str) -> Caller:
    """UNAUTHENTICATED; WRONG_ROLE for those whose role is to read."""
    who = parts.accounts.who(api_key).caller
    require_writer(who)
    return who


@contextmanager
def _sensible() -> Iterator[None]:
    """What was typed and cannot be meant is INVALID_REQUEST."""
    try:
        yield
    except ValidationError as error:
        problem = "; ".join(": ".join([*map(str, one["loc"]), one["msg"]]) for one in error.errors())
        raise InvalidRequestError(problem=problem) from None
