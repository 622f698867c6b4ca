"""Databases for tests: SQLite files, and databases on one private PostgreSQL server a run."""

import os
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest
from hypothesis import HealthCheck, settings

from tests import services
from tests.broker import KafkaBroker, private_broker

settings.register_profile(
    "default", max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow], print_blob=True
)
settings.register_profile(
    "ci", max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow], print_blob=True
)
settings.load_profile(os.environ.get("WENMING_HYPOTHESIS", "default"))
costly = settings(max_examples=200 if os.environ.get("WENMING_HYPOTHESIS") == "ci" else 10)
"""For properties whose every example takes half a second: fewer of them while somebody waits, all of them in CI."""


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[str]:
    """A server's address; without a server the test fails in CI and is skipped, saying so, elsewhere."""
    try:
        server = services.postgres_server()
        address = server.__enter__()
    except services.ServiceMissingError as missing:
        if services.required():
            pytest.fail(f"PostgreSQL is required here: {missing}")
        pytest.skip(f"PostgreSQL: {missing}")
    yield address
    server.__exit__(None, None, None)


@pytest.fixture(scope="session")
def kafka_broker() -> Iterator[KafkaBroker]:
    """A broker that a test may stop, kill and start again, if it leaves it running; missing as `postgres_server`."""
    try:
        server = private_broker()
        broker = server.__enter__()
    except services.ServiceMissingError as missing:
        if services.required():
            pytest.fail(f"Kafka is required here: {missing}")
        pytest.skip(f"Kafka: {missing}")
    yield broker
    server.__exit__(None, None, None)


@pytest.fixture(scope="session")
def kafka(request: pytest.FixtureRequest) -> str:
    """The address of a broker (``WENMING_TEST_KAFKA``, else a private one); everybody may do anything there."""
    given = os.environ.get("WENMING_TEST_KAFKA")
    if given:
        return given
    broker: KafkaBroker = request.getfixturevalue("kafka_broker")
    return broker.address


@pytest.fixture
def sqlite_url(tmp_path: Path) -> str:
    """The address of an SQLite file that does not exist yet."""
    return f"sqlite:///{tmp_path / 'ledger.db'}"


@pytest.fixture
def postgres_url(postgres_server: str) -> Iterator[str]:
    """An empty PostgreSQL database."""
    with services.fresh_database(postgres_server, f"t{uuid4().hex[:12]}") as url:
        yield url


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest) -> str:
    """An empty database of each kind in turn."""
    name = "sqlite_url" if request.param == "sqlite" else "postgres_url"
    url: str = request.getfixturevalue(name)
    return url
