"""What the audit promises: a sound log has no defect, and whatever is changed in a stored one is noticed and named."""

import hashlib
import json
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid5

import orjson
import psycopg
import pytest
from eventsourcing.persistence import StoredEvent
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy.engine import make_url

from ledger import audit, ids, log_sqlite
from ledger import commands as c
from ledger.application import Ledger
from ledger.audit import Report, verify
from ledger.codec import EVENTS_BY_TOPIC, decode, encode
from ledger.errors import LedgerBusyError
from ledger.events import EVENT_TYPES, UnitRenamed
from ledger.log import LedgerLog
from ledger.merkle import Frontier, leaf_hash
from ledger.rulebook import default_rulebook
from ledger.rules import Caller

START = datetime(2026, 3, 2, 1, 0, tzinfo=UTC)
LEDGER_ID = UUID("3a5d7c0e-1f52-4a67-9d2c-5b1e8f9a0c11")
ADMIN = Caller(uuid5(LEDGER_ID, "admin"), "admin")
CATEGORY = default_rulebook().volunteer_categories[0]
FACTS = 50


def fill(log: LedgerLog) -> None:
    """Fifty facts: a rule book, units and volunteers; every other command under a key, some with nothing to do."""
    now = START
    ledger = Ledger(log, digest=lambda body: hashlib.sha256(body).digest(), clock=lambda: now)
    ledger.handle(c.PublishRuleBook(version=1, effective_on=START.date(), book=default_rulebook()), ADMIN)
    ledger.handle(
        c.EstablishUnit(kind="centre", name="甘谷县“文明”中心", division_code="620523"), ADMIN, key="centre"
    )
    centre = ids.unit_id(LEDGER_ID, "centre", None)
    number = 0
    while (size := log.head().size) < FACTS:
        number += 1
        now += timedelta(minutes=7)
        key = f"step-{number}" if number % 2 else None
        if number % 5 == 0 or size == FACTS - 1:
            rename = c.RenameUnit(unit_id=centre, name=f"中心 {number // 10}")
            ledger.handle(rename, ADMIN, key=key)
        else:
            ledger.handle(enrolment(number, centre, now), ADMIN, key=key)
    known = c.DeclareCategory(volunteer_id=uuid5(LEDGER_ID, "volunteer 3"), category=CATEGORY)
    ledger.handle(known, ADMIN, key="nothing to do")


def enrolment(number: int, unit_id: UUID, at: datetime) -> c.EnrolVolunteer:
    return c.EnrolVolunteer(
        volunteer_id=uuid5(LEDGER_ID, f"volunteer {number}"),
        volunteer_number=f"gg-{number:04d}",
        home_unit_id=unit_id,
        profile="s1.QUJD",
        consent_document="consent-2026",
        consented_at=at,
        categories=() if number % 3 else (CATEGORY,),
    )


def new_ledger(url: str) -> LedgerLog:
    log = LedgerLog.create(url, ledger_id=LEDGER_ID, kind="demo", created_at=START)
    fill(log)
    return log


def codes(report: Report) -> set[str]:
    return {defect.code for defect in report.defects}


def positions(report: Report) -> set[int | None]:
    return {defect.position for defect in report.defects}


