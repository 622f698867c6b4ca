"""Bits are flipped, ends cut off, rows swapped and old backups put back: every change of content is told by somebody.

By `verify` with the log's key, by the signer, or by a database that no longer opens. What changed no content (free
pages, padding, counters) is told apart by comparing all tables, value by value, with those of the sound ledger.
"""

import shutil
import sqlite3
import traceback
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import pytest
from sqlalchemy.exc import DBAPIError

from ledger import audit, log_sqlite
from ledger.errors import LedgerError, SignerHaltedError
from ledger.log import LedgerLog
from ledger.signer import Signer
from projections import follower, replay
from tests.county import County
from tests.faults import chances, times
from tests.faults.hands import BEGAN, KEY, ORIGIN, ledger_at, volunteer_command

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1_800)]

VOLUNTEERS, SIGNINGS = 40, 20
UNHASHED = {("command_outcomes", "digest"), ("checkpoints", "signed_at")}
"""What nothing is hashed of, as `ledger.audit` says: no fact and no figure follows from it."""
NOTES = {("figure_positions", "updated_at")}
"""When a follower last moved: overwritten all the time."""


@dataclass
class Signed:
    """A signed ledger with its figures, as files; and older backups of it, one for each signing."""

    folder: Path
    content: dict[str, list[tuple[Any, ...]]] = field(default_factory=dict)
    backups: list[Path] = field(default_factory=list)

    @property
    def database(self) -> Path:
        return self.folder / "ledger.db"


