"""Reads of figures, now or as of any moment. Every answer carries ``Ledger-Position``: the position it is made from."""

from collections import Counter
from dataclasses import asdict, replace
from datetime import date
from decimal import Decimal
from typing import Annotated, Any, Literal
from uuid import UUID

from fastapi import APIRouter, Depends, Query, Response
from sqlalchemy import Table, func, select

from api.deps import When, asking, caller, happened_by, parts_of, units_of, when
from api.identity import OVERSEERS, STAFF, require_overseer, require_reader
from api.parts import Parts
from api.personal import Reader, Sealing, newest_profile, reader_of
from ledger import events
from ledger.codec import decode
from ledger.errors import (
    NotAllowedNowError,
    NotYourselfError,
    RaterNotIndependentError,
    UnknownOrderError,
    UnknownTeamError,
    UnknownUnitError,
    UnknownVolunteerError,
    WrongRoleError,
)
from ledger.rulebook import local_day
from ledger.rules import Caller
from ledger.rules.orders import ALLOWED, Order
from projections import follower, replay
from projections.figures import all_figures
from projections.hours import (
    hours_of,
    kinds_of,
    months_of,
    unit_months,
    volunteer_days,
    volunteer_hours,
    volunteer_kinds,
)
from projections.moment import Moment, one
from projections.orders import Which, answers_to, board, funnel, order_answers, order_board
from projections.people import volunteer_categories, volunteers
from projections.projection import Projection
from projections.rankings import ALL_CLASSES, Terms, star_ranking
from projections.ratings import unit_ratings, volunteer_ratings
from projections.rosters import members, roster, team_sponsors, teams
from projections.statements import Line, statement
from projections.units import holders, subtree, unit_roles, units

router = APIRouter(tags=["figures"])

Who = Annotated[Caller, Depends(caller)]
At = Annotated[When, Depends(when)]
Ledger = Annotated[Parts, Depends(parts_of)]
Unsealing = Annotated[Reader, Depends(reader_of)]
Limit = Annotated[int, Query(ge=1, le=1000)]
Json = dict[str, Any]
Stage = Literal["placed", "dispatched", "accepted", "completed", "rated", "rejected", "withdrawn"]


# --- units and teams -------------------------------------------------------------------------------------------------


@router.get("/units")
def list_units(_who: Who, at: At, parts: Ledger, response: Response) -> Json:
    """The tree of units with who holds which post (S012–S019)."""
    with asking(parts, at, response, units, unit_roles) as moment:
        table = units.table()
        found = moment.rows(select(*_visible(units, table)).order_by(table.c.division_code, table.c.unit_id))
        posts = holders(moment)
    for unit in found:
        unit["posts"] = posts.get(unit["unit_id"], [])
    return {"units": found}


@router.get("/units/{unit_id}/hours")
def unit_hours(unit_id: UUID, who: Who, at: At, parts: Ledger, response: Response) -> Json:
    """Minutes served for a unit and for everything below it, by month, source class and kind; and its ratings."""
    _require_place(parts, who, unit_id)
    with asking(parts, at, response, units, unit_months, unit_ratings) as moment:
        inside = sorted(below(moment, unit_id))
        months, marks = unit_months.table(), unit_ratings.table()
        by = (months.c.month, months.c.source_class, months.c.activity_kind)
        rows = moment.rows(
            select(
                *by,
                func.sum(months.c.minutes).label("minutes"),
                func.sum(months.c.services).label("services"),
            )
            .where(months.c.unit_id.in_(inside))
            .group_by(*by)
            .order_by(*by)
        )
        rated = moment.rows(select(marks.c.score, marks.c.ratings).where(marks.c.unit_id.in_(inside)))
    return {
        "unit_id": unit_id,
        "minutes": sum(int(row["minutes"]) for row in rows),
        "months": [{**row, "minutes": int(row["minutes"]), "services": int(row["services"])} for row in rows],
        "rating": _rating(sum(row["score"] for row in rated), sum(row["ratings"] for row in rated)),
    }


