"""What the commands show: results on stdout, troubles on stderr, reports and rankings as text or as JSON."""

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from rich.console import Console
from rich.table import Table

from ledger import audit
from projections.rankings import Ranking

out, err = Console(), Console(stderr=True)

PIPED_COLUMNS = 240
"""How wide a line may be where nobody looks at it: a program that reads it wants it whole."""

Differing = Mapping[str, Sequence[tuple[Any, ...]]]
"""By figure, the keys whose rows are not what the facts give."""


def fit() -> None:
    """Terminals wrap at their own width, files and pipes do not."""
    for console in (out, err):
        if not console.is_terminal:
            console.width = PIPED_COLUMNS


def say(*lines: str) -> None:
    """Lines of a result, as they are."""
    out.print(*lines, sep="\n", markup=False, highlight=False, soft_wrap=True)


def complain(*lines: str) -> None:
    err.print(*lines, sep="\n", markup=False, highlight=False, soft_wrap=True)


def show_json(value: object) -> None:
    """One value on one line."""
    sys.stdout.write(json.dumps(value, ensure_ascii=False, default=str) + "\n")


def show_rows(rows: Sequence[Mapping[str, Any]], as_json: bool) -> None:
    """A table, or one JSON object a line."""
    if as_json:
        for row in rows:
            show_json(row)
        return
    table = Table(*(rows[0] if rows else ["nothing"]), box=None)
    for row in rows:
        table.add_row(*("" if value is None else str(value) for value in row.values()))
    out.print(table)


def posix_time(seconds: int) -> str:
    """The time that a cosignature names; nothing if it is none that a calendar knows."""
    try:
        return datetime.fromtimestamp(seconds, UTC).isoformat()
    except (ValueError, OverflowError, OSError):
        return ""


# --- reports ---------------------------------------------------------------------------------------------------------


def show_report(found: audit.Report, wrong: Differing | None) -> None:
    """What was checked, each defect with its position, and the figures that differ (None: they were not compared)."""
    rate = int(found.size / found.seconds) if found.seconds else 0
    say(f"{found.size:,} facts in {found.seconds:.1f} s ({rate:,} a second)", f"root {found.root}")
    table = Table("checked", "how many", box=None)
    for what, count in found.checks.items():
        table.add_row(what, f"{count:,}")
    out.print(table)
    for one in found.witnessed:
        say(f"cosigned by {one.witness} up to size {one.size:,}, at {posix_time(one.time_seconds)}")
    for defect in found.defects:
        where = "" if defect.position is None else f"position {defect.position}: "
        say(f"✗ {defect.code}  {where}{defect.en}", f"  {defect.zh}")
    if found.defect_count > len(found.defects):
        say(f"… and {found.defect_count - len(found.defects)} more")
    _show_differing(wrong)
    say("✓ no defect" if found.ok else f"✗ {found.defect_count} defects")


def _show_differing(wrong: Differing | None) -> None:
    for name, keys in (wrong or {}).items():
        if keys:
            say(f"✗ FIGURE_DIFFERS  {name}: {len(keys)} keys, first {keys[0]}")
    if wrong is not None and not any(wrong.values()):
        say(f"✓ {len(wrong)} figures equal what the facts give")


def counted(wrong: Differing) -> dict[str, dict[str, Any]]:
    """The differing figures as JSON has them."""
    return {name: {"differing_keys": len(keys), "first": keys[:10]} for name, keys in wrong.items()}


# --- rankings --------------------------------------------------------------------------------------------------------


def show_ranking(found: Ranking, name_of: Callable[[str], str] | None = None) -> None:
    """The ranking with the rule it follows; names only where a caller can unseal them."""
    say(
        f"position {found.position:,} · rule book {found.rulebook_version} on {found.judged_on} · "
        f"{found.qualified:,} qualify"
    )
    table = Table("rank", "number", *(["name"] if name_of else []), "hours", "star", "rating", "n", box=None)
    for row in found.rows:
        stars = "★" * row.star + "☆" * (len(found.star_thresholds) - row.star)
        table.add_row(
            str(row.rank),
            row.volunteer_number,
            *([name_of(row.volunteer_id)] if name_of else []),
            f"{row.minutes // 60}:{row.minutes % 60:02}",
            stars,
            row.rating_mean or "–",
            str(row.ratings),
        )
    out.print(table)
    out.print(found.tie_rule["zh"], found.tie_rule["en"], sep="\n", style="dim", highlight=False)
