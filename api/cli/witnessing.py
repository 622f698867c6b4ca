"""`wenming witness`: watch somebody else's log and cosign what only grew. It needs no ledger."""

from pathlib import Path
from typing import Annotated

import typer
import uvicorn

from api.cli.shown import complain
from api.settings import read_witness_settings
from api.witnessing import create_witness_app
from ledger.errors import InvalidRequestError
from ledger.signing_keys import read_key_files
from ledger.witness import Witness, logs_of


def witness(
    key: Annotated[
        Path | None,
        typer.Option(help="The file of keys made by `wenming key new --witness` (or WENMING_WITNESS_KEY)."),
    ] = None,
    state: Annotated[
        Path | None,
        typer.Option(help="The folder where it remembers what it cosigned (or WENMING_WITNESS_STATE)."),
    ] = None,
    log: Annotated[
        list[str] | None,
        typer.Option(help="A log to watch: its public key, and its origin if that is not the key's name."),
    ] = None,
    logs: Annotated[
        Path | None, typer.Option(help="A file of such logs, one a line (or WENMING_WITNESS_LOGS).")
    ] = None,
    host: Annotated[str | None, typer.Option()] = None,
    port: Annotated[int | None, typer.Option()] = None,
) -> None:
    """Cosign the checkpoints of logs as long as they only grow (c2sp.org/tlog-witness), until stopped.

    For whoever is not the operator of the log. Keep key and folder where the operator cannot reach them.
    """
    settings = read_witness_settings(key=key, state=state, logs=logs, host=host, port=port)
    watched = logs_of([*(log or ()), *(_lines(settings.logs) if settings.logs else ())])
    settings.state.mkdir(mode=0o700, parents=True, exist_ok=True)
    with Witness(settings.state, read_key_files([settings.key]), watched) as own:
        complain(*(f"watching {one}" for one in watched))
        uvicorn.run(
            create_witness_app(own),
            host=settings.host,
            port=settings.port,
            log_level="info",
            server_header=False,
        )


def _lines(file: Path) -> list[str]:
    try:
        return file.read_text("utf-8").splitlines()
    except UnicodeDecodeError:
        raise InvalidRequestError(problem=f"settings: logs: {file} is not text") from None
