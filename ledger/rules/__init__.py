"""The rules: pure functions. `decide` turns a command into facts or a refusal, `evolve` folds facts into states.

A rule reads no clock, database or setting; what it may know comes in as a `Case`. `evolve` never refuses:
the fact already happened.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from ledger.commands import Command
from ledger.events import Fact
from ledger.rules import (
    certificates,
    corrections,
    data_requests,
    issuer_keys,
    orders,
    ratings,
    rulebook,
    teams,
    units,
    volunteers,
)
from ledger.rules.case import Caller, Case, Role, State, States

__all__ = ["Caller", "Case", "Role", "State", "States", "decide", "evolve", "fold"]

DECIDERS: dict[type[Command], Callable[[Any, Case], list[Fact]]] = {
    **rulebook.DECIDERS,
    **units.DECIDERS,
    **teams.DECIDERS,
    **volunteers.DECIDERS,
    **corrections.DECIDERS,
    **orders.DECIDERS,
    **ratings.DECIDERS,
    **data_requests.DECIDERS,
    **issuer_keys.DECIDERS,
    **certificates.DECIDERS,
}
"""Which rule answers which command."""

EVOLVERS: dict[str, Callable[[Any, Any], State]] = {
    "rulebook": rulebook.evolve,
    "unit": units.evolve,
    "team": teams.evolve,
    "volunteer": volunteers.evolve,
    "order": orders.evolve,
    "data_request": data_requests.evolve,
    "subject": data_requests.evolve_subject,
    "issuer_key": issuer_keys.evolve,
    "certificate": certificates.evolve,
}
"""Which state a fact's stream folds into."""


def decide(command: Command, case: Case) -> list[Fact]:
    """The facts that ``command`` leads to, in order, or a `Refusal` raised."""
    return DECIDERS[type(command)](command, case)


def evolve(state: State | None, fact: Fact) -> State:
    """The state of a stream after one more fact."""
    return EVOLVERS[fact.STREAM](state, fact)


def fold(facts: Iterable[Fact], state: State | None = None) -> State | None:
    """The state of a stream from its facts in order; None for no facts."""
    for fact in facts:
        state = evolve(state, fact)
    return state
