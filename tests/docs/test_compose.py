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
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jsonschema
import psycopg
import pytest
import yaml

from tests.cli import wenming

ROOT = Path(__file__).parent.parent.parent
OURS = ("init", "api", "follower", "signing-key", "signer", "witness-key", "witness")
PLACES = ("keys", "master", "signing", "signer-state", "witness", "etc/wenming")
"""Where the containers keep things: folders here."""
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
    owners = {
        n
        for n in OURS
        if "//wenming_owner:" in services[n].get("environment", {}).get("WENMING_DATABASE", "")
    }
    assert (with_keys, owners) == ({"init", "api"}, {"init"})


def test_signer_and_witness_are_users_of_their_own_with_volumes_of_their_own(compose: dict[str, Any]) -> None:
    services, users = compose["services"], (ROOT / "Dockerfile").read_text("utf-8")
    own = {
        "wenming-signer": ({"signing-key", "signer"}, {"signing", "signer-state"}),
        "wenming-witness": ({"witness-key", "witness"}, {"witness"}),
    }
    for user, (names, volumes) in own.items():
        assert f"useradd --system --uid 1000{2 + list(own).index(user)} --no-create-home {user}" in users
        assert {name for name in OURS if services[name].get("user") == user} == names
        for volume in volumes:
            mounted = {
                n for n in services if any(v.startswith(f"{volume}:") for v in services[n].get("volumes", ()))
            }
            assert mounted <= names
            assert re.search(rf"install -d -o {user} -m 0700 [^&]*/{volume}\b", users)
        for name in names:
            assert {v.split(":")[0] for v in services[name]["volumes"]} <= volumes
            assert services[name]["working_dir"] == "/"  # the image's own is another user's
    assert services["signer"]["volumes"][0] == "signing:/signing:ro"
    assert {name for name in OURS if services[name].get("profiles")} == {"witness-key", "witness"}


def test_no_signing_key_stands_in_the_file() -> None:
    assert "PRIVATE+KEY" not in (ROOT / "docker-compose.yml").read_text("utf-8")


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
    witness_port: int

    def environment(self, service: str) -> dict[str, str]:
        asked = self.services[service].get("environment", {})
        given = {name: self._here(value) for name, value in asked.items()}
        kept = {name: value for name, value in os.environ.items() if not name.startswith("WENMING_")}
        if "WENMING_PORT" in given:
            given |= {"WENMING_HOST": "127.0.0.1", "WENMING_PORT": str(self.port)}
        if "WENMING_WITNESS_PORT" in given:
            given |= {"WENMING_WITNESS_HOST": "127.0.0.1", "WENMING_WITNESS_PORT": str(self.witness_port)}
        return kept | given | {"PYTHONPATH": str(ROOT)}

    def _here(self, value: str) -> str:
        value = value.replace("@postgres:5432/wenming", f"@{self.server}")
        places = rf"(?<=/)/({'|'.join(PLACES)})/"
        return re.sub(places, rf"{self.folder}/\1/", "/" + value).removeprefix("/")

    def command(self, service: str, given: Sequence[str] = ()) -> list[str]:
        """The service's own command, or another one that is run where it runs."""
        program, *arguments = given or self.services[service]["command"]
        assert program == "wenming"
        return [sys.executable, "-m", "api.cli", *map(self._here, arguments)]

    def run(self, service: str, given: Sequence[str] = ()) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.command(service, given),
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
    for name in PLACES:
        (tmp_path / name).mkdir(parents=True)
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        make = f"CREATE ROLE {owner['POSTGRES_USER']} LOGIN SUPERUSER PASSWORD '{owner['POSTGRES_PASSWORD']}'"
        connection.execute(make.encode())
        connection.execute(compose["configs"]["app_login"]["content"])
    (tmp_path / "etc/wenming/witnesses").write_text(compose["configs"]["witnesses"]["content"])
    yield Place(compose["services"], address, tmp_path, free_port(), free_port())
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


@pytest.mark.slow  # about 11 s
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


def eventually(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + STARTED_WITHIN_SECONDS
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.2)


@pytest.mark.slow  # about 20 s: six processes, one after the other
def test_the_signer_signs_with_a_key_of_its_own_and_a_witness_cosigns(place: Place) -> None:
    database = ("--database", place.environment("follower")["WENMING_DATABASE"])

    def cosigners() -> set[str]:
        """Who stands below the newest checkpoint, as anybody reads it from the database."""
        note = wenming("checkpoint", *database).out
        return {line.split()[1] for line in note.splitlines() if line.startswith("— ")}

    assert place.run("init").returncode == 0
    vkey = place.run("signing-key").stdout.strip()
    assert vkey.startswith("ledger.example/trial+")
    assert (place.folder / "signing/log.key").stat().st_mode & 0o777 == 0o600
    witness_vkey = place.run("witness-key").stdout.strip()
    place.services["witness"]["command"][-1] = vkey  # WENMING_LOG_VKEY
    with (place.folder / "etc/wenming/witnesses").open("a") as witnesses:  # WENMING_WITNESS_LINES
        witnesses.write(f"{witness_vkey} http://127.0.0.1:{place.witness_port}\n")
    with place.running("signer") as signer, place.running("witness") as witness:
        eventually(lambda: cosigners() == {"ledger.example/trial", "witness.example/trial"})
        assert place.run("signer", place.services["signer"]["healthcheck"]["test"][1:]).returncode == 0
        for process in (signer, witness):
            process.send_signal(signal.SIGTERM)
        assert signer.wait(30) == 0
        assert witness.wait(30) in (0, -signal.SIGTERM)
    keys = ("--vkey", vkey, "--witness", witness_vkey, "--witnesses-min", 1)
    assert wenming("verify", "--no-figures", *database, *keys).code == 0


def test_every_service_of_ours_is_tried_here(compose: dict[str, Any]) -> None:
    assert {name for name, service in compose["services"].items() if "build" in service} == set(OURS)
