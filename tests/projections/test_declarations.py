"""What cannot be merged is refused when it is declared, with a sentence that says what to do instead."""

import pytest
from sqlalchemy import Select, distinct, func, select

from ledger.events import OrderOffered, OrderPlaced, UnitEstablished
from projections.facts import facts_of
from projections.hours import entries
from projections.orders import answers, steps
from projections.projection import Projection, UndeclarableError, latest

minutes = func.sum(entries.c.minutes).label("minutes")
by_volunteer = select(entries.c.volunteer_id, minutes).group_by(entries.c.volunteer_id)

REFUSED: dict[str, tuple[Select[object], str]] = {
    "an average": (
        select(entries.c.volunteer_id, func.avg(entries.c.minutes).label("x")).group_by(
            entries.c.volunteer_id
        ),
        "avg cannot be merged",
    ),
    "a ratio": (
        select(entries.c.volunteer_id, (func.sum(entries.c.minutes) / func.count()).label("x")).group_by(
            entries.c.volunteer_id
        ),
        "cannot be merged",
    ),
    "HAVING": (by_volunteer.having(func.sum(entries.c.minutes) > 0), "HAVING"),
    "LIMIT": (by_volunteer.limit(3), "LIMIT"),
    "DISTINCT": (by_volunteer.distinct(), "DISTINCT"),
    "ORDER BY": (by_volunteer.order_by(entries.c.volunteer_id), "ORDER BY"),
    "a distinct count": (
        select(entries.c.unit_id, func.count(distinct(entries.c.volunteer_id)).label("x")).group_by(
            entries.c.unit_id
        ),
        "distinct count",
    ),
    "a window": (
        select(entries.c.volunteer_id, func.sum(entries.c.minutes).over().label("x")).group_by(
            entries.c.volunteer_id
        ),
        "windows",
    ),
    "a join": (
        select(entries.c.volunteer_id, minutes)
        .join(steps, steps.c.order_id == entries.c.order_id)
        .group_by(entries.c.volunteer_id),
        "exactly one relation",
    ),
    "the clock": (
        by_volunteer.where(entries.c.recorded_at < func.now()),
        "may not depend on when",
    ),
    "no key": (select(minutes), "GROUP BY"),
    "a key that can be NULL": (
        select(entries.c.order_id, minutes).group_by(entries.c.order_id),
        "order_id can be NULL",
    ),
    "a key that some events lack": (
        select(steps.c.team_id, func.count().label("n")).group_by(steps.c.team_id),
        "team_id can be NULL",
    ),
    "a maximum over signed entries": (
        select(entries.c.volunteer_id, func.max(entries.c.recorded_at).label("x")).group_by(
            entries.c.volunteer_id
        ),
        "a reversal cannot undo a max",
    ),
    "the latest over signed entries": (
        select(entries.c.volunteer_id, latest(entries.c.unit_id, entries.c.position).label("x")).group_by(
            entries.c.volunteer_id
        ),
        "a reversal cannot undo a latest",
    ),
    "a maximum of text": (
        select(answers.c.order_id, func.max(answers.c.unit_id).label("x")).group_by(answers.c.order_id),
        "text",
    ),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_cannot_be_merged_is_refused(what: str) -> None:
    query, sentence = REFUSED[what]
    with pytest.raises(UndeclarableError, match=sentence):
        Projection("wrong", 1, query)


def test_table_key_and_merge_rules_are_read_off_the_select() -> None:
    figure = Projection(
        "read_off",
        3,
        select(
            steps.c.order_id,
            func.count().filter(steps.c.topic == OrderPlaced.TOPIC).label("placed"),
            latest(steps.c.team_id, steps.c.position).label("team_id"),
            func.min(steps.c.recorded_at).label("first_at"),
        ).group_by(steps.c.order_id),
    )
    assert figure.table_name == "figure_read_off_v3"
    assert figure.keys == ("order_id",)
    assert [(m.name, m.merge) for m in figure.measures] == [
        ("placed", "add"),
        ("team_id", "latest"),
        ("first_at", "min"),
    ]
    assert figure.columns == ("order_id", "placed", "team_id", "first_at", "team_id__at")


def test_a_relation_reads_the_events_of_one_kind_of_stream() -> None:
    with pytest.raises(ValueError, match="one kind of stream"):
        facts_of("mixed", OrderOffered, UnitEstablished)
