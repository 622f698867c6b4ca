"""What the commands show: results on stdout, troubles on stderr, reports and rankings as text or as JSON."""

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from rich.console import Console
from rich.table import Table

from api.against import Comparison
from ledger import audit
from ledger.audit.growth import Earlier
from ledger.bundle import Opening
from projections.projection import Projection
from projections.rankings import Ranking
from projections.replay import Change, Seen
from projections.what_if import Section, WhatIf

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


# --- between moments and rule books ---------------------------------------------------------------------------------

FACTS_SHOWN = 10
"""Of those behind one change; --json gives all."""

Facts = Callable[[Sequence[int]], Mapping[int, Seen]]


def show_changes(figure: Projection, changes: Sequence[Change], facts_at: Facts) -> None:
    """Each key with what it was and is, and the facts in between that made it so."""
    facts = facts_at([p for change in changes for p in change.positions[:FACTS_SHOWN]])
    for change in changes:
        say(" · ".join(f"{name} {value}" for name, value in zip(figure.keys, change.key, strict=True)))
        for name, old, new in change.measures(figure):
            say(f"  {name}: {_value(old)} → {_value(new)}")
        for position in change.positions[:FACTS_SHOWN]:
            say("    " + _told(facts[position]))
        if len(change.positions) > FACTS_SHOWN:
            say(f"    … and {len(change.positions) - FACTS_SHOWN} more facts")
    say(f"{len(changes):,} keys changed" if changes else "nothing changed")


def _value(value: object) -> str:
    return "–" if value is None else str(value)


def _told(fact: Seen) -> str:
    reason = f", reason {fact.reason}" if fact.reason else ""
    return f"{fact.position:,} {fact.topic}, recorded {fact.recorded_at}, happened {fact.happened_at}{reason}"


def show_what_if(found: WhatIf) -> None:
    """How many people stand at each star before and after, then each kind of difference with the facts behind it."""
    fields = ", ".join(found.changed_fields) or "nothing"
    say(
        f"position {found.position:,} · rule book {found.rulebook_version} on {found.judged_on} · differs in {fields}"
    )
    before, after = found.volunteers_by_star_before, found.volunteers_by_star_after
    people = Table("star", "people now", "people then", box=None)
    for star in sorted(before.keys() | after.keys()):
        people.add_row(str(star), f"{before.get(star, 0):,}", f"{after.get(star, 0):,}")
    out.print(people)
    sections: Mapping[str, Section[Any]] = {
        "stars": found.stars,
        "late records": found.late,
        "days": found.days,
        "sessions": found.sessions,
    }
    for title, section in sections.items():
        say(f"{title}: {section.changed:,} would differ")
        if section.rows:
            show_rows([_row(row) for row in section.rows], as_json=False)


def _row(row: Any) -> dict[str, Any]:
    fields: dict[str, Any] = asdict(row)
    positions = fields.pop("positions")
    more = "" if len(positions) <= FACTS_SHOWN else f" … {len(positions) - FACTS_SHOWN} more"
    return {**fields, "facts": " ".join(map(str, positions[:FACTS_SHOWN])) + more}


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


def show_opening(opening: Opening | None) -> None:
    """What a bundle claims to be: of this, only the checkpoint is signed."""
    if opening is not None:
        said = opening.contents
        say(
            f"bundle of {said.origin}, {said.size:,} facts",
            f"  claims to be ledger {said.ledger_id} ({said.kind})",
        )


def show_growth(kept: Earlier | None, found: audit.Report) -> None:
    """That an earlier log is the beginning of this one; if it is not, the defects have said so."""
    if kept is not None and found.ok:
        say(f"✓ the earlier log, of {kept.checkpoint.size:,} facts, is the beginning of this one")


def tree_head(kept: Earlier | None) -> dict[str, Any] | None:
    """The earlier log as JSON has it."""
    if kept is None:
        return None
    said = kept.checkpoint
    return {"origin": said.origin, "size": said.size, "root": said.root.hex()}


def claims(opening: Opening | None) -> dict[str, Any] | None:
    """What a bundle claims to be, as JSON has it."""
    if opening is None:
        return None
    return {**asdict(opening.contents), "keys": [key.to_text() for key in opening.keys]}


def _show_differing(wrong: Differing | None) -> None:
    for name, keys in (wrong or {}).items():
        if keys:
            say(f"✗ FIGURE_DIFFERS  {name}: {len(keys)} keys, first {keys[0]}")
    if wrong is not None and not any(wrong.values()):
        say(f"✓ {len(wrong)} figures equal what the facts give")


def counted(wrong: Differing) -> dict[str, dict[str, Any]]:
    """The differing figures as JSON has them."""
    return {name: {"differing_keys": len(keys), "first": keys[:10]} for name, keys in wrong.items()}


def show_comparison(place: str, found: Comparison, as_json: bool) -> None:
    """Where another engine's figures are not the ledger's, each with both numbers."""
    engine = found.engine
    if as_json:
        held = {
            "facts": engine.facts,
            "last_position": engine.position,
            "first_missing": engine.first_missing,
        }
        show_json(
            {"ok": found.ok, "against": place, "position": found.position, "engine": held}
            | {"findings": [asdict(one) for one in found.findings], "compared": found.compared}
            | {"differences": [asdict(one) for one in found.differences]}
        )
        return
    say(f"{place}, compared with the ledger at position {found.position:,}")
    for one in found.findings:
        say(f"✗ {one.code}  {one.en}", f"  {one.zh}")
    for other in found.differences:
        say(
            f"✗ TOTAL_DIFFERS  {other.figure}.{other.total}: the ledger {other.ledger:,}, the engine {other.engine:,}"
        )
    say(
        f"✓ {found.compared} totals equal the ledger's"
        if found.ok
        else f"✗ {len(found.findings) + len(found.differences)} differences, {found.compared} totals compared"
    )


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
