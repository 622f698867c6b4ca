"""How a SELECT is said in each engine's words. Only compiles: nothing here connects to anything.

SQLite, PostgreSQL and DuckDB are ours to run; ClickHouse, Flink and RisingWave are where a ledger grows to
(`projections.elsewhere`). They differ in the aggregate that picks the latest value, in what an aggregate over no rows
gives, in the names of types, and in which names need quotes.
"""

from typing import Any, Literal

from sqlalchemy import BigInteger, ColumnElement
from sqlalchemy.dialects.postgresql.base import PGCompiler, PGDialect, PGIdentifierPreparer, PGTypeCompiler
from sqlalchemy.dialects.sqlite.base import SQLiteDialect
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement, GenericFunction

Engine = Literal["sqlite", "postgresql", "duckdb", "clickhouse", "flink", "risingwave"]
"""Where a SELECT runs."""


# --- functions that each engine says in its own way ------------------------------------------------------------------


class latest(GenericFunction[Any]):  # noqa: N801 - reads as a function in a SELECT
    """``latest(x, position)``: the value of x at the highest position where x is not null."""

    inherit_cache = True

    def __init__(self, value: ColumnElement[Any], at: ColumnElement[Any]) -> None:
        super().__init__(value, at)
        self.type = value.type


def _parts(element: FunctionElement[Any], compiler: Any, **kw: Any) -> list[str]:
    return [compiler.process(clause, **kw) for clause in element.clauses]


@compiles(latest, "sqlite")
def _latest_sqlite(element: FunctionElement[Any], compiler: Any, **kw: Any) -> str:
    value, at = _parts(element, compiler, **kw)
    newest = f"max(printf('%019d', {at}) || json_quote({value})) FILTER (WHERE {value} IS NOT NULL)"
    return f"json_extract(substr({newest}, 20), '$')"


@compiles(latest, "postgresql")
def _latest_postgresql(element: FunctionElement[Any], compiler: Any, **kw: Any) -> str:
    value, at = _parts(element, compiler, **kw)
    if getattr(compiler.dialect, "is_duckdb", False):
        return f"arg_max({value}, {at})"
    return f"(array_agg({value} ORDER BY {at} DESC) FILTER (WHERE {value} IS NOT NULL))[1]"


@compiles(latest, "clickhouse")
def _latest_clickhouse(element: FunctionElement[Any], compiler: Any, **kw: Any) -> str:
    value, at = _parts(element, compiler, **kw)
    return f"argMaxOrNull({value}, {at}) FILTER (WHERE {value} IS NOT NULL)"


@compiles(latest, "risingwave")
def _latest_risingwave(element: FunctionElement[Any], compiler: Any, **kw: Any) -> str:
    value, at = _parts(element, compiler, **kw)
    return f"last_value({value} ORDER BY {at}) FILTER (WHERE {value} IS NOT NULL)"


@compiles(latest, "flink")
def _latest_flink(element: FunctionElement[Any], compiler: Any, **kw: Any) -> str:
    """Flink's own LAST_VALUE goes by arrival; text that begins with the position, all of one width, by position."""
    value, at = _parts(element, compiler, **kw)
    numbered = f"LPAD(CAST({at} AS STRING), 19, '0') || CAST({value} AS STRING)"
    newest = f"SUBSTR(MAX({numbered}) FILTER (WHERE {value} IS NOT NULL), 20)"
    return f"CAST({newest} AS BIGINT)" if isinstance(element.type, BigInteger) else newest


class md5_text(GenericFunction[str]):  # noqa: N801 - reads as a function in a SELECT
    """``md5_text(text)``: the MD5 of its UTF-8 bytes, as 32 small hexadecimal digits. A checksum, no proof."""

    inherit_cache = True


@compiles(md5_text)
def _md5_text(element: FunctionElement[Any], compiler: Any, **kw: Any) -> str:
    (value,) = _parts(element, compiler, **kw)
    return f"lower(hex(MD5({value})))" if compiler.dialect.name == "clickhouse" else f"md5({value})"


class number_of(GenericFunction[int]):  # noqa: N801 - reads as a function in a SELECT
    """``number_of(digits)``: what the first eight of some hexadecimal digits mean, from 0 to 2^32 − 1."""

    type = BigInteger()
    inherit_cache = True