def below(moment: Moment, unit_id: UUID) -> set[str]:
    """The unit and everything below it; UNKNOWN_UNIT."""
    table = units.table()
    tree = moment.rows(select(table.c.unit_id, table.c.parent_id))
    if not any(row["unit_id"] == str(unit_id) for row in tree):
        raise UnknownUnitError(id=unit_id)
    return subtree(tree, str(unit_id))


def _require_place(parts: Parts, who: Caller, unit_id: UUID) -> None:
    if who.role not in OVERSEERS:
        require_reader(who, UUID(int=0), unit_id, units_of(parts, who))


@router.get("/teams")
def list_teams(_who: Who, at: At, parts: Ledger, response: Response) -> Json:
    """Every team with its kind, place, sponsors and number of members (S029–S036)."""
    with asking(parts, at, response, teams, roster, team_sponsors) as moment:
        table, lists, sponsors = teams.table(), roster.table(), team_sponsors.table()
        found = moment.rows(select(*_visible(teams, table)).order_by(table.c.team_id))
        counts = Counter(
            row["team_id"]
            for row in moment.rows(select(lists.c.team_id).where(lists.c.joined > lists.c.left_count))
        )
        backing = moment.rows(select(sponsors.c.team_id, sponsors.c.department, sponsors.c.role))
    for team in found:
        own = [row for row in backing if row["team_id"] == team["team_id"]]
        team["members"] = counts[team["team_id"]]
        team["sponsors"] = [{"department": row["department"], "role": row["role"]} for row in own]
    return {"teams": found}


@router.get("/teams/{team_id}/roster")
def team_roster(team_id: UUID, who: Who, at: At, parts: Ledger, response: Response) -> Json:
    """Who belonged to the team at that moment (S036, T04): ids and numbers, no names."""
    with asking(parts, at, response, teams, roster, volunteers) as moment:
        table = teams.table()
        team = one(moment.rows(select(*_visible(teams, table)).where(table.c.team_id == str(team_id))))
        if team is None:
            raise UnknownTeamError(id=team_id)
        found = members(moment, str(team_id))
    if not any(row["volunteer_id"] == str(who.person_id) for row in found):
        _require_place(parts, who, UUID(team["unit_id"]))
    return {"team": team, "members": found}


# --- volunteers ------------------------------------------------------------------------------------------------------


def _require_may_read(parts: Parts, who: Caller, volunteer_id: UUID) -> None:
    """Themself, overseers, or staff of their home unit or one above it; known people only."""
    if who.person_id != volunteer_id and who.role not in OVERSEERS | STAFF:
        raise NotYourselfError(volunteer_id=volunteer_id)
    state = parts.ledger.state(volunteer_id)
    if state is None or state.stream != "volunteer":
        raise UnknownVolunteerError(id=volunteer_id)
    require_reader(who, volunteer_id, state.home_unit_id, units_of(parts, who))


@router.get("/volunteers/{volunteer_id}")
def volunteer(
    volunteer_id: UUID, who: Who, at: At, parts: Ledger, reader: Unsealing, response: Response
) -> Json:
    """One person: number, unit, categories and status; the name only for themself, their staff, and admins.

    ``profile`` is null for everybody else. After erasure its fields read 〔已删除〕, under a restriction 〔已限制〕,
    at whatever moment.
    """
    _require_may_read(parts, who, volunteer_id)
    figures = (volunteers, volunteer_categories)
    with asking(parts, at, response, *figures, stream_id=volunteer_id) as moment:
        table, declared = volunteers.table(), volunteer_categories.table()
        row = one(
            moment.rows(select(*_visible(volunteers, table)).where(table.c.volunteer_id == str(volunteer_id)))
        )
        categories = moment.rows(
            select(declared.c.category)
            .where(declared.c.volunteer_id == str(volunteer_id))
            .order_by(declared.c.category)
        )
    if row is None:
        raise UnknownVolunteerError(id=volunteer_id)
    position = moment.position if at else None
    rows = [
        row
        for row in parts.log.stream(volunteer_id)
        if (position is None or row.position <= position) and happened_by(row, at)
    ]
    if not at:
        response.headers["ETag"] = f'"{rows[-1].version}"'
    named = who.person_id == volunteer_id or who.role in STAFF | {"admin"}
    return {
        **row,
        "withdrawn": bool(row["withdrawn"]),
        "categories": [c["category"] for c in categories],
        "version": rows[-1].version,
        "profile": reader.read([newest_profile(rows)])[0] if named else None,
    }


