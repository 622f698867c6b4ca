"""`events.md` and the code say the same: every event, field, type, word, sum and query on the page is checked here."""

import re
import sqlite3
import typing
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime
from functools import cache
from pathlib import Path
from typing import Any, Literal
from uuid import UUID

import pytest
from annotated_types import Ge, Le

from ledger import commands, events
from ledger.commands import (
    AcceptOrder,
    CompleteOrder,
    DecideBackfill,
    DecideCorrection,
    DispatchOrder,
    RequestBackfill,
    RequestCorrection,
    Service,
)
from ledger.events import EVENT_TYPES, EntryPosted, Fact
from ledger.rulebook import RuleBook
from ledger.rules import Caller
from projections.figures import figure
from tests.county import SEALED, County, name

ROOT = Path(__file__).parent.parent.parent
PAGE = (ROOT / "events.md").read_text("utf-8")
ROW_ID = re.compile(r"[SLTFG]\d+")
WORD = re.compile(r"`([^`]+)`")


# --- reading the page ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Section:
    """What stands under one event's heading."""

    topic: str
    class_name: str
    class_version: int
    stream: str
    commands: list[str]
    rows: list[str]
    meaning: str
    fields: dict[str, str]
    figures: list[str]
    leads_to: str


SECOND_LINE = re.compile(
    r"`(?P<name>\w+)` · class version (?P<version>\d+) · stream `(?P<stream>\w+)`"
    r" · from (?P<commands>[^·]+) · rows (?P<rows>[^·]+)"
)


def sections() -> list[Section]:
    found = re.split(r"^#+ ", PAGE, flags=re.MULTILINE)
    return [_section(text) for text in found if re.match(r"\w+\.\w+\n", text)]


def _section(text: str) -> Section:
    topic, second, meaning, *rest = [part.strip() for part in text.split("\n\n")]
    about = SECOND_LINE.fullmatch(second)
    assert about, f"{topic}: its second line reads {second!r}"
    leads_to, figures = rest[1].split("\nFigures: ")
    return Section(
        topic,
        about["name"],
        int(about["version"]),
        about["stream"],
        WORD.findall(about["commands"]),
        about["rows"].split(", "),
        meaning,
        {WORD.findall(row[0])[0]: WORD.findall(row[1])[0] for row in table(rest[0])},
        WORD.findall(figures),
        leads_to,
    )


def chapter(heading: str) -> str:
    """What stands under a heading of the page, up to the next one."""
    (text,) = re.findall(rf"^#+ {re.escape(heading)}.*?\n(.*?)(?=^#+ |\Z)", PAGE, re.MULTILINE | re.DOTALL)
    return str(text)


def table(text: str) -> list[list[str]]:
    """The rows of the first table in ``text`` as cells, without its header."""
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in re.findall(r"^\|.*", text, re.M)
    ]
    header, rule, *body = rows
    assert all(set(cell) <= {"-"} for cell in rule)
    assert all(len(row) == len(header) for row in body)
    return body


def block(language: str) -> str:
    (code,) = re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)
    return str(code)


# --- reading the code ------------------------------------------------------------------------------------------------

ALIASES: dict[str, Any] = {
    alias: value
    for alias, value in vars(events).items()
    if typing.get_origin(value) in (Literal, typing.Annotated)
}
"""The names `ledger.events` gives to its types."""


def type_word(event: type[Fact], field: str) -> str:
    """How the page writes the type of a field: the alias or class, its bounds, and whether it may be null."""
    hint = typing.get_type_hints(event, include_extras=True)[field]
    choices = typing.get_args(hint)
    if type(None) not in choices:
        return _plain_word(hint, event.model_fields[field].metadata)
    (inner,) = (choice for choice in choices if choice is not type(None))
    return f"{_plain_word(inner, [])} or null"


def _plain_word(hint: Any, limits: list[Any]) -> str:
    alias = next((alias for alias, value in ALIASES.items() if value == hint), None)
    if alias is not None:
        return alias
    if typing.get_origin(hint) is Literal:
        return _minus(" or ".join(map(str, typing.get_args(hint))))
    lowest = [str(limit.ge) for limit in limits if isinstance(limit, Ge)]
    highest = [str(limit.le) for limit in limits if isinstance(limit, Le)]
    if lowest and highest:
        return _minus(f"{hint.__name__} {lowest[0]} … {highest[0]}")
    return _minus(f"{hint.__name__} ≥ {lowest[0]}" if lowest else hint.__name__)


def _minus(text: str) -> str:
    return text.replace("-", "−")


def own_fields(event: type[Fact]) -> dict[str, str]:
    return {field: type_word(event, field) for field in event.model_fields if field not in Fact.model_fields}


