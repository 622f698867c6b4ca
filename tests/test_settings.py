"""Passwords come from files where somebody else may see the environment, and are never repeated."""

import os
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from sqlalchemy.engine import make_url

from api.settings import read_settings
from ledger.errors import Refusal
from tests import services
from tests.cli import wenming

PASSWORD = "t1g:e/r@\\ %40'"
"""Every character that means something in a URL, a pgpass file or SQL."""


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("WENMING_")]:
        monkeypatch.delenv(name)


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    """As Docker lays it into a container: its owner is somebody else, and everybody may read it."""
    file = tmp_path / "password"
    file.write_text(f"{PASSWORD}\n")
    file.chmod(0o644)
    return file


def test_the_password_of_a_database_is_read_from_its_file(secret: Path) -> None:
    settings = read_settings(
        database="postgresql://clerk@h/x",
        database_password_file=secret,
        keys="postgresql://clerk@h/y",
        keys_password_file=secret,
        master_key_file="m",
    )
    assert [make_url(url).password for url in (settings.database, settings.keys)] == [PASSWORD, PASSWORD]
    assert PASSWORD not in str(settings.shown())
    assert settings.shown()["database"] == "postgresql://clerk:***@h/x"


def test_settings_read_again_from_their_own_address_stay_the_same(secret: Path) -> None:
    given = {"keys": "sqlite:///k.db", "database_password_file": secret}
    once = read_settings(database="postgresql://clerk@h/x", **given)
    assert read_settings(database=once.database, **given).database == once.database


def test_a_password_in_the_address_is_taken_before_that_in_the_file(secret: Path) -> None:
    settings = read_settings(
        database="postgresql://clerk:own@h/x", keys="sqlite:///k.db", database_password_file=secret
    )
    assert make_url(settings.database).password == "own"


def test_a_ledger_on_sqlite_needs_no_password_and_reads_none(tmp_path: Path) -> None:
    settings = read_settings(database="sqlite:///a.db", database_password_file=tmp_path / "missing")
    assert settings.database == "sqlite:///a.db"


@pytest.mark.parametrize("content", [None, b"", b"\n", b"tiger\nlion\n", b"tiger \xff"])
def test_a_file_without_one_password_is_refused_and_not_repeated(
    content: bytes | None, tmp_path: Path
) -> None:
    file = tmp_path / "password"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(Refusal) as wrong:
        read_settings(database="postgresql://clerk@h/x", keys="sqlite:///k.db", database_password_file=file)
    assert wrong.value.code == "INVALID_REQUEST"
    assert f"database_password_file: {file}" in str(wrong.value)
    assert "tiger" not in str(wrong.value)


@pytest.fixture
def guarded_server() -> Iterator[str]:
    """A server that asks `clerk` for the password; as everywhere, missing is a failure in CI and a skip elsewhere."""
    try:
        with services.private_server() as server:
            rules = server.data / "pg_hba.conf"
            rules.write_text(f"host all clerk 127.0.0.1/32 scram-sha-256\n{rules.read_text()}")
            with psycopg.connect(server.address, autocommit=True) as connection:
                quoted = PASSWORD.replace("'", "''")
                connection.execute(f"CREATE ROLE clerk SUPERUSER LOGIN PASSWORD '{quoted}'".encode())
                connection.execute("SELECT pg_reload_conf()")
            yield server.address.replace("postgres@", "clerk@")
    except services.ServiceMissingError as missing:
        if services.required():
            pytest.fail(f"PostgreSQL is required here: {missing}")
        pytest.skip(f"PostgreSQL: {missing}")


def test_a_server_that_asks_for_a_password_gets_the_one_in_the_file(
    guarded_server: str, secret: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WENMING_DATABASE", guarded_server)
    monkeypatch.setenv("WENMING_KEYS", f"sqlite:///{tmp_path}/keys.db")
    without = wenming("init")
    assert (without.code, without.out) == (1, "")
    monkeypatch.setenv("WENMING_DATABASE_PASSWORD_FILE", str(secret))
    made = wenming("init")
    assert (made.code, made.err) == (0, "")
    assert PASSWORD not in made.out
    assert "✓ no defect" in wenming("verify").out
    assert wenming("follow", "--once").err == "figures at position 1\n"
