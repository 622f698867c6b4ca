"""`docker-compose.yml` run here, without Docker: its commands as plain processes, its stores as private servers."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import psycopg
import yaml
from pydantic_settings import BaseSettings

from api import settings
from tests.services import PostgresServer

ROOT = Path(__file__).parent.parent.parent
PLACES = ("keys", "master", "signing", "signer-state", "witness", "etc/wenming", "run/secrets")
"""Where the containers keep things: folders here."""


def composed() -> dict[str, Any]:
    """The file as Compose sees it."""
    return dict(yaml.safe_load(interpolated((ROOT / "docker-compose.yml").read_text("utf-8"))))


def known_settings() -> set[str]:
    """Every name that is read from an environment."""
    kinds = [
        kind for kind in vars(settings).values() if isinstance(kind, type) and issubclass(kind, BaseSettings)
    ]
    return {
        f"{kind.model_config.get('env_prefix', '')}{field}".upper()
        for kind in kinds
        for field in kind.model_fields
    }


def interpolated(text: str) -> str:
    """``${NAME:-default}`` as Compose reads it with none of the names set."""
    return re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", text)


@dataclass(frozen=True)
class Place:
    """This machine in the place of the containers: a private server, a folder for the volumes, a free port."""

    services: dict[str, Any]
    server: str
    folder: Path
    port: int
    witness_port: int
    kafka: str = "127.0.0.1:1"

    def with_kafka(self, address: str) -> "Place":
        return replace(self, kafka=address)

    def environment(self, service: str) -> dict[str, str]:
        asked = self.services[service].get("environment", {})
        given = {name: self._here(value) for name, value in asked.items()}
        kept = {name: value for name, value in os.environ.items() if not name.startswith("WENMING_")}
        if "WENMING_PORT" in given:
            given |= {"WENMING_HOST": "127.0.0.1", "WENMING_PORT": str(self.port)}
        if "WENMING_WITNESS_PORT" in given:
            given |= {"WENMING_WITNESS_HOST": "127.0.0.1", "WENMING_WITNESS_PORT": str(self.witness_port)}
        return kept | given | {"PYTHONPATH": str(ROOT)}

    def address_for(self, service: str) -> str:
        """The database as the service reaches it, with its password, for somebody else to use."""
        environment = self.environment(service)
        password = Path(environment["WENMING_DATABASE_PASSWORD_FILE"]).read_text().strip()
        return environment["WENMING_DATABASE"].replace("@", f":{password}@")

    def _here(self, value: str) -> str:
        value = value.replace("@postgres:5432/wenming", f"@{self.server}").replace("kafka:9092", self.kafka)
        value = value.replace("@figures:5432/figures", f"@{self.server.rpartition('/')[0]}/figures")
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


def prepare(server: PostgresServer, compose: dict[str, Any], secrets: Path) -> None:
    """What the image does when its volume is empty, for both databases on one server."""
    rules = server.data / "pg_hba.conf"
    asked = "host all wenming_owner,wenming_app,wenming_figures 127.0.0.1/32 scram-sha-256\n"
    rules.write_text(asked + rules.read_text())
    with psycopg.connect(server.address, autocommit=True) as connection:
        connection.execute("SELECT pg_reload_conf()")
        for service in ("figures", "postgres"):
            image = compose["services"][service]["environment"]
            owner, database = image["POSTGRES_USER"], image["POSTGRES_DB"]
            password = (secrets / Path(image["POSTGRES_PASSWORD_FILE"]).name).read_text().strip()
            connection.execute(f"CREATE ROLE {owner} LOGIN SUPERUSER PASSWORD '{password}'".encode())
            connection.execute(f"CREATE DATABASE {database} OWNER {owner}".encode())
    login = compose["configs"]["app_login"]["content"].replace("/run/secrets", str(secrets))
    address = f"{server.address.rpartition('/')[0]}/{database}"
    command = [server.program("psql"), "--no-psqlrc", "-v", "ON_ERROR_STOP=1", "--no-password", address]
    subprocess.run(command, input=login, text=True, check=True, capture_output=True)