@router.get("/volunteers/{volunteer_id}/hours")
def volunteer_hours_now(volunteer_id: UUID, who: Who, at: At, parts: Ledger, response: Response) -> Json:
    """Minutes and services by source class, by month and by kind; star by the rule book of the day (T24)."""
    _require_may_read(parts, who, volunteer_id)
    figures = (volunteer_hours, volunteer_days, volunteer_kinds, volunteer_ratings)
    with asking(parts, at, response, *figures, stream_id=volunteer_id) as moment:
        person, marks = str(volunteer_id), volunteer_ratings.table()
        by_class, months, kinds = (
            hours_of(moment, person),
            months_of(moment, person),
            kinds_of(moment, person),
        )
        rated = one(moment.rows(select(marks.c.score, marks.c.ratings).where(marks.c.volunteer_id == person)))
        position = moment.position
    day = at.effective_on or local_day(replay.recorded_at(parts.log, position))
    edition = replay.edition_on(parts.log, day, position)
    total = sum(int(row["minutes"]) for row in by_class)
    return {
        "volunteer_id": volunteer_id,
        "position": position,
        "minutes": total,
        "by_source_class": _whole(by_class),
        "by_month": _whole(months),
        "by_kind": _whole(kinds),
        "rating": _rating(rated["score"], rated["ratings"]) if rated else _rating(0, 0),
        "star": {
            "star": edition.book.star_of(total),
            "thresholds_minutes": edition.book.star_minutes,
            "rulebook_version": edition.version,
            "judged_on": day,
        },
    }


def _whole(rows: list[Json]) -> list[Json]:
    return [{**row, "minutes": int(row["minutes"]), "services": int(row["services"])} for row in rows]


@router.get("/volunteers/{volunteer_id}/hours/explain")
def explain_hours(volunteer_id: UUID, who: Who, at: At, parts: Ledger, response: Response) -> Json:
    """Where each minute comes from: every session with its entries by position; they add up to the figure."""
    _require_may_read(parts, who, volunteer_id)
    if at.effective_on is not None:
        reached = replay.resolve(parts.log, at.position)
        response.headers["Ledger-Position"] = str(reached)
        shares = _shares_by(parts, volunteer_id, reached, at)
        minutes = sum(share["minutes"] for share in shares)
        return {"volunteer_id": volunteer_id, "position": reached, "minutes": minutes, "shares": shares}
    whole = statement(parts.log, volunteer_id, at.position)
    response.headers["Ledger-Position"] = str(whole.position)
    return {
        "volunteer_id": volunteer_id,
        "position": whole.position,
        "version": whole.version,
        "minutes": whole.minutes,
        "sessions": [_line(line) for line in whole.lines],
    }


def _shares_by(parts: Parts, volunteer_id: UUID, position: int, at: When) -> list[Json]:
    """The entries known at ``position`` of what had happened by the end of a day."""
    known = {row.position: row for row in parts.log.stream(volunteer_id)}
    shares = replay.explain(parts.log, volunteer_hours, {"volunteer_id": str(volunteer_id)}, position)
    return [share for share in shares if happened_by(known[share["position"]], at)]