class Tampered:
    """A filled ledger in a file, open for whoever owns the file; `restore` brings back what it was."""

    def __init__(self, path: Path) -> None:
        self.log = new_ledger(f"sqlite:///{path}")
        self.raw = sqlite3.connect(path, isolation_level=None)
        self.raw.execute("PRAGMA synchronous = OFF")
        self.raw.execute("PRAGMA ignore_check_constraints = ON")
        self.pristine = sqlite3.connect(":memory:")
        self.raw.backup(self.pristine)
        self.content = self.read()

    def close(self) -> None:
        self.log.close()
        self.raw.close()
        self.pristine.close()

    def restore(self) -> None:
        self.pristine.backup(self.raw)

    def read(self) -> list[Any]:
        """Every stored value with its storage class."""
        found: list[Any] = []
        for table in ("facts", "command_outcomes", "ledger_head", "ledger_identity"):
            names = [row[1] for row in self.raw.execute(f"PRAGMA table_info({table})")]
            values = ", ".join(f"typeof({name}), CAST({name} AS BLOB)" for name in names)
            found.append(self.raw.execute(f"SELECT {values} FROM {table} ORDER BY 2, 4").fetchall())
        return found

    def edit(self, *statements: str | tuple[str, Sequence[object]]) -> None:
        """Change the file past its guards, and leave the guards as they were."""
        self.raw.execute("BEGIN")
        for name in log_sqlite.GUARDS:
            self.raw.execute(f"DROP TRIGGER {name}")
        for statement in statements:
            self.raw.execute(*((statement,) if isinstance(statement, str) else statement))
        for name, body in log_sqlite.GUARDS.items():
            self.raw.execute(f"CREATE TRIGGER {name} {body}")
        self.raw.execute("COMMIT")

    def _define(self, table: str, old: str, new: str) -> None:
        self.raw.execute("PRAGMA writable_schema = ON")
        self.raw.execute(
            "UPDATE sqlite_master SET sql = replace(sql, ?, ?) WHERE name = ?", (old, new, table)
        )
        self.raw.execute("PRAGMA writable_schema = RESET")

    def set_null(self, position: int, column: str) -> None:
        """NULL where the table forbids it: the definition is lifted for one statement."""
        (created,) = self.raw.execute("SELECT sql FROM sqlite_master WHERE name = 'facts'").fetchone()
        self._define("facts", " NOT NULL", "")
        try:
            self.edit((f"UPDATE facts SET {column} = NULL WHERE position = ?", (position,)))
        finally:
            self.raw.execute("PRAGMA writable_schema = ON")
            self.raw.execute("UPDATE sqlite_master SET sql = ? WHERE name = 'facts'", (created,))
            self.raw.execute("PRAGMA writable_schema = RESET")


@pytest.fixture(scope="module")
def tampered_file(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tampered]:
    made = Tampered(tmp_path_factory.mktemp("audit") / "ledger.db")
    yield made
    made.close()


@pytest.fixture
def tampered(tampered_file: Tampered) -> Iterator[Tampered]:
    yield tampered_file
    tampered_file.restore()


# --- a sound log ---------------------------------------------------------------------------------


def test_a_sound_log_has_no_defect(database_url: str) -> None:
    log = new_ledger(database_url)
    told: list[tuple[int, int]] = []
    report = verify(log, lambda done, total: told.append((done, total)))
    root = log.head().frontier.root().hex()
    log.close()
    assert report.defects == ()
    assert report.ok
    assert report.size == FACTS
    assert report.root == root
    assert report.checks["outcomes"] > 10
    assert all(report.checks.values())
    assert told[-1] == (FACTS, FACTS)


def test_an_empty_log_has_no_defect(database_url: str) -> None:
    log = LedgerLog.create(database_url, ledger_id=LEDGER_ID, kind="demo", created_at=START)
    report = verify(log)
    log.close()
    assert report.defects == ()
    assert report.root == hashlib.sha256().hexdigest()


def test_a_report_can_be_kept_as_json(tampered: Tampered) -> None:
    tampered.edit("UPDATE facts SET topic = 'unit.moved' WHERE position = 7")
    report = verify(tampered.log)
    kept = json.loads(report.to_json())
    assert (kept["ok"], kept["size"], kept["root"]) == (False, FACTS, report.root)
    assert kept["defects"][0]["position"] == 7
    assert kept["defect_count"] == report.defect_count == len(report.defects)


def test_an_audit_sees_one_moment_while_others_write(database_url: str) -> None:
    log = LedgerLog.create(database_url, ledger_id=LEDGER_ID, kind="demo", created_at=START)
    stream = uuid5(LEDGER_ID, "stream")
    log.insert_events([renamed(stream, version) for version in range(1, 2_502)])

    def write(_done: int, _total: int) -> None:
        log.insert_events([renamed(stream, log.head().size + 1)])

    report = verify(log, write)
    size = log.head().size
    log.close()
    assert report.defects == ()
    assert report.size == 2_501
    assert size > report.size


def renamed(stream: UUID, version: int, name: str = "站") -> StoredEvent:
    fact = UnitRenamed(
        originator_id=stream,
        originator_version=version,
        happened_at=START,
        recorded_at=START,
        command_id=UUID(int=version),
        caller_id=ADMIN.person_id,
        name=name,
    )
    return StoredEvent(stream, version, fact.TOPIC, encode(fact))


