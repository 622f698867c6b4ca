"""Whatever follows the log also archives it, in a process of its own that may end at any moment."""

import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from api import archiver
from api.app import create_app
from api.archiver import keeping_archive
from api.parts import create, opened
from api.settings import read_settings
from bench import facts
from ledger import archive as archiving
from ledger.archive import Archive
from ledger.log import LedgerLog
from projections import engine
from projections.figures import all_figures
from tests.cli import running

SEGMENT = 1_000
SOON = 120.0


@pytest.fixture
def log(sqlite_url: str) -> Iterator[LedgerLog]:
    made = LedgerLog.create(sqlite_url, ledger_id=facts.LEDGER_ID, kind="demo", created_at=facts.START)
    yield made
    made.close()


@pytest.fixture(autouse=True)
def looks_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archiver, "LOOK_SECONDS", 0.05)


def in_time(reached: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + SOON
    while not reached() and time.monotonic() < deadline:
        time.sleep(0.05)
    return reached()


def archived(place: Path) -> int:
    return len(list(place.glob(f"0*/{archiving.MANIFEST}")))


def grown(log: LedgerLog, count: int) -> None:
    """The log with the first ``count`` facts of an invented year."""
    log.insert_events(list(facts.stored_facts(4_000))[log.head().size : count])


@pytest.mark.slow  # about 9 s
def test_each_segment_is_archived_soon_after_it_is_whole(log: LedgerLog, tmp_path: Path) -> None:
    place = tmp_path / "archive"
    grown(log, 2_500)
    with (
        keeping_archive(log, place, SEGMENT),
        keeping_archive(log, place, SEGMENT),
    ):  # two followers, one writer
        assert in_time(lambda: archived(place) == 2)
        grown(log, 3_100)
        assert in_time(lambda: archived(place) == 3)
    assert archiving.check(log, place).wrong == ()
    assert archiving.check(log, place).facts == 3_000


def test_it_stops_with_what_follows_even_in_the_middle(log: LedgerLog, tmp_path: Path) -> None:
    fcntl = pytest.importorskip("fcntl", reason="locks of files are otherwise on Windows")
    place = tmp_path / "archive"
    place.mkdir()
    grown(log, SEGMENT)
    with (place / "archive.lock").open("wb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)  # the child waits for another writer, for ever
        with keeping_archive(log, place, SEGMENT):
            time.sleep(0.5)
            started = time.monotonic()
        assert time.monotonic() - started < 30
    assert archived(place) == 0
    assert [thread for thread in threading.enumerate() if thread.name == "archiver"] == []


@pytest.mark.slow
def test_one_that_fails_is_reported_and_not_tried_at_once(
    log: LedgerLog, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    grown(log, SEGMENT)
    with log.engine.begin() as connection:
        triggers = connection.exec_driver_sql("SELECT name FROM sqlite_master WHERE type = 'trigger'").all()
        for (name,) in triggers:
            connection.exec_driver_sql(f"DROP TRIGGER {name}")
        connection.exec_driver_sql("UPDATE facts SET version = 77 WHERE position = 5")
    with keeping_archive(log, tmp_path / "archive", SEGMENT):
        assert in_time(lambda: "wenming archive ended with 1: LEDGER_DAMAGED" in caplog.text)
        time.sleep(0.3)
    assert caplog.text.count("ended with") == 1


@pytest.mark.slow
def test_a_writer_killed_at_any_moment_leaves_nothing_that_is_read(
    log: LedgerLog, sqlite_url: str, tmp_path: Path
) -> None:
    grown(log, 4_000)
    place = tmp_path / "archive"
    command = ["archive", "--database", sqlite_url, "--directory", place, "--segment", 100]
    for seen in (1, 7):
        with running(tmp_path, *command) as process:
            assert in_time(lambda seen=seen: len(list(place.glob("0*"))) >= seen)  # type: ignore[misc]
            process.kill()
            process.wait()
        with_it, without = (
            engine.compute(log, all_figures(), 0, 4_000, archive=archive)
            for archive in (Archive(log, place), None)
        )
        for figure in all_figures():
            assert sorted(with_it.rows(figure), key=repr) == sorted(without.rows(figure), key=repr)
        with_it.close()
        without.close()
    archiving.write(log, place, 100)
    assert archiving.check(log, place).wrong == ()
    assert archiving.check(log, place).facts == 4_000


@pytest.mark.slow
def test_a_server_that_follows_archives_unless_the_settings_say_no(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archiving, "SEGMENT_POSITIONS", SEGMENT)
    for name, keeps in (("kept", True), ("not", False)):
        settings = read_settings(database=f"sqlite:///{tmp_path / name}.db", keep_archive=keeps)
        create(settings, kind="demo", ledger_id=facts.LEDGER_ID, created_at=facts.START)
        with opened(settings) as parts:
            grown(parts.log, SEGMENT)
            place = tmp_path / f"{name}.db.archive"
            with TestClient(create_app(parts)):
                assert not keeps or in_time(lambda place=place: archived(place) == 1)  # type: ignore[misc]
            assert archived(place) == int(keeps)


@pytest.mark.slow
def test_a_follower_of_its_own_archives_too(sqlite_url: str, tmp_path: Path) -> None:
    with running(tmp_path, "follow", "--database", sqlite_url) as process:
        assert process.wait(SOON) == 1  # there is no ledger yet
    log = LedgerLog.create(sqlite_url, ledger_id=facts.LEDGER_ID, kind="demo", created_at=facts.START)
    grown(log, SEGMENT)
    place = Path(f"{log.url.database}.archive")
    program = (
        "from ledger import archive; from api import archiver; from api.cli import main; import sys; "
        f"archive.SEGMENT_POSITIONS = {SEGMENT}; archiver.LOOK_SECONDS = 0.05; "
        f"sys.argv = ['wenming', 'follow', '--database', {sqlite_url!r}]; main()"
    )
    process = subprocess.Popen([sys.executable, "-c", program], stderr=subprocess.DEVNULL)
    try:
        assert in_time(lambda: archived(place) == 1)
        process.terminate()
        assert process.wait(SOON) == 0
    finally:
        process.kill()
        process.wait()
    log.close()
