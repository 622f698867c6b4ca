"""All figures: every `Projection` that a module of this package declares. Adding one is adding a file."""

import importlib
import pkgutil
from functools import cache

import projections
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


def figure(name: str) -> Projection:
    """The figure of that name; KeyError if there is none."""
    return {projection.name: projection for projection in all_figures()}[name]