@compiles(number_of)
def _number_of(element: FunctionElement[Any], compiler: Any, **kw: Any) -> str:
    """Where there is no function for it: the digits one by one."""
    (digits,) = _parts(element, compiler, **kw)
    place = "INSTR" if compiler.dialect.name in ("sqlite", "flink") else "strpos"
    each = (
        f"(CAST({place}('0123456789abcdef', substr({digits}, {n + 1}, 1)) AS BIGINT) - 1) * {16 ** (7 - n)}"
        for n in range(8)
    )
    return f"({' + '.join(each)})"


@compiles(number_of, "postgresql")
def _number_of_postgresql(element: FunctionElement[Any], compiler: Any, **kw: Any) -> str:
    (digits,) = _parts(element, compiler, **kw)
    if getattr(compiler.dialect, "is_duckdb", False):
        return f"CAST('0x' || substr({digits}, 1, 8) AS BIGINT)"
    return f"CAST(CAST('x' || substr({digits}, 1, 8) AS bit(32)) AS BIGINT)"


@compiles(number_of, "clickhouse")
def _number_of_clickhouse(element: FunctionElement[Any], compiler: Any, **kw: Any) -> str:
    (digits,) = _parts(element, compiler, **kw)
    return f"reinterpretAsUInt32(reverse(unhex(substr({digits}, 1, 8))))"


# --- dialects --------------------------------------------------------------------------------------------------------


class _DuckDialect(PGDialect):
    """DuckDB reads PostgreSQL's SQL, but has an aggregate for `latest`."""

    is_duckdb = True
    supports_statement_cache = False


class _ClickHouseCompiler(PGCompiler):
    """There an aggregate over no rows is 0 or empty unless it is told otherwise, and a plain CAST refuses NULL."""

    def visit_cast(self, cast: Any, **kw: Any) -> str:
        to = "toInt64" if isinstance(cast.type, BigInteger) else "toString"
        return f"{to}({self.process(cast.clause, **kw)})"

    def visit_max_func(self, fn: Any, **kw: Any) -> str:
        return f"maxOrNull{self.function_argspec(fn, **kw)}"

    def visit_min_func(self, fn: Any, **kw: Any) -> str:
        return f"minOrNull{self.function_argspec(fn, **kw)}"


class _ClickHouseDialect(PGDialect):
    name = "clickhouse"
    statement_compiler = _ClickHouseCompiler
    supports_statement_cache = False


class _RisingWaveDialect(PGDialect):
    """RisingWave reads PostgreSQL's SQL, but should not keep every value of a group to find the latest."""

    name = "risingwave"
    supports_statement_cache = False


class _Backticks(PGIdentifierPreparer):
    """Flink reserves words such as ``position``, ``month`` and ``rows``: every name is quoted."""

    def __init__(self, dialect: Any, **_: Any) -> None:
        super().__init__(dialect, initial_quote="`", escape_quote="`")

    def _requires_quotes(self, value: str) -> bool:  # noqa: ARG002 - whatever the name is
        return True


class _FlinkTypes(PGTypeCompiler):
    def visit_TEXT(self, type_: Any, **kw: Any) -> str:  # noqa: N802, ARG002 - as SQLAlchemy calls it
        return "STRING"


class _FlinkDialect(PGDialect):
    name = "flink"
    preparer = _Backticks  # type: ignore[assignment]
    type_compiler_cls = _FlinkTypes
    supports_statement_cache = False


_DIALECTS: dict[str, Any] = {
    "sqlite": SQLiteDialect(),
    "postgresql": PGDialect(),  # type: ignore[no-untyped-call]
    "duckdb": _DuckDialect(),  # type: ignore[no-untyped-call]
    "clickhouse": _ClickHouseDialect(),  # type: ignore[no-untyped-call]
    "flink": _FlinkDialect(),  # type: ignore[no-untyped-call]
    "risingwave": _RisingWaveDialect(),  # type: ignore[no-untyped-call]
}


def compiled(statement: Any, engine: Engine) -> str:
    """A statement as constant text for an engine."""
    return str(statement.compile(dialect=_DIALECTS[engine], compile_kwargs={"literal_binds": True}))


def quoted(name: str, engine: Engine) -> str:
    """A name as an engine must read it."""
    return str(_DIALECTS[engine].identifier_preparer.quote(name))
