"""A figure in a few numbers, the same on every engine: what an engine's figures are compared with the ledger's by.

Of each figure: how many rows, the sum of every measure that adds up, of every other measure how many rows have it, of
`latest` the sum of the positions that its values are from, and a checksum over every row's keys and values. Sums alone
would not notice minutes that moved from one person to another. It is 32 bits of each row's MD5, added up: 2^31 rows are
still less than 2^63. It finds mistakes, and is no proof against somebody who means to deceive.
"""

from collections.abc import Iterable, Mapping
from contextlib import closing
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from sqlalchemy import (
    BigInteger,
    ColumnClause,
    ColumnElement,
    Select,
    Text,
    cast,
    func,
    literal,
    select,
    table,
)

from ledger.archive import Archive
from ledger.log import LedgerLog
from projections.dialects import md5_text, number_of
from projections.engine import compute
from projections.figures import all_figures
from projections.projection import Projection

Figures = Mapping[str, Mapping[str, int]]
"""Totals by the figure's name, then by their own."""


@dataclass(frozen=True)
class Totals:
    """What one side says of a ledger: ``facts`` are those it holds up to ``position``, the last of them.

    ``facts`` is None if it does not count them, ``first_missing`` if none is or it cannot tell which.
    """

    position: int
    facts: int | None
    first_missing: int | None
    figures: Figures


@dataclass(frozen=True)
class Difference:
    """A total that is not the ledger's."""

    figure: str
    total: str
    ledger: int
    engine: int


@lru_cache(maxsize=512)
def names_of(figure: Projection) -> tuple[str, ...]:
    """The names of a figure's totals, in order."""
    return tuple(column.name for column in totals_select(figure).selected_columns if column.name != "figure")


def totals_select(figure: Projection, ledger: str | None = None, name: str = "totalled") -> Select[Any]:
    """The totals of the figure's rows in the table ``name``; with ``ledger`` by the column that names the ledger."""
    own: list[ColumnClause[Any]] = [ColumnClause(ledger, Text())] if ledger else []
    stored = [ColumnClause(column.name, column.type) for column in figure.table().columns]
    source = table(name, *own, *stored)
    texts = [func.coalesce(cast(source.c[column.name], Text), "") for column in stored]
    row: ColumnElement[str] = texts[0]
    for text in texts[1:]:
        row = row.concat("|").concat(text)
    checked = select(*source.c, md5_text(row, type_=Text()).label("row_md5")).subquery("checked")
    totals: list[ColumnElement[Any]] = [_whole(func.count()).label("rows")]
    for measure in figure.measures:
        if measure.merge == "add":
            totals.append(_sum(checked.c[measure.name]).label(measure.name))
        else:
            totals.append(_whole(func.count(checked.c[measure.name])).label(f"{measure.name}__known"))
        if measure.at:
            totals.append(_sum(checked.c[measure.at]).label(measure.at))
    totals.append(_sum(number_of(checked.c.row_md5)).label("checksum"))
    keys: list[ColumnElement[Any]] = [checked.c[ledger]] if ledger else []
    query = select(*keys, literal(figure.name).label("figure"), *totals)
    return query.group_by(*keys) if keys else query


def _sum(value: ColumnElement[Any]) -> ColumnElement[Any]:
    return _whole(func.coalesce(func.sum(value), 0))


def _whole(value: ColumnElement[Any]) -> ColumnElement[Any]:
    return cast(value, BigInteger)


def ledger_totals(log: LedgerLog, position: int, archive: Archive | None = None) -> Totals:
    """Every figure's totals as the ledger itself has them at a position, computed from its facts."""
    figures = all_figures()
    with closing(compute(log, figures, 0, position, archive=archive)) as columns:
        columns.name_tables()
        found = {
            figure.name: numbers(figure, columns.rows_of(totals_select(figure, name=figure.table_name))[0])
            for figure in figures
        }
    return Totals(position, position, None, found)


def numbers(figure: Projection, row: Mapping[str, Any]) -> dict[str, int]:
    """The totals in a row that an engine gave; KeyError or ValueError if it is none."""
    return {name: int(row[name]) for name in names_of(figure)}


def differences(ledger: Figures, engine: Figures) -> list[Difference]:
    """Every total that is not the ledger's, in the order of the figures. A figure without rows need not be there."""
    return [
        Difference(figure, total, value, engine.get(figure, {}).get(total, 0))
        for figure, totals in ledger.items()
        for total, value in totals.items()
        if value != engine.get(figure, {}).get(total, 0)
    ]


def of_no_rows(figures: Iterable[Projection]) -> Figures:
    """The totals of figures that have no rows."""
    return {figure.name: dict.fromkeys(names_of(figure), 0) for figure in figures}
