"""Between moments and between rule books: what changed and why, and what would stand otherwise. Nothing is recorded."""

from collections.abc import Sequence
from dataclasses import asdict
from datetime import date
from typing import Annotated, Any

import orjson
from fastapi import APIRouter, Depends, Query, Response
from pydantic import BaseModel, ConfigDict, Field

from api.deps import When, overseer, parts_of, position_of, when
from api.parts import Parts
from ledger.errors import InvalidRequestError
from ledger.rulebook import RuleBook, RuleBooks
from ledger.rules import Caller
from projections import replay
from projections.figures import figure_named, keys_of
from projections.projection import Projection
from projections.what_if import Asked, book_of_edition, book_with, what_if

router = APIRouter(tags=["history"])

Overseer = Annotated[Caller, Depends(overseer)]
Ledger = Annotated[Parts, Depends(parts_of)]
At = Annotated[When, Depends(when)]
FigureName = Annotated[str, Query(max_length=60, description="A figure, as /v1/projections names them.")]
Where = Annotated[list[str] | None, Query(max_length=10, description="key=value, to keep some keys.")]
Limit = Annotated[int, Query(ge=1, le=1000)]
Json = dict[str, Any]

FACTS_SHOWN = 50
"""Of the facts behind one change; ``facts_count`` says how many there are, and `explain` lists them all."""


@router.get("/diff")
def diff(
    _who: Overseer,
    parts: Ledger,
    response: Response,
    projection: FigureName,
    from_: Annotated[
        str, Query(alias="from", max_length=40, description="A position, or a time with offset.")
    ],
    to: Annotated[str | None, Query(max_length=40, description="The same; the head if left out.")] = None,
    where: Where = None,
    after: Annotated[
        str | None, Query(max_length=2000, description="next_after of the page before, as it came.")
    ] = None,
    limit: Limit = 100,
) -> Json:
    """The keys whose figures differ between two moments, before and after, with the facts in between (T43, T44)."""
    figure = figure_named(projection)
    low = position_of(from_, parts, "from")
    high = replay.resolve(parts.log, None) if to is None else position_of(to, parts, "to")
    found = replay.diff(
        parts.log,
        figure,
        low,
        high,
        where=keys_of(figure, where),
        after=None if after is None else _key(figure, after),
        limit=limit + 1,
        archive=parts.archive,
    )
    changes = found[:limit]
    facts = replay.facts_at(parts.log, (p for change in changes for p in change.positions[:FACTS_SHOWN]))
    response.headers["Ledger-Position"] = str(high)
    return {
        "projection": figure.name,
        "version": figure.version,
        "from": low,
        "to": high,
        "changes": [_change(figure, change, facts) for change in changes],
        "next_after": orjson.dumps(changes[-1].key).decode() if len(found) > limit else None,
    }


def _change(figure: Projection, change: replay.Change, facts: dict[int, replay.Seen]) -> Json:
    measures = [m.name for m in figure.measures]
    before, after = (
        None if side is None else {name: side[name] for name in measures}
        for side in (change.before, change.after)
    )
    return {
        "key": dict(zip(figure.keys, change.key, strict=True)),
        "before": before,
        "after": after,
        "facts_count": len(change.positions),
        "facts": [asdict(facts[position]) for position in change.positions[:FACTS_SHOWN]],
    }


def _key(figure: Projection, text: str) -> tuple[Any, ...]:
    """A whole key as ``next_after`` writes it."""
    try:
        key = orjson.loads(text)
    except orjson.JSONDecodeError:
        key = None
    kinds = [str if column.type.python_type is str else int for column in figure.table().primary_key.columns]
    if not isinstance(key, list) or [type(value) for value in key] != kinds:
        raise InvalidRequestError(problem="after is next_after of the page before, as it came")
    return tuple(key)


@router.get("/explain")
def explain(
    _who: Overseer,
    at: At,
    parts: Ledger,
    response: Response,
    projection: FigureName,
    where: Annotated[list[str], Query(min_length=1, max_length=10, description="key=value, at least one.")],
    after: Annotated[int, Query(ge=0, le=2**53, description="Only facts after this position.")] = 0,
    limit: Limit = 100,
) -> Json:
    """The facts behind some keys of a figure, each with its own share: all of them add up to the figure (T44)."""
    _require_recorded(at)
    figure = figure_named(projection)
    reached = replay.resolve(parts.log, at.position)
    shares = replay.explain(parts.log, figure, keys_of(figure, where), reached, archive=parts.archive)
    rest = [share for share in shares if share["position"] > after]
    listed = rest[:limit]
    response.headers["Ledger-Position"] = str(reached)
    return {
        "projection": figure.name,
        "version": figure.version,
        "position": reached,
        "facts_count": len(shares),
        "shares": _with_facts(parts, listed),
        "next_after": listed[-1]["position"] if len(rest) > limit else None,
    }


def _with_facts(parts: Parts, shares: Sequence[Json]) -> list[Json]:
    facts = replay.facts_at(parts.log, (share["position"] for share in shares))
    return [share | {"fact": asdict(facts[share["position"]])} for share in shares]


def _require_recorded(at: When) -> None:
    if at.effective_on is not None:
        raise InvalidRequestError(
            problem="the facts behind a figure are told by as_of alone; leave effective_on out"
        )


class Supposed(BaseModel):
    """Another rule book, and the days to judge by it.

    ``edition`` names a published one; ``book`` holds all fields or some, the others as in the book of ``judged_on``.
    """

    model_config = ConfigDict(extra="forbid")

    edition: int | None = Field(default=None, ge=1, le=10**6)
    book: dict[str, Any] | None = None
    first_on: date | None = None
    last_on: date | None = None
    judged_on: date | None = None
    limit: int = Field(default=100, ge=1, le=1000)

    def chosen(self, books: RuleBooks, standing: RuleBook) -> RuleBook:
        """The book that these fields mean."""
        if self.edition is not None:
            return book_of_edition(books, self.edition)
        return book_with(standing, self.book or {})


@router.post("/what-if")
def suppose(_who: Overseer, supposed: Supposed, at: At, parts: Ledger, response: Response) -> Json:
    """What would stand otherwise under another rule book: stars, late records, days and sessions (T46).

    Nothing is recorded; what was refused stays refused, and what counts goes on counting.
    """
    if (supposed.edition is None) == (supposed.book is None):
        raise InvalidRequestError(problem="give either edition or book")
    found = what_if(
        parts.log,
        supposed.chosen,
        Asked(supposed.first_on, supposed.last_on, supposed.limit),
        at.position,
        effective_on=at.effective_on,
        judged_on=supposed.judged_on,
        archive=parts.archive,
    )
    response.headers["Ledger-Position"] = str(found.position)
    return asdict(found) | {"changed": found.changed}
