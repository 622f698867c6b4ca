"""What anybody may ask of a certificate, without a key: whether it holds, and whether it is of a certain person (L21).

It shows a masked name and no identity number, is not indexed, and is limited for each address; names that are guessed
wrongly are counted beside the keys. What is unsealed for it is written down like everything else.
"""

import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import datetime
from math import ceil
from typing import Annotated, Any, Literal
from urllib.parse import parse_qs
from uuid import UUID

import orjson
from fastapi import APIRouter, Depends, Query, Request, Response
from fastapi.responses import HTMLResponse, PlainTextResponse, RedirectResponse
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from api.certificates import Ledger, Tree, is_touched, plain_name, replacing_number, sealing_of, status_of
from api.parts import Parts
from api.personal import ERASED, RESTRICTED, Fields, Reader
from api.printing import certificate_of, county_and_unit
from api.problems import MalformedJsonError, TooLargeError, TooManyRequestsError, answer
from api.public_check import HEADERS, NameCheck, PublicCheck, masked, page, typo_page
from ledger import ids
from ledger.certificates import commitment, require_number
from ledger.checkpoint import Checkpoint, Note
from ledger.errors import (
    CertificateNumberWrongError,
    InvalidRequestError,
    Refusal,
    UnknownCertificateError,
)
from ledger.events import Digest
from ledger.personal_numbers import normal_id_number
from ledger.rulebook import local_day
from ledger.rules.certificates import Certificate
from ledger.tree import TreeStore

CHECKS_PER_MINUTE = 60
"""Certificates that one address may check in a minute; as many at once after a pause."""
ADDRESSES_MAX = 10_000
"""Addresses remembered; the longest unseen is forgotten first."""
BODY_BYTES_MAX = 4_000

router = APIRouter(prefix="/verify", tags=["public"])
Json = dict[str, Any]


class Doubt(BaseModel):
    """What is to be compared with the certificate: a name (and identity number), or the SHA-256 of a document."""

    model_config = ConfigDict(extra="forbid", str_strip_whitespace=True)
    name: Annotated[str, Field(min_length=1, max_length=50)] | None = None
    id_number: Annotated[str, Field(min_length=1, max_length=40)] | None = None
    sha256: Digest | None = None


@dataclass(frozen=True)
class Public:
    """Somebody without a key, as the access log names them."""

    person_id: UUID
    role: str = "public"


# --- how often -------------------------------------------------------------------------------------------------------