@pytest.fixture(scope="module")
def signed(tmp_path_factory: pytest.TempPathFactory) -> Signed:
    made = Signed(tmp_path_factory.mktemp("signed"))
    county = County(f"sqlite:///{made.database}")
    county.now = BEGAN
    for number in range(VOLUNTEERS * 3):
        key, command, caller = volunteer_command(number)
        county.do(command, caller, key=key)
        if number % (VOLUNTEERS * 3 // SIGNINGS) == 5:
            with Signer(county.log, made.folder / "signer.json", [KEY], ORIGIN) as signer:
                signer.sign_once()
            made.backups.append(backup_of(made, f"backup-{len(made.backups)}"))
    follower.catch_up(county.log)
    county.do(*volunteer_command(VOLUNTEERS * 3)[1:], key="the last one")
    with Signer(county.log, made.folder / "signer.json", [KEY], ORIGIN) as signer:
        signer.sign_once()
    follower.catch_up(county.log)
    county.close()
    emptied_wal(made.database)
    made.content = content_of(made.database)
    assert judged(made.database, made) == "nothing that matters"
    print(f"\n{made.database.stat().st_size} bytes, {len(made.content['facts'])} facts")
    return made


def backup_of(made: Signed, name: str) -> Path:
    """A copy as SQLite's own backup makes it, of a ledger that is in use."""
    copy = made.folder / name
    with closing(sqlite3.connect(made.database)) as source, closing(sqlite3.connect(copy)) as target:
        source.backup(target)
    return copy


def emptied_wal(file: Path) -> None:
    with closing(sqlite3.connect(file)) as raw:
        raw.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def content_of(file: Path) -> dict[str, list[tuple[Any, ...]]]:
    """Every value of every table with its type, in an order of its own; and what the tables are."""
    found: dict[str, list[tuple[Any, ...]]] = {}
    with closing(sqlite3.connect(file)) as raw:
        raw.text_factory = bytes
        found["what there is"] = sorted(raw.execute("SELECT type, name, tbl_name, sql FROM sqlite_master"))
        for kind, name, _, _ in found["what there is"]:
            if kind == b"table":
                rows = raw.execute(f'SELECT * FROM "{name.decode()}"').fetchall()
                found[name.decode()] = sorted(rows, key=repr)
    return found


def judged(file: Path, signed: Signed) -> str:
    """Who tells that the ledger in ``file`` is not the one that was signed; "nothing that matters" if it is.

    Whatever is wrong with a file, it is told in our own words: anything else is a crash.
    """
    try:
        return _judged(file, signed)
    except Exception as crash:
        frames = traceback.extract_tb(crash.__traceback__)
        ours = [f"{Path(f.filename).name}:{f.name}" for f in frames if ".venv" not in f.filename]
        return f"CRASH: {type(crash).__name__} {str(crash)[:150]} at {ours[-3:]}"
    finally:
        for beside in file.parent.glob(f"{file.name}-*"):
            beside.unlink()


def _judged(file: Path, signed: Signed) -> str:
    state = file.with_name("judging.json")
    shutil.copy(signed.folder / "signer.json", state)
    try:
        log = LedgerLog.open(f"sqlite:///{file}")
    except (LedgerError, DBAPIError):
        return "does not open"
    try:
        report = audit.verify(log, log_keys=[KEY.verifier_key])
        if not report.ok:
            return "verify"
        if (
            "checkpoints of keys not given" in report.checks
        ):  # the line of a first checkpoint's signature is another's
            return "verify, as what somebody else signed"
        with suppress(UnicodeDecodeError):  # the name of a column is torn
            if content_of(file) == signed.content:
                return "nothing that matters"
        if any(replay.verify_against_live(log).values()):
            return "verify, by the figures"
        with Signer(log, state, [KEY], ORIGIN) as signer:
            signer.check_past()
            signer.sign_once()
        return told_by_nobody(file, signed)
    except SignerHaltedError as halted:
        return f"signer: {halted.details['reason']}"
    except (LedgerError, DBAPIError):
        return "cannot be read"
    finally:
        log.close()


def told_by_nobody(file: Path, signed: Signed) -> str:
    """What changed, once the signer and the follower have made good what follows from the facts."""
    wrong = set()
    try:
        now = content_of(file)
    except UnicodeDecodeError:
        return "only the wording of a table whose columns, keys and guards verify found as they were"
    for table, rows in signed.content.items():
        if now.get(table) != rows:
            wrong.add(table)
    if not wrong:
        return "mended by the signer or the follower"
    changed = {column for table in wrong for column in changed_columns(file, table, signed.content[table])}
    if changed <= NOTES:
        return "mended by the signer or the follower"
    if wrong == {"what there is"}:
        return "only the wording of a table whose columns, keys and guards verify found as they were"
    return "only what nothing is hashed of" if changed <= UNHASHED | NOTES else f"NOBODY: {sorted(changed)}"


def changed_columns(file: Path, table: str, before: list[tuple[Any, ...]]) -> Iterator[tuple[str, str]]:
    if table == "what there is":
        return
    with closing(sqlite3.connect(file)) as raw:
        raw.text_factory = bytes
        cursor = raw.execute(f'SELECT * FROM "{table}"')
        names = [column[0] for column in cursor.description]
        rows = sorted(cursor.fetchall(), key=repr)
    if len(rows) != len(before):
        yield table, "rows"
    for one, other in zip(rows, before, strict=False):
        yield from ((table, name) for name, a, b in zip(names, one, other, strict=True) if a != b)


def tally(verdicts: Counter[str], least: float) -> None:
    """Nothing passed; and enough of it hit something, for the test to mean anything."""
    print(", ".join(f"{count} {verdict}" for verdict, count in verdicts.most_common()))
    assert not [verdict for verdict in verdicts if verdict.startswith(("NOBODY", "CRASH"))]
    harmless = verdicts["nothing that matters"] + verdicts["mended by the signer or the follower"]
    assert harmless <= (1 - least) * verdicts.total()


# --- bits ------------------------------------------------------------------------------------------------------------


def test_every_flipped_bit_of_content_is_told(signed: Signed, tmp_path: Path) -> None:
    random, verdicts = chances("bit flips"), Counter[str]()
    sound, file = signed.database.read_bytes(), tmp_path / "flipped.db"
    for _ in range(times(2_000)):
        data = bytearray(sound)
        data[random.randrange(len(data))] ^= 1 << random.randrange(8)
        file.write_bytes(data)
        verdicts[judged(file, signed)] += 1
    tally(verdicts, 0.4)  # about half of the pages of a small file with many tables hold nothing


# --- ends ------------------------------------------------------------------------------------------------------------


def test_every_cut_off_end_is_told(signed: Signed, tmp_path: Path) -> None:
    random, verdicts = chances("truncations"), Counter[str]()
    sound, file = signed.database.read_bytes(), tmp_path / "cut.db"
    for number in range(times(200) // 2):
        cut = random.randrange(len(sound))
        file.write_bytes(sound[: cut - cut % 4096 if number % 2 else cut])
        verdicts[judged(file, signed)] += 1
    tally(verdicts, 0.95)


def test_a_write_ahead_log_that_was_cut_off_is_told_or_made_good(signed: Signed, tmp_path: Path) -> None:
    """The newest facts lie in it alone; cut after them, what is lost follows from the facts and comes again."""
    random, verdicts = chances("truncations of the WAL"), Counter[str]()
    base, file = grown_in_wal(signed, tmp_path), tmp_path / "cut.db"
    wal = (base.database.with_name("ledger.db-wal")).read_bytes()
    for _ in range(times(200) // 2):
        shutil.copy(base.database, file)
        file.with_name("cut.db-wal").write_bytes(wal[: random.randrange(len(wal))])
        verdicts[judged(file, base)] += 1
    assert verdicts["signer: DATABASE_OLDER"] > 0
    tally(verdicts, 0.5)


def grown_in_wal(signed: Signed, folder: Path) -> Signed:
    """A copy that grew and was signed since its file was last written whole; as a crash leaves it."""
    live, grown = folder / "live", folder / "grown"
    live.mkdir()
    for name in ("ledger.db", "signer.json"):
        shutil.copy(signed.folder / name, live / name)
    log = LedgerLog.open(f"sqlite:///{live / 'ledger.db'}")
    holding = sqlite3.connect(live / "ledger.db")
    holding.execute("BEGIN")
    holding.execute("SELECT size FROM ledger_head").fetchall()  # no page moves into the file while this reads
    log.close()
    ledger = ledger_at(f"sqlite:///{live / 'ledger.db'}", began=0)
    ledger.clock = lambda: BEGAN
    for number in range(VOLUNTEERS * 3 + 1, VOLUNTEERS * 3 + 31):
        key, command, caller = volunteer_command(number)
        ledger.handle(command, caller, key=key)
    with Signer(ledger.ledger_log, live / "signer.json", [KEY], ORIGIN) as signer:
        signer.sign_once()
    follower.catch_up(ledger.ledger_log)
    shutil.copytree(live, grown)
    for beside in grown.glob("*-shm"):
        beside.unlink()
    made = Signed(grown, content_of(live / "ledger.db"))
    holding.close()
    ledger.ledger_log.close()
    return made


# --- rows ------------------------------------------------------------------------------------------------------------

SWAPPED = {
    "facts": ("position", ["stream_id", "version", "topic", "state", "leaf_hash"]),
    "command_outcomes": ("rowid", ["command_key", "command_id", "first_position", "last_position"]),
    "tree_tiles": ("rowid", ["data"]),
    "checkpoints": ("rowid", ["root", "signed_at", "note"]),
}


def test_every_swap_of_rows_is_told(signed: Signed, tmp_path: Path) -> None:
    random, verdicts, file = chances("swapped rows"), Counter[str](), tmp_path / "swapped.db"
    for number in range(times(200)):
        shutil.copy(signed.database, file)
        table = "facts" if number % 2 else random.choice([*SWAPPED][1:])
        key, columns = SWAPPED[table]
        some = columns if random.random() < 0.5 else random.sample(columns, random.randint(1, len(columns)))
        swap(file, table, key, some, random)
        verdicts[judged(file, signed)] += 1
    tally(verdicts, 0.5)


def swap(file: Path, table: str, key: str, columns: list[str], random: Random) -> None:
    """Two rows change places, or some of their columns do; the guards are there again afterwards."""
    with closing(sqlite3.connect(file, isolation_level=None)) as raw:
        keys = [row[0] for row in raw.execute(f"SELECT {key} FROM {table}")]
        if len(keys) < 2:
            return
        one, other = random.sample(keys, 2)
        names = ", ".join(columns)
        rows = {
            k: raw.execute(f"SELECT {names} FROM {table} WHERE {key} = ?", (k,)).fetchone()
            for k in (one, other)
        }
        raw.execute("BEGIN")
        for name in log_sqlite.GUARDS:
            raw.execute(f"DROP TRIGGER {name}")
        aside = [f"aside {n}" if isinstance(v, str) else -n - 1 for n, v in enumerate(rows[one])]
        put = f"UPDATE {table} SET {', '.join(f'{c} = ?' for c in columns)} WHERE {key} = ?"
        raw.execute("PRAGMA ignore_check_constraints = ON")
        try:
            raw.execute(put, (*aside, one))
            raw.execute(put, (*rows[one], other))
            raw.execute(put, (*rows[other], one))
        except sqlite3.IntegrityError:  # the table itself refuses: nothing is swapped
            raw.execute("ROLLBACK")
            return
        for name, body in log_sqlite.GUARDS.items():
            raw.execute(f"CREATE TRIGGER {name} {body}")
        raw.execute("COMMIT")
    emptied_wal(file)


# --- backups ---------------------------------------------------------------------------------------------------------


def test_the_signer_refuses_every_old_backup(signed: Signed, tmp_path: Path) -> None:
    assert len(signed.backups) == SIGNINGS
    for _ in range(times(1)):
        for backup in signed.backups:
            file = tmp_path / backup.name
            shutil.copy(backup, file)
            shutil.copy(signed.folder / "signer.json", tmp_path / "state.json")
            log = LedgerLog.open(f"sqlite:///{file}")
            assert audit.verify(log, log_keys=[KEY.verifier_key]).ok, "an old backup is sound in itself"
            with Signer(log, tmp_path / "state.json", [KEY], ORIGIN) as signer:
                with pytest.raises(SignerHaltedError) as halted:
                    signer.sign_once()
                assert halted.value.details["reason"] == "DATABASE_OLDER"
                with pytest.raises(SignerHaltedError):
                    signer.sign_once()
            log.close()
