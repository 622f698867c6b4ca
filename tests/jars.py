"""Programs in Java that tests run: their jars, fetched by Maven once and kept beside the project, not part of it."""

import fcntl
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from tests.services import ServiceMissingError

KEPT = Path(__file__).parents[1] / ".wenming"


def fetched_jars(name: str, pom: Path, *, tools: Sequence[str] = ("java", "mvn"), instead: str = "") -> Path:
    """The folder of the jars that ``pom`` asks for; `ServiceMissingError` where they cannot be had or run.

    ``instead`` says what would do without them.
    """
    missing = [tool for tool in tools if shutil.which(tool) is None]
    if missing:
        raise ServiceMissingError(f"{name} needs {' and '.join(missing)}{instead}")
    folder = KEPT / name
    folder.mkdir(parents=True, exist_ok=True)
    mark = folder / "pom.xml"
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # several test processes, one download
        if not mark.exists() or mark.read_bytes() != pom.read_bytes():
            _fetch(name, pom, folder)
            shutil.copyfile(pom, mark)
    return folder


def _fetch(name: str, pom: Path, folder: Path) -> None:
    for old in folder.glob("*.jar"):
        old.unlink()
    command = ["mvn", "-q", "-B", "-f", str(pom), "dependency:copy-dependencies"]
    options = [f"-DoutputDirectory={folder}", "-DincludeScope=runtime"]
    got = subprocess.run([*command, *options], capture_output=True, text=True, timeout=280)
    if got.returncode != 0:
        raise ServiceMissingError(f"Maven could not fetch {name}: {(got.stdout + got.stderr)[-500:]}")
