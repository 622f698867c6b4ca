"""What was measured, as one table for people and one JSON document for programs. Measures nothing itself."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

Measured = Mapping[str, float]
"""Figures by key (see `LINES`)."""


@dataclass(frozen=True)
class Line:
    """One figure: its key, what it says, its unit, and whether more is better."""

    key: str
    text: str
    unit: str
    peer_key: str | None = None
    """What of the package it stands beside, if not the figure of the same key."""

    @property
    def more_is_better(self) -> bool:
        return self.unit != "ms"


LINES = (
    Line("append_one", "append one by one", "facts/s"),
    Line("append_16", "16 callers, LedgerLog", "facts/s"),
    Line("handle_16", "16 callers, handle()", "facts/s"),
    Line("append_100", "batches of 100", "facts/s"),
    Line("read", "read all, decoded", "facts/s"),
    Line("rebuild_one", "one figure rebuilt", "facts/s"),
    Line("rebuild_all", "all figures rebuilt, tables written", "facts/s", "rebuild_one"),
    Line("compute_all", "  of it read and computed", "facts/s"),
    Line("write_rows", "  of it written", "rows/s"),
    Line("live_p50", "one fact appended and in every figure, p50", "ms"),
    Line("live_p99", "  p99", "ms"),
    Line("follow_p50", "  of it after the commit, p50", "ms"),
    Line("verify", "verify the whole log", "facts/s"),
    Line("as_of_key_p50", "one volunteer as of the middle, p50", "ms"),
    Line("as_of_key_p95", "  p95", "ms"),
    Line("as_of_figure", "one whole figure as of the middle", "ms"),
)


@dataclass(frozen=True)
class Target:
    """What a figure is to reach: ``least`` in its unit (at most, for ms), ``times`` the package's own figure."""

    key: str
    database: str
    least: float | None = None
    times: float | None = None


TARGETS = (
    Target("rebuild_one", "sqlite", 700_000, 300),
    Target("rebuild_all", "sqlite", 150_000),
    Target("rebuild_all", "postgresql", 90_000),
    Target("live_p50", "sqlite", 3),
    Target("append_16", "postgresql", times=5),
    Target("handle_16", "postgresql", times=4),
    Target("verify", "sqlite", 100_000),
    Target("verify", "postgresql", 100_000),
)


@dataclass(frozen=True)
class Figure:
    """One cell of the table with all that it is compared with; ratios above 1 are better than what they name."""

    database: str
    line: Line
    ours: float
    theirs: float | None
    target: Target | None

    @property
    def times_theirs(self) -> float | None:
        """How many times the package's figure."""
        if not self.theirs or not self.ours:
            return None
        return self.ours / self.theirs if self.line.more_is_better else self.theirs / self.ours

    @property
    def of_target(self) -> float | None:
        """How much of the target is reached: the smallest of its parts; None without a target."""
        if self.target is None:
            return None
        parts = []
        if self.target.least is not None and self.ours:
            ratio = self.ours / self.target.least
            parts.append(ratio if self.line.more_is_better else 1 / ratio)
        if self.target.times is not None and self.times_theirs is not None:
            parts.append(self.times_theirs / self.target.times)
        return min(parts) if parts else None

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "database": self.database,
            "figure": self.line.key,
            "text": self.line.text.strip(),
            "unit": self.line.unit,
            "ours": self.ours,
            "eventsourcing": self.theirs,
            "times_eventsourcing": self.times_theirs,
            "target": None
            if self.target is None
            else {"least": self.target.least, "times": self.target.times},
            "of_target": self.of_target,
        }


def figures(database: str, ours: Measured, theirs: Measured) -> list[Figure]:
    """Every line for one database."""
    targets = {target.key: target for target in TARGETS if target.database == database}
    return [
        Figure(database, line, ours[line.key], theirs.get(line.peer_key or line.key), targets.get(line.key))
        for line in LINES
    ]


def text(found: Iterable[Figure]) -> str:
    """The table."""
    heads = ("database", "figure", "unit", "ours", "eventsourcing", "ratio", "target", "reached")
    rows = [heads, *(_cells(figure) for figure in found)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(heads))]
    aligned = ("<", "<", "<", ">", ">", ">", ">", ">")
    return "\n".join(
        "  ".join(f"{cell:{side}{width}}" for cell, side, width in zip(row, aligned, widths, strict=True))
        for row in rows
    )


def _cells(figure: Figure) -> tuple[str, ...]:
    ratio, reached = figure.times_theirs, figure.of_target
    return (
        figure.database,
        figure.line.text,
        figure.line.unit,
        _number(figure.ours),
        _number(figure.theirs),
        "" if ratio is None else f"{ratio:,.1f} ×",
        _wanted(figure),
        "" if reached is None else f"{reached:.0%}",
    )


def _number(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:,.0f}" if value >= 100 else f"{value:,.2f}"


def _wanted(figure: Figure) -> str:
    target = figure.target
    if target is None:
        return ""
    sign = "≥" if figure.line.more_is_better else "≤"
    parts = [f"{sign} {target.least:,.0f}"] if target.least is not None else []
    parts += [f"≥ {target.times:,.0f} ×"] if target.times is not None else []
    return " and ".join(parts)
