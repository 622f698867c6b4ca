"""`docker-compose.yml` is valid, and every command in it does what the file needs, run here as plain processes.

`compose-spec.json` is the schema of the Compose Specification (compose-spec/compose-spec, schema/compose-spec.json,
Apache License 2.0: `compose-spec.LICENSE`), as carried by the package check-jsonschema 0.39.0, unchanged.
"""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jsonschema
import psycopg
import pytest
import yaml

ROOT = Path(__file__).parent.parent.parent
OURS = ("init", "api", "follower")
STARTED_WITHIN_SECONDS = 60


def interpolated(text: str) -> str:
    """``${NAME:-default}`` as Compose reads it with none of the names set."""
    return re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", text)


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    """The file as Compose sees it."""
    return dict(yaml.safe_load(interpolated((ROOT / "docker-compose.yml").read_text("utf-8"))))


# --- the file itself -------------------------------------------------------------------------------------------------


def test_it_is_a_valid_compose_file(compose: dict[str, Any]) -> None:
    schema = json.loads((ROOT / "tests/docs/compose-spec.json").read_text("utf-8"))
    jsonschema.Draft202012Validator(schema).validate(compose)


def test_the_schema_would_notice(compose: dict[str, Any]) -> None:
    schema = json.loads((ROOT / "tests/docs/compose-spec.json").read_text("utf-8"))
    compose = compose | {"services": {"api": {"comand": ["wenming", "serve"]}}}
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.Draft202012Validator(schema).validate(compose)


def test_every_name_in_it_leads_somewhere(compose: dict[str, Any]) -> None:
    for service in compose["services"].values():
        assert set(service.get("depends_on", {})) <= set(compose["services"])
        assert {volume.split(":")[0] for volume in service.get("volumes", ())} <= set(compose["volumes"])
        assert {config["source"] for config in service.get("configs", ())} <= set(compose["configs"])


def test_nothing_is_published_beyond_this_machine(compose: dict[str, Any]) -> None:
    published = [port for service in compose["services"].values() for port in service.get("ports", ())]
    assert published
    assert all(port.startswith("127.0.0.1:") for port in published)


def test_only_who_needs_names_has_the_keys_and_only_init_is_the_owner(compose: dict[str, Any]) -> None:
    services = compose["services"]
    with_keys = {name for name in services if any("keys:" in v for v in services[name].get("volumes", ()))}
    owners = {n for n in OURS if "//wenming_owner:" in services[n]["environment"]["WENMING_DATABASE"]}
    assert (with_keys, owners) == ({"init", "api"}, {"init"})


def test_the_image_runs_as_nobody_special_and_says_when_it_is_well() -> None:
    lines = (ROOT / "Dockerfile").read_text("utf-8").splitlines()
    assert "USER wenming" in lines
    assert lines.index("USER wenming") < lines.index('CMD ["wenming", "serve"]')
    assert any("/healthz" in line for line in lines)


def test_what_the_image_copies_is_there_and_not_kept_out() -> None:
    text = (ROOT / "Dockerfile").read_text("utf-8")
    copied = [word for line in re.findall(r"^COPY (?!--from)(.*) \S+$", text, re.M) for word in line.split()]
    let_in = (ROOT / ".dockerignore").read_text("utf-8").splitlines()
    assert {"pyproject.toml", "ledger", "projections", "api"} <= set(copied)
    for name in copied:
        assert (ROOT / name).exists()
        assert f"!{name}" in let_in