def test_defects_beyond_a_hundred_are_counted(tampered: Tampered) -> None:
    tampered.edit("UPDATE facts SET state = 'x', topic = 'x', leaf_hash = x'00'")
    report = verify(tampered.log)
    assert len(report.defects) == audit.DEFECTS_KEPT
    assert report.defect_count > audit.DEFECTS_KEPT


# --- what needs no decoding ----------------------------------------------------------------------


@given(st.data())
def test_whatever_has_a_written_form_is_read_and_written_again_letter_for_letter(data: st.DataObject) -> None:
    topic, form = data.draw(st.sampled_from(sorted(audit.written_forms().items(), key=lambda item: item[0])))
    state = data.draw(st.from_regex(form, fullmatch=True))
    fact = decode(topic, UUID(int=1), 1, state.encode())
    assert encode(fact) == state.encode()


def test_few_and_rare_facts_have_no_written_form() -> None:
    decoded = {"rulebook.published", "issuer_key.registered", "certificate.issued", "certificate.printed"}
    assert set(EVENTS_BY_TOPIC) - set(audit.written_forms()) == decoded
    assert len(EVENT_TYPES) == len(audit.written_forms()) + len(decoded)


def test_states_of_real_facts_have_the_written_form(tampered: Tampered) -> None:
    forms = audit.written_forms()
    rows = [row for row in tampered.log.read() if row.topic in forms]
    assert len(rows) == FACTS - 1
    assert all(forms[row.topic].fullmatch(row.state.decode()) for row in rows)


# --- every byte ----------------------------------------------------------------------------------


def byte_edits(tampered: Tampered) -> Iterator[tuple[int, str, int]]:
    """(position, column, index of the byte) for every byte of every fact."""
    columns = ("stream_id", "version", "topic", "state", "leaf_hash")
    for column in columns:
        length = "8" if column == "version" else f"length(CAST({column} AS BLOB))"
        for position, size in tampered.raw.execute(f"SELECT position, {length} FROM facts").fetchall():
            yield from ((position, column, index) for index in range(size))


def change_byte(tampered: Tampered, position: int, column: str, index: int) -> None:
    stored = tampered.raw.execute(
        f"SELECT {'version' if column == 'version' else f'CAST({column} AS BLOB)'} FROM facts WHERE position = ?",
        (position,),
    ).fetchone()[0]
    changed = bytearray(stored.to_bytes(8, "big") if column == "version" else stored)
    changed[index] ^= 0x80 if column == "version" else 1 << (index % 8)
    value: object = int.from_bytes(changed, "big", signed=True) if column == "version" else bytes(changed)
    as_text = "CAST(? AS TEXT)" if column in ("stream_id", "topic", "state") else "?"
    tampered.edit((f"UPDATE facts SET {column} = {as_text} WHERE position = ?", (value, position)))


@pytest.mark.parametrize(
    "stride", [37, pytest.param(1, marks=[pytest.mark.slow, pytest.mark.timeout(3_600)])]
)
def test_any_changed_byte_of_a_fact_is_found_and_its_position_named(tampered: Tampered, stride: int) -> None:
    edits = list(byte_edits(tampered))[::stride]
    assert {column for _, column, _ in edits} == {"stream_id", "version", "topic", "state", "leaf_hash"}
    for position, column, index in edits:
        change_byte(tampered, position, column, index)
        report = verify(tampered.log)
        assert position in positions(report), (position, column, index)
        tampered.restore()


