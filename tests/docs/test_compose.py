"""`docker-compose.yml` is valid, and every command in it does what the file needs, run here as plain processes.

`compose-spec.json` is the schema of the Compose Specification (compose-spec/compose-spec, schema/compose-spec.json,
Apache License 2.0: `compose-spec.LICENSE`), as carried by the package check-jsonschema 0.39.0, unchanged.
"""

import copy
import functools
import json
import re
import signal
import time
import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from tests.cli import parse, wenming
from tests.docs import compose_rules
from tests.docs.composed import ROOT, Place, known_settings

OURS = (
    "init",
    "api",
    "follower",
    "signing-key",
    "signer",
    "topic",
    "relay",
    "worker",
    "witness-key",
    "witness",
)
STARTED_WITHIN_SECONDS = 60
HEALTHY = {"condition": "service_healthy"}
ENDED = {"condition": "service_completed_successfully"}
GONE = object()
"""In the place of a value: it is taken away."""


# --- the file itself -------------------------------------------------------------------------------------------------


def understood(words: list[str]) -> None:
    parse(words, whole=True)


def against_the_schema(compose: Mapping[str, Any]) -> list[str]:
    schema = json.loads((ROOT / "tests/docs/compose-spec.json").read_text("utf-8"))
    found = jsonschema.Draft202012Validator(schema).iter_errors(compose)
    return [f"schema: {one.message}" for one in found]


def against_our_rules(compose: Mapping[str, Any]) -> list[str]:
    rules = (
        *compose_rules.RULES,
        compose_rules.every_name_in_an_environment_is_read(known_settings()),
        compose_rules.every_command_is_understood(understood),
    )
    return [problem for rule in rules for problem in rule(compose)]


def test_it_is_a_valid_compose_file(compose: dict[str, Any]) -> None:
    assert against_the_schema(compose) == []


def test_it_keeps_our_rules(compose: dict[str, Any]) -> None:
    assert against_our_rules(compose) == []


CHANGES: dict[str, tuple[str, object, str]] = {
    "a word that Compose does not know": ("services.api.comand", ["wenming"], "schema: "),
    "an image without a version": (
        "services.kafka.image",
        "apache/kafka",
        "kafka: image apache/kafka names no",
    ),
    "the newest image, whichever": ("services.postgres.image", "postgres:latest", "names no version"),
    "a process that nobody watches": (
        "services.relay.healthcheck",
        {"disable": True},
        "relay: lives on without",
    ),
    "a health check without a test": (
        "services.kafka.healthcheck",
        {"interval": "5s"},
        "kafka: lives on without",
    ),
    "the image's health check for what ends": (
        "services.init.healthcheck",
        GONE,
        "init: ends by itself, and",
    ),
    "a process that stays away": ("services.api.restart", GONE, "api: nothing says whether"),
    "capabilities kept": ("services.kafka.cap_drop", GONE, "kafka: keeps capabilities"),
    "capabilities given back": ("services.api.cap_add", ["SYS_ADMIN"], "api: keeps capabilities"),
    "privileges to be gained": ("services.api.security_opt", GONE, "api: may gain privileges"),
    "root": ("services.postgres.user", "root", "postgres: runs as root"),
    "whoever the image says": ("services.postgres.user", GONE, "postgres: runs as whoever"),
    "all memory": ("services.kafka.mem_limit", GONE, "kafka: may take all memory"),
    "a password in an environment": (
        "services.postgres.environment.POSTGRES_PASSWORD",
        "x",
        "POSTGRES_PASSWORD is s",
    ),
    "a password in an address": (
        "services.api.environment.WENMING_DATABASE",
        "postgresql://wenming_app:local-only@postgres:5432/wenming",
        "a secret stands in the file",
    ),
    "a password in SQL": ("configs.app_login.content", "CREATE ROLE a PASSWORD 'x';", "a secret stands in"),
    "a password for Kafka": (
        "services.kafka.environment.KAFKA_OPTS",
        "-Da=b password=x",
        "a secret stands in",
    ),
    "a signing key": ("configs.witnesses.content", "PRIVATE+KEY+x", "a secret stands in the file"),
    "a secret that is not declared": (
        "services.api.secrets",
        ["app_password", "other"],
        "secret other is not",
    ),
    "a secret that nobody uses": ("secrets.other", {"file": "./other"}, "secret other is used by nobody"),
    "a secret from the environment": (
        "secrets.app_password",
        {"environment": "X"},
        "app_password is not from a file",
    ),
    "a secret that is not given": ("services.relay.secrets", GONE, "relay: is given secrets []"),
    "a secret more than is read": (
        "services.api.secrets",
        ["app_password", "owner_password"],
        "api: is given",
    ),
    "a volume that is not declared": (
        "services.api.volumes",
        ["elsewhere:/keys"],
        "volumes: elsewhere is not",
    ),
    "a volume that nobody uses": ("volumes.other", None, "volumes: other is used by nobody"),
    "a folder of the host": ("services.api.volumes", ["/srv:/keys"], "volumes: /srv is not declared"),
    "a config that is not declared": ("services.signer.configs", ["other"], "configs: other is not declared"),
    "a network that is not declared": ("services.api.networks", ["database", "lan"], "networks: lan is not"),
    "a port for everybody": ("services.api.ports", ["8000:8000"], "api: publishes 8000:8000"),
    "any port of everybody": ("services.api.ports", ["0.0.0.0:8000:8000"], "api: publishes 0.0.0.0"),
    "a database that is published": (
        "services.postgres.ports",
        ["127.0.0.1:5432:5432"],
        "postgres: is published",
    ),
    "a broker that is published": ("services.kafka.ports", ["127.0.0.1:9092:9092"], "kafka: is published"),
    "everybody's network": ("services.relay.networks", GONE, "relay: is on the network that everybody"),
    "a broker within reach": (
        "services.kafka.networks",
        ["events", "outside"],
        "kafka: can be reached by way",
    ),
    "a network that leads out": ("networks.database", None, "postgres: can be reached by way of database"),
    "waiting for nobody": ("services.api.depends_on.other", HEALTHY, "api: waits for other, which is not"),
    "waiting for an end that never comes": (
        "services.api.depends_on.postgres",
        ENDED,
        "api: waits for the end of",
    ),
    "waiting for a health that is not checked": (
        "services.api.depends_on.init",
        HEALTHY,
        "api: waits for the heal",
    ),
    "waiting for what a profile leaves out": (
        "services.api.depends_on.witness",
        HEALTHY,
        "which a profile leaves",
    ),
    "waiting for one that waits": ("services.postgres.depends_on", {"api": HEALTHY}, "a circle of waiting: "),
    "a setting that is not there": (
        "services.api.environment.WENMING_DATABSE",
        "x",
        "api: nobody reads WENMING_D",
    ),
    "a setting of something else": (
        "services.api.environment.PGPASSFILE",
        "/x",
        "api: nobody reads PGPASSFILE",
    ),
    "a setting that the image does not know": (
        "services.postgres.environment.PG_USER",
        "x",
        "postgres: nobody read",
    ),
    "a command that is not there": ("services.api.command", ["wenming", "srve"], "there is no command srve"),
    "an option that is not there": (
        "services.relay.command",
        ["wenming", "relay", "--twice"],
        "No such option",
    ),
    "a health check that is not there": (
        "services.signer.healthcheck.test",
        ["CMD", "wenming", "sign", "--well"],
        "No such option",
    ),
}
"""What is changed where, to what, and what is then said of it."""