def _line(line: Line) -> Json:
    return {
        "session_id": line.session_id,
        "position": line.position,
        "order_id": line.recorded.order_id,
        "unit_id": line.recorded.unit_id,
        "activity_kind": line.recorded.activity_kind,
        "started_at": line.started_at,
        "ended_at": line.ended_at,
        "break_minutes": line.break_minutes,
        "minutes": line.minutes,
        "source_class": line.source_class,
        "evidence_grade": line.grade,
        "inferred": line.recorded.inferred,
        "late": line.late,
        "revision": line.revision,
        "reversed": line.reversed,
        "recorder_id": line.recorded.recorder_id,
        "responsible_id": line.recorded.responsible_id,
        "approver_id": line.recorded.approver_id,
        "rulebook_version": line.recorded.rulebook_version,
        "entries": [
            {
                "position": position,
                "entry_id": entry.entry_id,
                "served_on": entry.served_on,
                "minutes": entry.minutes,
                "reverses_entry_id": entry.reverses_entry_id,
            }
            for position, entry in line.entries
        ],
    }


# --- orders ----------------------------------------------------------------------------------------------------------


@router.get("/orders")
def list_orders(
    who: Who,
    at: At,
    parts: Ledger,
    response: Response,
    stage: Annotated[Stage | None, Query()] = None,
    unit_id: UUID | None = None,
    after: Annotated[UUID | None, Query(description="The last order of the page before.")] = None,
    limit: Limit = 100,
) -> Json:
    """The order board, oldest first, with each order's stage and age, and the funnel of all that match (S053–S057).

    Staff see the orders of their units, overseers all, anybody else their own and those they were asked to serve.
    """
    mine = units_of(parts, who) if who.role in STAFF else None
    person = None if who.role in OVERSEERS | STAFF else str(who.person_id)
    with asking(parts, at, response, order_board, order_answers, units) as moment:
        inside = below(moment, unit_id) if unit_id else None
        places = mine if inside is None else inside if mine is None else inside & mine
        which = Which(places, person, stage)
        found = board(
            moment, which, parts.ledger.clock(), after=str(after) if after else None, limit=limit + 1
        )
        counts = funnel(moment, replace(which, stage=None))
    more = found[limit - 1]["order_id"] if len(found) > limit else None
    return {"orders": found[:limit], "next_after": more, "funnel": counts}


@router.get("/orders/{order_id}")
def order(order_id: UUID, who: Who, at: At, parts: Ledger, reader: Unsealing, response: Response) -> Json:
    """One order: every step's moment, everybody's answer, and what may be done with it now.

    ``need``, what is asked and where, is for the requester, the unit's staff, and volunteers with an open offer or
    acceptance; null for everybody else.
    """
    with asking(parts, at, response, order_board, order_answers, stream_id=order_id) as moment:
        row = one(board(moment, Which(order_id=str(order_id)), parts.ledger.clock()))
        asked = answers_to(moment, str(order_id))
    if row is None:
        raise UnknownOrderError(id=order_id)
    involved = {row["requester_id"], *(one_asked["volunteer_id"] for one_asked in asked)}
    if str(who.person_id) not in involved:
        _require_place(parts, who, UUID(row["unit_id"]))
    state = parts.ledger.state(order_id)
    if state is not None and not at:
        response.headers["ETag"] = f'"{state.version}"'
    allowed = ALLOWED[row["stage"]] if not at else ()
    may = state is not None and state.stream == "order" and _may_read_need(parts, who, state)
    need = reader.read([_need(parts, order_id)])[0] if may else None
    return {**row, "allowed_actions": allowed, "answers": asked, "need": need}


def _may_read_need(parts: Parts, who: Caller, order: Order) -> bool:
    """The requester, staff of the unit or one above, admins, and who is to serve or still to answer."""
    if who.person_id == order.requester_id or who.role == "admin":
        return True
    if who.role in STAFF:
        inside = units_of(parts, who)
        if inside is None or str(order.unit_id) in inside:
            return True
    asked = order.assignments.get(who.person_id)
    if asked is None or order.status not in ("dispatched", "accepted"):
        return False
    return asked.status == "accepted" or (
        asked.status == "offered" and parts.ledger.clock() < asked.expires_at
    )


def _need(parts: Parts, order_id: UUID) -> Sealing:
    row = parts.log.stream(order_id)[0]
    fact = decode(row.topic, row.stream_id, row.version, row.state)
    assert isinstance(fact, events.OrderPlaced)
    return Sealing(row.topic, fact.need)


