"""The county as it stands before anything happens: units, teams, staff, and the people who will volunteer."""

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from importlib.resources import files
from random import Random
from uuid import UUID, uuid5

from api.demo.words import CIVIC, DEPARTMENTS, PROFESSIONAL
from ledger import commands as c
from ledger import ids
from ledger.rulebook import default_rulebook
from ledger.rules import Caller, Role

BASES = 64


@dataclass(frozen=True)
class Place:
    """A unit with the institute whose staff look after it (None: the centre's)."""

    unit_id: UUID
    name: str
    code: str | None
    institute: str | None


@dataclass(frozen=True)
class Person:
    """Somebody invented, known to the ledger by an id only; ``hours`` is how much they will want to serve."""

    person_id: UUID
    number: int
    squad: Place
    appetite: str


class County:
    """Ids, names and callers, all following from the ledger's id and one seed."""

    def __init__(self, ledger_id: UUID, volunteers: int, seed: int) -> None:
        self.ledger_id = ledger_id
        self.random = Random(f"{seed}|county")
        text = files("api.demo").joinpath("data/gangu-divisions.csv").read_text("utf-8")
        self.divisions = list(csv.DictReader(text.splitlines()))
        self.count = volunteers

    def id_of(self, *parts: object) -> UUID:
        """A stable id for something invented."""
        return uuid5(self.ledger_id, "demo|" + "|".join(map(str, parts)))

    # -- places --

    @cached_property
    def centre(self) -> Place:
        return Place(ids.unit_id(self.ledger_id, "centre", None), "甘谷县新时代文明实践中心", "620523", None)

    @cached_property
    def institutes(self) -> list[Place]:
        return [
            Place(
                ids.unit_id(self.ledger_id, "institute", d["code"]),
                f"{d['name']}新时代文明实践所",
                d["code"],
                d["code"],
            )
            for d in self.divisions
            if d["level"] == "township"
        ]

    @cached_property
    def stations(self) -> list[Place]:
        return [
            Place(
                ids.unit_id(self.ledger_id, "station", d["code"]),
                f"{d['name']}新时代文明实践站",
                d["code"],
                d["parent_code"],
            )
            for d in self.divisions
            if d["level"] not in ("county", "township")
        ]

    @cached_property
    def bases(self) -> list[Place]:
        found = []
        for number in range(BASES):
            name = DEPARTMENTS[number % len(DEPARTMENTS)]
            institute = (
                None if number < len(DEPARTMENTS) else self.institutes[number % len(self.institutes)].code
            )
            suffix = "" if institute is None else f"第{number // len(DEPARTMENTS) + 1}"
            found.append(Place(self.id_of("base", number), f"{name}{suffix}文明实践基地", None, institute))
        return found

    def institute_of(self, place: Place) -> UUID:
        """The unit whose staff act for a place."""
        return (
            self.centre.unit_id
            if place.institute is None
            else ids.unit_id(self.ledger_id, "institute", place.institute)
        )

    # -- who acts --

    def staff(self, place: Place, role: Role, number: int = 1) -> Caller:
        """The n-th organiser, dispatcher or recorder of the institute (or the centre) that looks after a place."""
        unit = self.institute_of(place)
        return Caller(self.id_of("staff", unit, role, number), role, unit)

    @cached_property
    def admin(self) -> Caller:
        return Caller(self.id_of("staff", "admin"), "admin")

    def director(self, place: Place) -> UUID:
        """Who heads an institute, a station or a base, and its team."""
        return self.id_of("post", place.unit_id, "director")

    def resident(self, number: int) -> UUID:
        return self.id_of("resident", number)

    def squad(self, place: Place) -> UUID:
        """The squad of a station or base."""
        return ids.team_id(self.ledger_id, "squad", place.unit_id, None)

    def team(self, kind: str, unit_id: UUID, category: str | None = None) -> UUID:
        return ids.team_id(self.ledger_id, kind, unit_id, category)

    # -- people --

    @cached_property
    def people(self) -> list[Person]:
        """70 in 100 serve a little, 29 some, 1 a great deal (performance.md, realistic shape)."""
        homes = [*self.stations, *self.bases]
        few = self.random.sample(homes, k=max(1, min(len(homes), self.count // 5)))
        heavy, middling = round(self.count * 0.01), round(self.count * 0.29)
        appetites = ["heavy"] * heavy + ["middling"] * middling
        appetites += ["light"] * (self.count - len(appetites))
        self.random.shuffle(appetites)
        return [
            Person(self.id_of("volunteer", number), number, self.random.choice(few), appetite)
            for number, appetite in enumerate(appetites)
        ]

    # -- founding commands --

    def founding(self) -> Iterator[c.Command]:
        """Rule book, units with their heads, teams with their sponsors and leaders (S012–S019, S029–S035)."""
        yield from self._units()
        yield from self._posts()
        yield from self._teams()

    def rule_book(self, effective_on: object) -> c.Command:
        return c.PublishRuleBook(version=1, effective_on=effective_on, book=default_rulebook())  # type: ignore[arg-type]

    def _units(self) -> Iterator[c.Command]:
        yield c.EstablishUnit(kind="centre", name=self.centre.name, division_code="620523")
        for place in self.institutes:
            yield c.EstablishUnit(
                kind="institute", name=place.name, division_code=place.code, parent_id=self.centre.unit_id
            )
        for place in self.stations:
            yield c.EstablishUnit(
                kind="station", name=place.name, division_code=place.code, parent_id=self.institute_of(place)
            )
        for number, place in enumerate(self.bases):
            yield c.EstablishUnit(
                kind="base",
                name=place.name,
                parent_id=self.institute_of(place),
                department=f"department_{number % len(DEPARTMENTS) + 1}",
                unit_id=place.unit_id,
            )

    def _posts(self) -> Iterator[c.Command]:
        for role in ("director", "deputy", "office_director", "liaison_director"):
            yield c.AssignUnitRole(
                unit_id=self.centre.unit_id, role=role, person_id=self.id_of("post", "centre", role)
            )
        for place in [*self.institutes, *self.stations, *self.bases]:
            yield c.AssignUnitRole(unit_id=place.unit_id, role="director", person_id=self.director(place))
        for place in self.institutes:
            yield c.AssignUnitRole(
                unit_id=place.unit_id, role="deputy", person_id=self.id_of("post", place.code, "deputy")
            )

    def _teams(self) -> Iterator[c.Command]:
        centre = self.centre.unit_id
        corps = self.team("corps", centre)
        yield c.FormTeam(kind="corps", name="甘谷县新时代文明实践志愿服务总队", unit_id=centre)
        yield c.AppointTeamLeader(team_id=corps, leader_id=self.id_of("post", "centre", "director"))
        yield from self._teams_of_the_centre(centre, corps)
        for place in self.institutes:
            team = self.team("branch", place.unit_id)
            name = place.name.replace("实践所", "实践志愿服务分队")
            yield c.FormTeam(kind="branch", name=name, unit_id=place.unit_id, parent_team_id=corps)
            yield c.AppointTeamLeader(team_id=team, leader_id=self.director(place))
        for place in [*self.stations, *self.bases]:
            parent = self.team("branch", self.institute_of(place)) if place.institute else corps
            name = place.name.replace("实践站", "实践").replace("实践基地", "实践") + "志愿服务小分队"
            yield c.FormTeam(kind="squad", name=name, unit_id=place.unit_id, parent_team_id=parent)
            yield c.AppointTeamLeader(team_id=self.squad(place), leader_id=self.director(place))

    def _teams_of_the_centre(self, centre: UUID, corps: UUID) -> Iterator[c.Command]:
        for category, (name, (lead, *partners)) in PROFESSIONAL.items():
            team = self.team("professional", centre, category)
            yield c.FormTeam(
                kind="professional",
                category=category,
                name=f"{name}志愿服务队",
                unit_id=centre,
                parent_team_id=corps,
            )
            yield c.AssignTeamSponsor(team_id=team, department=lead, role="lead")
            for partner in partners:
                yield c.AssignTeamSponsor(team_id=team, department=partner, role="partner")
        for category, name in CIVIC.items():
            yield c.FormTeam(
                kind="civic",
                category=category,
                name=f"{name}文明实践志愿服务队",
                unit_id=centre,
                parent_team_id=corps,
            )
