"""`wenming erase`: erasures that are recorded, and whose keys are still there, are carried out."""

from typing import Annotated

import typer

from api import erasure
from api.cli.given import Database, Keys, open_parts
from api.cli.shown import complain, say


def erase(
    database: Database = None,
    keys: Keys = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Carry out what is recorded and was not finished.")
    ] = False,
) -> None:
    """Destroy the keys of people whose erasure is recorded: after a crash, or a restored key store.

    Who is to be erased is asked, decided and recorded over HTTP; `serve` resumes by itself when it starts.
    """
    if not resume:
        complain(
            "请加 --resume：只完成已记录的删除。",
            "Give --resume: only what is recorded is erased.",
        )
        raise typer.Exit(2)
    with open_parts(database, keys) as parts:
        left = erasure.resume(parts)
    say(*(f"erased {person_id}" for person_id in left), f"{len(left)} erasures carried out")
