"""What a Compose file of ours must keep to, beyond the schema: each rule names whatever breaks it.

Rules are pure: the file as data, and what is known of settings and commands, in; sentences out.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

Compose = Mapping[str, Any]
Service = Mapping[str, Any]

POSTGRES_IMAGE = {"POSTGRES_USER", "POSTGRES_PASSWORD_FILE", "POSTGRES_DB", "POSTGRES_INITDB_ARGS"}
"""What the official image is told here, of what it knows."""
SECRETIVE = re.compile(r"PASSWORD|PASSWD|SECRET|TOKEN|CREDENTIAL|JAAS|PRIVATE", re.I)
SAID = re.compile(
    r"://[^/\s:@]+:[^/\s@]+@"  # a password in an address
    r"|PASSWORD\s+'[^']"  # in SQL; :'name' is what psql reads from elsewhere
    r"|password\s*=\s*\S"
    r"|PRIVATE[+ ]KEY"
)
LOOPBACK = re.compile(r"127\.0\.0\.1:\S+:\d+")


def services(compose: Compose) -> Iterator[tuple[str, Service]]:
    yield from compose["services"].items()


def ends(service: Service) -> bool:
    """Whether it does one thing and stops."""
    return service.get("restart") == "no"


def names(wanted: Sequence[str | Mapping[str, Any]]) -> list[str]:
    """The names in a list of references, short or long."""
    return [one if isinstance(one, str) else str(one["source"]) for one in wanted]


def texts(value: object) -> Iterator[str]:
    """Every text in a piece of the file, keys too."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield str(key)
            yield from texts(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from texts(inner)
    else:
        yield str(value)


# --- the rules -------------------------------------------------------------------------------------------------------


def images_are_of_a_version(compose: Compose) -> Iterator[str]:
    for name, service in services(compose):
        tag = str(service.get("image", "")).rpartition(":")[2]
        if not re.match(r"\d", tag):
            yield f"{name}: image {service.get('image')} names no version"


def what_runs_on_is_watched(compose: Compose) -> Iterator[str]:
    """Whatever lives on has a health check and comes back; whatever ends has neither."""
    for name, service in services(compose):
        check = service.get("healthcheck", {})
        if service.get("restart") not in ("no", "unless-stopped"):
            yield f"{name}: nothing says whether it comes back"
        elif ends(service) and not check.get("disable"):
            yield f"{name}: ends by itself, and inherits the health check of its image"
        elif not ends(service) and (check.get("disable") or not check.get("test")):
            yield f"{name}: lives on without a health check"


def nobody_may_more_than_they_need(compose: Compose) -> Iterator[str]:
    for name, service in services(compose):
        if service.get("cap_drop") != ["ALL"] or service.get("cap_add"):
            yield f"{name}: keeps capabilities"
        if "no-new-privileges:true" not in service.get("security_opt", ()):
            yield f"{name}: may gain privileges"
        if service.get("privileged") or service.get("user", "") in ("root", "0"):
            yield f"{name}: runs as root"
        if not service.get("user") and not service.get("build"):
            yield f"{name}: runs as whoever its image says"
        if not service.get("mem_limit"):
            yield f"{name}: may take all memory"


def no_secret_is_said(compose: Compose) -> Iterator[str]:
    for name, service in services(compose):
        for variable in service.get("environment", {}):
            if SECRETIVE.search(variable) and not variable.endswith("_FILE"):
                yield f"{name}: {variable} is seen by whoever inspects the container"
    for text in texts(compose):
        if SAID.search(text):
            yield f"a secret stands in the file: {text.strip()[:8]}…"


def secrets_lead_somewhere(compose: Compose) -> Iterator[str]:
    declared = compose.get("secrets", {})
    used = {one for _, service in services(compose) for one in names(service.get("secrets", ()))}
    yield from (f"secret {name} is not declared" for name in used - set(declared))
    yield from (f"secret {name} is used by nobody" for name in set(declared) - used)
    for name, secret in declared.items():
        if set(secret) != {"file"}:
            yield f"secret {name} is not from a file"
    for name, service in services(compose):
        of_configs = [compose["configs"].get(one, {}) for one in names(service.get("configs", ()))]
        read = {
            found
            for text in texts([service.get("environment", {}), service.get("command", []), of_configs])
            for found in re.findall(r"/run/secrets/(\w+)", text)
        }
        if read != set(names(service.get("secrets", ()))):
            yield f"{name}: is given secrets {names(service.get('secrets', ()))} and reads {sorted(read)}"


def volumes_configs_and_networks_lead_somewhere(compose: Compose) -> Iterator[str]:
    for kind in ("volumes", "configs", "networks"):
        used = {
            re.split(r":", one)[0] for _, service in services(compose) for one in names(service.get(kind, ()))
        }
        yield from (f"{kind}: {name} is not declared" for name in used - set(compose[kind]))
        yield from (f"{kind}: {name} is used by nobody" for name in set(compose[kind]) - used)


def only_loopback_is_published(compose: Compose) -> Iterator[str]:
    for name, service in services(compose):
        for port in service.get("ports", ()):
            if not LOOPBACK.fullmatch(str(port)):
                yield f"{name}: publishes {port}"
        if service.get("ports") and name in ("postgres", "kafka"):
            yield f"{name}: is published"


def stores_are_reached_by_nobody_outside(compose: Compose) -> Iterator[str]:
    """A service is on a named network, or on none; the stores on such as lead nowhere."""
    for name, service in services(compose):
        networks = service.get("networks", [])
        if not networks and service.get("network_mode") != "none":
            yield f"{name}: is on the network that everybody is on"
        if not service.get("build"):
            for network in networks:
                if not (compose["networks"].get(network) or {}).get("internal"):
                    yield f"{name}: can be reached by way of {network}"


def waiting_ends(compose: Compose) -> Iterator[str]:
    """What a service waits for is there, comes to be, and waits for no one that waits for it."""
    waits = {name: service.get("depends_on", {}) for name, service in services(compose)}
    for name, wanted in waits.items():
        for other, how in wanted.items():
            found = compose["services"].get(other)
            if found is None:
                yield f"{name}: waits for {other}, which is not there"
                continue
            if how["condition"] == "service_completed_successfully" and not ends(found):
                yield f"{name}: waits for the end of {other}, which lives on"
            if how["condition"] == "service_healthy" and "test" not in found.get("healthcheck", {}):
                yield f"{name}: waits for the health of {other}, which nobody checks"
            if not set(found.get("profiles", ())) <= set(compose["services"][name].get("profiles", ())):
                yield f"{name}: waits for {other}, which a profile leaves out"
    yield from _circles(waits)


def _circles(waits: Mapping[str, Mapping[str, object]]) -> Iterator[str]:
    left = dict(waits)
    while ready := [name for name, wanted in left.items() if not set(wanted) & set(left)]:
        for name in ready:
            del left[name]
    if left:
        yield f"a circle of waiting: {', '.join(sorted(left))}"


def every_name_in_an_environment_is_read(known: set[str]) -> Callable[[Compose], Iterator[str]]:
    """``known``: the settings there are, by the names they have in an environment."""

    def rule(compose: Compose) -> Iterator[str]:
        for name, service in services(compose):
            for variable in service.get("environment", {}):
                if not service.get("build") and not variable.startswith("WENMING_"):
                    is_read = variable in POSTGRES_IMAGE | {"CLUSTER_ID"} or variable.startswith("KAFKA_")
                else:
                    is_read = variable in known
                if not is_read:
                    yield f"{name}: nobody reads {variable}"

    return rule


def every_command_is_understood(parse: Callable[[list[str]], object]) -> Callable[[Compose], Iterator[str]]:
    """``parse`` fails on a command line of `wenming` that it would not understand."""

    def rule(compose: Compose) -> Iterator[str]:
        for name, service in services(compose):
            check = service.get("healthcheck", {}).get("test", [])[1:]
            for line in filter(None, (service.get("command", []), check)):
                if line[0] != "wenming":
                    continue
                try:
                    parse(list(line[1:]))
                except Exception as problem:
                    yield f"{name}: {' '.join(line)}: {problem}"

    return rule


RULES: tuple[Callable[[Compose], Iterator[str]], ...] = (
    images_are_of_a_version,
    what_runs_on_is_watched,
    nobody_may_more_than_they_need,
    no_secret_is_said,
    secrets_lead_somewhere,
    volumes_configs_and_networks_lead_somewhere,
    only_loopback_is_published,
    stores_are_reached_by_nobody_outside,
    waiting_ends,
)
