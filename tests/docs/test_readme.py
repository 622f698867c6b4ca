"""What the pages tell people to type is true: commands parse and run, paths, files, recipes and settings exist."""

import os
import re
import shlex
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest
from typer.testing import CliRunner

from api import commands, history, queries, travel
from api.cli import app as cli
from tests.cli import parse
from tests.docs.composed import known_settings
from tests.services import free_port

ROOT = Path(__file__).parent.parent.parent
ENGLISH, CHINESE = (
    (ROOT / name).read_text("utf-8").replace("\r\n", "\n") for name in ("README.md", "README.zh-CN.md")
)
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text("utf-8")
GROWING = (ROOT / "docs/growing.md").read_text("utf-8")
PAGES = {
    "README.md": ENGLISH,
    "README.zh-CN.md": CHINESE,
    "CONTRIBUTING.md": CONTRIBUTING,
    "docs/growing.md": GROWING,
}
each_page = pytest.mark.parametrize("page", PAGES.values(), ids=PAGES.keys())

TOUR_ENDS_BEFORE = "wenming init --database"
"""From here on the pages speak of a server of one's own."""


def blocks(page: str, language: str = "bash") -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)


def inline(page: str) -> list[str]:
    prose = re.sub(r"^```.*?^```$", "", page, flags=re.MULTILINE | re.DOTALL)
    return re.findall(r"`([^`\n]+)`", prose)


# --- the pages beside each other -------------------------------------------------------------------------------------


def test_both_pages_begin_with_the_two_commands() -> None:
    for page in (ENGLISH, CHINESE):
        assert blocks(page)[:2] == ["pip install uv && uv run wenming demo\n", "uv run pytest\n"]


def test_both_pages_tell_people_to_type_the_same() -> None:
    for language in ("bash", "sql", "text"):
        assert blocks(ENGLISH, language) == blocks(CHINESE, language)
    headings = [re.findall(r"^#+ ", page, re.MULTILINE) for page in (ENGLISH, CHINESE)]
    assert headings[0] == headings[1]


@pytest.mark.parametrize("name", PAGES)
def test_every_file_a_page_links_is_there(name: str) -> None:
    linked = re.findall(r"\]\((?!https?:)([^)#]+)\)", PAGES[name])
    assert linked
    assert [found for found in linked if not ((ROOT / name).parent / found).exists()] == []


# --- commands, paths, recipes, settings ------------------------------------------------------------------------------


def wenming_lines(page: str) -> list[str]:
    """The commands in code blocks, up to what ends them in the shell."""
    text = "".join(blocks(page))
    return [found.replace("$who", "w") for found in re.findall(r"\bwenming ([a-z][^|&)\n]*)", text)]


@each_page
def test_every_command_of_ours_is_understood(page: str) -> None:
    for line in wenming_lines(page):
        parse(shlex.split(line), whole=True)
    mentioned = [found for code in inline(page) for found in re.findall(r"\bwenming ([a-z].*)", code)]
    assert mentioned
    for line in mentioned:
        parse(shlex.split(line), whole=False)


def test_a_command_that_is_wrong_would_be_noticed() -> None:
    for line in ("verfy", "user ad", "verify --jason", "replay --as-off 3"):
        with pytest.raises(Exception, match=r"no command|No such option"):
            parse(line.split(), whole=False)


def paths_of_the_api() -> list[str]:
    routers = (commands.build(), queries.router, history.router, travel.router)
    return [route.path for router in routers for route in router.routes]  # type: ignore[attr-defined]


def test_every_path_the_tour_asks_for_is_a_path_of_the_api() -> None:
    text = "".join(blocks(ENGLISH))
    asked = re.findall(r"\$base(/[^\"?\s]+)", text)
    asked += re.findall(r"^send \S+(?: \S+\))? (/\S+)", text, re.MULTILINE)
    known = [re.sub(r"\{\w+\}", "[^/]+", path) for path in paths_of_the_api()]
    assert len(asked) > 12
    assert [path for path in asked if not any(re.fullmatch(pattern, path) for pattern in known)] == []


def recipes() -> dict[str, str]:
    """Each recipe of the justfile with its lines joined as a shell would."""
    found = re.findall(
        r"^(\w+)(?: \*\w+)?:.*\n((?:    .*\n?)*)", (ROOT / "justfile").read_text("utf-8"), re.M
    )
    lines = {name: [line.strip() for line in body.splitlines()] for name, body in found}
    return {
        name: " && ".join(line.replace(" {{arguments}}", "") for line in body) for name, body in lines.items()
    }


