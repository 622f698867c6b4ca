"""The tree of units: one centre, one institute a township, stations below, bases beside (S012–S019, T01, T02)."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal
from uuid import UUID

from ledger import ids
from ledger.commands import AssignUnitRole, Command, EndUnitRole, EstablishUnit, MoveUnit, RenameUnit
from ledger.errors import AlreadyExistsError, InvalidRequestError, RoleConflictError, UnitTreeError
from ledger.events import (
    Fact,
    UnitEstablished,
    UnitKind,
    UnitMoved,
    UnitRenamed,
    UnitRole,
    UnitRoleAssigned,
    UnitRoleEnded,
)
from ledger.rules.case import Case

PARENT_KINDS: Mapping[UnitKind, frozenset[UnitKind]] = {
    "centre": frozenset(),
    "institute": frozenset({"centre"}),
    "station": frozenset({"institute"}),
    "base": frozenset({"centre", "institute"}),
}
POSTS: Mapping[UnitKind, frozenset[UnitRole]] = {
    "centre": frozenset({"director", "deputy", "office_director", "liaison_director"}),
    "institute": frozenset({"director", "deputy"}),
    "station": frozenset({"director", "deputy"}),
    "base": frozenset({"director", "deputy"}),
}
"""主任/所长/站长 are ``director``, their 副 are ``deputy``; the two offices belong to the centre (S013, S014, S030)."""


@dataclass(frozen=True, slots=True)
class Unit:
    """A unit as it stands; ``posts`` holds (role, person) pairs."""

    id: UUID
    version: int
    kind: UnitKind
    parent_id: UUID | None
    division_code: str | None
    posts: frozenset[tuple[UnitRole, UUID]] = frozenset()
    stream: Literal["unit"] = "unit"


def establish(command: EstablishUnit, case: Case) -> list[Fact]:
    """A second centre, or a second institute or station of a division, has the id of the first and is refused."""
    unit_id = _id_of_new(command, case)
    if case.exists(unit_id):
        raise AlreadyExistsError(what=command.kind, id=unit_id)
    case.require_role("admin", "steering", "organiser")
    if command.parent_id is None:
        case.require_role("admin", "steering")
        _check_place(command.kind, command.division_code, None)
    else:
        parent = case.unit(command.parent_id)
        case.require_within(parent.id)
        _check_place(command.kind, command.division_code, parent)
    return [
        UnitEstablished(
            **case.stamp(unit_id),
            kind=command.kind,
            name=command.name,
            parent_id=command.parent_id,
            division_code=command.division_code,
            department=command.department,
        )
    ]


def rename(command: RenameUnit, case: Case) -> list[Fact]:
    unit = case.unit(command.unit_id)
    case.require_staff(unit.id, "steering", "organiser")
    return [UnitRenamed(**case.stamp(unit.id), name=command.name)]


def move(command: MoveUnit, case: Case) -> list[Fact]:
    """A unit goes under another parent of a fitting kind; kinds only point upwards, so no circle can arise."""
    unit, parent = case.unit(command.unit_id), case.unit(command.parent_id)
    case.require_staff(unit.id, "steering", "organiser")
    case.require_within(parent.id)
    if parent.kind not in PARENT_KINDS[unit.kind] or unit.parent_id is None:
        raise UnitTreeError(kind=unit.kind, parent_kind=parent.kind, division_code=unit.division_code)
    if parent.id == unit.parent_id:
        return []
    return [UnitMoved(**case.stamp(unit.id), parent_id=parent.id, from_parent_id=unit.parent_id)]


def assign_role(command: AssignUnitRole, case: Case) -> list[Fact]:
    """One holder a post (deputies may be several); nobody is both head and deputy of a unit (S015)."""
    unit = case.unit(command.unit_id)
    case.require_staff(unit.id, "steering", "organiser")
    if (command.role, command.person_id) in unit.posts:
        return []
    taken = command.role != "deputy" and any(role == command.role for role, _ in unit.posts)
    opposite = {"director": "deputy", "deputy": "director"}.get(command.role)
    both = any(role == opposite and person == command.person_id for role, person in unit.posts)
    if command.role not in POSTS[unit.kind] or taken or both:
        raise RoleConflictError(role=command.role, unit_id=unit.id)
    return [UnitRoleAssigned(**case.stamp(unit.id), role=command.role, person_id=command.person_id)]


def end_role(command: EndUnitRole, case: Case) -> list[Fact]:
    unit = case.unit(command.unit_id)
    case.require_staff(unit.id, "steering", "organiser")
    if (command.role, command.person_id) not in unit.posts:
        raise RoleConflictError(role=command.role, unit_id=unit.id)
    return [UnitRoleEnded(**case.stamp(unit.id), role=command.role, person_id=command.person_id)]


def _id_of_new(command: EstablishUnit, case: Case) -> UUID:
    if command.kind != "base":
        if command.division_code is None or command.unit_id is not None:
            raise InvalidRequestError(problem=f"a {command.kind} takes a division_code and no unit_id")
        return ids.unit_id(case.ledger_id, command.kind, command.division_code)
    if command.unit_id is None or command.department is None:
        raise InvalidRequestError(problem="a base takes a unit_id and the department that sponsors it")
    return command.unit_id


def _check_place(kind: UnitKind, code: str | None, parent: Unit | None) -> None:
    parent_kind = parent.kind if parent else None
    digits = {"centre": 6, "institute": 9, "station": 12}
    fits = (parent_kind in PARENT_KINDS[kind]) if parent else not PARENT_KINDS[kind]
    if kind in digits:
        fits = fits and code is not None and len(code) == digits[kind]
        if parent:
            fits = fits and code is not None and code.startswith(parent.division_code or "-")
    if not fits:
        raise UnitTreeError(kind=kind, parent_kind=parent_kind, division_code=code)


def evolve(state: Unit | None, fact: Fact) -> Unit:
    version = fact.originator_version
    if isinstance(fact, UnitEstablished):
        return Unit(fact.originator_id, version, fact.kind, fact.parent_id, fact.division_code)
    assert state is not None
    match fact:
        case UnitMoved():
            return replace(state, version=version, parent_id=fact.parent_id)
        case UnitRoleAssigned():
            return replace(state, version=version, posts=state.posts | {(fact.role, fact.person_id)})
        case UnitRoleEnded():
            return replace(state, version=version, posts=state.posts - {(fact.role, fact.person_id)})
    return replace(state, version=version)


DECIDERS: dict[type[Command], Callable[[Any, Case], list[Fact]]] = {
    EstablishUnit: establish,
    RenameUnit: rename,
    MoveUnit: move,
    AssignUnitRole: assign_role,
    EndUnitRole: end_role,
}
