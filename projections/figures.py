"""All figures: every `Projection` that a module of this package declares. Adding one is adding a file."""

import importlib
import pkgutil
from collections.abc import Sequence
from functools import cache
from typing import Any

import projections
from ledger.errors import InvalidRequestError
from projections.projection import Projection


@cache
def all_figures() -> tuple[Projection, ...]:
    """Every declared projection that is stored, by name."""
    found: dict[str, Projection] = {}
    for module in pkgutil.iter_modules(projections.__path__):
        for value in vars(importlib.import_module(f"projections.{module.name}")).values():
            if isinstance(value, Projection) and found.setdefault(value.name, value) is not value:
                raise ValueError(f"two figures are called {value.name}")
    return tuple(found[name] for name in sorted(found) if found[name].stored)


def figure_named(name: str) -> Projection:
    """The figure that somebody asks for; INVALID_REQUEST, naming those that there are, if there is none."""
    known = {figure.name: figure for figure in all_figures()}
    if name not in known:
        raise InvalidRequestError(problem=f"no figure is called {name}; there are: {', '.join(known)}")
    return known[name]


def keys_of(figure: Projection, given: Sequence[str] | None) -> dict[str, Any]:
    """``key=value`` texts; INVALID_REQUEST for a key the figure does not have."""
    found: dict[str, Any] = {}
    for pair in given or ():
        name, equals, value = pair.partition("=")
        if not equals or name not in figure.keys or name in found or not value.isprintable():
            raise InvalidRequestError(
                problem=f"{pair}: give key=value, each key once; the keys of {figure.name} are "
                f"{', '.join(figure.keys)}"
            )
        found[name] = value
    return found


def figure(name: str) -> Projection:
    """The figure of that name; KeyError if there is none."""
    return {projection.name: projection for projection in all_figures()}[name]
