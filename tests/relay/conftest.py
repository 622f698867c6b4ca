"""A broker that tests of the relay may hurt."""

from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from tests import services
from tests.broker import KafkaBroker, private_broker


@pytest.fixture(scope="module")
def own_broker() -> Iterator[KafkaBroker]:
    """A broker that nobody else uses: it is killed and frozen."""
    with ExitStack() as stack:
        try:
            broker = stack.enter_context(private_broker())
        except services.ServiceMissingError as missing:
            if services.required():
                pytest.fail(f"Kafka is required here: {missing}")
            pytest.skip(f"Kafka: {missing}")
        yield broker
