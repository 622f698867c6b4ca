"""What the engines have in common: a figure kept apart by ledger, and the totals by which it is compared."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

from sqlalchemy import (
    BigInteger,
    ColumnClause,
    ColumnElement,
    Select,
    Text,
    case,
    cast,
    func,
    literal,
    literal_column,
    select,
    table,
)

from projections.dialects import compiled, quoted
from projections.facts import Relation
from projections.projection import Projection
from projections.totals import totals_select

Elsewhere = Literal["clickhouse", "flink", "risingwave"]
ENGINES: tuple[Elsewhere, ...] = ("clickhouse", "flink", "risingwave")

LEDGER = "ledger_id"
SOURCE_PREFIX = len("urn:uuid:")
"""Characters of a message's ``source`` before the ledger's id."""
CLASS_VERSION = "[.]v[0-9]+$"
"""What follows the topic in a message's ``type``."""


@dataclass(frozen=True)
class Topic:
    """The events topic as an engine reaches it."""

    name: str
    bootstrap: str


def relations_of(figures: Iterable[Projection]) -> list[Relation]:
    """The relations that figures read, each once, by name."""
    found = {figure.relation.name: figure.relation for figure in figures}
    return [found[name] for name in sorted(found)]


def text_literal(text: str, engine: Elsewhere) -> str:
    """A text as a constant; ClickHouse alone reads backslashes in it."""
    escaped = text.replace("\\", "\\\\") if engine == "clickhouse" else text
    return "'" + escaped.replace("'", "''") + "'"


def by_ledger(figure: Projection, engine: Elsewhere, *conditions: str) -> str:
    """The figure's SELECT with the ledger as its first key, over the relation's rows that meet the conditions.

    A condition is SQL with ``{position}`` and ``{ledger}`` for the two columns.
    """
    query = figure.statement()
    relation = query.get_final_froms()[0]
    ledger: ColumnClause[str] = ColumnClause(LEDGER, Text(), _selectable=relation)
    columns: list[ColumnElement[Any]] = [ledger, *query.selected_columns]
    query = query.with_only_columns(*columns).group_by(ledger)
    for condition in conditions:
        names = {"position": relation.c.position, "ledger": ledger}
        query = query.where(
            literal_column(condition.format_map({n: compiled(c, engine) for n, c in names.items()}))
        )
    return compiled(query, engine)


def totals_of_figure(
    figure: Projection, engine: Elsewhere, position: int | None = None, *, source: str = ""
) -> str:
    """One figure's totals by ledger: of its view, of its facts up to a position, or of the rows of ``source``."""
    view = f"SELECT * FROM {quoted(figure.table_name, engine)}"
    bounded = "" if position is None else by_ledger(figure, engine, f"{{position}} <= {int(position)}")
    return _printed(totals_select(figure, LEDGER), "totalled", source or bounded or view, engine)


def totals_of_facts(engine: Elsewhere, position: int | None = None, *, ledger: str = "") -> str:
    """How many facts of each ledger (or of one) the engine holds, the last, and the first missing one before it.

    Flink numbers no rows of a stream that never ends: it does not say which one is missing.
    """
    names = {name: quoted(name, engine) for name in (LEDGER, "position", "n")}
    conditions = [f"{names[LEDGER]} = '{ledger}'"] if ledger else []
    if position is not None:
        conditions.append(f"{names['position']} <= {int(position)}")
    upto = f" WHERE {' AND '.join(conditions)}" if conditions else ""
    numbered = (
        ""
        if engine == "flink"
        else f", row_number() OVER (PARTITION BY {names[LEDGER]} ORDER BY {names['position']}) AS {names['n']}"
    )
    source = (
        f"SELECT {names[LEDGER]}, {names['position']}{numbered} FROM {quoted('held_facts', engine)}{upto}"
    )
    return _printed(_facts_select(engine != "flink"), "totalled", source, engine)


def _facts_select(numbered: bool) -> Select[Any]:
    held = table(
        "totalled",
        ColumnClause(LEDGER, Text()),
        ColumnClause("position", BigInteger()),
        ColumnClause("n", BigInteger()),
    )
    missing: list[ColumnElement[Any]] = (
        [func.min(case((held.c.position > held.c.n, held.c.n))).label("first_missing")] if numbered else []
    )
    return select(
        held.c[LEDGER],
        literal("facts").label("figure"),
        cast(func.count(), BigInteger).label("rows"),
        func.max(held.c.position).label("last_position"),
        *missing,
    ).group_by(held.c[LEDGER])


def _printed(query: Select[Any], name: str, source: str, engine: Elsewhere) -> str:
    """A SELECT over ``name``, whose rows are those of ``source``, that prints each of its rows as a JSON object."""
    rows = f"WITH {quoted(name, engine)} AS ({source}) {compiled(query, engine)}"
    if engine == "clickhouse":
        return f"{rows} FORMAT JSONEachRow"
    names = [str(column.name) for column in query.selected_columns]
    if engine == "risingwave":
        pairs = ", ".join(f"'{n}', {quoted(n, engine)}" for n in names)
        return f"SELECT jsonb_build_object({pairs}) FROM ({rows}) AS printed"
    pairs = ", ".join(f"KEY '{n}' VALUE {quoted(n, engine)}" for n in names)
    return f"SELECT JSON_OBJECT({pairs}) AS {quoted('total', engine)} FROM ({rows}) AS {quoted('printed', engine)}"