# --- head, outcomes, identity --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("edit", "code"),
    [
        ("UPDATE ledger_head SET size = 49", "HEAD_SIZE_WRONG"),
        ("UPDATE ledger_head SET size = -1", "COLUMN_MALFORMED"),
        ("UPDATE ledger_head SET size = 'many'", "COLUMN_MALFORMED"),
        ("UPDATE ledger_head SET single = 2", "COLUMN_MALFORMED"),
        ("UPDATE ledger_head SET frontier = x''", "COLUMN_MALFORMED"),
        ("UPDATE ledger_head SET frontier = zeroblob(96)", "HEAD_FRONTIER_WRONG"),
        ("UPDATE ledger_head SET frontier = CAST(frontier AS TEXT)", "COLUMN_MALFORMED"),
        ("UPDATE ledger_head SET recorded_at = '2026-03-02T01:00:00.000000Z'", "HEAD_RECORDED_AT_WRONG"),
        ("UPDATE ledger_head SET recorded_at = 'yesterday'", "COLUMN_MALFORMED"),
        ("DELETE FROM ledger_head", "HEAD_MISSING"),
        ("INSERT INTO ledger_head SELECT 2, size, frontier, recorded_at FROM ledger_head", "HEAD_MISSING"),
        ("UPDATE ledger_identity SET ledger_id = upper(ledger_id)", "IDENTITY_CHANGED"),
        ("UPDATE ledger_identity SET ledger_id = CAST(x'ff' AS TEXT)", "IDENTITY_CHANGED"),
        ("UPDATE ledger_identity SET kind = 'production'", "IDENTITY_CHANGED"),
        ("UPDATE ledger_identity SET schema_version = 2", "IDENTITY_CHANGED"),
        ("UPDATE ledger_identity SET created_at = '2026-03-02T01:00:00Z'", "IDENTITY_CHANGED"),
        ("UPDATE ledger_identity SET single = 0", "IDENTITY_CHANGED"),
        ("DELETE FROM ledger_identity", "IDENTITY_MISSING"),
        ("UPDATE command_outcomes SET digest = x'00' WHERE command_key = 'centre'", "COLUMN_MALFORMED"),
        ("UPDATE command_outcomes SET digest = CAST(digest AS TEXT)", "COLUMN_MALFORMED"),
        ("UPDATE command_outcomes SET person_id = upper(person_id)", "COLUMN_MALFORMED"),
        ("UPDATE command_outcomes SET command_key = CAST(x'ff' AS TEXT) WHERE rowid = 1", "COLUMN_MALFORMED"),
        ("UPDATE command_outcomes SET first_position = 'one' WHERE rowid = 1", "COLUMN_MALFORMED"),
        ("UPDATE command_outcomes SET last_position = 0 WHERE command_key = 'centre'", "COLUMN_MALFORMED"),
        ("UPDATE command_outcomes SET last_position = 3 WHERE command_key = 'centre'", "OUTCOME_RANGE_WRONG"),
        ("UPDATE command_outcomes SET last_position = 1 WHERE command_key = 'centre'", "OUTCOME_MISSING"),
        ("UPDATE command_outcomes SET last_position = 5 WHERE command_key = 'centre'", "OUTCOMES_OVERLAP"),
        (
            "UPDATE command_outcomes SET first_position = 1 WHERE command_key = 'centre'",
            "OUTCOME_RANGE_WRONG",
        ),
        (
            "UPDATE command_outcomes SET first_position = 52, last_position = 51"
            " WHERE command_key = 'nothing to do'",
            "OUTCOME_RANGE_WRONG",
        ),
        (
            "UPDATE command_outcomes SET command_key = 'other' WHERE command_key = 'centre'",
            "OUTCOME_COMMAND_WRONG",
        ),
        (
            "UPDATE command_outcomes SET command_id = '00000000-0000-5000-8000-000000000000'"
            " WHERE command_key = 'centre'",
            "OUTCOME_COMMAND_WRONG",
        ),
        (
            "UPDATE command_outcomes SET person_id = '00000000-0000-5000-8000-000000000000'"
            " WHERE command_key = 'centre'",
            "OUTCOME_PERSON_WRONG",
        ),
        ("DELETE FROM command_outcomes WHERE command_key = 'centre'", "OUTCOME_MISSING"),
    ],
)
def test_an_edit_of_head_identity_or_outcomes_is_found(tampered: Tampered, edit: str, code: str) -> None:
    tampered.edit(edit)
    assert code in codes(verify(tampered.log))


def test_any_changed_byte_of_the_head_is_found(tampered: Tampered) -> None:
    (frontier,) = tampered.raw.execute("SELECT frontier FROM ledger_head").fetchone()
    for index in range(len(frontier)):
        changed = bytearray(frontier)
        changed[index] ^= 1 << (index % 8)
        tampered.edit(("UPDATE ledger_head SET frontier = ?", (bytes(changed),)))
        assert codes(verify(tampered.log)) == {"HEAD_FRONTIER_WRONG"}
        tampered.restore()


# --- rows moved, dropped, doubled, emptied -------------------------------------------------------