@cache
def words_of_the_code() -> frozenset[str]:
    files = [file for package in ("ledger", "projections", "api") for file in (ROOT / package).rglob("*.py")]
    return frozenset(word for file in files for word in re.findall(r"\w+", file.read_text("utf-8")))


# --- one section per event, and nothing else -------------------------------------------------------------------------


def test_every_event_has_exactly_one_section_in_the_order_of_the_code() -> None:
    assert [section.topic for section in sections()] == [event.TOPIC for event in EVENT_TYPES]


each_event = pytest.mark.parametrize("event", EVENT_TYPES, ids=lambda event: event.TOPIC)


@pytest.fixture
def section(event: type[Fact]) -> Section:
    """The one section about the event."""
    (found,) = (section for section in sections() if section.topic == event.TOPIC)
    return found


@each_event
def test_a_section_names_class_version_and_stream(section: Section, event: type[Fact]) -> None:
    assert (section.class_name, section.class_version, section.stream) == (
        event.__name__,
        event.class_version,
        event.STREAM,
    )


@each_event
def test_it_lists_every_own_field_with_its_type_and_nothing_extra(
    section: Section, event: type[Fact]
) -> None:
    assert list(section.fields.items()) == list(own_fields(event).items())


@each_event
def test_it_says_what_it_means_in_both_languages(section: Section) -> None:
    chinese, english = section.meaning.split("\n")
    assert re.fullmatch(r"[\u4e00-\u9fff（），：、]+。", chinese)
    assert re.fullmatch(r"[A-Z].*[.]", english)
    assert section.leads_to.startswith("Leads to: ")


@each_event
def test_it_names_the_rows_it_serves_at_least_those_of_the_class(section: Section, event: type[Fact]) -> None:
    assert all(ROW_ID.fullmatch(row) for row in section.rows)
    assert len(set(section.rows)) == len(section.rows) > 0
    of_the_class = re.findall(r"\b[SLTFG]\d{2,3}\b", event.__doc__ or "")
    assert set(of_the_class) <= set(section.rows)


@each_event
def test_the_commands_and_figures_it_names_exist(section: Section, event: type[Fact]) -> None:
    asked = [getattr(commands, command) for command in section.commands]
    assert asked
    assert all(issubclass(command, commands.Command) for command in asked)
    for figure_name in section.figures:
        assert event.TOPIC in figure(figure_name).relation.topics


# --- the words -------------------------------------------------------------------------------------------------------


def test_every_word_of_the_glossary_is_in_the_code_and_stands_there_once() -> None:
    rows = table(chapter("Glossary"))
    words = [word for row in rows for word in WORD.findall(row[1])]
    assert len(words) >= len(rows) > 40
    assert {word for word in words if word not in words_of_the_code()} == set()
    assert len({row[0] for row in rows}) == len(rows)
    assert all(re.search(r"[\u4e00-\u9fff]", row[0]) and WORD.findall(row[1]) and row[2] for row in rows)


def test_every_kind_and_class_of_the_code_has_its_word_in_the_glossary() -> None:
    words = {word for row in table(chapter("Glossary")) for word in WORD.findall(row[1])}
    for alias in ("UnitKind", "UnitRole", "TeamKind", "SponsorRole", "SourceClass", "CorrectionKind"):
        assert set(typing.get_args(ALIASES[alias])) <= words


def test_the_types_are_those_of_the_code_with_the_values_they_may_have() -> None:
    listed = {WORD.findall(row[0])[0]: WORD.findall(row[1]) for row in table(chapter("Types"))}
    assert set(ALIASES) <= set(listed)
    for alias, value in ALIASES.items():
        if typing.get_origin(value) is Literal:
            assert tuple(listed[alias]) == typing.get_args(value)
    words = {word for event in EVENT_TYPES for word in own_fields(event).values()} | {"UUID"}
    plain = {re.split(r" or null| ≥| −1 …", word)[0] for word in words} - {"1 or −1"}
    assert plain == set(listed)


def test_what_every_fact_carries_is_what_the_base_class_says() -> None:
    rows = table(chapter("What every fact carries"))
    listed = {WORD.findall(row[0])[0]: WORD.findall(row[1])[0] for row in rows}
    assert listed == {field: type_word(Fact, field) for field in Fact.model_fields}


def test_the_values_of_a_rule_book_are_all_listed() -> None:
    rows = table(chapter("What a rule book holds"))
    assert [WORD.findall(row[0])[0] for row in rows] == list(RuleBook.model_fields)


# --- the examples ----------------------------------------------------------------------------------------------------


def test_the_leaf_of_the_page_is_recomputed_by_the_code_on_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    names: dict[str, Any] = {}
    exec(compile(block("python"), "events.md", "exec"), names)
    assert names["leaf"] == names["fact"]["leaf_hash"]


