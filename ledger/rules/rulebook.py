"""Publishing rule books: each edition takes effect on a day, and never before it was known (S001)."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Literal
from uuid import UUID

from ledger import ids
from ledger.commands import Command, PublishRuleBook
from ledger.errors import RuleBookDateError
from ledger.events import Fact, RuleBookPublished
from ledger.rulebook import Edition, RuleBooks, local_day
from ledger.rules.case import Case


@dataclass(frozen=True, slots=True)
class RuleBookShelf:
    """All editions published so far."""

    id: UUID
    version: int
    books: RuleBooks
    stream: Literal["rulebook"] = "rulebook"


def publish(command: PublishRuleBook, case: Case) -> list[Fact]:
    """The first edition may rule the day it is published; a later one starts later, so no day has two rules."""
    case.require_role("admin", "steering")
    if case.caller.unit_id is not None:
        # A book rules the whole county, so whoever acts for less than its centre may not publish one.
        case.require_within(ids.unit_id(case.ledger_id, "centre", None))
    known = case.rulebooks.editions
    today = local_day(case.now)
    earliest = today if not known else today + timedelta(days=1)
    next_version = len(known) + 1
    if command.effective_on < earliest or command.version != next_version:
        raise RuleBookDateError(earliest=earliest, next_version=next_version)
    return [
        RuleBookPublished(
            **case.stamp(ids.rulebook_id(case.ledger_id)),
            rulebook_version=command.version,
            effective_on=command.effective_on,
            book=command.book,
        )
    ]


def evolve(state: RuleBookShelf | None, fact: RuleBookPublished) -> RuleBookShelf:
    editions = state.books.editions if state else ()
    added = Edition(fact.rulebook_version, fact.effective_on, fact.book)
    return RuleBookShelf(fact.originator_id, fact.originator_version, RuleBooks((*editions, added)))


DECIDERS: dict[type[Command], Callable[[Any, Case], list[Fact]]] = {PublishRuleBook: publish}
