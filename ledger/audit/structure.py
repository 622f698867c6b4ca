"""The file, the tables and the guards: all that keeps a log append-only is there, and is as it was created."""

from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

from sqlalchemy import Connection, Dialect, Table, UniqueConstraint, inspect
from sqlalchemy.engine import Inspector

from ledger import log_postgres, log_sqlite
from ledger.audit.columns import snapshot, tolerant
from ledger.audit.report import DEFECTS_KEPT, Findings
from ledger.log import LedgerLog
from ledger.schema import metadata
from ledger.tree import tree_metadata


def check_structure(connection: Connection, findings: Findings) -> frozenset[str]:
    """Check the tables and the guards; the names of the tables that have their columns and can be read."""
    present: set[str] = set()
    readable: set[str] = set()
    with tolerant(findings, "the schema"):
        present.update(inspect(connection).get_table_names())
    is_signed = not present.isdisjoint(tree_metadata.tables)
    for table in [*metadata.sorted_tables, *(tree_metadata.sorted_tables if is_signed else ())]:
        if table.name not in present:
            findings.found(None, "TABLE_MISSING", table=table.name)
            continue
        with tolerant(findings, table.name):
            if _check_table(inspect(connection), table, connection.dialect, findings):
                readable.add(table.name)
    with tolerant(findings, "the schema"):
        if connection.dialect.name == "sqlite":
            _check_sqlite_guards(connection, findings)
        else:
            _check_postgres_guards(connection, findings)
    return frozenset(readable)


def _check_table(inspector: Inspector, table: Table, dialect: Dialect, findings: Findings) -> bool:
    """Whether the table has its columns; that they and the unique keys are as created is checked besides."""
    findings.checked("tables")
    stored = {
        column["name"]: (str(column["type"]), column["nullable"])
        for column in inspector.get_columns(table.name)
    }
    created = {
        column.name: (column.type.compile(dialect=dialect), bool(column.nullable)) for column in table.columns
    }
    keys = {tuple(inspector.get_pk_constraint(table.name)["constrained_columns"])}
    keys |= {tuple(key["column_names"]) for key in inspector.get_unique_constraints(table.name)}
    created_keys = {
        tuple(key.columns.keys())
        for key in table.constraints
        if key is table.primary_key or isinstance(key, UniqueConstraint)
    }
    if stored != created or keys != created_keys:
        findings.found(None, "TABLE_CHANGED", table=table.name)
    return set(created) <= set(stored)


def _compare_guards(stored: Mapping[str, object], created: Mapping[str, object], findings: Findings) -> None:
    for guard, shape in created.items():
        findings.checked("guards")
        if guard not in stored:
            findings.found(None, "GUARD_MISSING", guard=guard)
        elif stored[guard] != shape:
            findings.found(None, "GUARD_CHANGED", guard=guard)
    for guard in sorted(set(stored) - set(created)):
        findings.found(None, "GUARD_UNKNOWN", guard=guard)


def _check_sqlite_guards(connection: Connection, findings: Findings) -> None:
    """The triggers on our tables are those that `log_sqlite.protect` creates, word for word."""
    tables = ", ".join(f"'{name}'" for name in metadata.tables)
    query = f"SELECT name, sql FROM sqlite_master WHERE type = 'trigger' AND tbl_name COLLATE NOCASE IN ({tables})"
    stored = {row[0]: row[1] for row in connection.exec_driver_sql(query)}
    created = {name: f"CREATE TRIGGER {name} {body}" for name, body in log_sqlite.GUARDS.items()}
    _compare_guards(stored, created, findings)


@contextmanager
def checking_file(log: LedgerLog, findings: Findings) -> Iterator[None]:
    """Meanwhile, SQLite's own full check of the file: pages, and every index entry against its row.

    It runs in a thread and a read transaction of its own, for it takes as long as reading the facts does. What it
    found comes before all other findings.
    """
    if log.dialect != "sqlite":
        yield
        return
    findings.checks["file"] = 1
    found = Findings()
    with ThreadPoolExecutor(1) as thread:
        done = thread.submit(_check_file, log, found)
        yield
        done.result()
    findings.put_first(found)


