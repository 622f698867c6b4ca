"""The register says of each certificate what the accounts say, live and at every moment of the past (L17, T37)."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ledger.codec import decode
from ledger.events import CertificateIssued, CertificateRevoked, CertificateSuperseded, EntryPosted, Fact
from projections import replay
from projections.certificates import Which, certificates, issuer_keys, keys, listed, numbered, reversal_days
from projections.follower import catch_up
from tests.county import VKEY, County, Step, name, sample_steps

Table = list[dict[str, Any]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("register")


def told(folder: Path, steps: list[Step]) -> County:
    county = County(f"sqlite:///{folder / f'{uuid4().hex}.db'}")
    county.tell(steps)
    catch_up(county.log)
    return county


def facts_of(county: County, position: int) -> list[Fact]:
    return [decode(row.topic, row.stream_id, row.version, row.state) for row in county.log.read(1, position)]


def naive(facts: list[Fact]) -> dict[str, tuple[str, int]]:
    """Status and reversals of every certificate, from the facts alone."""
    found = {}
    for issued in facts:
        if not isinstance(issued, CertificateIssued):
            continue
        later = [fact for fact in facts if fact.originator_id == issued.originator_id]
        reversals = sum(
            isinstance(fact, EntryPosted)
            and fact.originator_id == issued.volunteer_id
            and fact.reverses_entry_id is not None
            and issued.first_on <= fact.served_on <= issued.last_on
            for fact in facts
        )
        status = "corrected" if reversals > issued.reversals else "valid"
        status = "superseded" if any(isinstance(f, CertificateSuperseded) for f in later) else status
        status = "revoked" if any(isinstance(f, CertificateRevoked) for f in later) else status
        found[issued.certificate_number] = status, reversals
    return found


def shown(table: Table) -> dict[str, tuple[str, int]]:
    return {row["certificate_number"]: (row["status"], int(row["reversals_now"])) for row in table}


CERTIFYING = st.lists(
    st.tuples(st.sampled_from([0, 5, 6, 12]), st.integers(0, 15), st.integers(0, 30), st.integers(0, 97)),
    min_size=2,
    max_size=14,
)
"""Services, corrections and certificates only."""


@settings(max_examples=8)
@given(steps=CERTIFYING, cut=st.floats(0, 1))
def test_the_register_is_what_the_facts_say(folder: Path, steps: list[Step], cut: float) -> None:
    county = told(folder, [(0, 0, 3, 20), (0, 1, 3, 40), *steps])
    head = county.log.head().size
    past = int(head * cut)
    with replay.at(county.log, (certificates, reversal_days)) as moment:
        table = listed(moment, Which())
    with replay.at(county.log, (certificates, reversal_days), past) as moment:
        before = listed(moment, Which())
    assert shown(table) == naive(facts_of(county, head))
    assert shown(before) == naive(facts_of(county, past))
    assert [row["issued_position"] for row in table] == sorted(
        (r["issued_position"] for r in table), reverse=True
    )
    county.close()


@pytest.fixture(scope="module")
def sample(folder: Path) -> Iterator[County]:
    county = told(folder, sample_steps(80))
    yield county
    county.close()


def test_the_register_is_asked_by_unit_person_status_and_page(sample: County) -> None:
    with replay.at(sample.log, (certificates, reversal_days, issuer_keys)) as moment:
        first, second = listed(moment, Which())
        assert [row["status"] for row in (first, second)] == ["corrected", "revoked"]
        assert listed(moment, Which(touched=True)) == [first, second]
        assert listed(moment, Which(status="revoked")) == [second]
        assert listed(moment, Which(), limit=1) == [first]
        assert listed(moment, Which(), after=first["issued_position"]) == [second]
        assert numbered(moment, second["certificate_id"]) == second
        assert numbered(moment, str(name("nothing"))) is None
        for which in (
            Which(units=()),
            Which(volunteer_id=str(name("nobody"))),
            Which(status="valid", units=()),
        ):
            assert listed(moment, which) == []
        assert listed(moment, Which(units=(str(sample.station),))) == [first, second]
        by_person = [listed(moment, Which(volunteer_id=row["volunteer_id"])) for row in (first, second)]
        assert all(by_person)
        (key,) = keys(moment)
        assert (key["vkey"], key["retired_at"], key["retired_for"]) == (VKEY, None, None)