COLUMNS = ("stream_id", "version", "topic", "state", "leaf_hash")
GARBAGE = (b"", b"\xff\xfe", "x", "null", "{}", "[" * 3_000, "9" * 400, -1, 0, 2**62, 1.5, float("inf"))
A_POSITION = st.integers(1, FACTS)
EDITS = st.one_of(
    st.tuples(st.just("delete"), A_POSITION),
    st.tuples(st.just("swap"), A_POSITION, A_POSITION),
    st.tuples(st.just("truncate"), A_POSITION),
    st.tuples(st.just("double"), A_POSITION),
    st.tuples(st.just("null"), A_POSITION, st.sampled_from(COLUMNS)),
    st.tuples(st.just("put"), A_POSITION, st.sampled_from(COLUMNS), st.sampled_from(GARBAGE)),
)


def apply(tampered: Tampered, edit: tuple[Any, ...]) -> None:
    match edit:
        case ("delete", position):
            tampered.edit(("DELETE FROM facts WHERE position = ?", (position,)))
        case ("swap", one, other):
            swap = "UPDATE facts SET position = ? WHERE position = ?"
            tampered.edit((swap, (-1, one)), (swap, (one, other)), (swap, (other, -1)))
        case ("truncate", position):
            tampered.edit(("DELETE FROM facts WHERE position > ?", (position - 1,)))
        case ("double", position):
            tampered.edit(
                (
                    "INSERT OR IGNORE INTO facts SELECT (SELECT max(position) + 1 FROM facts), stream_id,"
                    " (SELECT 1000 + max(position) FROM facts), topic, state, leaf_hash FROM facts WHERE position = ?",
                    (position,),
                )
            )
        case ("null", position, column):
            tampered.set_null(position, column)
        case ("put", position, column, value):
            tampered.edit((f"UPDATE OR IGNORE facts SET {column} = ? WHERE position = ?", (value, position)))


@given(edits=st.lists(EDITS, min_size=1, max_size=3))
def test_whatever_is_done_to_the_rows_is_found(tampered_file: Tampered, edits: list[tuple[Any, ...]]) -> None:
    try:
        for edit in edits:
            apply(tampered_file, edit)
        changed = tampered_file.read() != tampered_file.content
        assert verify(tampered_file.log).ok is not changed
    finally:
        tampered_file.restore()


@pytest.mark.parametrize(
    ("edit", "code", "position"),
    [
        (("delete", 20), "POSITIONS_MISSING", 20),
        (("truncate", 41), "HEAD_SIZE_WRONG", 41),
        (("double", 20), "HEAD_SIZE_WRONG", 51),
        (("double", 20), "VERSION_WRONG", 51),
        (("swap", 11, 12), "RECORDED_BACKWARDS", 12),
        (("null", 30, "state"), "COLUMN_MALFORMED", 30),
        (("put", 30, "topic", b"unit.renamed"), "COLUMN_MALFORMED", 30),
        (("put", 30, "topic", "unit.abolished"), "TOPIC_UNKNOWN", 30),
        (("put", 30, "state", "9" * 400), "STATE_UNREADABLE", 30),
        (("put", 30, "version", 1.5), "COLUMN_MALFORMED", 30),
    ],
)
def test_a_defect_names_its_kind_and_position(
    tampered: Tampered, edit: tuple[Any, ...], code: str, position: int
) -> None:
    apply(tampered, edit)
    defects = verify(tampered.log).defects
    assert (position, code) in {(defect.position, defect.code) for defect in defects}
    assert 19 not in {defect.position for defect in defects}  # a sound neighbour
    assert all("{" not in defect.zh + defect.en for defect in defects)


# --- a rewrite that fits itself ------------------------------------------------------------------


def rewrite(tampered: Tampered, position: int, changes: dict[str, object]) -> None:
    """Another state with the leaf hash that fits it; the head stays."""
    (row,) = tampered.log.read(position, position)
    state = orjson.dumps({**orjson.loads(row.state), **changes}, option=orjson.OPT_SORT_KEYS)
    leaf = leaf_hash(row.stream_id.bytes, row.version, row.topic.encode(), state)
    tampered.edit(
        ("UPDATE facts SET state = ?, leaf_hash = ? WHERE position = ?", (state.decode(), leaf, position))
    )