def _check_file(log: LedgerLog, findings: Findings) -> None:
    with snapshot(log) as connection, tolerant(findings, "the schema"):
        for (line,) in connection.exec_driver_sql(f"PRAGMA integrity_check({DEFECTS_KEPT})"):
            if line != "ok":
                findings.found(None, "FILE_DAMAGED", problem=line)


_KEEP, _STAY = 2 + 8 + 16 + 32, 2 + 8 + 32
"""pg_trigger.tgtype: BEFORE (2) each statement of DELETE (8), UPDATE (16), TRUNCATE (32)."""

_POSTGRES_TRIGGERS = """
SELECT 'trigger ' || t.tgname, c.relname, t.tgenabled::text, t.tgtype::int, p.proname,
       t.tgqual IS NULL AND t.tgattr::text = ''
FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid JOIN pg_proc p ON p.oid = t.tgfoid
WHERE NOT t.tgisinternal AND c.relnamespace = current_schema()::regnamespace AND c.relname = ANY(%s)"""

_POSTGRES_FUNCTIONS = """
SELECT 'function ' || p.proname, p.prosrc, p.prosecdef, o.rolname, coalesce(array_to_string(p.proconfig, ';'), ''),
       has_function_privilege('public', p.oid, 'EXECUTE')
FROM pg_proc p JOIN pg_roles o ON o.oid = p.proowner
WHERE p.pronamespace = current_schema()::regnamespace AND p.proname = ANY(%s)"""

_POSTGRES_TABLES = """
SELECT 'table ' || c.relname, c.relkind::text, o.rolname, c.relhasrules, c.relrowsecurity,
       has_table_privilege(app.oid, c.oid, 'INSERT, UPDATE, DELETE, TRUNCATE, TRIGGER')
       OR has_any_column_privilege(app.oid, c.oid, 'INSERT, UPDATE')
FROM pg_class c JOIN pg_roles o ON o.oid = c.relowner CROSS JOIN (SELECT oid FROM pg_roles WHERE rolname = %s) app
WHERE c.relnamespace = current_schema()::regnamespace AND c.relname = ANY(%s)"""

_POSTGRES_ROLES = """
SELECT 'role ' || r.rolname, r.rolcanlogin, r.rolsuper, r.rolcreaterole,
       EXISTS (SELECT 1 FROM pg_roles o WHERE o.rolname = %s AND o.oid <> r.oid AND pg_has_role(r.oid, o.oid, 'MEMBER'))
FROM pg_roles r WHERE r.rolname = ANY(%s)"""


def _check_postgres_guards(connection: Connection, findings: Findings) -> None:
    """Triggers fire always, the functions read as created, and the application's role can only read and call them."""
    owner, app = log_postgres.roles_of(connection.engine.url.database or "")
    tables, functions = list(log_postgres.TABLES), _postgres_functions(owner)
    stored: dict[str, object] = {}
    for query, values in (
        (_POSTGRES_TRIGGERS, (tables,)),
        (_POSTGRES_FUNCTIONS, ([name.removeprefix("function ") for name in functions],)),
        (_POSTGRES_TABLES, (app, tables)),
        (_POSTGRES_ROLES, (owner, [owner, app])),
    ):
        stored.update({row[0]: tuple(row[1:]) for row in connection.exec_driver_sql(query, values)})
    created: dict[str, object] = {
        f"trigger {name}": (table, "A", _STAY if table == "ledger_head" else _KEEP, "ledger_refuse", True)
        for name, table in log_postgres.GUARDS.items()
    }
    created |= functions
    created |= {f"table {table}": ("r", owner, False, False, False) for table in tables}
    created |= {f"role {role}": (False, False, False, False) for role in (owner, app)}
    _compare_guards(stored, created, findings)


def _postgres_functions(owner: str) -> dict[str, object]:
    """Each function of `log_postgres` as the catalogue shows it: body, rights, owner, search path, closed to others."""
    path = "search_path=public, pg_temp"
    shapes = {
        "ledger_lock_head": (log_postgres.LOCK_HEAD, True, path),
        "ledger_append": (log_postgres.APPEND, True, path),
        "ledger_refuse": (log_postgres.REFUSE, False, ""),
    }
    return {
        f"function {name}": (source.split("$$")[1], definer, owner, settings, False)
        for name, (source, definer, settings) in shapes.items()
    }
