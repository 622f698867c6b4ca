"""`wenming user add|list|revoke` and `config`: who may ask, and how this installation is set."""

from dataclasses import asdict
from datetime import UTC
from typing import Annotated
from uuid import UUID, uuid4

import typer

from api.cli.given import AsJson, Database, Keys, moment_of, open_parts
from api.cli.shown import say, show_rows
from api.settings import read_kafka_settings, read_settings
from ledger.errors import UnknownUnitError


def add(
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
    until = None if expires is None else moment_of(expires).astimezone(UTC)
    with open_parts(database, keys) as parts:
        if unit is not None and getattr(parts.ledger.state(unit), "stream", None) != "unit":
            raise UnknownUnitError(id=unit)
        who = person or uuid4()
        key = parts.accounts.add(who, role, unit, expires_at=until)
    say(f"person {who}", f"key    {key}")


def listed(database: Database = None, keys: Keys = None, as_json: AsJson = False) -> None:
    """Every account, revoked ones too; keys are never shown again."""
    with open_parts(database, keys) as parts:
        show_rows([asdict(account) for account in parts.accounts.listed()], as_json)


def revoke(key_id: str, database: Database = None, keys: Keys = None) -> None:
    """From now on this key opens nothing."""
    with open_parts(database, keys) as parts:
        parts.accounts.revoke(key_id)
    say(f"revoked {key_id}")


def config(database: Database = None, keys: Keys = None) -> None:
    """Every setting as it stands, passwords hidden."""
    shown = read_settings(database=database, keys=keys).shown()
    kafka = read_kafka_settings().model_dump(mode="json")  # of a password only the file's name
    for name, value in (shown | {f"kafka_{name}": value for name, value in kafka.items()}).items():
        say(f"WENMING_{name.upper():26}{value}")
