"""What the commands are given: shared options, and texts made into what they stand for. Nothing is printed here."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date, datetime
from pathlib import Path
from typing import Annotated

import typer

from api import parts as wiring
from api.parts import Parts
from api.settings import Settings, read_settings
from ledger.archive import Archive
from ledger.errors import InvalidRequestError
from ledger.log import LedgerLog
from projections import replay

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

# --- places ----------------------------------------------------------------------------------------------------------


@contextmanager
def open_parts(database: str | None, keys: str | None = None) -> Iterator[Parts]:
    with wiring.opened(read_settings(database=database, keys=keys)) as parts:
        yield parts


def archive_of(log: LedgerLog) -> Archive | None:
    """The archive that the settings name for this log; None if they name none."""
    directory = _settings_of(log.url.render_as_string(hide_password=False)).archive
    return None if directory is None else Archive(log, directory)


def growing_archive(log: LedgerLog) -> Path | None:
    """The archive that is kept up while this log is followed; None if it is not."""
    return _settings_of(log.url.render_as_string(hide_password=False)).growing_archive


def archive_directory(log: LedgerLog, given: Path | None) -> Path:
    """Where this log's archive is kept; INVALID_REQUEST if nothing says so."""
    directory = given or _settings_of(log.url.render_as_string(hide_password=False)).archive
    if directory is None:
        raise InvalidRequestError(problem="give --directory, or set WENMING_ARCHIVE")
    return directory


def _settings_of(database: str | None) -> Settings:
    return read_settings(database=database, keys="sqlite:///not-needed", master_key_file=Path("not-needed"))


@contextmanager
def open_log(database: str | None) -> Iterator[LedgerLog]:
    """The log alone: what needs no names needs no keys."""
    settings = _settings_of(database)
    log = LedgerLog.open(settings.database, busy_seconds=settings.busy_seconds)
    try:
        yield log
    finally:
        log.close()


# --- figures and moments ---------------------------------------------------------------------------------------------


def position_of(log: LedgerLog, text: str | None) -> int:
    """The position a text means, the head for None; AS_OF_BEYOND_HEAD for one that is not there yet."""
    if text is None or text.isdecimal():
        return replay.resolve(log, None if text is None else int(text))
    return replay.resolve(log, moment_of(text, "neither a position nor a time with offset"))


def moment_of(text: str, otherwise: str = "not a time with offset") -> datetime:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        moment = datetime.min
    if moment.tzinfo is None:
        raise InvalidRequestError(problem=f"{text} is {otherwise}")
    return moment


def day_of(text: str | None) -> date | None:
    try:
        return None if text is None else date.fromisoformat(text)
    except ValueError:
        raise InvalidRequestError(problem=f"{text} is not a day such as 2026-06-30") from None
