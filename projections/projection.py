"""What a projection is: one SELECT over facts. Its table, key and merge rules are read off the SELECT.

Every merge is associative, so any split of history into batches gives the same table. What cannot be said this way is
refused here, when the projection is declared (projections.md, the algebra).
"""

from dataclasses import dataclass, field
from functools import cached_property
from itertools import chain
from typing import Any, Literal

from sqlalchemy import (
    BigInteger,
    Column,
    ColumnElement,
    MetaData,
    Select,
    String,
    Table,
    Text,
    cast,
    column,
    func,
    select,
    table,
    tuple_,
)
from sqlalchemy.sql import visitors
from sqlalchemy.sql.elements import ColumnClause, FunctionFilter, Label
from sqlalchemy.sql.expression import TableClause
from sqlalchemy.sql.operators import distinct_op
from sqlalchemy.types import NullType

from projections.dialects import Engine, compiled, latest
from projections.facts import RELATIONS, InstantText, Relation, as_written, native_type

__all__ = ["Engine", "Measure", "Merge", "Projection", "UndeclarableError", "compiled", "latest"]

Merge = Literal["add", "max", "min", "latest"]


class UndeclarableError(ValueError):
    """A SELECT that no sequence of merges can compute; the message says which part and what to do instead."""


@dataclass(frozen=True)
class Measure:
    """One stored aggregate and how two partial values of it become one."""

    name: str
    merge: Merge
    expression: ColumnElement[Any]
    at: str | None = None
    """For ``latest``: the hidden column that keeps the position of the value."""