# --- its commands ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Place:
    """This machine in the place of the containers: a private server, a folder for the volumes, a free port."""

    services: dict[str, Any]
    server: str
    folder: Path
    port: int

    def environment(self, service: str) -> dict[str, str]:
        given = {name: self._here(value) for name, value in self.services[service]["environment"].items()}
        kept = {name: value for name, value in os.environ.items() if not name.startswith("WENMING_")}
        if "WENMING_PORT" in given:
            given |= {"WENMING_HOST": "127.0.0.1", "WENMING_PORT": str(self.port)}
        return kept | given | {"PYTHONPATH": str(ROOT)}

    def _here(self, value: str) -> str:
        value = value.replace("@postgres:5432/wenming", f"@{self.server}")
        return re.sub(r"(?<=/)/(keys|master)/", rf"{self.folder}/\1/", "/" + value).removeprefix("/")

    def command(self, service: str) -> list[str]:
        program, *arguments = self.services[service]["command"]
        assert program == "wenming"
        return [sys.executable, "-m", "api.cli", *arguments]

    def run(self, service: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.command(service),
            env=self.environment(service),
            cwd=self.folder,
            text=True,
            capture_output=True,
        )

    @contextmanager
    def running(self, service: str) -> Iterator[subprocess.Popen[str]]:
        process = subprocess.Popen(
            self.command(service),
            env=self.environment(service),
            cwd=self.folder,
            text=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
        try:
            yield process
        finally:
            process.kill()
            process.communicate()


@pytest.fixture
def place(compose: dict[str, Any], postgres_url: str, tmp_path: Path) -> Iterator[Place]:
    """The database as the image would leave it: the owner it makes, and the login our script adds."""
    address = postgres_url.rsplit("@", 1)[1]
    owner = compose["services"]["postgres"]["environment"]
    for name in ("keys", "master"):
        (tmp_path / name).mkdir()
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        make = f"CREATE ROLE {owner['POSTGRES_USER']} LOGIN SUPERUSER PASSWORD '{owner['POSTGRES_PASSWORD']}'"
        connection.execute(make.encode())
        connection.execute(compose["configs"]["app_login"]["content"])
    yield Place(compose["services"], address, tmp_path, free_port())
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        connection.execute("DROP OWNED BY wenming_owner, wenming_app CASCADE")
        connection.execute("DROP ROLE wenming_owner, wenming_app")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def health(port: int) -> dict[str, Any]:
    """What `/healthz` answers, once it does."""
    deadline = time.monotonic() + STARTED_WITHIN_SECONDS
    while True:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz", timeout=5) as answer:
                return dict(json.load(answer))
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)


def test_every_command_does_what_the_others_wait_for(place: Place) -> None:
    first, again = place.run("init"), place.run("init")
    assert first.returncode == 0, first.stderr
    assert "admin key" in first.stdout
    assert again.returncode == 0, again.stderr
    assert "there already" in again.stdout
    assert (place.folder / "keys/ledger.keys.db").exists()
    assert (place.folder / "master/ledger.master").exists()

    with place.running("follower") as follower, place.running("api") as api:
        assert follower.stderr is not None
        line = follower.stderr.readline()
        while line and not line.startswith("figures at position"):
            line = follower.stderr.readline()
        assert line == "figures at position 1\n"  # the rule book
        assert health(place.port) | {"figures": None} == {
            "status": "ok",
            "kind": "production",
            "head": 1,
            "figures": None,
        }
        for process in (follower, api):
            process.send_signal(signal.SIGTERM)
        # The web server ends by the signal it was sent, once its work is done.
        assert follower.wait(30) == 0
        assert api.wait(30) in (0, -signal.SIGTERM)


def test_the_first_administrator_of_init_opens_the_api(place: Place) -> None:
    made = place.run("init")
    key = re.findall(r"^admin key +(\S+)", made.stdout, re.M)[0]
    with place.running("api"):
        health(place.port)
        request = urllib.request.Request(
            f"http://127.0.0.1:{place.port}/v1/projections", headers={"Authorization": f"Bearer {key}"}
        )
        with urllib.request.urlopen(request, timeout=10) as answer:
            assert json.load(answer)["head"] == 1


def test_every_service_of_ours_is_tried_here(compose: dict[str, Any]) -> None:
    assert {name for name, service in compose["services"].items() if "build" in service} == set(OURS)