@pytest.mark.parametrize("change", CHANGES)
def test_a_rule_that_is_broken_is_named(change: str, compose: dict[str, Any]) -> None:
    where, value, said = CHANGES[change]
    changed = copy.deepcopy(compose)
    *path, last = where.split(".")
    place: dict[str, Any] = functools.reduce(lambda inner, name: inner[name], path, changed)
    if value is GONE:
        del place[last]
    else:
        place[last] = value
    look = against_the_schema if said == "schema: " else against_our_rules
    assert [problem for problem in look(changed) if said in problem] != []


def test_nothing_is_left_to_an_environment_that_nobody_described() -> None:
    """What may be set before `up`, each with a default; passwords are not among them."""
    text = (ROOT / "docker-compose.yml").read_text("utf-8")
    assert set(re.findall(r"\$\{?(\w+)", text)) == {
        "WENMING_PUBLISHED_PORT",
        "WENMING_ORIGIN",
        "WENMING_LOG_VKEY",
        "WENMING_WITNESS_NAME",
        "WENMING_WITNESS_PUBLISHED_PORT",
        "WENMING_WITNESS_LINES",
        "WENMING_WORKER_LEDGER",
    }
    assert text.count("${") == len(re.findall(r"\$\{\w+:-[^}]*\}", text))


def test_only_who_needs_names_has_the_keys_and_only_init_is_the_owner(compose: dict[str, Any]) -> None:
    services = compose["services"]
    with_keys = {name for name in services if any("keys:" in v for v in services[name].get("volumes", ()))}
    owners = {
        n
        for n in OURS
        if "//wenming_owner@" in services[n].get("environment", {}).get("WENMING_DATABASE", "")
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
    assert {name for name in OURS if services[name].get("profiles")} == {"witness-key", "witness", "worker"}


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


@pytest.mark.slow
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
    database = ("--database", place.address_for("follower"))

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


@pytest.mark.slow  # about 20 s
def test_a_worker_makes_figures_of_its_own_from_what_the_relay_sent(place: Place, kafka: str) -> None:
    place = place.with_kafka(kafka)
    assert place.run("init").returncode == 0
    made = place.run("topic")
    assert made.returncode == 0, made.stderr
    (ledger_id,) = re.findall(r"relay-position\.(\S+)", made.stdout)
    assert place.run("relay", [*place.services["relay"]["command"], "--once"]).returncode == 0
    assert place.run("relay", place.services["relay"]["healthcheck"]["test"][1:]).returncode == 0
    worker = place.services["worker"]
    worker["environment"]["WENMING_WORKER_LEDGER"] = ledger_id  # as somebody reads it off the line above
    fed = place.run("worker", [*worker["command"], "--once"])
    assert fed.returncode == 0, fed.stderr
    assert place.run("worker", worker["healthcheck"]["test"][1:]).returncode == 0
    store = place.environment("worker")["WENMING_WORKER_STORE"]
    password = Path(place.environment("worker")["WENMING_WORKER_STORE_PASSWORD_FILE"]).read_text().strip()
    against = ("--against", store.replace("@", f":{password}@"), "--database", place.address_for("follower"))
    assert wenming("verify", *against).code == 0


def test_every_service_of_ours_is_tried_here(compose: dict[str, Any]) -> None:
    assert {name for name, service in compose["services"].items() if "build" in service} == set(OURS)
