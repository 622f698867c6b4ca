"""`wenming export`: what leaves the ledger as a file, for somebody who has no access to it."""

import json
from pathlib import Path
from typing import Annotated

import typer

from api.cli.given import Database, open_log
from api.cli.shown import say
from api.cli.signing import Key, VerifierKeys, given_keys
from api.progress import progress
from api.settings import read_settings
from ledger.asyncapi import contract_files
from ledger.bundling import export_bundle
from ledger.checkpoint import VerifierKey
from ledger.errors import ContractBrokenError, InvalidRequestError
from ledger.evolution import evolution_problems
from ledger.signing_keys import read_key_files


def bundle(
    file: Annotated[Path, typer.Argument(help="The zip file to make; never overwritten.")],
    database: Database = None,
    vkey: VerifierKeys = None,
    key: Key = None,
) -> None:
    """The whole log up to its newest checkpoint, to be checked anywhere: `wenming verify FILE --vkey KEY`.

    The public keys of the log are named in it: those of --vkey, else those of the signing key file. It is checked
    before it gets its name. Names stay sealed and no key store is in it; pseudonymous ids, times and minutes are in
    clear.
    """
    keys = given_keys(vkey, None, None).log or _own_keys(database, key)
    with open_log(database) as log, progress() as report:
        made = export_bundle(log, file, keys, report)
    say(f"{made.size:,} facts, {file.stat().st_size:,} bytes, root {made.root}")


def _own_keys(database: str | None, file: Path | None) -> list[VerifierKey]:
    settings = read_settings(
        database=database,
        keys="sqlite:///not-needed",
        master_key_file=Path("not-needed"),
        signing_key=file,
    )
    if settings.signing_key is None:
        raise InvalidRequestError(
            problem="give the log's public keys with --vkey, or the file of signing keys with --key"
        )
    return [own.verifier_key for own in read_key_files([settings.signing_key])]


def contract(
    folder: Annotated[
        Path, typer.Argument(help="Where asyncapi.json and schemas/ are to be; made if missing.")
    ],
) -> None:
    """What programs that read the events topic may rely on: an AsyncAPI document and the JSON Schema of every event.

    Needs no ledger. An earlier contract in FOLDER is brought up to date, unless that would break what it promised.
    """
    made = contract_files()
    for name, content in made.items():
        if name.startswith("schemas/") and (folder / name).exists():
            _require_kept(folder / name, content)
    for name, content in made.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    say(f"{len(made)} files in {folder}")


def _require_kept(published: Path, content: bytes) -> None:
    """CONTRACT_BROKEN if a schema that is out already says otherwise."""
    try:
        problems = evolution_problems(json.loads(published.read_bytes()), json.loads(content))
    except ValueError:
        problems = ["it holds no JSON."]
    if problems:
        raise ContractBrokenError(file=published, problem=" ".join(problems))
