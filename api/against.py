"""What other engines say of a ledger's figures, and where that is not what the ledger says itself.

An engine is a file of totals that it printed (`projections.elsewhere.totals_script`), ClickHouse over HTTP, or a
database with tables or views that bear the figures' names. Nothing here writes, and no password is ever shown.
"""

import base64
import hashlib
import sqlite3
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, quote, unquote, urlencode, urlsplit
from uuid import UUID

import orjson
from sqlalchemy import Connection, Engine, create_engine, inspect, select
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError

from ledger.archive import Archive
from ledger.errors import InvalidRequestError, LedgerError
from ledger.log import LedgerLog
from ledger.schema import identity
from projections import totals, worker_store
from projections.elsewhere import clickhouse
from projections.elsewhere.parts import totals_of_facts, totals_of_figure
from projections.figures import all_figures
from projections.follower import stands_at
from projections.totals import Difference, Totals

ANSWER_SECONDS = 300
ANSWER_BYTES_MAX = 4 << 20
WHOLE = {"wait_end_of_query": "1"}
"""An answer begins once it is complete: what goes wrong in its middle then has a status of its own."""
COMPLAINT_CHARACTERS = 300
"""Of what an engine says is wrong."""


class EngineUnavailableError(LedgerError):
    code = "ENGINE_UNAVAILABLE"
    zh = "无法向 {engine} 查询统计数据：{problem}。请核对地址、账号和密码，以及是否已运行 wenming export sql 的脚本。"
    en = (
        "{engine} cannot be asked for its figures: {problem}. Check the address, the user and the password, "
        "and that the script of wenming export sql was run there."
    )


class TotalsMalformedError(LedgerError):
    code = "TOTALS_MALFORMED"
    zh = "{engine} 的合计数据无法读取（{place}）：{problem}。请用 wenming export sql … --totals 的查询重新输出。"
    en = (
        "The totals of {engine} cannot be read ({place}): {problem}. "
        "Print them anew with the queries of wenming export sql … --totals."
    )


# --- comparing -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Finding:
    """Something that is not as it must be, for programs and for people."""

    code: str
    zh: str
    en: str


@dataclass(frozen=True)
class Comparison:
    """What an engine said, and what of it is wrong. ``compared`` totals were compared, none if it stands elsewhere."""

    position: int
    engine: Totals
    findings: tuple[Finding, ...]
    differences: tuple[Difference, ...]
    compared: int

    @property
    def ok(self) -> bool:
        return not self.findings and not self.differences


def compare(
    log: LedgerLog, engine: Totals, asked: int | None = None, archive: Archive | None = None
) -> Comparison:
    """An engine's totals beside the ledger's own, at the position that was asked for or else where it stands."""
    position = engine.position if asked is None else asked
    elsewhere = list(_elsewhere(engine, asked, log.head().size))
    findings = (*elsewhere, *_gaps(engine))
    if elsewhere:
        return Comparison(position, engine, findings, (), 0)
    expected = totals.ledger_totals(log, position, archive).figures
    found = tuple(totals.differences(expected, engine.figures))
    return Comparison(position, engine, findings, found, sum(map(len, expected.values())))


def _elsewhere(engine: Totals, asked: int | None, head: int) -> Iterator[Finding]:
    if engine.position == 0 and head and asked is None:
        yield Finding("ENGINE_EMPTY", "它没有这个账本的任何事实", "it holds no facts of this ledger")
    elif engine.position > head:
        yield Finding(
            "ENGINE_AHEAD",
            f"它有到第 {engine.position} 条的事实，而账本只有 {head} 条",
            f"it holds facts up to position {engine.position}, and the ledger has {head}",
        )
    elif asked is not None and engine.position != asked:
        yield Finding(
            "ENGINE_ELSEWHERE",
            f"它的数据到第 {engine.position} 条，而不是第 {asked} 条",
            f"its figures are those of position {engine.position}, not {asked}",
        )


def _gaps(engine: Totals) -> Iterator[Finding]:
    if engine.facts is None or engine.facts == engine.position:
        return
    if engine.facts > engine.position:
        yield Finding(
            "FACTS_TWICE",
            f"它有 {engine.facts} 条事实，而最后一条是第 {engine.position} 条",
            f"it holds {engine.facts} facts, and the last is at position {engine.position}",
        )
        return
    first = engine.first_missing
    yield Finding(
        "FACTS_MISSING",
        f"到第 {engine.position} 条为止缺 {engine.position - engine.facts} 条"
        + (f"，第一条缺的是第 {first} 条" if first else ""),
        f"of the facts up to position {engine.position} it lacks {engine.position - engine.facts}"
        + (f", the first at position {first}" if first else ""),
    )


# --- asking ----------------------------------------------------------------------------------------------------------