@dataclass(frozen=True, eq=False)
class Projection:
    """A figure: its name, the version of its meaning, and the SELECT that says it."""

    name: str
    version: int
    select: Select[Any]
    stored: bool = True
    """False for what is only computed when somebody asks: it has no table, and nobody follows it."""
    relation: Relation = field(init=False)
    keys: tuple[str, ...] = field(init=False)
    measures: tuple[Measure, ...] = field(init=False)

    def __post_init__(self) -> None:
        set_ = object.__setattr__
        set_(self, "relation", self._read_relation())
        set_(self, "keys", self._read_keys())
        set_(self, "measures", self._read_measures())

    # -- reading the SELECT --

    def _refuse(self, what: str) -> UndeclarableError:
        return UndeclarableError(f"projection {self.name}: {what}")

    def _read_relation(self) -> Relation:
        query = self.select
        if len(query.get_final_froms()) != 1 or not isinstance(query.get_final_froms()[0], TableClause):
            raise self._refuse("a SELECT reads exactly one relation of facts; join in a question instead")
        parts: Any = query
        forbidden = {
            "HAVING": parts._having_criteria,
            "DISTINCT": parts._distinct,
            "LIMIT": parts._limit_clause is not None or parts._offset_clause is not None,
            "ORDER BY": parts._order_by_clauses,
        }
        for word, present in forbidden.items():
            if present:
                raise self._refuse(f"{word} does not survive merging; say it in a question over the table")
        for element in visitors.iterate(query):
            kind = element.__visit_name__
            if kind in ("over", "scalar_subquery", "subquery", "grouping_select") or (
                kind == "select" and element is not query
            ):
                raise self._refuse("windows and subqueries see more than the batch; say it in a question")
            if kind == "now" or getattr(element, "name", None) in ("now", "current_timestamp", "random"):
                raise self._refuse("a figure may not depend on when it is computed")
        name: str = getattr(query.get_final_froms()[0], "name", "")
        if name not in RELATIONS:
            raise self._refuse(f"{name} is not a relation of facts (facts_of)")
        return RELATIONS[name]

    def _read_keys(self) -> tuple[str, ...]:
        grouped = [getattr(g, "name", None) for g in self.select._group_by_clauses]
        selected = {c.name: c for c in self.select.selected_columns}
        keys = tuple(name for name in selected if name in grouped)
        if not keys or len(keys) != len(grouped):
            raise self._refuse(
                "every GROUP BY column is selected under its own label, and there is one at least"
            )
        if any(isinstance(selected[key].type, NullType) for key in keys):
            raise self._refuse("a key of unknown type; give the function its type_")
        # Of the keys alone: a WHERE may well look at what can be NULL.
        for element in chain.from_iterable(visitors.iterate(selected[key]) for key in keys):
            if isinstance(element, ColumnClause) and element.name in self.relation.nullable:
                raise self._refuse(f"{element.name} can be NULL, and a key never is")
        return keys

    def _read_measures(self) -> tuple[Measure, ...]:
        return tuple(self._measure(c) for c in self.select.selected_columns if c.name not in self.keys)

    def _measure(self, selected: ColumnElement[Any]) -> Measure:
        name = getattr(selected, "name", "?")
        if not isinstance(selected, Label):
            raise self._refuse(f"{name} is neither a GROUP BY column nor a labelled aggregate")
        expression = selected.element
        function: Any = expression.func if isinstance(expression, FunctionFilter) else expression
        called = getattr(function, "name", "")
        if called in ("sum", "count"):
            if any(getattr(e, "operator", None) is distinct_op for e in visitors.iterate(function)):
                raise self._refuse("a distinct count cannot be merged; make it a key and count in a question")
            return Measure(name, "add", func.coalesce(expression, 0))
        if called not in ("max", "min", "latest"):
            raise self._refuse(
                f"{called or expression} cannot be merged; sum, count, max, min and latest can"
            )
        if self.relation.signed:
            raise self._refuse(f"a reversal cannot undo a {called}; over signed facts only sums are kept")
        if called == "latest":
            return Measure(name, "latest", expression, at=f"{name}__at")
        (value,) = function.clauses
        if isinstance(value.type, String) and not isinstance(value.type, InstantText):
            raise self._refuse(f"{called} of text differs between databases")
        return Measure(name, "max" if called == "max" else "min", expression)

    # -- what follows from it --

    @cached_property
    def used(self) -> set[str]:
        """The relation's columns that the SELECT reads."""
        own = {"position"} if any(m.merge == "latest" for m in self.measures) else set()
        return own | {
            e.name
            for e in visitors.iterate(self.select)
            if isinstance(e, ColumnClause) and e.table is not None
        }

    @cached_property
    def copied(self) -> dict[str, str]:
        """The outputs whose values are those of a column of the relation: keys, and what is chosen among many."""
        return {
            name: value.name
            for name, (value, _) in self._outputs().items()
            if isinstance(value, ColumnClause)
        }

    @cached_property
    def native(self) -> dict[str, str]:
        """The relation's columns that need not be text while DuckDB computes, with their types in the archive.

        Ids, days and moments that are only copied: no part of the SELECT looks inside them.
        """
        read = [part for _, parts in self._outputs().values() for part in parts] + [
            *self.select._where_criteria
        ]
        looked_at = {e.name for part in read for e in visitors.iterate(part) if isinstance(e, ColumnClause)}
        kinds = {name: native_type(self.relation, name) for name in self.copied.values()}
        return {name: kind for name, kind in kinds.items() if kind is not None and name not in looked_at}

    def _outputs(self) -> dict[str, tuple[Any, list[Any]]]:
        """For each key and measure what its values are made from, and what else the SELECT reads for it."""
        found: dict[str, tuple[Any, list[Any]]] = {}
        for selected in self.select.selected_columns:
            expression: Any = selected
            others: list[Any] = []
            if any(m.name == selected.name and m.merge != "add" for m in self.measures):
                expression = getattr(selected, "element")  # noqa: B009 - a label, by `_measure`
                if isinstance(expression, FunctionFilter):
                    others.append(expression.criterion)
                    expression = expression.func
                expression, *rest = expression.clauses
                others += rest
            if not isinstance(expression, ColumnClause):
                others.append(expression)
            found[selected.name] = (expression, others)
        return found

    def as_written(self, name: str) -> str:
        """An output that was computed from `native` columns as the text that facts write, in DuckDB's words."""
        return as_written(name, self.native.get(self.copied.get(name, "")))

    @property
    def table_name(self) -> str:
        return f"figure_{self.name}_v{self.version}"

    @cached_property
    def columns(self) -> tuple[str, ...]:
        """The table's columns, keys first, hidden ones included."""
        hidden = [m.at for m in self.measures if m.at]
        return (*self.keys, *(m.name for m in self.measures), *hidden)

    def table(self, name: str | None = None) -> Table:
        """The stored table (under another name while it is rebuilt)."""
        selected = {c.name: c for c in self.select.selected_columns}
        columns: list[Column[Any]] = [
            Column(
                key, _stored_type(selected[key].type), primary_key=True, nullable=False, autoincrement=False
            )
            for key in self.keys
        ]
        for measure in self.measures:
            kind = BigInteger() if measure.merge == "add" else _stored_type(selected[measure.name].type)
            columns.append(Column(measure.name, kind, nullable=measure.merge != "add"))
        columns += [Column(m.at, BigInteger(), nullable=True) for m in self.measures if m.at]
        return Table(name or self.table_name, MetaData(), *columns)

    def merged(self, old: tuple[Any, ...], new: tuple[Any, ...]) -> tuple[Any, ...]:
        """Two partial rows of one key, in the order of `columns`, as one: the merge rules, in Python."""
        one, other = (dict(zip(self.columns, row, strict=True)) for row in (old, new))
        for measure in self.measures:
            name, at = measure.name, measure.at
            if measure.merge == "add":
                one[name] += other[name]
            elif at is not None:
                if other[at] is not None and (one[at] is None or other[at] > one[at]):
                    one[name], one[at] = other[name], other[at]
            elif other[name] is not None:
                pick = max if measure.merge == "max" else min
                one[name] = other[name] if one[name] is None else pick(one[name], other[name])
        return tuple(one[name] for name in self.columns)

    def sql(self, engine: Engine, *, wanted: tuple[str, ...] = (), positions: bool = False) -> str:
        """The SELECT in an engine's words, hidden columns included, in the order of `columns`.

        With ``wanted`` it reads only facts whose keys of these names stand in a table ``wanted``; with ``positions`` a
        last column ``positions`` lists the facts of each row, as text with commas.
        """
        return compiled(self.statement(wanted=wanted, positions=positions), engine)

    def statement(self, *, wanted: tuple[str, ...] = (), positions: bool = False) -> Select[Any]:
        """`sql` before it is put into an engine's words."""
        selected = {c.name: c for c in self.select.selected_columns}
        outputs: list[ColumnElement[Any]] = [selected[key] for key in self.keys]
        for measure in self.measures:
            expression = measure.expression
            outputs.append((_big(expression) if measure.merge == "add" else expression).label(measure.name))
        for measure in self.measures:
            if measure.at:
                value, at = getattr(measure.expression, "clauses")  # noqa: B009 - a `latest`, by its merge
                outputs.append(func.max(at).filter(value.is_not(None)).label(measure.at))
        if positions:
            (position,) = _position_of(self.select)
            outputs.append(func.aggregate_strings(cast(position, Text), ",").label("positions"))
        return self._kept(wanted).with_only_columns(*outputs)

    @cached_property
    def plain_keys(self) -> frozenset[str]:
        """The keys that are columns of the relation themselves, not made from one."""
        selected = {c.name: c for c in self.select.selected_columns}
        return frozenset(key for key in self.keys if isinstance(selected[key], ColumnClause))

    def _kept(self, wanted: tuple[str, ...]) -> Select[Any]:
        if not wanted:
            return self.select
        selected = {c.name: c for c in self.select.selected_columns}
        these = [column(name, selected[name].type) for name in wanted]
        rows = select(*these).select_from(table("wanted", *these))
        return self.select.where(tuple_(*(selected[name] for name in wanted)).in_(rows))

    def rows_sql(self, engine: Engine, *, wanted: tuple[str, ...] = ()) -> str:
        """The SELECT without its aggregates: each fact's keys and its own share, for `explain`."""
        selected = {c.name: c for c in self.select.selected_columns}
        shares = [
            (_big(m.expression) if m.merge == "add" else m.expression).label(m.name) for m in self.measures
        ]
        grouped = [*self.select._group_by_clauses, *_position_of(self.select)]
        query = self._kept(wanted).with_only_columns(
            *_position_of(self.select), *(selected[key] for key in self.keys), *shares
        )
        return compiled(query.group_by(None).group_by(*grouped), engine)


def _position_of(query: Select[Any]) -> list[ColumnElement[Any]]:
    return [query.get_final_froms()[0].c.position]


def _big(expression: ColumnElement[Any]) -> ColumnElement[Any]:
    return cast(expression, BigInteger)


def _stored_type(kind: Any) -> Any:
    return Text() if isinstance(kind, String) else BigInteger()
