"""A moment at which figures are asked: the live tables, or the same tables as they were, under the same names.

A question is plain SQL on figures' tables; it neither knows nor cares which of the two answers it.
"""

from collections.abc import Mapping
from typing import Any, Protocol

from sqlalchemy import Select


class Moment(Protocol):
    """Figures that all belong to one position of the log."""

    @property
    def position(self) -> int:
        """How many facts the tables are made of."""
        ...

    def rows(self, query: Select[Any]) -> list[dict[str, Any]]:
        """The answer to a question over the tables, as plain values by name."""
        ...


def one(rows: list[dict[str, Any]]) -> Mapping[str, Any] | None:
    """The only row, or None if there is none."""
    return rows[0] if rows else None
