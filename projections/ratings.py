"""What the public said of the service (S056, L14, T12): sums and counts, from which means are questions."""

from sqlalchemy import func, select

from ledger.events import RatingCredited
from projections.facts import facts_of
from projections.projection import Projection

credits = facts_of("rating_credits", RatingCredited)
score = func.sum(credits.c.score).label("score")
ratings = func.sum(credits.c.ratings).label("ratings")

volunteer_ratings = Projection(
    name="volunteer_ratings",
    version=1,
    select=select(credits.c.volunteer_id, score, ratings).group_by(credits.c.volunteer_id),
)
"""Points and number of live ratings of services each volunteer took part in."""

unit_ratings = Projection(
    name="unit_ratings",
    version=1,
    select=select(credits.c.unit_id, score, ratings).group_by(credits.c.unit_id),
)
"""The same by unit served; a service of three volunteers counts three times."""
