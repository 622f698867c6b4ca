"""`wenming export`: what leaves the ledger as a file, for somebody who has no access to it."""

from pathlib import Path
from typing import Annotated

import typer

from api.cli.given import Database, open_log
from api.cli.shown import say
from api.cli.signing import Key, VerifierKeys, given_keys
from api.progress import progress
from api.settings import read_settings
from ledger.bundling import export_bundle
from ledger.checkpoint import VerifierKey
from ledger.errors import InvalidRequestError
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
