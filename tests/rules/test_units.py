"""The tree of units and who holds which post (S012–S019, T01, T02)."""

import pytest

from ledger import commands as c
from ledger import events as e
from ledger import ids
from ledger.errors import (
    AlreadyExistsError,
    InvalidRequestError,
    OutsideSubtreeError,
    RoleConflictError,
    UnitTreeError,
    UnknownUnitError,
    WrongRoleError,
)
from tests.rules.given import (
    BASE,
    CENTRE,
    COUNTY,
    ELSEWHERE,
    INSTITUTE,
    LEDGER_ID,
    ORGANISER,
    OTHER_INSTITUTE,
    RESIDENT,
    STATION,
    UNITS,
    a,
    a_unit,
    by,
    fact,
    given,
    name,
)

STEERING = by("steering", "steering")
CENTRE_COMMAND = c.EstablishUnit(kind="centre", name="甘谷县新时代文明实践中心", division_code="620523")
PERSON, ANOTHER_PERSON = name("person", 1), name("person", 2)


def establish(kind: e.UnitKind, code: str | None, parent: object = CENTRE, **how: object) -> c.EstablishUnit:
    fields = {"kind": kind, "name": "单位", "division_code": code, "parent_id": parent, **how}
    return c.EstablishUnit.model_validate(fields)


def assign(role: e.UnitRole, person: object = PERSON, unit: object = STATION) -> c.AssignUnitRole:
    return c.AssignUnitRole.model_validate({"unit_id": unit, "role": role, "person_id": person})


def in_post(role: e.UnitRole, unit: object = STATION) -> e.Fact:
    return fact(e.UnitRoleAssigned, unit, role=role, person_id=PERSON)  # type: ignore[arg-type]


def test_a_centre_is_established() -> None:
    """S012; its id follows from the ledger, so that there is one."""
    found = given().when(CENTRE_COMMAND, STEERING).then(a(e.UnitEstablished, kind="centre", parent_id=None))
    assert found[0].originator_id == ids.unit_id(LEDGER_ID, "centre", None) == CENTRE


def test_a_county_has_one_centre_whatever_code_the_second_bears() -> None:
    """S012"""
    second = CENTRE_COMMAND.model_copy(update={"division_code": "620524"})
    given(UNITS).when(second).then_refused(AlreadyExistsError, id=CENTRE)


def test_a_centre_is_established_for_the_county_not_by_an_organiser() -> None:
    given().when(CENTRE_COMMAND, by("organiser", "organiser")).then_refused(WrongRoleError)


@pytest.mark.parametrize(
    ("command", "kind"),
    [
        (establish("institute", "620523102"), "institute"),
        (establish("station", "620523100002", INSTITUTE), "station"),
        (establish("base", None, unit_id=name("new"), department="health"), "base"),
        (establish("base", None, INSTITUTE, unit_id=name("new"), department="health"), "base"),
    ],
)
def test_a_unit_is_established_below_one_that_fits(command: c.EstablishUnit, kind: str) -> None:
    """S015, S017, S018"""
    given(UNITS).when(command, STEERING).then(
        a(e.UnitEstablished, kind=kind, parent_id=command.parent_id, department=command.department)
    )


def test_a_township_has_one_institute_and_a_village_one_station() -> None:
    """S015, S017: whoever is above it, a second one has the id of the first."""
    given(UNITS).when(establish("institute", "620523100")).then_refused(AlreadyExistsError, id=INSTITUTE)
    second = establish("station", "620523100001", OTHER_INSTITUTE)
    given(UNITS).when(second).then_refused(AlreadyExistsError, id=STATION)


@pytest.mark.parametrize(
    "command",
    [
        establish("station", "620523100002", CENTRE),
        establish("station", "620523100002", OTHER_INSTITUTE),
        establish("station", "620523100002", None),
        establish("institute", "620523102", STATION),
        establish("institute", "620524102"),
        establish("institute", "620523102003"),
        establish("base", None, STATION, unit_id=name("new"), department="health"),
        establish("base", None, None, unit_id=name("new"), department="health"),
    ],
)
def test_a_unit_is_not_established_where_it_does_not_fit(command: c.EstablishUnit) -> None:
    """T01: kinds stand under their kinds, and codes under the codes they begin with."""
    given(UNITS).when(command).then_refused(UnitTreeError)


@pytest.mark.parametrize(
    "command",
    [
        establish("institute", None),
        establish("station", "620523100002", INSTITUTE, unit_id=name("new")),
        establish("base", None, department="health"),
        establish("base", None, unit_id=name("new")),
    ],
)
def test_a_unit_without_what_names_it_is_refused(command: c.EstablishUnit) -> None:
    """S018: a base is named by its id and the department that sponsors it, the others by their code."""
    given(UNITS).when(command).then_refused(InvalidRequestError)


def test_an_organiser_establishes_only_below_their_own_unit() -> None:
    command = establish("station", "620523100002", INSTITUTE)
    given(UNITS).when(command, ELSEWHERE).then_refused(OutsideSubtreeError, unit_id=INSTITUTE)
    given(UNITS).when(command, by("clerk", "organiser", INSTITUTE)).then(a(e.UnitEstablished))
    unknown = establish("station", "620523100002", name("nowhere"))
    given(UNITS).when(unknown).then_refused(UnknownUnitError, id=name("nowhere"))