def local(day: int, hour: int, minute: int) -> datetime:
    """A moment of March 2026 on the clock of the county (eight hours ahead of UTC, no summer time)."""
    return datetime(2026, 3, day - (hour < 8), (hour - 8) % 24, minute, tzinfo=UTC)


@pytest.fixture
def county(sqlite_url: str) -> Iterator[County]:
    """The county in which the worked example has happened, to the volunteer with number 0."""
    made = County(sqlite_url)
    _serve(made, name("volunteer", 0))
    _back_fill(made, name("volunteer", 0))
    _correct(made, name("volunteer", 0))
    yield made
    made.close()


def _serve(county: County, volunteer: UUID) -> None:
    order = county.place(county.station, hours=96)
    county.do(DispatchOrder(order_id=order, team_id=county.squad, volunteer_ids=(volunteer,)))
    county.do(AcceptOrder(order_id=order, volunteer_id=volunteer), county.as_volunteer(volunteer))
    county.now = local(5, 17, 0)
    service = Service(
        volunteer_id=volunteer,
        session_id=name("first"),
        started_at=local(5, 14, 0),
        ended_at=local(5, 16, 30),
        break_minutes=10,
    )
    county.do(CompleteOrder(order_id=order, services=(service,)))


def _back_fill(county: County, volunteer: UUID) -> None:
    county.now = local(9, 9, 0)
    asked = RequestBackfill(
        volunteer_id=volunteer,
        request_id=name("back-fill"),
        session_id=name("second"),
        unit_id=county.station,
        activity_kind="relief",
        started_at=local(7, 22, 30),
        ended_at=local(8, 0, 45),
        break_minutes=15,
        reason=SEALED,
    )
    county.do(asked, county.as_volunteer(volunteer))
    county.do(DecideBackfill(volunteer_id=volunteer, request_id=asked.request_id, verdict="approved"))


def _correct(county: County, volunteer: UUID) -> None:
    asked = RequestCorrection(
        volunteer_id=volunteer,
        request_id=name("correction"),
        session_id=name("first"),
        kind="amend",
        started_at=local(5, 14, 0),
        ended_at=local(5, 16, 0),
        break_minutes=10,
        reason=SEALED,
    )
    county.do(asked, county.as_volunteer(volunteer))
    county.do(
        DecideCorrection(volunteer_id=volunteer, request_id=asked.request_id, verdict="approved"),
        Caller(name("person", "checker"), "organiser"),
    )


def entries_of(county: County) -> list[EntryPosted]:
    mapper, stored = county.ledger.mapper, county.log.select_events(name("volunteer", 0))
    facts = [mapper.to_domain_event(event) for event in stored]
    return [fact for fact in facts if isinstance(fact, EntryPosted)]


def test_the_worked_example_happens_as_the_page_tells_it(county: County) -> None:
    entries = entries_of(county)
    versions = {entry.entry_id: entry.originator_version for entry in entries}
    happened = [
        (
            entry.originator_version,
            entry.served_on,
            entry.minutes,
            entry.services,
            entry.source_class,
            versions[entry.reverses_entry_id] if entry.reverses_entry_id else None,
        )
        for entry in entries
    ]
    told = [
        (int(row[0]), date.fromisoformat(row[1]), number(row[2]), number(row[3]), row[4], optional(row[5]))
        for row in table(chapter("Recomputing one volunteer's minutes by hand"))
    ]
    assert told == happened


def test_the_sums_of_the_page_are_those_of_its_query_and_of_the_figure(county: County) -> None:
    text = chapter("Recomputing one volunteer's minutes by hand")
    told = {
        source: (number(minutes), number(services))
        for source, minutes, services in re.findall(
            r"^- (\w+): .* = \*\*(\d+) minutes?\*\*.* = \*\*(\d+) services?\*\*$", text, re.MULTILINE
        )
    }
    volunteer = str(name("volunteer", 0))
    with sqlite3.connect(county.url.removeprefix("sqlite:///")) as connection:
        rows = connection.execute(block("sql"), {"volunteer_id": volunteer}).fetchall()
    assert {source: (minutes, services) for source, minutes, services in rows} == told
    total, services = re.findall(r"^- together: \*\*(\d+) minutes\*\*, \*\*(\d+) services\*\*$", text, re.M)[
        0
    ]
    assert (int(total), int(services)) == tuple(map(sum, zip(*told.values(), strict=True)))
    (before,) = re.findall(r"Up to version 8 the same volunteer had (\d+) minutes", text)
    assert int(before) == sum(e.minutes for e in entries_of(county) if e.originator_version <= 8)


def number(cell: str) -> int:
    return int(cell.replace("−", "-"))


def optional(cell: str) -> int | None:
    return int(cell) if cell else None
