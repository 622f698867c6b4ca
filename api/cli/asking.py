"""`wenming replay`, `diff`, `explain`, `what-if` and `ranking`: figures at any moment, and the facts behind them."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Literal
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
    open_log,
    position_of,
)
from api.cli.shown import show_changes, show_json, show_ranking, show_rows, show_what_if
from api.progress import progress
from ledger.errors import InvalidRequestError
from ledger.rulebook import RuleBook, RuleBooks
from projections import follower
from projections import replay as history
from projections.figures import figure_named, keys_of
from projections.projection import Projection
from projections.rankings import Terms, star_ranking
from projections.what_if import Asked, book_of_edition, book_with, fields_in
from projections.what_if import what_if as suppose


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
    where: Annotated[list[str] | None, typer.Option(help="key=value, to keep some keys.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="At most so many keys.")] = None,
    database: Database = None,
    as_json: AsJson = False,
) -> None:
    """What changed in a figure between two moments: before → after, with the facts in between that changed it."""
    chosen = figure_named(figure)
    with open_log(database) as log:
        changes = history.diff(
            log,
            chosen,
            position_of(log, before),
            position_of(log, after),
            where=keys_of(chosen, where),
            limit=limit,
            archive=archive_of(log),
        )
        if not as_json:
            show_changes(chosen, changes, lambda positions: history.facts_at(log, positions))
            return
        facts = history.facts_at(log, (p for change in changes for p in change.positions))
    show_rows(list(_differences(chosen, changes, facts)), as_json)


def _differences(
    figure: Projection, changes: Iterable[history.Change], facts: Mapping[int, history.Seen]
) -> Iterator[dict[str, Any]]:
    """One row for each measure that is another than before."""
    for change in changes:
        key = dict(zip(figure.keys, change.key, strict=True))
        for name, old, new in change.measures(figure):
            yield {
                **key,
                "measure": name,
                "before": old,
                "after": new,
                "facts": list(change.positions),
                "in_between": [asdict(facts[position]) for position in change.positions],
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


def what_if(
    book: Annotated[
        Path | None, typer.Option(help="A rule book, whole or some of its fields: .toml or .json.")
    ] = None,
    edition: Annotated[int | None, typer.Option(min=1, help="…or an edition that was published.")] = None,
    first_on: Annotated[str | None, typer.Option(help="Judge days served from here on.")] = None,
    last_on: Annotated[str | None, typer.Option(help="…up to here.")] = None,
    judged_on: Annotated[
        str | None, typer.Option(help="Stars by the book of this day; that of the last fact if left out.")
    ] = None,
    as_of: AsOf = None,
    effective_on: Day = None,
    limit: Annotated[int, typer.Option(min=1, max=100_000, help="At most so many rows of each kind.")] = 20,
    database: Database = None,
    as_json: AsJson = False,
) -> None:
    """What would stand otherwise under another rule book; nothing is recorded, and nothing refused comes back."""
    if (book is None) == (edition is None):
        raise InvalidRequestError(problem="give either --book or --edition")
    fields = None if book is None else _fields_of(book)

    def chosen(books: RuleBooks, standing: RuleBook) -> RuleBook:
        return book_of_edition(books, edition) if edition is not None else book_with(standing, fields or {})

    with open_log(database) as log, progress() as report:
        report("judging by the other book", 0, 1)
        found = suppose(
            log,
            chosen,
            Asked(day_of(first_on), day_of(last_on), limit),
            position_of(log, as_of),
            effective_on=day_of(effective_on),
            judged_on=day_of(judged_on),
            archive=archive_of(log),
        )
        report("judging by the other book", 1, 1)
    if as_json:
        show_json(asdict(found) | {"changed": found.changed})
    else:
        show_what_if(found)


BOOK_BYTES_MAX = 1_000_000


def _fields_of(file: Path) -> dict[str, Any]:
    form = _FORMS.get(file.suffix.lower())
    if form is None:
        raise InvalidRequestError(problem=f"{file.name}: a book is a .toml or a .json file")
    data = file.read_bytes()
    if len(data) > BOOK_BYTES_MAX:
        raise InvalidRequestError(problem=f"{file.name} is larger than {BOOK_BYTES_MAX} bytes")
    try:
        text = data.decode()
    except UnicodeDecodeError:
        raise InvalidRequestError(problem=f"{file.name} is no UTF-8 text") from None
    return fields_in(text, form)


_FORMS: Mapping[str, Literal["toml", "json"]] = {".toml": "toml", ".json": "json"}


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
