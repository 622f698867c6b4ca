"""A stranger reads our certificates: veraPDF, the reference validator of PDF/A and PDF/UA."""

import shutil
import subprocess
from pathlib import Path

import pytest

from api.certificate_pdf import render
from tests import services
from tests.certificates.paper import sheet

SOURCE = Path(__file__).parent / "verapdf"
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def jars(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """veraPDF from Maven; without Java and Maven the test fails in CI and is skipped, saying so, elsewhere."""
    missing = [tool for tool in ("java", "javac", "mvn") if shutil.which(tool) is None]
    if missing:
        if services.required():
            pytest.fail(f"veraPDF is required here, and there is no {missing}")
        pytest.skip(f"veraPDF needs {missing}")
    folder = tmp_path_factory.mktemp("verapdf")
    command = ["mvn", "-q", "-B", "-f", str(SOURCE / "pom.xml"), "dependency:copy-dependencies"]
    got = subprocess.run(
        [*command, f"-DoutputDirectory={folder}"], capture_output=True, text=True, timeout=280
    )
    assert got.returncode == 0, got.stdout + got.stderr
    return folder


def test_certificates_conform_to_pdf_a_3a_and_pdf_ua_1_and_a_damaged_one_does_not(
    jars: Path, tmp_path: Path
) -> None:
    """20 to 40 s, and what Maven needs to fetch 7 MB once. Without the last file the others would prove nothing."""
    files = {f"{count} lines.pdf": render(sheet(count)) for count in (0, 6, 150)}
    damaged = render(sheet()).replace(b"/MarkInfo", b"/MarkInfx")
    files["damaged.pdf"] = damaged.replace(b"/DisplayDocTitle", b"/DisplayDocTitlx")
    for name, pdf in files.items():
        (tmp_path / name).write_bytes(pdf)
    command = ["java", "-cp", f"{jars}/*", str(SOURCE / "Vera.java"), *files]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr
    verdicts = [
        line.rsplit(" ", 1)[0] for line in done.stdout.splitlines() if line.startswith(("3a ", "ua1 "))
    ]
    assert verdicts == ["3a true", "ua1 true"] * 3 + ["3a false", "ua1 false"], done.stdout
