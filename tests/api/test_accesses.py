"""The access log and the count of wrong codes, on each database that may hold them."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import pytest
import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError

from api.accesses import ATTEMPTS_WITHIN, WRONG_CODES_MAX, Access, Accesses
from api.problems import TooManyAttemptsError
from ledger.rules import Caller

NOON = datetime(2026, 3, 2, 4, 0, tzinfo=UTC)
WANG, ORDER = uuid4(), uuid4()
STAFF = Caller(uuid4(), "organiser")


@pytest.fixture
def accesses(database_url: str) -> Iterator[Accesses]:
    kept = Accesses(database_url, 1.0)
    yield kept
    kept.close()


def test_what_was_written_down_is_read_again_by_another_process(
    accesses: Accesses, database_url: str
) -> None:
    accesses.unsealed([(WANG, "volunteer.enrolled"), (uuid4(), "order.placed")], STAFF, NOON, "request")
    again = Accesses(database_url, 1.0)
    ((number, found),) = again.of(WANG)
    again.close()
    at = "2026-03-02T04:00:00.000000Z"
    assert found == Access(WANG, STAFF.person_id, "organiser", "volunteer.enrolled", at, "request")
    assert accesses.of(WANG, after=number) == []


@pytest.mark.parametrize("change", ["UPDATE access_log SET role = 'admin'", "DELETE FROM access_log"])
def test_nothing_of_it_is_changed_or_removed(accesses: Accesses, database_url: str, change: str) -> None:
    accesses.unsealed([(WANG, "volunteer.enrolled")], STAFF, NOON, "request")
    url = sa.make_url(database_url)
    if url.get_backend_name() == "postgresql":
        url = url.set(drivername="postgresql+psycopg")
    engine = sa.create_engine(url)
    with pytest.raises(DBAPIError, match="only added to"), engine.begin() as connection:
        connection.exec_driver_sql(change)
    engine.dispose()
    assert [found.role for _, found in accesses.of(WANG)] == ["organiser"]


def wrong(accesses: Accesses, order_id: UUID, times: int, at: datetime) -> None:
    for _ in range(times):
        accesses.code_tried(order_id, right=False, at=at)


def test_ten_wrong_codes_close_one_order_until_the_first_of_them_is_an_hour_old(accesses: Accesses) -> None:
    wrong(accesses, ORDER, 1, NOON)
    wrong(accesses, ORDER, WRONG_CODES_MAX - 1, NOON + timedelta(minutes=20))
    for right in (True, False):
        with pytest.raises(TooManyAttemptsError) as refused:
            accesses.code_tried(ORDER, right, NOON + timedelta(minutes=30))
        assert refused.value.details["retry_seconds"] == 30 * 60
    accesses.code_tried(uuid4(), right=False, at=NOON + timedelta(minutes=30))
    accesses.code_tried(ORDER, right=True, at=NOON + ATTEMPTS_WITHIN)
    wrong(accesses, ORDER, 1, NOON + ATTEMPTS_WITHIN)
    with pytest.raises(TooManyAttemptsError):
        accesses.code_tried(ORDER, right=True, at=NOON + ATTEMPTS_WITHIN)


def test_right_codes_are_never_counted(accesses: Accesses) -> None:
    for _ in range(WRONG_CODES_MAX + 5):
        accesses.code_tried(ORDER, right=True, at=NOON)


def test_how_far_erasures_were_carried_out_is_kept(accesses: Accesses, database_url: str) -> None:
    assert accesses.carried_out() == 0
    for position in (7, 2**40):
        accesses.carried_out_to(position)
        again = Accesses(database_url, 1.0)
        assert again.carried_out() == position
        again.close()