def shown(place: str) -> str:
    """A place as people may see it."""
    try:
        return place if "://" not in place else make_url(place).render_as_string(hide_password=True)
    except ArgumentError:
        return place.partition("://")[0]


def totals_from(
    place: str, ledger_id: UUID, position: int | None = None, password: Callable[[], str] = str
) -> Totals:
    """What an engine says of a ledger, as of a position if it can tell.

    ``place``: a file of totals (``-``: stdin), ``http://user@host:8123/database``, ``sqlite:///…`` or ``postgresql://…``.
    """
    if place.startswith(("http://", "https://")):
        return ClickHouse(place, password).totals(ledger_id, position)
    if "://" in place:
        return stored_totals(place, ledger_id)
    try:
        data = sys.stdin.buffer.read() if place == "-" else Path(place).read_bytes()
    except OSError as error:
        raise EngineUnavailableError(engine=place, problem=error.strerror or type(error).__name__) from None
    return printed_totals(place, data, ledger_id)


# --- totals that were printed ----------------------------------------------------------------------------------------


def printed_totals(engine: str, data: bytes, ledger_id: UUID) -> Totals:
    """Totals as an engine printed them, an object a line: what its terminal draws around is passed over.

    A stream prints a total again whenever it changes: the last one counts.
    """
    facts, figures = None, {}
    others: set[str] = set()
    named = {figure.name: figure for figure in all_figures()}
    for number, found in _objects(engine, data):
        try:
            owner, what = str(found["ledger_id"]), found["figure"]
            if owner != str(ledger_id):
                others.add(owner)
            elif what == "facts":
                facts = _facts_of(found)
            elif what in named:
                figures[what] = totals.numbers(named[what], found)
        except (KeyError, TypeError, ValueError) as error:
            problem = f"it is no total of ours ({type(error).__name__}: {error})"
            raise TotalsMalformedError(engine=engine, place=f"line {number}", problem=problem) from None
    if facts is None:
        held = f"there are totals of {', '.join(sorted(others))} only" if others else "there are no totals"
        raise TotalsMalformedError(engine=engine, place="of this ledger", problem=held)
    return Totals(*facts, figures)


def _objects(engine: str, data: bytes) -> Iterator[tuple[int, Mapping[str, Any]]]:
    for number, line in enumerate(data.splitlines(), start=1):
        start, end = line.find(b"{"), line.rfind(b"}")
        if start < 0:
            continue
        try:
            yield number, orjson.loads(line[start : end + 1])
        except orjson.JSONDecodeError:
            raise TotalsMalformedError(
                engine=engine, place=f"line {number}", problem="it is no JSON"
            ) from None


def _facts_of(found: Mapping[str, Any]) -> tuple[int, int, int | None]:
    """The last position, how many facts, and the first position that is missing."""
    missing = found.get("first_missing")
    return int(found["last_position"]), int(found["rows"]), None if missing is None else int(missing)