@router.get("/orders/{order_id}/rating-code")
def rating_code(order_id: UUID, who: Who, parts: Ledger) -> Json:
    """The code with which a resident rates a completed service (F06).

    For the resident, and for staff of the unit to hand on; never for the recorder or anybody who served, nor for those
    who only read: the code is a power to write.
    """
    state = parts.ledger.state(order_id)
    if state is None or state.stream != "order":
        raise UnknownOrderError(id=order_id)
    if who.person_id == state.recorder_id or who.person_id in state.sessions:
        raise RaterNotIndependentError(order_id=order_id)
    if who.person_id != state.requester_id:
        if who.role in OVERSEERS - {"admin"}:
            raise WrongRoleError(role=who.role, needed=sorted(STAFF | {"admin"}))
        _require_place(parts, who, state.unit_id)
    if state.status not in ("completed", "rated"):
        raise NotAllowedNowError(status=state.status, action="rating_code", allowed=ALLOWED[state.status])
    return {"order_id": order_id, "code": parts.keys.rating_code(order_id)}


# --- rankings --------------------------------------------------------------------------------------------------------


@router.get("/rankings/stars")
def ranking_of_stars(
    who: Who,
    at: At,
    parts: Ledger,
    response: Response,
    first_on: date | None = None,
    last_on: date | None = None,
    unit_id: UUID | None = None,
    source_class: Annotated[
        list[Literal["machine", "confirmed", "backfilled", "imported"]] | None, Query()
    ] = None,
    rating_min: Annotated[Decimal | None, Query(ge=0, le=100, max_digits=7, decimal_places=4)] = None,
    ratings_min: Annotated[int, Query(ge=0, le=10**6)] = 0,
    minutes_min: Annotated[int, Query(ge=1, le=10**9)] = 1,
    star: Annotated[int | None, Query(ge=0, le=10)] = None,
    judged_on: date | None = None,
    limit: Limit = 100,
) -> Json:
    """Volunteers by counted minutes, with star, rating, rule version, tie rule and every entry behind a row (T34)."""
    require_overseer(who)
    terms = Terms(
        first_on=first_on,
        last_on=last_on,
        unit_id=str(unit_id) if unit_id else None,
        source_classes=tuple(dict.fromkeys(source_class)) if source_class else ALL_CLASSES,
        rating_min=rating_min,
        ratings_min=ratings_min,
        minutes_min=minutes_min,
        star=star,
        limit=limit,
    )
    ranking = star_ranking(
        parts.log,
        terms,
        at.position,
        effective_on=at.effective_on,
        judged_on=judged_on,
        archive=parts.archive,
    )
    response.headers["Ledger-Position"] = str(ranking.position)
    return asdict(ranking) | {
        "rows": [asdict(row) | {"rating_mean": row.rating_mean} for row in ranking.rows]
    }


# --- how the figures are doing ---------------------------------------------------------------------------------------


@router.get("/projections")
def projections(_who: Who, parts: Ledger) -> Json:
    """Every figure with its position and lag, in facts and in seconds."""
    found = follower.status(parts.log)
    return {
        "head": parts.log.head().size,
        "projections": [
            {
                "name": s.name,
                "version": figure.version,
                "position": s.position,
                "lag_facts": s.lag_facts,
                "lag_seconds": round(s.lag_seconds, 3),
                "keys": figure.keys,
                "measures": [m.name for m in figure.measures],
            }
            for s, figure in zip(found, all_figures(), strict=True)
        ],
    }


def _visible(figure: Projection, table: Table) -> list[Any]:
    """The table's columns without the hidden ones."""
    return [table.c[name] for name in (*figure.keys, *(m.name for m in figure.measures))]


def _rating(score: int, ratings: int) -> Json:
    mean = str((Decimal(score) / ratings).quantize(Decimal("0.01"), "ROUND_HALF_UP")) if ratings else None
    return {"sum": score, "ratings": ratings, "mean": mean}
