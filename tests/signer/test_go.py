"""A stranger with Go's own sumdb packages checks a running server: every entry, every tile, and that it only grew."""

import os
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from api.parts import create
from api.settings import read_settings
from ledger.log import LedgerLog
from ledger.signing_keys import read_key_files
from tests.cli import ROOT, wenming
from tests.go import TILES, built
from tests.services import free_port
from tests.signer.conftest import START, Site, fact
from tests.signer.test_signer import wait_for

Check = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def go_check(tmp_path_factory: pytest.TempPathFactory) -> Check:
    """The built program; without Go or its packages the test fails in CI and is skipped, saying so, elsewhere."""
    program = built(TILES, tmp_path_factory.mktemp("go"))

    def check(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([program, "check", *arguments], capture_output=True, text=True, timeout=120)

    return check


@contextmanager
def served(folder: Path, url: str, key: Path, **settings: object) -> Iterator[str]:
    """`wenming serve` as a process of its own, which signs too; its address."""
    port = free_port()
    ours = {"PYTHONPATH": str(ROOT), "WENMING_SIGNING_KEY": str(key), "WENMING_PORT": str(port)}
    ours |= {f"WENMING_{name.upper()}": str(value) for name, value in settings.items()}
    kept = {name: value for name, value in os.environ.items() if not name.startswith("WENMING_")}
    command = [sys.executable, "-m", "api.cli", "serve", "--database", url]
    with (folder / "output").open("w") as output:
        process = subprocess.Popen(command, cwd=folder, env=kept | ours, stdout=output, stderr=output)
        try:
            yield f"http://127.0.0.1:{port}"
        finally:
            process.kill()
            process.wait()


def signed_size(address: str) -> int:
    """The size of the newest checkpoint; 0 while there is none, or no server yet."""
    try:
        with urllib.request.urlopen(f"{address}/log/checkpoint", timeout=5) as answer:
            return int(answer.read().split(b"\n")[1])
    except (urllib.error.URLError, ConnectionError):
        return 0


@pytest.mark.slow  # about 17 s where Go builds its library first
def test_go_checks_every_entry_and_that_the_log_only_grew(
    go_check: Check, sqlite_url: str, tmp_path: Path
) -> None:
    key = tmp_path / "log.key"
    create(read_settings(database=sqlite_url), created_at=START)
    assert wenming("key", "new", "--name", "ledger.example/gangu", key).code == 0
    vkey = read_key_files([key])[0].verifier_key.to_text()
    log = LedgerLog.open(sqlite_url)
    with served(tmp_path, sqlite_url, key) as address:
        older: list[str] = []
        for size in (3, 256, 300, 700):
            grow(log, size)
            wait_for(lambda: signed_size(address) == size, 60)  # noqa: B023
            done = go_check(address, vkey, *older)
            assert done.returncode == 0, done.stderr
            found, root, entries = done.stdout.split()
            assert int(found) == int(entries) == size
            older = [found, root]
        wrong = go_check(address, vkey, "300", older[1])
        assert wrong.returncode == 1
        assert go_check(address, vkey[:-4] + "AAA=").returncode == 1
    log.close()
    assert wenming("verify", "--database", sqlite_url, "--no-figures", "--vkey", vkey).code == 0


def grow(log: LedgerLog, size: int) -> None:
    log.insert_events([fact(number) for number in range(log.head().size, size)])


@pytest.mark.slow
def test_go_refuses_a_fact_that_was_rewritten_under_its_tiles(
    go_check: Check, sqlite_url: str, tmp_path: Path
) -> None:
    create(read_settings(database=sqlite_url), created_at=START)
    key = tmp_path / "log.key"
    wenming("key", "new", "--name", "ledger.example/gangu", key)
    vkey = read_key_files([key])[0].verifier_key.to_text()
    site = Site.__new__(Site)
    site.url, site.log = sqlite_url, LedgerLog.open(sqlite_url)
    grow(site.log, 20)
    assert wenming("sign", "--once", "--database", sqlite_url, "--key", key).code == 0
    site.edit(site.write_fact(7, fact(6, "另一个站")))
    with served(tmp_path, sqlite_url, key) as address:
        wait_for(lambda: signed_size(address) == 20, 60)
        done = go_check(address, vkey)
        assert done.returncode == 1
        assert "entry 6" in done.stderr
    site.log.close()