def test_a_unit_is_renamed_by_its_staff_only() -> None:
    command = c.RenameUnit(unit_id=STATION, name="新站")
    given(UNITS).when(command, ORGANISER).then(a(e.UnitRenamed, name="新站"))
    given(UNITS).when(command, ELSEWHERE).then_refused(OutsideSubtreeError)
    given(UNITS).when(command, by("anybody", "recorder", STATION)).then_refused(WrongRoleError)


def test_a_unit_is_moved_under_another_parent_that_fits() -> None:
    """T01"""
    command = c.MoveUnit(unit_id=BASE, parent_id=CENTRE)
    given(UNITS).when(command, STEERING).then(
        a(e.UnitMoved, parent_id=CENTRE, from_parent_id=OTHER_INSTITUTE)
    )


def test_a_unit_that_stands_there_already_is_not_moved() -> None:
    given(UNITS).when(c.MoveUnit(unit_id=BASE, parent_id=OTHER_INSTITUTE)).then_nothing()


@pytest.mark.parametrize(
    ("unit", "parent"), [(STATION, CENTRE), (CENTRE, INSTITUTE), (INSTITUTE, STATION), (BASE, BASE)]
)
def test_a_unit_is_not_moved_where_it_does_not_fit(unit: object, parent: object) -> None:
    command = c.MoveUnit.model_validate({"unit_id": unit, "parent_id": parent})
    given(UNITS).when(command).then_refused(UnitTreeError)


def test_a_unit_is_moved_only_between_units_the_caller_acts_for() -> None:
    command = c.MoveUnit(unit_id=STATION, parent_id=OTHER_INSTITUTE)
    given(UNITS).when(command, by("clerk", "organiser", INSTITUTE)).then_refused(
        OutsideSubtreeError, unit_id=OTHER_INSTITUTE
    )


def test_staff_of_a_moved_unit_answer_to_the_new_parent() -> None:
    moved = given(UNITS).after(c.MoveUnit(unit_id=STATION, parent_id=OTHER_INSTITUTE))
    command = c.RenameUnit(unit_id=STATION, name="新站")
    moved.when(command, ELSEWHERE).then(a(e.UnitRenamed))
    moved.when(command, by("clerk", "organiser", INSTITUTE)).then_refused(OutsideSubtreeError)


def test_a_post_is_filled() -> None:
    """S013–S019, T02"""
    given(UNITS).when(assign("director"), ORGANISER).then(
        a(e.UnitRoleAssigned, role="director", person_id=PERSON)
    )
    for role in ("office_director", "liaison_director"):
        given(UNITS).when(assign(role, unit=CENTRE)).then(a(e.UnitRoleAssigned, role=role))


def test_a_post_its_holder_gets_again_stays_as_it_is() -> None:
    given(UNITS, in_post("director")).when(assign("director")).then_nothing()


def test_head_and_deputy_of_a_unit_are_two_people() -> None:
    """S015"""
    given(UNITS, in_post("director")).when(assign("deputy")).then_refused(RoleConflictError)
    given(UNITS, in_post("deputy")).when(assign("director")).then_refused(RoleConflictError)


def test_a_unit_has_one_head_and_any_number_of_deputies() -> None:
    """S015, S019"""
    second_head, second_deputy = assign("director", ANOTHER_PERSON), assign("deputy", ANOTHER_PERSON)
    given(UNITS, in_post("director")).when(second_head).then_refused(RoleConflictError, unit_id=STATION)
    given(UNITS, in_post("deputy")).when(second_deputy).then(a(e.UnitRoleAssigned))


def test_the_two_offices_belong_to_the_centre() -> None:
    """S014, S030"""
    given(UNITS).when(assign("office_director")).then_refused(RoleConflictError)
    given(UNITS).when(assign("liaison_director", unit=INSTITUTE)).then_refused(RoleConflictError)


def test_a_post_ends_and_is_free_again() -> None:
    """T02"""
    end = c.EndUnitRole(unit_id=STATION, role="director", person_id=PERSON)
    ended = given(UNITS, in_post("director")).when(end, ORGANISER)
    ended.then(a(e.UnitRoleEnded, role="director", person_id=PERSON))
    ended.history.when(assign("director", ANOTHER_PERSON)).then(a(e.UnitRoleAssigned))
    ended.history.when(end).then_refused(RoleConflictError)


def test_posts_are_filled_and_ended_by_staff_of_the_unit_only() -> None:
    given(UNITS).when(assign("director"), ELSEWHERE).then_refused(OutsideSubtreeError)
    end = c.EndUnitRole(unit_id=STATION, role="director", person_id=PERSON)
    given(UNITS, in_post("director")).when(end, by(RESIDENT, "resident")).then_refused(WrongRoleError)


def test_an_id_that_names_something_else_is_no_unit() -> None:
    rename = c.RenameUnit(unit_id=name("volunteer", "li"), name="站")
    given(COUNTY).when(rename).then_refused(UnknownUnitError)
    base = establish("base", None, unit_id=name("volunteer", "li"), department="health")
    given(COUNTY).when(base).then_refused(AlreadyExistsError)


def test_a_county_may_begin_with_nothing() -> None:
    orphan = establish("institute", "620523100")
    given().when(orphan).then_refused(UnknownUnitError, id=CENTRE)
    given(a_unit(CENTRE, "centre", "620523", None)).when(orphan).then(a(e.UnitEstablished))
