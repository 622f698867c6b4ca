"""Every write and sync of a process may fail, for once or from then on, or be its last: no state left behind is wrong.

The system calls are made to fail by `strace`, in the real process: N is counted from its first touch of the files.
"""

import re
import shutil
import sqlite3
import subprocess
from collections import Counter
from contextlib import closing
from pathlib import Path

import pytest

from ledger.signer import Signer
from projections import follower
from tests import services
from tests.faults import Hand, chances, hands, times
from tests.faults.scene import Scene

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1_800)]

CALLS = "write,pwrite64,fsync,fdatasync,ftruncate"
A_CALL = re.compile(rf"\b(?:{CALLS.replace(',', '|')})\(")
VOLUNTEERS = 3
FAULTS = {
    "EIO once": "error=EIO:when={}",
    "EIO from then on": "error=EIO:when={}+",
    "ENOSPC once": "error=ENOSPC:when={}",
    "ENOSPC from then on": "error=ENOSPC:when={}+",
    "KILL": "signal=KILL:when={}",
}


@pytest.fixture(scope="module")
def strace() -> str:
    found = shutil.which("strace")
    if found is None or not traces(found):
        missing = "strace is not here, or may not trace"
        if services.required():
            pytest.fail(f"{missing} (install strace)")
        pytest.skip(missing)
    return found


def traces(strace: str) -> bool:
    done = subprocess.run([strace, "-e", "trace=none", "true"], capture_output=True)
    return done.returncode == 0


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Scene:
    """A small county, followed and signed, in one file."""
    folder = tmp_path_factory.mktemp("template")
    scene = Scene(f"sqlite:///{folder / 'ledger.db'}", folder)
    follower.catch_up(scene.log)
    with Signer(scene.log, scene.state, [hands.KEY], hands.ORIGIN) as signer:
        signer.sign_once()
    scene.close()
    with closing(sqlite3.connect(folder / "ledger.db")) as raw:
        raw.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return scene


def copied(template: Scene, folder: Path) -> Scene:
    folder.mkdir()
    for name in ("ledger.db", "signer.json"):
        shutil.copy(template.folder / name, folder / name)
    return Scene(f"sqlite:///{folder / 'ledger.db'}", folder, template.began)


def hurt(strace: str, scene: Scene, fault: str) -> tuple[list[tuple[str, object]], int, int]:
    """One process at work on a scene under a fault: what it told, how it ended, and how many calls strace saw."""
    scene.log.engine.dispose()  # whoever opens the file next is the first one, and recovers it
    hand = Hand(hands.work_once, scene.url, scene.began, scene.state, 0, VOLUNTEERS)
    pid = hand.hear()
    paths = [
        scene.folder,
        *(scene.folder / name for name in ("ledger.db", "ledger.db-wal", "ledger.db-journal")),
    ]
    paths += [scene.state, scene.state.with_name("signer.json.new")]
    arguments = [part for path in paths for part in ("-P", str(path))]
    tracer = subprocess.Popen(
        [strace, "-f", "-p", str(pid), *arguments, "-e", f"trace={CALLS}", "-e", f"inject={CALLS}:{fault}"],
        stderr=subprocess.PIPE,
        text=True,
    )
    assert tracer.stderr is not None
    assert "attached" in tracer.stderr.readline()
    scene.state.with_name("go").touch()
    heard = hand.rest()
    calls = sum(1 for line in tracer.stderr if A_CALL.search(line))
    tracer.wait(60)
    tracer.stderr.close()
    assert hand.exit_code is not None
    return heard, hand.exit_code, calls  # type: ignore[return-value]


def test_a_process_that_nothing_happens_to_does_it_all(strace: str, template: Scene, tmp_path: Path) -> None:
    heard, code, calls = hurt(strace, copied(template, tmp_path / "whole"), "error=EIO:when=60000")
    assert (code, heard[-1]) == (0, ("end", None))
    assert Counter(what for what, _ in heard) == {"append": 9, "project": 3, "sign": 3, "end": 1}
    assert calls > 60


def test_whatever_write_fails_or_is_the_last_one(strace: str, template: Scene, tmp_path: Path) -> None:
    random = chances("failing writes")
    _, _, calls = hurt(strace, copied(template, tmp_path / "whole"), "error=EIO:when=60000")
    tried: dict[str, list[int]] = {name: [] for name in FAULTS}
    seen, unknown = Counter[str](), 0
    for number in range(times(250)):
        name = [*FAULTS][number % len(FAULTS)]
        nth = random.randint(1, calls)
        tried[name].append(nth)
        scene = copied(template, tmp_path / str(number))
        heard, code, _ = hurt(strace, scene, FAULTS[name].format(nth))
        troubles = [about for what, about in heard if what == "trouble"]
        assert code == (0 if name != "KILL" else -9) or (name == "KILL" and code == 0), (
            name,
            nth,
            heard,
            code,
        )
        seen[f"{name}: {'killed' if code else 'refused' if troubles else 'unharmed'}"] += 1
        scene.heard_of_appending(about for what, about in heard if what == "append")
        scene.heard_of_following(about for what, about in heard if what == "project")
        scene.heard_of_signing(about for what, about in heard if what == "sign")
        scene.everything_done(range(3 * VOLUNTEERS))
        scene.check()
        unknown += scene.replayed - len([1 for what, _ in heard if what == "append"])
        scene.close()
        shutil.rmtree(scene.folder)
    for name, places in tried.items():
        print(f"{name}, of {calls} calls: N = {sorted(places)}")
    print(", ".join(f"{count} {what}" for what, count in sorted(seen.items())))
    print(f"{unknown} commands whose answer was never heard had been done")