@pytest.mark.parametrize(("position", "first", "last"), [(3, 1, 32), (40, 33, 48), (50, 49, 50)])
def test_a_fact_rewritten_with_its_leaf_does_not_fit_the_head(
    tampered: Tampered, position: int, first: int, last: int
) -> None:
    rewrite(tampered, position, {"happened_at": "2026-01-01T00:00:00.000000Z"})
    (defect,) = verify(tampered.log).defects
    assert (defect.position, defect.code) == (first, "HEAD_FRONTIER_WRONG")
    assert f"{first} to {last}" in defect.en


@pytest.mark.parametrize(
    "changes",
    [
        {"relayed": "true"},
        {"profile": "s1."},
        {"profile": "a name in clear"},
        {"consented_at": "2026-02-30T00:00:00.000000Z"},
        {"consented_at": "2026-03-02T09:00:00.000000+08:00"},
        {"command_id": "00000000-0000-4000-8000-00000000000A"},
        {"class_version": 2},
        {"class_version": 0},
        {"caller_id": None},
        {"originator_version": 3},
        {"recorded_at": 1772413200},
        {"surprise": 2**60},
    ],
)
def test_a_rewritten_value_that_no_fact_may_have_is_found_even_with_its_leaf(
    tampered: Tampered, changes: dict[str, object]
) -> None:
    rewrite(tampered, 3, changes)
    found = {(d.position, d.code) for d in verify(tampered.log).defects}
    assert (3, "STATE_UNREADABLE") in found


def test_a_rewrite_of_everything_shows_only_against_an_earlier_root(tampered: Tampered) -> None:
    """The limit that signed checkpoints are for."""
    before = verify(tampered.log).root
    rewrite(tampered, 3, {"happened_at": "2026-01-01T00:00:00.000000Z"})
    frontier = Frontier()
    for row in tampered.log.read():
        frontier.append(row.leaf_hash)
    tampered.edit(("UPDATE ledger_head SET frontier = ?", (frontier.to_bytes(),)))
    report = verify(tampered.log)
    assert report.ok
    assert report.root != before


# --- guards and tables ---------------------------------------------------------------------------


@pytest.mark.parametrize("guard", sorted(log_sqlite.GUARDS))
def test_a_missing_or_changed_trigger_is_found(tampered: Tampered, guard: str) -> None:
    tampered.raw.execute(f"DROP TRIGGER {guard}")
    (defect,) = verify(tampered.log).defects
    assert defect.code == "GUARD_MISSING"
    assert guard in defect.en
    tampered.raw.execute(f"CREATE TRIGGER {guard} BEFORE UPDATE ON facts BEGIN SELECT 1; END")
    assert codes(verify(tampered.log)) == {"GUARD_CHANGED"}


@pytest.mark.parametrize(
    ("edit", "code"),
    [
        ("CREATE TRIGGER helper BEFORE INSERT ON FACTS BEGIN SELECT 1; END", "GUARD_UNKNOWN"),
        ("DROP TABLE facts", "TABLE_MISSING"),
        ("DROP TABLE ledger_head", "TABLE_MISSING"),
        ("DROP TABLE ledger_identity", "TABLE_MISSING"),
        ("DROP TABLE command_outcomes", "TABLE_MISSING"),
        ("ALTER TABLE facts RENAME COLUMN state TO text", "TABLE_CHANGED"),
        ("ALTER TABLE facts ADD COLUMN note TEXT", "TABLE_CHANGED"),
    ],
)
def test_a_changed_table_is_found(tampered: Tampered, edit: str, code: str) -> None:
    tampered.raw.execute(edit)
    assert code in codes(verify(tampered.log))


def test_a_table_without_its_keys_and_with_doubled_positions_is_found(tampered: Tampered) -> None:
    tampered.raw.execute("CREATE TABLE copied AS SELECT * FROM facts")
    tampered.raw.execute("INSERT INTO copied SELECT * FROM facts WHERE position = 5")
    tampered.raw.execute(
        "INSERT INTO copied SELECT 'first', stream_id, 9, topic, state, leaf_hash FROM facts"
    )
    tampered.raw.execute("DROP TABLE facts")
    tampered.raw.execute("DROP TRIGGER head_grows")
    tampered.raw.execute("ALTER TABLE copied RENAME TO facts")
    report = verify(tampered.log)
    assert {"TABLE_CHANGED", "POSITION_WRONG", "GUARD_MISSING"} <= codes(report)
    assert {5, None} <= positions(report)


