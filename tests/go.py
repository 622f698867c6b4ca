"""Programs in Go that check us with Go's own `golang.org/x/mod/sumdb`, as Debian installs it; nothing is downloaded."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests import services

GO_PATH = Path("/usr/share/gocode")
PACKAGES = GO_PATH / "src/golang.org/x/mod/sumdb"
NOTE = Path(__file__).parent / "checkpoint/go/note.go"
TILES = Path(__file__).parent / "signer/go/tiles.go"


def built(source: Path, folder: Path) -> Path:
    """The program of a source file, in this folder. Without Go the test fails in CI, and elsewhere is skipped."""
    missing = _missing()
    if missing:
        if services.required():
            pytest.fail(f"Go's sumdb packages are required here: {missing}")
        pytest.skip(f"Go's sumdb packages: {missing}")
    program = folder / source.stem
    build = ["go", "build", "-o", str(program), str(source)]
    done = subprocess.run(build, env=_environment(folder), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return program


def _missing() -> str | None:
    if shutil.which("go") is None:
        return "there is no go command (apt install golang-go)"
    if not PACKAGES.is_dir():
        return f"{PACKAGES} is not there (apt install golang-golang-x-mod-dev)"
    return None


def _environment(folder: Path) -> dict[str, str]:
    """Build from Debian's sources only: no modules, no network, no C compiler."""
    ours = {"GO111MODULE": "off", "GOPATH": str(GO_PATH), "GOFLAGS": "", "GOPROXY": "off", "CGO_ENABLED": "0"}
    return {"HOME": str(folder)} | dict(os.environ) | ours | {"GOTOOLCHAIN": "local"}