# --- ClickHouse ------------------------------------------------------------------------------------------------------


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A password is not carried to another place."""

    def redirect_request(self, *_: Any) -> None:
        return None


_opener = urllib.request.build_opener(_NoRedirect)


class ClickHouse:
    """A ClickHouse database with the views of `projections.elsewhere`, over its HTTP interface."""

    def __init__(self, address: str, password: Callable[[], str]) -> None:
        self._parts = _address(address)
        self.name = shown(address)
        self._password = password

    def totals(self, ledger_id: UUID, position: int | None) -> Totals:
        """Every figure as of one position, where it stands if none is given: facts that arrive meanwhile do no harm."""
        held = self._ask(totals_of_facts("clickhouse", position, ledger=str(ledger_id)))
        if held is None:
            return Totals(0, 0, None, {})
        last, facts, missing = _facts_of(held)
        found: dict[str, Mapping[str, int]] = {}
        for figure in all_figures():
            source = clickhouse.at(figure, str(ledger_id), last if position is None else position)
            row = self._ask(totals_of_figure(figure, "clickhouse", source=source))
            if row is not None:
                found[figure.name] = totals.numbers(figure, row)
        return Totals(last, facts, missing, found)

    def _ask(self, query: str) -> Mapping[str, Any] | None:
        """The one row that a query gives; None if it gives none."""
        lines = [line for line in self._post(query.encode()).splitlines() if line]
        try:
            return orjson.loads(lines[0]) if lines else None
        except orjson.JSONDecodeError:  # what went wrong after it began to answer
            said = lines[0].decode("utf-8", "replace")[:COMPLAINT_CHARACTERS]
            raise EngineUnavailableError(engine=self.name, problem=f"it answers {said}") from None

    def _post(self, query: bytes) -> bytes:
        parts = self._parts
        database = unquote(parts.path.strip("/")) or "default"
        url = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}/?{urlencode({'database': database, **WHOLE})}"
        login = f"{unquote(parts.username or 'default')}:{self._password()}".encode()
        headers = {
            "Authorization": f"Basic {base64.b64encode(login).decode()}",
            "User-Agent": "wenming-ledger",
        }
        try:
            request = urllib.request.Request(url, query, headers, method="POST")
            with _opener.open(request, timeout=ANSWER_SECONDS) as response:
                return bytes(response.read(ANSWER_BYTES_MAX))
        except urllib.error.HTTPError as refused:
            with refused:
                said = refused.read(4096).decode("utf-8", "replace").strip().partition("\n")[0]
            problem = f"it answers {refused.code} {said[:COMPLAINT_CHARACTERS]}".strip()
        except (OSError, HTTPException) as error:
            reason = getattr(error, "reason", None) or error
            problem = f"{type(reason).__name__}: {reason}"
        raise EngineUnavailableError(engine=self.name, problem=problem)


def _address(address: str) -> SplitResult:
    """INVALID_REQUEST for what is no such address, or holds a password where everybody may read it."""
    try:
        parts = urlsplit(address)
        whole = bool(parts.hostname) and parts.port != 0
    except ValueError:
        whole = False
    if not whole or parts.query or parts.fragment or "/" in parts.path.strip("/"):
        raise InvalidRequestError(problem="give ClickHouse as http://user@host:8123/database")
    if parts.password is not None:
        raise InvalidRequestError(
            problem="no password in the address: put it in a file and give --password-file"
        )
    return parts


# --- a database of ours ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Standing:
    """Which facts a database's figures are made of; None for what it does not say.

    If ``facts`` is not ``position``, the position of the last of them, there is a gap.
    """

    ledger_id: UUID | None
    facts: int | None
    position: int


def standing(connection: Connection) -> Standing:
    """What a database says of its own figures, in the transaction in which they are read.

    It holds, under every figure's `Projection.table_name`, a table or view with all of `Projection.columns`. Those of a
    follower stand at one position (FIGURES_APART otherwise), and have every fact up to it; those of workers may be
    ahead in one partition and behind in another.
    """
    tables = set(inspect(connection).get_table_names())
    if worker_store.identity.name in tables:
        whose = connection.scalar(select(worker_store.identity.c.ledger_id))
        return Standing(whose, *worker_store.stands_at(worker_store.places_of(connection).values()))
    ledger_id = connection.scalar(select(identity.c.ledger_id)) if identity.name in tables else None
    return Standing(ledger_id, None, stands_at(connection, all_figures()))


def stored_totals(url: str, ledger_id: UUID) -> Totals:
    """The totals of the figures in a database, all of one moment."""
    name = shown(url)
    with _database(url, name) as connection:
        found = standing(connection)
        if found.ledger_id not in (None, ledger_id):
            raise EngineUnavailableError(engine=name, problem=f"its figures are those of {found.ledger_id}")
        figures = {}
        for figure in all_figures():
            row = connection.execute(totals.totals_select(figure, name=figure.table_name)).mappings().one()
            figures[figure.name] = totals.numbers(figure, dict(row))
    return Totals(found.position, found.facts, None, figures)


@contextmanager
def _database(url: str, name: str) -> Iterator[Connection]:
    """One moment of a database, which is not made if it is missing."""
    try:
        parsed = make_url(url)
        made = {"sqlite": _sqlite, "postgresql": _postgresql}[parsed.get_backend_name()]
    except (ArgumentError, KeyError):
        problem = f"{name} is neither a file, nor http://…, sqlite:///… or postgresql://…"
        raise InvalidRequestError(problem=problem) from None
    engine = made(parsed)
    try:
        with engine.connect() as connection, connection.begin():
            yield connection
    except DBAPIError as error:
        said = (str(error.orig).strip().splitlines() or [""])[0]
        problem = f"{type(error.orig).__name__}: {said[:COMPLAINT_CHARACTERS]}"
        raise EngineUnavailableError(engine=name, problem=problem) from None
    finally:
        engine.dispose()


def _sqlite(url: URL) -> Engine:
    place = f"file:{quote(url.database or '')}?mode=ro"

    def connect() -> sqlite3.Connection:
        connection = sqlite3.connect(place, uri=True, isolation_level=None)
        connection.create_function("md5", 1, _md5, deterministic=True)
        connection.execute("BEGIN")  # one moment throughout
        return connection

    return create_engine("sqlite://", creator=connect)


def _md5(text: str) -> str:
    return hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()


def _postgresql(url: URL) -> Engine:
    return create_engine(url.set(drivername="postgresql+psycopg"), isolation_level="REPEATABLE READ")
