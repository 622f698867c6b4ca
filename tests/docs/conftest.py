"""The Compose file, and this machine in the place of its containers."""

import copy
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import services
from tests.docs.composed import PLACES, ROOT, Place, composed, prepare


@pytest.fixture(scope="session")
def compose() -> dict[str, Any]:
    """The file as Compose sees it; nobody changes it."""
    return composed()


@pytest.fixture
def postgres_of_compose(tmp_path: Path, compose: dict[str, Any]) -> Iterator[services.PostgresServer]:
    """A server as the image would leave it, with passwords that our script makes in ``run/secrets``."""
    secrets = tmp_path / "run/secrets"
    subprocess.run(["sh", ROOT / "compose/secrets.sh", secrets], check=True, stdout=subprocess.DEVNULL)
    try:
        with services.private_server() as server:
            prepare(server, compose, secrets)
            yield server
    except services.ServiceMissingError as missing:
        if services.required():
            pytest.fail(f"PostgreSQL is required here: {missing}")
        pytest.skip(f"PostgreSQL: {missing}")


@pytest.fixture
def place(tmp_path: Path, compose: dict[str, Any], postgres_of_compose: services.PostgresServer) -> Place:
    """Volumes that are empty, and the database."""
    for name in PLACES:
        (tmp_path / name).mkdir(parents=True, exist_ok=True)
    (tmp_path / "etc/wenming/witnesses").write_text(compose["configs"]["witnesses"]["content"])
    address = postgres_of_compose.address.rpartition("@")[2].rpartition("/")[0] + "/wenming"
    ports = services.free_port(), services.free_port()
    return Place(copy.deepcopy(compose["services"]), address, tmp_path, *ports)