@each_page
def test_every_recipe_a_page_names_exists(page: str) -> None:
    named = {found for code in inline(page) for found in re.findall(r"^just (\w+)", code)}
    assert named <= recipes().keys()


def test_the_commands_beside_the_recipes_are_what_the_recipes_do() -> None:
    told = dict(re.findall(r"^\| `just (\w+)` \| `([^`]+)` \|", CONTRIBUTING, re.MULTILINE))
    assert len(told) >= 9
    assert {name: recipes()[name] for name in told} == told
    assert set(told) | {"default"} == set(recipes())


@each_page
def test_every_setting_a_page_names_is_read_somewhere(page: str) -> None:
    named = set(re.findall(r"\bWENMING_[A-Z_]+[A-Z]", page))
    settings = known_settings()
    files = [ROOT / "docker-compose.yml", ROOT / "tests/conftest.py", ROOT / "tests/services.py"]
    files.append(ROOT / "tests/faults/__init__.py")
    elsewhere = "".join(file.read_text("utf-8") for file in files)
    assert {name for name in named - settings if name not in elsewhere} == set()


# --- the tour, typed in ----------------------------------------------------------------------------------------------


def shell_environment() -> dict[str, str]:
    """A person's shell with the environment active in which the tests run."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("WENMING_")}
    programs = f"{Path(sys.executable).parent}{os.pathsep}{kept.get('PATH', os.defpath)}"
    return kept | {"PATH": programs, "PYTHONPATH": str(ROOT), "COLUMNS": "120"}


@contextmanager
def demonstration(folder: Path) -> Iterator[int]:
    """A small one, served from ``folder``; the port it answers on."""
    port = free_port()
    arguments = ["demo", "--volunteers", "40", "--months", "2", "--port", str(port)]
    with (folder / "served.txt").open("w") as told:
        process = subprocess.Popen(
            [sys.executable, "-m", "api.cli", *arguments],
            cwd=folder,
            env=shell_environment(),
            stdout=told,
            stderr=subprocess.STDOUT,
        )
        try:
            wait_for(port, process, folder / "served.txt")
            yield port
        finally:
            process.terminate()
            process.wait(30)


def wait_for(port: int, process: subprocess.Popen[bytes], told: Path) -> None:
    while True:
        assert process.poll() is None, told.read_text("utf-8")
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz", timeout=5).close()
            return
        except OSError:
            time.sleep(0.1)


def tour(port: int) -> list[str]:
    """The blocks from the first address to the last question on the command line."""
    found = blocks(ENGLISH)
    first = next(i for i, block in enumerate(found) if "base=" in block)
    last = next(i for i, block in enumerate(found) if TOUR_ENDS_BEFORE in block)
    return [block.replace("127.0.0.1:8000", f"127.0.0.1:{port}") for block in found[first:last]]


def typed(script: str, folder: Path) -> str:
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=folder,
        env=shell_environment(),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr + done.stdout[-2000:]
    return done.stdout


def problems_in(output: str) -> list[str]:
    return re.findall(r'"code":"([A-Z_]+)"', output)


needs_curl = pytest.mark.skipif(
    subprocess.run(["bash", "-c", "command -v curl awk"], capture_output=True).returncode != 0,
    reason="the tour is typed into bash, with curl and awk",
)


@pytest.mark.slow
@needs_curl
def test_the_tour_works_when_typed_in_and_only_the_fraud_is_refused(tmp_path: Path) -> None:
    with demonstration(tmp_path) as port:
        quick = [block for block in tour(port) if "sleep" not in block and "wenming verify" not in block]
        output = typed("".join(quick), tmp_path)
        for line in command_line_block().splitlines():
            answer = CliRunner().invoke(
                cli, line_for(tmp_path, line), env={"WENMING_DATABASE": url(tmp_path)}
            )
            assert answer.exit_code == 0, (line, answer.output)
            assert answer.stdout
    assert problems_in(output) == ["BACKFILL_REQUIRED"]
    assert re.search(r"^1000 [0-9a-f]{64}$", output, re.MULTILINE)


def command_line_block() -> str:
    (block,) = [block for block in blocks(ENGLISH) if re.search("^wenming verify$", block, re.MULTILINE)]
    return block


def line_for(folder: Path, line: str) -> list[str]:
    """The words of one command about the volunteer whose key is among the samples."""
    samples = (folder / ".wenming/demo.keys.sample-keys.txt").read_text("utf-8")
    (who,) = re.findall(r" volunteer \S+ (\S+)", samples)
    return shlex.split(line.removeprefix("wenming ").replace("$who", who))


def url(folder: Path) -> str:
    return f"sqlite:///{folder}/.wenming/demo.db"


@needs_curl
@pytest.mark.slow  # a minute of service takes a minute
def test_the_whole_tour_counts_the_minute_and_leaves_no_defect(tmp_path: Path) -> None:
    minutes = (
        """curl -s -H "Authorization: Bearer $(key volunteer)" "$base/volunteers/$who/hours/explain"\n"""
    )
    with demonstration(tmp_path) as port:
        script = tour(port)
        output = typed("".join([script[0], minutes, *script[1:], minutes]), tmp_path)
    assert problems_in(output) == ["BACKFILL_REQUIRED"]
    totals = re.findall(r'"version":\d+,"minutes":(\d+),"sessions"', output)
    assert int(totals[-1]) == int(totals[0]) + 1
    assert '"topic":"order.rated"' in output
    assert "✓ no defect" in output


# --- what the demonstration prints -----------------------------------------------------------------------------------


def without_what_varies(line: str) -> str:
    """Times differ from run to run, and what the story holds with every change to it; the words and the form stay."""
    line = re.sub(r"root [0-9a-f]{64}|the centre: \S+|/verify/\S+", "id", line)
    line = re.sub(r"(gg-\d+ +)\S+( +[\d:]+ +)[★☆]+", r"\1name\2stars", line)
    return " ".join(re.sub(r"\d[\d,.:-]*", "#", line).split())


@pytest.mark.slow
def test_the_demonstration_prints_what_the_page_shows(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "api.cli", "demo", "--no-serve"],
        cwd=tmp_path,
        env=shell_environment(),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    printed = {without_what_varies(line) for line in done.stdout.splitlines()}
    (shown,) = blocks(ENGLISH, "text")
    told = [without_what_varies(line) for line in shown.splitlines() if line.strip() not in ("", "…")]
    assert len(told) > 8
    assert [line for line in told if line not in printed] == []


# --- a server of one's own -------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_ledger_is_made_on_postgresql_as_the_page_says(
    postgres_server: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    name = f"readme{os.getpid()}"
    address = postgres_server.split("@", 1)[1].rsplit("/", 1)[0]
    (sql,) = blocks(ENGLISH, "sql")
    (init,) = [block for block in blocks(ENGLISH) if TOUR_ENDS_BEFORE in block]
    request.addfinalizer(lambda: drop(postgres_server, name))
    with psycopg.connect(postgres_server, autocommit=True) as connection:
        for statement in sql.replace("wenming", name).split(";\n"):
            connection.execute(statement.encode())

    here = init.replace("/srv/wenming", str(tmp_path)).replace(
        "database.example/wenming", f"{address}/{name}"
    )
    output = typed(here.replace("wenming_", f"{name}_"), tmp_path)
    assert "admin key" in output
    login = f"postgresql://{name}_app:APP-PASSWORD@{address}/{name}"
    checked = typed(f"wenming verify --database '{login}'", tmp_path)
    assert "✓ no defect" in checked


def drop(server: str, name: str) -> None:
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)'.encode())
        for role in ("ledger_app", "ledger_owner", "app", "owner"):
            connection.execute(f'DROP ROLE IF EXISTS "{name}_{role}"'.encode())


# --- what no file may say --------------------------------------------------------------------------------------------


def kept_files() -> list[str]:
    if not (ROOT / ".git").exists():
        pytest.skip("not a checkout: what is kept is not known")
    listed = subprocess.run(
        ["git", "-c", f"safe.directory={ROOT}", "ls-files", "-z"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    return [name for name in listed.stdout.split("\0") if name and (ROOT / name).is_file()]


def test_no_file_names_the_host_of_a_package_registry() -> None:
    hosts = re.compile("|".join(re.escape(".".join(h)) for h in REGISTRIES))
    found = {name: hosts.findall((ROOT / name).read_text("utf-8", "ignore")) for name in kept_files()}
    assert {name: hits for name, hits in found.items() if hits} == {}


REGISTRIES = (("pypi", "org"), ("files", "pythonhosted"), ("registry", "npmjs"))


def test_no_page_names_a_folder_of_one_machine_and_no_lock_file_is_kept() -> None:
    names = kept_files()
    assert "uv.lock" not in {Path(name).name for name in names}
    pages = [name for name in names if name.endswith(".md") or name.startswith("docs/")]
    assert {"README.md", "events.md"} <= set(pages)
    machine = re.compile(r"(?<![\w.])/(work|tmp)/")
    assert [name for name in pages if machine.search((ROOT / name).read_text("utf-8"))] == []