class Limit:
    """A bucket for each address, in this process's memory: it fills with `CHECKS_PER_MINUTE` and holds as many."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock, self._lock = clock, threading.Lock()
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def take(self, address: str) -> None:
        """One more check; TOO_MANY_REQUESTS if the address has none left."""
        with self._lock:
            now, per_second = self._clock(), CHECKS_PER_MINUTE / 60
            left, at = self._buckets.pop(address, (float(CHECKS_PER_MINUTE), now))
            left = min(float(CHECKS_PER_MINUTE), left + (now - at) * per_second)
            self._buckets[address] = (left - 1 if left >= 1 else left, now)
            if len(self._buckets) > ADDRESSES_MAX:
                self._buckets.popitem(last=False)
        if left < 1:
            raise TooManyRequestsError(retry_seconds=ceil((1 - left) / per_second))


def limited(request: Request) -> None:
    """Count this request against its address."""
    if not hasattr(request.app.state, "checks"):
        request.app.state.checks = Limit()
    request.app.state.checks.take(request.client.host if request.client else "?")


# --- what is answered ------------------------------------------------------------------------------------------------


def wants_json(request: Request) -> bool:
    """Programs say so; whoever does not gets the page."""
    accepted = request.headers.get("accept", "")
    return "application/json" in accepted and "text/html" not in accepted


def language_of(request: Request) -> Literal["zh", "en"]:
    """``?lang=en``, or what the browser asks for first; Chinese otherwise."""
    wanted = request.query_params.get("lang") or request.headers.get("accept-language", "")
    return "en" if wanted.strip().lower().startswith("en") else "zh"


def _check(parts: Parts, tree: TreeStore, certificate: Certificate, holder: Fields) -> PublicCheck:
    """What the page says of a certificate that exists."""
    issued = certificate.issued
    county_name, issuer_name = county_and_unit(parts, issued)
    row, newest = parts.log.stream(certificate.id)[0], tree.latest()
    covering = None if newest is None or newest.size < row.position else newest
    revoked = certificate.revoked
    return PublicCheck(
        number=issued.certificate_number,
        status=status_of(parts, certificate),
        masked_name=_masked(holder["name"]),
        minutes=issued.minutes,
        services=issued.services,
        first_on=issued.first_on,
        last_on=issued.last_on,
        issued_on=local_day(issued.recorded_at),
        issuer_name=issuer_name,
        county_name=county_name,
        as_of_position=issued.as_of_position,
        touched=is_touched(parts, certificate),
        replaced_by_number=replacing_number(parts, certificate),
        revoked_on=None if revoked is None else local_day(revoked.recorded_at),
        position=row.position,
        commitment=issued.commitment,
        pdf_sha256=tuple(printed.pdf_sha256 for printed in certificate.prints),
        origin=None if covering is None else _origin(covering.note),
        tree_size=None if covering is None else covering.size,
        root_hex=None if covering is None else covering.root.hex(),
    )


def _masked(name: str | None) -> str | None:
    """The name with its middle hidden; a mark stands as it is, and None where nothing is left."""
    if name == ERASED:
        return None
    return name if name is None or name == RESTRICTED else masked(name)


def _origin(note: str) -> str:
    return Checkpoint.parse(Note.parse(note.encode()).text).origin


def _name_check(parts: Parts, certificate: Certificate, holder: Fields, doubt: Doubt) -> NameCheck | None:
    """Whether the certificate is of who is named; None if nobody is named, or nothing of the holder may be read.

    TOO_MANY_NAMES once too many wrong ones were tried; a right one is refused then too.
    """
    salt = holder["salt"]
    if doubt.name is None or salt is None or salt in (ERASED, RESTRICTED):
        return None
    id_number = holder["id_number"] if doubt.id_number is None else _plain_id_number(doubt.id_number)
    claimed = commitment(bytes.fromhex(salt), plain_name(doubt.name), id_number)
    right = claimed == certificate.issued.commitment
    parts.accesses.name_tried(certificate.id, right, parts.ledger.clock())
    return "matches" if right else "differs"


def _plain_id_number(text: str) -> str:
    try:
        return normal_id_number(text)
    except Refusal:
        return ""  # no certificate has it


# --- routes ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Answer:
    """What is told of one certificate, as a page or as JSON."""

    check: PublicCheck
    name_check: NameCheck | None = None
    document_known: bool | None = None
    """Whether a document with the SHA-256 that was sent is one of those printed; None if none was sent."""

    def to(self, request: Request, at: datetime) -> Response:
        if not wants_json(request):
            return _html(page(self.check, self.name_check, language_of(request), checked_at=at))
        told = asdict(self.check) | {"name_check": self.name_check, "document_known": self.document_known}
        return Response(orjson.dumps(told), media_type="application/json")


def answer_to(request: Request, parts: Parts, tree: TreeStore, number: str, doubt: Doubt) -> Answer:
    """CERTIFICATE_NUMBER_WRONG for a typo, UNKNOWN_CERTIFICATE, TOO_MANY_NAMES."""
    certificate = certificate_of(parts, require_number(number))
    public = Public(ids.public_id(parts.ledger.ledger_id))
    (holder,) = Reader(parts, public, request.state.request_id).read([sealing_of(certificate)])
    printed = {one.pdf_sha256 for one in certificate.prints}
    return Answer(
        _check(parts, tree, certificate, holder),
        _name_check(parts, certificate, holder, doubt),
        None if doubt.sha256 is None else doubt.sha256 in printed,
    )


_BODY = {
    "content": {
        kind: {"schema": Doubt.model_json_schema()}
        for kind in ("application/json", "application/x-www-form-urlencoded")
    }
}

Sent = tuple[str, bytes]
"""Content type and body, as they came."""


async def sent(request: Request) -> Sent:
    """The body of a form or of a program, read no further than it may be long. PAYLOAD_TOO_LARGE."""
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > BODY_BYTES_MAX:
            raise TooLargeError(bytes_max=BODY_BYTES_MAX)
    return request.headers.get("content-type", "").partition(";")[0].strip().lower(), body


def doubt_in(sent: Sent) -> Doubt:
    """What is to be compared. MALFORMED_JSON; INVALID_REQUEST, which repeats nothing of what was sent."""
    kind, body = sent
    try:
        if kind == "application/json":
            return Doubt.model_validate(orjson.loads(body))
        fields = parse_qs(body.decode(), max_num_fields=10)
        return Doubt.model_validate(
            {field: values[-1] for field, values in fields.items() if values[-1].strip()}
        )
    except orjson.JSONDecodeError:
        raise MalformedJsonError(where="the whole body") from None
    except ValidationError as error:
        wrong = {
            ".".join(map(str, one["loc"])) if one["type"] != "extra_forbidden" else "?"
            for one in error.errors()
        }
        raise InvalidRequestError(problem=f"name, id_number or sha256: {', '.join(sorted(wrong))}") from None
    except ValueError:
        raise InvalidRequestError(problem="the form is not one of a few fields in UTF-8") from None


def _as_asked(request: Request, parts: Parts, tree: TreeStore, number: str, sent: Sent | None) -> Response:
    """The answer, or the refusal, in the form that was asked for."""
    try:
        limited(request)
        doubt = Doubt() if sent is None else doubt_in(sent)
        return answer_to(request, parts, tree, number, doubt).to(request, parts.ledger.clock())
    except Refusal as refusal:
        if wants_json(request):
            raise
        return _refused(refusal, request, number)


def _refused(refusal: Refusal, request: Request, typed: str) -> Response:
    """A refusal as people read it, with the status and Retry-After of its problem."""
    problem, language = answer(refusal, request), language_of(request)
    if isinstance(refusal, UnknownCertificateError):
        response = _html(page(None, None, language, typed=typed))
    elif isinstance(refusal, CertificateNumberWrongError):
        response = _html(typo_page(typed, language))
    else:
        response = PlainTextResponse(f"{refusal.sentence_zh}\n{refusal.sentence_en}\n")
    response.status_code = problem.status_code
    if "Retry-After" in problem.headers:
        response.headers["Retry-After"] = problem.headers["Retry-After"]
    return response


def _html(text: str) -> Response:
    return HTMLResponse(text, headers=HEADERS)


@router.get("", response_class=HTMLResponse)
def find_certificate(
    request: Request, number: Annotated[str, Query(max_length=100, description="As it is printed.")] = ""
) -> Response:
    """Where the page's form leads: to the page of the number that was typed."""
    try:
        found = require_number(number)
    except CertificateNumberWrongError as refusal:
        return _refused(refusal, request, number)
    return RedirectResponse(f"{router.prefix}/{found}?lang={language_of(request)}", 303)


@router.get("/{number}", response_class=HTMLResponse)
def check_certificate(number: str, request: Request, parts: Ledger, tree: Tree) -> Response:
    """Whether a certificate holds today: a page, or JSON for programs that accept it. No key is needed (L21, F26)."""
    return _as_asked(request, parts, tree, number, None)


@router.post("/{number}", response_class=HTMLResponse, openapi_extra={"requestBody": _BODY})
def compare_certificate(
    number: str, request: Request, parts: Ledger, tree: Tree, sent: Annotated[Sent, Depends(sent)]
) -> Response:
    """Whether a certificate is of who is named, or a document one that was printed; a form, or JSON.

    Nothing that is sent is kept. After ten wrong names in an hour no more are compared.
    """
    return _as_asked(request, parts, tree, number, sent)