def test_torn_pages_become_defects_and_never_a_crash(sqlite_url: str) -> None:
    log = new_ledger(sqlite_url)
    path = Path(str(make_url(sqlite_url).database))
    with closing(sqlite3.connect(path)) as raw:
        raw.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        pages, size = (raw.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_count", "page_size"))
    whole = path.read_bytes()
    for page in range(1, pages):
        log.engine.dispose()
        path.write_bytes(
            whole[: page * size] + b"\x0d" + bytes(range(256)) * (size // 256) + whole[(page + 1) * size :]
        )
        assert verify(log).defects, page
    log.engine.dispose()
    path.write_bytes(whole)
    assert verify(log).ok
    log.close()


def test_a_held_database_is_busy_and_not_damaged(sqlite_url: str) -> None:
    new_ledger(sqlite_url).close()
    log = LedgerLog.open(sqlite_url, busy_seconds=0.1)
    log.engine.dispose()
    with closing(sqlite3.connect(str(make_url(sqlite_url).database), isolation_level=None)) as holder:
        holder.execute("PRAGMA locking_mode = EXCLUSIVE")
        holder.execute("BEGIN IMMEDIATE")
        holder.execute("CREATE TABLE held (x)")
        with pytest.raises(LedgerBusyError):
            verify(log)
        holder.execute("ROLLBACK")
    log.close()


@pytest.mark.parametrize(
    ("edit", "code", "position"),
    [
        ("ALTER TABLE facts DISABLE TRIGGER facts_keep", "GUARD_CHANGED", None),
        ("ALTER TABLE facts ENABLE TRIGGER facts_keep", "GUARD_CHANGED", None),
        ("DROP TRIGGER ledger_head_stay ON ledger_head", "GUARD_MISSING", None),
        ("CREATE RULE none_of_it AS ON INSERT TO facts DO INSTEAD NOTHING", "GUARD_CHANGED", None),
        ('GRANT DELETE ON facts TO "{app}"', "GUARD_CHANGED", None),
        ('ALTER ROLE "{app}" SUPERUSER', "GUARD_CHANGED", None),
        ('GRANT "{owner}" TO "{app}"', "GUARD_CHANGED", None),
        ("GRANT EXECUTE ON FUNCTION ledger_append TO PUBLIC", "GUARD_CHANGED", None),
        (
            "CREATE OR REPLACE FUNCTION ledger_refuse() RETURNS trigger LANGUAGE plpgsql"
            " AS $$BEGIN RETURN NULL; END$$",
            "GUARD_CHANGED",
            None,
        ),
        (
            "CREATE TRIGGER more BEFORE INSERT ON facts EXECUTE FUNCTION ledger_refuse()",
            "GUARD_UNKNOWN",
            None,
        ),
        ("ALTER TABLE facts DROP CONSTRAINT facts_stream_version", "TABLE_CHANGED", None),
        ("ALTER TABLE command_outcomes RENAME TO gone", "TABLE_MISSING", None),
        (
            "{past} UPDATE facts SET state = replace(state, 'gg-', 'xx-') WHERE position = 4",
            "LEAF_HASH_WRONG",
            4,
        ),
        ("{past} DELETE FROM facts WHERE position = 9", "POSITIONS_MISSING", 9),
        ("{past} UPDATE facts SET version = 7 WHERE position = 9", "VERSION_WRONG", 9),
        (
            "ALTER TABLE facts ALTER topic DROP NOT NULL;"
            " {past} UPDATE facts SET topic = NULL WHERE position = 9",
            "COLUMN_MALFORMED",
            9,
        ),
    ],
)
def test_on_postgresql_what_an_owner_changes_is_found(
    postgres_url: str, edit: str, code: str, position: int | None
) -> None:
    log = new_ledger(postgres_url)
    name = make_url(postgres_url).database
    roles = {"owner": f"{name}_ledger_owner", "app": f"{name}_ledger_app"}
    past = "ALTER TABLE facts DISABLE TRIGGER facts_keep;"
    with psycopg.connect(postgres_url.replace("+psycopg", ""), autocommit=True) as owner:
        owner.execute(edit.replace("{past}", past).format(**roles).encode())
    found = {(defect.position, defect.code) for defect in verify(log).defects}
    log.close()
    assert (position, code) in found
