"""`wenming archive`: old facts as typed columns, so that history is replayed fast; a process of its own writes them."""

from pathlib import Path
from typing import Annotated

import typer

from api.cli.given import Database, archive_directory, open_log
from api.cli.shown import complain, say
from api.progress import progress
from ledger import archive as archiving


def archive(
    database: Database = None,
    directory: Annotated[
        Path | None,
        typer.Option(help="Where it is kept (or WENMING_ARCHIVE); beside an SQLite ledger if left out."),
    ] = None,
    segment: Annotated[int, typer.Option(help="Facts in a segment; only whole ones are archived.", min=1)] = (
        archiving.SEGMENT_POSITIONS
    ),
    check: Annotated[
        bool, typer.Option("--check", help="Compare the archive with the log, row by row; write nothing.")
    ] = False,
) -> None:
    """Keep old facts as columns too, for replay. Deleting the directory costs only speed. Exit code 1 on a defect."""
    with open_log(database) as log, progress() as report:
        place = archive_directory(log, directory)
        if check:
            found = archiving.check(log, place, report)
        else:
            written = archiving.write(log, place, segment, report)
            head = log.head().size
    if not check:
        count = sum(one.last - one.first + 1 for one in written)
        say(f"{count:,} facts archived in {len(written)} new segments; the log holds {head:,}")
        return
    for error in found.wrong:
        complain(f"✗ {error.code}  {error.sentence_en}", f"  {error.sentence_zh}")
    say(f"{found.facts:,} facts in {found.segments} segments, {found.size_bytes:,} bytes")
    say("✗ the archive is not what the log says" if found.wrong else "✓ every row is what the log says")
    raise typer.Exit(1 if found.wrong else 0)
