"""`wenming replay`, `diff`, `explain` and `ranking`: figures at any moment, and the facts behind them."""

from collections.abc import Iterable, Iterator
from dataclasses import asdict
from decimal import Decimal
from typing import Annotated, Any
from uuid import UUID

import typer

from api.cli.given import (
    AsJson,
    AsOf,
    Database,
    Day,
    FigureName,
    archive_of,
    day_of,
    figure_named,
    keys_of,
    open_log,
    position_of,
)
from api.cli.shown import show_json, show_ranking, show_rows
from ledger.errors import InvalidRequestError
from projections import follower
from projections import replay as history
from projections.projection import Projection
from projections.rankings import Terms, star_ranking


def replay(
    figure: FigureName,
    where: Annotated[list[str] | None, typer.Argument(help="key=value, to keep some rows.")] = None,
    as_of: AsOf = None,
    effective_on: Day = None,
    database: Database = None,
    as_json: AsJson = False,
) -> None:
    """A figure as of any moment, computed from the facts alone."""
    chosen = figure_named(figure)
    with open_log(database) as log:
        rows = history.as_of(
            log,
            chosen,
            position_of(log, as_of),
            effective_on=day_of(effective_on),
            where=keys_of(chosen, where),
            archive=archive_of(log),
        )
    show_rows(rows, as_json)


def diff(
    figure: FigureName,
    before: Annotated[str, typer.Argument(help="A position or a time.")],
    after: Annotated[str | None, typer.Argument(help="A position or a time; now if left out.")] = None,
    database: Database = None,
    as_json: AsJson = False,
) -> None:
    """What changed in a figure between two moments, with the facts in between that changed it."""
    chosen = figure_named(figure)
    with open_log(database) as log:
        changes = history.diff(
            log, chosen, position_of(log, before), position_of(log, after), archive=archive_of(log)
        )
    show_rows(list(_differences(chosen, changes)), as_json)


def _differences(figure: Projection, changes: Iterable[history.Change]) -> Iterator[dict[str, Any]]:
    """One row for each measure that is another than before."""
    for change in changes:
        key = dict(zip(figure.keys, change.key, strict=True))
        for measure in (m.name for m in figure.measures):
            old, new = (side.get(measure) if side else None for side in (change.before, change.after))
            if old != new:
                yield {
                    **key,
                    "measure": measure,
                    "before": old,
                    "after": new,
                    "facts": list(change.positions),
                }


def explain(
    figure: FigureName,
    key: Annotated[list[str], typer.Argument(help="key=value, one for each key you want to fix.")],
    as_of: AsOf = None,
    database: Database = None,
    as_json: AsJson = False,
) -> None:
    """The facts behind one figure, each with its own share; the shares add up to the figure."""
    chosen = figure_named(figure)
    with open_log(database) as log:
        rows = history.explain(
            log, chosen, keys_of(chosen, key), position_of(log, as_of), archive=archive_of(log)
        )
    show_rows(rows, as_json)


def ranking(
    first_on: Day = None,
    last_on: Day = None,
    unit: Annotated[UUID | None, typer.Option(help="Hours served for this unit and those below it.")] = None,
    rating_min: Annotated[str | None, typer.Option(help="A minimum mean, such as 4.5.")] = None,
    ratings_min: Annotated[int, typer.Option(help="…over at least so many ratings.")] = 0,
    star: Annotated[int | None, typer.Option(help="Only those who stand at this star.")] = None,
    as_of: AsOf = None,
    effective_on: Day = None,
    limit: Annotated[int, typer.Option(min=1, max=100_000)] = 20,
    database: Database = None,
    as_json: AsJson = False,
) -> None:
    """The star ranking for the committee; --json gives each row's entry ids."""
    terms = Terms(
        first_on=day_of(first_on),
        last_on=day_of(last_on),
        unit_id=str(unit) if unit else None,
        rating_min=None if rating_min is None else _mean(rating_min),
        ratings_min=ratings_min,
        star=star,
        limit=limit,
    )
    by = day_of(effective_on)
    with open_log(database) as log:
        position = None if as_of is None else position_of(log, as_of)
        if position is None and by is None:
            follower.catch_up(log)
        found = star_ranking(log, terms, position, effective_on=by, archive=archive_of(log))
    if as_json:
        show_json(asdict(found))
    else:
        show_ranking(found)


def _mean(text: str) -> Decimal:
    try:
        mean = Decimal(text)
    except ArithmeticError:
        mean = Decimal("NaN")
    if not mean.is_finite():
        raise InvalidRequestError(problem=f"rating-min: {text} is not a number")
    return mean
