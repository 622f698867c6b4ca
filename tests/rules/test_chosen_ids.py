"""What has its id by what it is keeps it: nobody may choose that id for something new."""

from collections.abc import Callable
from uuid import UUID, uuid5

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from ledger import commands as c
from ledger import ids
from tests.rules.given import LEDGER_ID, NOW, SEALED, STATION, WANG

DERIVED = {
    "rule book": ids.rulebook_id(LEDGER_ID),
    "centre": ids.unit_id(LEDGER_ID, "centre", "620523"),
    "station": ids.unit_id(LEDGER_ID, "station", "620523100001"),
    "corps": ids.team_id(LEDGER_ID, "corps", STATION, None),
    "squad": ids.team_id(LEDGER_ID, "squad", STATION, None),
    "rights": ids.subject_id(LEDGER_ID, WANG),
}
CHOOSING: dict[str, Callable[[UUID], c.Command]] = {
    "base": lambda new: c.EstablishUnit(kind="base", name="基地", unit_id=new),
    "volunteer": lambda new: c.EnrolVolunteer(
        volunteer_id=new,
        volunteer_number="gg-1",
        home_unit_id=STATION,
        profile=SEALED,
        consent_document="consent-2026",
        consented_at=NOW,
    ),
    "order": lambda new: c.PlaceOrder(
        order_id=new,
        requester_id=WANG,
        unit_id=STATION,
        activity_kind="health",
        wanted_from=NOW,
        wanted_until=NOW,
        need=SEALED,
    ),
    "data request": lambda new: c.RequestData(request_id=new, subject_id=WANG, kind="access"),
}


@pytest.mark.parametrize("thing", CHOOSING)
@pytest.mark.parametrize("taken", DERIVED)
def test_an_id_that_follows_from_something_is_not_chosen_for_another_thing(taken: str, thing: str) -> None:
    with pytest.raises(ValidationError, match="version 8 is never free"):
        CHOOSING[thing](DERIVED[taken])


@given(chosen=st.uuids(version=4) | st.uuids(version=5) | st.uuids(version=1))
def test_any_other_id_may_be_chosen(chosen: UUID) -> None:
    for command in CHOOSING.values():
        command(chosen)
    assert not ids.is_derived(chosen)


def test_derived_ids_differ_for_different_things_and_stay_the_same() -> None:
    assert len(set(DERIVED.values())) == len(DERIVED)
    assert all(ids.is_derived(each) for each in DERIVED.values())
    assert ids.subject_id(LEDGER_ID, WANG) == DERIVED["rights"]
    named = uuid5(LEDGER_ID, f"subject|{WANG}")
    assert str(DERIVED["rights"]) == f"{str(named)[:14]}8{str(named)[15:]}"
