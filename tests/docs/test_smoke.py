"""`compose/smoke.sh` does what it says: run here, from its first line to its last, with a `docker` of our own.

That `docker` knows only what the script asks of it, and does it with plain processes, a private PostgreSQL and a
private Kafka. Kafka's settings go through the image's own start-up class, as `docker-compose.yml` has them.
"""

import json
import os
import shutil
import socketserver
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg
import pytest
from kafka import KafkaConsumer
from kafka.admin import ConfigResource, KafkaAdminClient

from tests import services
from tests.broker import KafkaBroker, kafka_jars
from tests.docs.composed import ROOT, Place

SCRIPTS = sorted((ROOT / "compose").glob("*.sh"))
BASH = shutil.which("bash")
each_script = pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.name)


# --- the scripts themselves ------------------------------------------------------------------------------------------


@each_script
def test_a_script_is_understood_by_its_shell(script: Path) -> None:
    shell = script.read_text("utf-8").splitlines()[0].split("/")[-1].split()[-1]
    assert subprocess.run([shell, "-n", script]).returncode == 0
    assert os.access(script, os.X_OK)


@each_script
@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="shellcheck is not here (Debian's shellcheck)")
def test_a_script_has_nothing_that_shellcheck_knows_of(script: Path) -> None:
    done = subprocess.run(["shellcheck", script], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")


def test_passwords_are_made_once_and_their_folder_is_their_owners(tmp_path: Path) -> None:
    folder = tmp_path / "secrets"
    script = ["sh", str(ROOT / "compose/secrets.sh"), str(folder)]
    first = subprocess.run(script, capture_output=True, text=True, check=True)
    made = {file.name: file.read_text() for file in folder.iterdir()}
    again = subprocess.run(script, capture_output=True, text=True, check=True)
    assert set(made) == {"owner_password", "app_password", "figures_password"}
    assert len(set(made.values())) == 3
    assert all(len(text) == 65 and text[:64].isalnum() for text in made.values())
    assert folder.stat().st_mode & 0o777 == 0o700
    assert {file.name: file.read_text() for file in folder.iterdir()} == made
    assert again.stdout.count("there already") == 3
    assert not any(text.strip() in first.stdout for text in made.values())


def test_the_secrets_of_the_file_are_those_that_the_script_makes(
    compose: dict[str, Any], tmp_path: Path
) -> None:
    subprocess.run(["sh", ROOT / "compose/secrets.sh", tmp_path / "secrets"], check=True, capture_output=True)
    made = {f"./compose/secrets/{file.name}" for file in (tmp_path / "secrets").iterdir()}
    assert {secret["file"] for secret in compose["secrets"].values()} == made
    assert "compose/secrets/" in (ROOT / ".gitignore").read_text("utf-8").splitlines()


# --- the whole of it -------------------------------------------------------------------------------------------------


class BrokerOfTheImage(KafkaBroker):
    """Kafka as `docker-compose.yml` has it, made by the class that the official image starts with."""

    def __init__(self, jars: Path, folder: Path, environment: Mapping[str, str]) -> None:
        self._jars, self._folder, self._heap = jars, folder, "512m"
        self.process = None
        self.address, controller = (f"127.0.0.1:{services.free_port()}" for _ in range(2))
        places = {
            "/var/lib/kafka/data": str(folder / "data"),
            "PLAINTEXT://:9092": f"PLAINTEXT://{self.address}",
            "kafka:9092": self.address,
            "localhost:9093": controller,
        }
        here = {name: _replaced(value, places) for name, value in environment.items()}
        for name in ("default", "mounted"):
            (folder / name).mkdir()
        for name in ("server.properties", "log4j2.yaml", "tools-log4j2.yaml"):
            (folder / "default" / name).touch()
        (folder / "log4j2.properties").write_text("rootLogger.level=ERROR\n")
        folders = {"default": "default", "mounted": "mounted", "final": "."}
        options = [part for name, place in folders.items() for part in (f"--{name}-configs-dir", place)]
        subprocess.run(
            self._java("kafka.docker.KafkaDockerWrapper", "setup", *options),
            env=os.environ | here,
            cwd=folder,
            check=True,
            capture_output=True,
        )


def _replaced(text: str, places: Mapping[str, str]) -> str:
    for there, here in places.items():
        text = text.replace(there, here)
    return text


@dataclass
class Machine:
    """What `docker compose` does with the file, done here: as much of it as the script asks for."""

    place: Place
    postgres: services.PostgresServer
    kafka: KafkaBroker
    running: ExitStack
    told: dict[str, str] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    well: set[str] = field(default_factory=set)
    """Who was found healthy since something last stopped or started."""

    def do(self, words: Sequence[str]) -> tuple[int, str, str]:
        assert words[0] == "compose"
        self.asked.append(" ".join(words[1:3]))
        verb, *rest = words[1:]
        acts: dict[str, Callable[[Sequence[str]], tuple[int, str, str]]] = {
            "version": lambda _: (0, "", ""),
            "up": self._up,
            "ps": self._ps,
            "logs": lambda options: (0, self.told[options[-1]], ""),
            "exec": self._exec,
            "stop": lambda names: self._each(names, stops=True),
            "start": lambda names: self._each(names, starts=True),
            "restart": lambda names: self._each(names, stops=True, starts=True),
        }
        return acts[verb](rest)

    def _up(self, options: Sequence[str]) -> tuple[int, str, str]:
        assert list(options) == ["-d"]
        for service in ("init", "signing-key", "topic"):
            done = self.place.run(service)
            assert done.returncode == 0, done.stderr
            self.told[service] = done.stdout
        for service in ("api", "follower", "signer", "relay"):
            self.running.enter_context(self.place.running(service))
        return 0, "", ""

    def _ps(self, options: Sequence[str]) -> tuple[int, str, str]:
        if not options:
            return 0, "NAME\n", ""
        assert list(options) == ["--format", "{{.Service}} {{.Health}}"]
        living = ("postgres", "kafka", "api", "follower", "signer", "relay")
        return 0, "".join(f"{name} {self._health(name)}\n" for name in living), ""

    def _health(self, service: str) -> str:
        if service not in self.well and self._is_well(service):
            self.well.add(service)
        return "healthy" if service in self.well else "starting"

    def _is_well(self, service: str) -> bool:
        if service in ("postgres", "kafka"):
            return {"postgres": self.postgres, "kafka": self.kafka}[service].answers()
        _, *check = self.place.services[service]["healthcheck"]["test"]
        if check[0] == "wenming":
            return self.place.run(service, check).returncode == 0
        program = [sys.executable, *(word.replace(":8000/", f":{self.place.port}/") for word in check[1:])]
        return subprocess.run(program, capture_output=True).returncode == 0

    def _exec(self, words: Sequence[str]) -> tuple[int, str, str]:
        assert words[0] == "-T"
        service, *command = words[3:] if words[1] == "-e" else words[1:]
        if service == "kafka":
            return self._console_consumer(command)
        done = self.place.run(service, command)
        return done.returncode, done.stdout, done.stderr

    def _console_consumer(self, command: Sequence[str]) -> tuple[int, str, str]:
        program, *options = command
        assert program == "/opt/kafka/bin/kafka-console-consumer.sh"
        words = [word for word in options if word != "--from-beginning"]
        given = dict(zip(words[::2], words[1::2], strict=True))
        assert given["--bootstrap-server"] == "kafka:9092"
        consumer = KafkaConsumer(
            given["--topic"],
            bootstrap_servers=self.kafka.address,
            isolation_level=given["--isolation-level"],
            auto_offset_reset="earliest",
            enable_auto_commit=False,
            consumer_timeout_ms=3_000,
        )
        try:
            return 0, "".join(record.value.decode() + "\n" for record in consumer), ""
        finally:
            consumer.close()

    def _each(
        self, names: Sequence[str], *, stops: bool = False, starts: bool = False
    ) -> tuple[int, str, str]:
        servers = {"postgres": self.postgres, "kafka": self.kafka}
        self.well.clear()
        for name in names:
            if stops:
                servers[name].stop()
            if starts:
                servers[name].start()
        return 0, "", ""


CLIENT = """#!{python}
import json, socket, sys
with socket.socket(socket.AF_UNIX) as machine:
    machine.connect({address!r})
    machine.sendall(json.dumps(sys.argv[1:]).encode() + b"\\n")
    code, out, err = json.loads(machine.makefile().readline())
sys.stdout.write(out)
sys.stderr.write(err)
sys.exit(code)
"""


@contextmanager
def docker_of(machine: Machine, folder: Path) -> Iterator[Path]:
    """A folder with a `docker` in it that asks ``machine``."""

    class Asked(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            try:
                answer = machine.do(json.loads(self.rfile.readline()))
            except Exception:  # the script stops there and shows it
                answer = (97, "", traceback.format_exc())
            self.wfile.write(json.dumps(answer).encode() + b"\n")

    folder.mkdir()
    address = str(folder / "socket")
    client = folder / "docker"
    client.write_text(CLIENT.format(python=sys.executable, address=address))
    client.chmod(0o755)
    with socketserver.ThreadingUnixStreamServer(address, Asked) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield folder
        server.shutdown()


@pytest.fixture
def machine(
    place: Place, postgres_of_compose: services.PostgresServer, compose: dict[str, Any], tmp_path: Path
) -> Iterator[Machine]:
    try:
        jars = kafka_jars()
    except services.ServiceMissingError as missing:
        if services.required():
            pytest.fail(f"Kafka is required here: {missing}")
        pytest.skip(f"Kafka: {missing}")
    (tmp_path / "kafka").mkdir()
    broker = BrokerOfTheImage(jars, tmp_path / "kafka", compose["services"]["kafka"]["environment"])
    broker.start()
    with ExitStack() as running:
        running.callback(broker.stop)
        yield Machine(place.with_kafka(broker.address), postgres_of_compose, broker, running)


@pytest.mark.timeout(1200)
@pytest.mark.slow  # a minute and more: some forty processes, one after the other
@pytest.mark.skipif(BASH is None or shutil.which("curl") is None, reason="the script needs bash and curl")
def test_the_script_sees_every_fact_through_restarts_of_kafka_and_postgresql(
    machine: Machine, compose: dict[str, Any], tmp_path: Path
) -> None:
    for script in SCRIPTS:  # what it makes beside itself stays out of the project
        (tmp_path / "compose").mkdir(exist_ok=True)
        shutil.copy(script, tmp_path / "compose")
    with docker_of(machine, tmp_path / "bin") as programs, (tmp_path / "said").open("w") as said:
        done = subprocess.run(
            ["bash", tmp_path / "compose/smoke.sh"],
            env=os.environ
            | {
                "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}",
                "WENMING_PUBLISHED_PORT": str(machine.place.port),
            },
            stdout=said,
            stderr=subprocess.STDOUT,
        )
    told = (tmp_path / "said").read_text("utf-8")
    assert done.returncode == 0, told
    assert "== done: 5 facts, each on the topic once" in told  # rule book, centre, three institutes
    assert told.count("✓ no defect") == 2
    assert {"stop kafka", "start kafka", "restart postgres"} <= set(machine.asked)
    with psycopg.connect(machine.postgres.address.rpartition("/")[0] + "/wenming") as connection:
        assert connection.execute("SELECT count(*) FROM facts").fetchone() == (5,)
    assert unknown_settings(machine.kafka, compose["services"]["kafka"]["environment"]) == set()


def unknown_settings(broker: KafkaBroker, environment: Mapping[str, str]) -> set[str]:
    """Names in Kafka's environment that no broker knows, which it would pass over in silence."""
    admin = KafkaAdminClient(bootstrap_servers=broker.address)
    try:
        found = admin.describe_configs([ConfigResource("broker", "1")], config_filter="all")["broker"]["1"]
    finally:
        admin.close()
    said = {name for name in environment if name.startswith("KAFKA_") and name != "KAFKA_HEAP_OPTS"}
    return {name for name in said if name.removeprefix("KAFKA_").replace("_", ".").lower() not in found}
