"""A file that is not ours stays as it is; a crash while a ledger is made is mended by making it again."""

import sqlite3
from pathlib import Path

import pytest

from api import parts as wiring
from api.settings import Settings, read_settings
from ledger.errors import KeyStoreExistsError, LedgerError, NotAKeyStoreError, NotALedgerError
from ledger.log import LedgerLog
from ledger.sealing import KeyStore


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return read_settings(database=f"sqlite:///{tmp_path / 'ledger.db'}")


@pytest.fixture
def foreign(tmp_path: Path) -> Path:
    """Somebody else's database, in the journal mode SQLite has by default."""
    file = tmp_path / "theirs.db"
    connection = sqlite3.connect(file)
    connection.execute("CREATE TABLE letters (text TEXT)")
    connection.commit()
    connection.close()
    return file


def test_a_foreign_database_is_refused_and_not_one_byte_of_it_changes(foreign: Path) -> None:
    before = foreign.read_bytes()
    with pytest.raises(NotALedgerError):
        LedgerLog.open(f"sqlite:///{foreign}")
    with pytest.raises(NotAKeyStoreError):
        KeyStore.open(f"sqlite:///{foreign}", bytes(32))
    assert foreign.read_bytes() == before
    assert [f.name for f in foreign.parent.iterdir()] == [foreign.name]


def test_a_file_of_anything_is_refused_in_our_own_words(tmp_path: Path) -> None:
    file = tmp_path / "letter.txt"
    file.write_bytes(b"Dear volunteer, " * 400)
    with pytest.raises(LedgerError):
        LedgerLog.open(f"sqlite:///{file}")
    assert file.read_bytes() == b"Dear volunteer, " * 400


def test_a_file_whose_tables_are_torn_is_refused_in_our_own_words(settings: Settings) -> None:
    """SQLite repeats what it cannot read in its complaint, and Python cannot read that."""
    wiring.create(settings)
    for file, opens in (
        (settings.database, lambda: LedgerLog.open(settings.database)),
        (settings.keys, lambda: KeyStore.open(settings.keys, bytes(32))),
    ):
        with sqlite3.connect(file.removeprefix("sqlite:///")) as raw:
            raw.execute("PRAGMA writable_schema = ON")
            torn = "CAST(x'435245415445' || x'20ac' || substr(sql, 8) AS TEXT)"
            raw.execute(f"UPDATE sqlite_master SET sql = {torn} WHERE type = 'table'")
        raw.close()
        with pytest.raises(LedgerError) as refused:
            opens()
        assert refused.value.code in ("NOT_A_LEDGER", "KEY_STORE_DAMAGED")


def test_a_ledger_in_the_making_is_finished_by_making_it_again(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    def crash(*_: object, **__: object) -> None:
        raise RuntimeError("the power went off")

    monkeypatch.setattr(LedgerLog, "create", crash)
    with pytest.raises(RuntimeError):
        wiring.create(settings)
    monkeypatch.undo()
    wiring.create(settings)
    with wiring.opened(settings) as parts:
        assert parts.log.head().size == 0


def test_a_key_store_with_people_in_it_is_never_taken_for_a_new_ledger(settings: Settings) -> None:
    ledger_id = wiring.create(settings)
    with wiring.opened(settings) as parts:
        parts.keys.ensure_keys([ledger_id])
    for suffix in ("", "-wal", "-shm"):
        Path(settings.database.removeprefix("sqlite:///") + suffix).unlink(missing_ok=True)
    with pytest.raises(KeyStoreExistsError):
        wiring.create(settings)


def test_our_own_files_are_in_wal_mode(settings: Settings) -> None:
    wiring.create(settings)
    for url in (settings.database, settings.keys):
        connection = sqlite3.connect(url.removeprefix("sqlite:///"))
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        connection.close()
