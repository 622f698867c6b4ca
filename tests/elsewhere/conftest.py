"""A county whose facts leave for other engines."""

from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest

from ledger import archive as archiving
from ledger import commands as c
from ledger.cloudevents import message_of
from ledger.log import LedgerLog
from tests.county import County, name, sample_steps
from tests.elsewhere.house import House

SEGMENT = 40
"""Facts in an archived segment."""


def messages(log: LedgerLog) -> list[bytes]:
    """Every fact as the topic carries it, in the order of the log."""
    return [message_of(log.identity.ledger_id, row).value for row in log.read(1, log.head().size)]


@pytest.fixture(scope="session")
def county(tmp_path_factory: pytest.TempPathFactory) -> Iterator[County]:
    """A county with rows in every figure and an archive of it; nobody writes to it."""
    made = County(f"sqlite:///{tmp_path_factory.mktemp('elsewhere') / 'ledger.db'}")
    made.tell(sample_steps(80))
    made.do(c.AssignTeamSponsor(team_id=made.corps, department="culture_bureau", role="lead"))
    for role in (c.AssignUnitRole, c.EndUnitRole, c.AssignUnitRole):
        made.do(role(unit_id=made.station, role="director", person_id=name("person", "director")))
    archiving.write(made.log, archive_of(made.log), SEGMENT)
    yield made
    made.close()


def archive_of(log: LedgerLog) -> Path:
    return Path(f"{log.url.database}.archive")


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    """An empty ClickHouse database."""
    made = House(tmp_path)
    yield made
    made.close()


@pytest.fixture(scope="session")
def full_house(county: County, tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """ClickHouse with all of the county, in four blocks, in any order, a third of it twice; nobody adds to it."""
    made = House(tmp_path_factory.mktemp("house"))
    made.follow_topic()
    sent = messages(county.log)
    sent += sent[::3]
    Random(4).shuffle(sent)
    for first in range(4):
        made.receive(sent[first::4])
    yield made
    made.close()
