"""Writes: each command as one POST; personal fields are sealed here, before a command exists.

Which path takes which command stands in `ROUTES`; a command's own fields become the body, minus those in the path.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Annotated, Any, Literal
from uuid import UUID

from fastapi import APIRouter, Depends, Header, Query, Request, Response
from pydantic import BaseModel, ConfigDict, Field, create_model
from sqlalchemy import select

from api import erasure
from api.deps import fact_json, parts_of, writer
from api.parts import Parts
from api.problems import KeyRequiredError
from ledger import commands as c
from ledger.application import Answer
from ledger.checkpoint import VerifierKey
from ledger.codec import canonical_json
from ledger.errors import InvalidRequestError, LedgerBusyError, NoteKeyMalformedError, Refusal
from ledger.personal_numbers import normal_id_number, normal_phone
from ledger.rules import Caller
from ledger.rules.data_requests import DataRequest
from ledger.rules.orders import Order
from ledger.schema import outcomes

Text = Annotated[str, Field(min_length=1, max_length=2000)]


class Profile(BaseModel):
    """Who somebody is; sealed under their own key."""

    model_config = ConfigDict(extra="forbid", str_strip_whitespace=True)
    name: Annotated[str, Field(min_length=1, max_length=50)]
    id_number: Annotated[str, Field(max_length=40)] | None = None
    phone: Annotated[str, Field(max_length=40)] | None = None
    address: Annotated[str, Field(max_length=200)] | None = None


class Need(BaseModel):
    """What a resident asks for; sealed under the resident's key."""

    model_config = ConfigDict(extra="forbid", str_strip_whitespace=True)
    text: Text
    place: Annotated[str, Field(max_length=200)] | None = None
    contact_name: Annotated[str, Field(max_length=50)] | None = None
    contact_phone: Annotated[str, Field(max_length=40)] | None = None


@dataclass(frozen=True)
class Route:
    """One POST: its path, the command, and how each personal field is sealed (topic; whose key)."""

    path: str
    command: type[c.Command]
    seals: Mapping[str, tuple[Any, str, Literal["subject", "writer"]]] = field(default_factory=dict)
    subject: str = ""
    """The field that names whose key seals a ``subject`` field."""


def _reason(topic: str) -> Mapping[str, tuple[Any, str, Literal["subject", "writer"]]]:
    return {"reason": (Text, topic, "writer")}


ROUTES = (
    Route("/rulebooks", c.PublishRuleBook),
    Route("/units", c.EstablishUnit),
    Route("/units/{unit_id}/rename", c.RenameUnit),
    Route("/units/{unit_id}/move", c.MoveUnit),
    Route("/units/{unit_id}/roles", c.AssignUnitRole),
    Route("/units/{unit_id}/roles/end", c.EndUnitRole),
    Route("/teams", c.FormTeam),
    Route("/teams/{team_id}/sponsors", c.AssignTeamSponsor),
    Route("/teams/{team_id}/leader", c.AppointTeamLeader),
    Route("/teams/{team_id}/join", c.JoinTeam),
    Route("/teams/{team_id}/leave", c.LeaveTeam),
    Route("/teams/{team_id}/dissolve", c.DissolveTeam),
    Route(
        "/volunteers",
        c.EnrolVolunteer,
        {"profile": (Profile, "volunteer.enrolled", "subject")},
        "volunteer_id",
    ),
    Route("/volunteers/{volunteer_id}/categories", c.DeclareCategory),
    Route(
        "/volunteers/{volunteer_id}/profile",
        c.CorrectProfile,
        {"profile": (Profile, "volunteer.profile_corrected", "subject")},
        "volunteer_id",
    ),
    Route("/volunteers/{volunteer_id}/withdraw", c.WithdrawVolunteer),
    Route(
        "/volunteers/{volunteer_id}/backfills",
        c.RequestBackfill,
        {"reason": (Text, "backfill.requested", "writer")},
    ),
    Route("/volunteers/{volunteer_id}/backfills/{request_id}/decide", c.DecideBackfill),
    Route(
        "/volunteers/{volunteer_id}/corrections",
        c.RequestCorrection,
        _reason("correction.requested"),
    ),
    Route("/volunteers/{volunteer_id}/corrections/{request_id}/decide", c.DecideCorrection),
    Route("/orders", c.PlaceOrder, {"need": (Need, "order.placed", "subject")}, "requester_id"),
    Route("/orders/{order_id}/reject", c.RejectOrder, {"explanation": (Text, "order.rejected", "writer")}),
    Route("/orders/{order_id}/withdraw", c.WithdrawOrder),
    Route("/orders/{order_id}/dispatch", c.DispatchOrder),
    Route("/orders/{order_id}/offer", c.OfferOrder),
    Route("/orders/{order_id}/reassign", c.ReassignOrder),
    Route("/orders/{order_id}/accept", c.AcceptOrder),
    Route("/orders/{order_id}/decline", c.DeclineOrder),
    Route("/orders/{order_id}/expire", c.ExpireOffer),
    Route("/orders/{order_id}/complete", c.CompleteOrder),
    Route("/orders/{order_id}/rate", c.RateOrder, {"comment": (Text, "order.rated", "writer")}),
    Route("/orders/{order_id}/ratings/withdraw", c.WithdrawRating),
    Route("/issuer-keys", c.RegisterIssuerKey),
    Route("/issuer-keys/{issuer_key_id}/retire", c.RetireIssuerKey),
    Route("/data-requests", c.RequestData),
    Route("/data-requests/{request_id}/decide", c.DecideDataRequest),
    Route("/data-requests/{request_id}/erase", c.EraseSubject),
)
"""Every command that is asked for as it is; `api.certificates` makes those about certificates."""

FOUND_BY_THE_EDGE = {"code_checked", "same_phone_ids"}
"""Fields of `RateOrder` that nobody may claim: the edge, which holds the keys, finds them out (F06)."""


PLACEHOLDER = "s1.AAAA"
"""Stands for sealed text in a command that will not be recorded."""


class Recorded(BaseModel):
    """What a command led to. ``last_position`` below ``first_position``: there was nothing to do."""

    command_id: UUID
    first_position: int
    last_position: int
    replayed: bool
    dry_run: bool
    facts: list[dict[str, Any]]


@cache
def build() -> APIRouter:
    """All command routes."""
    router = APIRouter(tags=["commands"])
    for route in ROUTES:
        router.post(
            route.path, name=route.command.__name__, response_model=Recorded, summary=_summary(route)
        )(_endpoint(route))
    return router


def _summary(route: Route) -> str:
    return "".join(
        f" {letter.lower()}" if letter.isupper() else letter for letter in route.command.__name__
    ).strip()


def _in_path(route: Route) -> list[str]:
    return [part[1:-1] for part in route.path.split("/") if part.startswith("{")]


def body_model(route: Route) -> type[BaseModel]:
    """The command's fields, minus those in the path, with personal fields as people write them."""
    fields: dict[str, Any] = {}
    for name, info in route.command.model_fields.items():
        if name in _in_path(route) or name in FOUND_BY_THE_EDGE:
            continue
        if name in route.seals:
            kind = route.seals[name][0]
            fields[name] = (kind, ...) if info.is_required() else (kind | None, None)
        else:
            fields[name] = (_annotated(info), ... if info.is_required() else info.default)
    if route.command is c.RateOrder:
        fields["code"] = (Annotated[str, Field(max_length=40)] | None, None)
    model: type[BaseModel] = create_model(
        f"{route.command.__name__}Body", __config__=ConfigDict(extra="forbid"), **fields
    )
    return model


def _annotated(info: Any) -> Any:
    return Annotated[(info.annotation, *info.metadata)] if info.metadata else info.annotation


def _endpoint(route: Route) -> Callable[..., Recorded]:
    body_type = body_model(route)
    in_path = _in_path(route)

    def endpoint(
        request: Request,
        response: Response,
        body: Any,
        who: Annotated[Caller, Depends(writer)],
        parts: Annotated[Parts, Depends(parts_of)],
        idempotency_key: Annotated[str | None, Header()] = None,
        if_match: Annotated[str | None, Header()] = None,
        dry_run: Annotated[bool, Query(description="Decide and record nothing.")] = False,
    ) -> Recorded:
        ids = {name: _uuid(name, request.path_params[name]) for name in in_path}
        key = key_of(idempotency_key, dry_run)
        write = Write(parts, route, who, ids, body)
        pinned = _pinned(if_match, next(iter(ids.values()), None))
        answer = write.handle(key, pinned, dry_run)
        if route.command is c.EraseSubject and not dry_run:
            write.carry_out_erasure()
        return Recorded(**recorded(answer, response, dry_run))

    endpoint.__annotations__["body"] = body_type
    endpoint.__name__ = route.command.__name__
    endpoint.__doc__ = route.command.__doc__
    return endpoint


def recorded(answer: Answer, response: Response, dry_run: bool) -> dict[str, Any]:
    """What a command led to, as the fields of `Recorded`."""
    if not dry_run:  # what was not recorded has no position to wait for
        response.headers["Ledger-Position"] = str(answer.last_position)
    return {
        "command_id": answer.command_id,
        "first_position": answer.first_position,
        "last_position": answer.last_position,
        "replayed": answer.replayed,
        "dry_run": dry_run,
        "facts": [fact_json(fact) for fact in answer.facts],
    }


@dataclass
class Write:
    """One command on its way from clear words to the ledger."""

    parts: Parts
    route: Route
    who: Caller
    ids: dict[str, UUID]
    body: BaseModel

    def handle(self, key: str | None, pinned: Mapping[UUID, int], dry_run: bool) -> Answer:
        """Seal, claim and decide; what was claimed for a command that is refused is given back.

        Nothing is kept about anybody before the rules have said yes: else a stranger could claim a number for
        somebody, or find out by trying whose numbers are known.
        """
        written = self._written()
        self._check_numbers()
        answered = not dry_run and key in answered_keys(self.parts, self.who, [key])
        if not answered:
            self._check_guesses()
        if dry_run or answered:
            return self._decide(self._command(sealed=False), key, pinned, written, dry_run)
        if self._profile is not None:
            self._decide(self._command(sealed=False), None, pinned, written, dry_run=True)
        claimed = self._claim()
        try:
            return self._decide(self._command(sealed=True), key, pinned, written, dry_run=False)
        except (Refusal, LedgerBusyError):
            if claimed is not None and self.parts.ledger.state(claimed[0]) is None:
                self.parts.keys.release_id_number(*claimed)
            raise

    def _decide(
        self, command: c.Command, key: str | None, pinned: Mapping[UUID, int], written: bytes, dry_run: bool
    ) -> Answer:
        return self.parts.ledger.handle(
            command, self.who, key=key, expected=pinned, body=written, dry_run=dry_run
        )

    def _written(self) -> bytes:
        """What the idempotency key stands for: the request as it was sent."""
        return written_form(
            {"path": self.route.path, "ids": self.ids, "body": self.body.model_dump(mode="json")}
        )

    def _command(self, *, sealed: bool) -> c.Command:
        values: dict[str, Any] = {
            name: getattr(self.body, name) for name in type(self.body).model_fields
        } | self.ids
        for name, (_, topic, whose) in self.route.seals.items():
            if values[name] is not None:
                person = values[self.route.subject] if whose == "subject" else self.who.person_id
                values[name] = (
                    self.parts.keys.seal(topic, person, _fields(values[name])) if sealed else PLACEHOLDER
                )
        if self.route.command is c.RateOrder:
            values |= self._independence(values.pop("code"))
        return self.route.command(**values)

    @property
    def _profile(self) -> Profile | None:
        profile: Profile | None = getattr(self.body, "profile", None)
        return profile

    def _check_numbers(self) -> None:
        """ID_NUMBER_INVALID, PHONE_INVALID, INVALID_REQUEST (a public key that is none), recorded or not."""
        if isinstance(vkey := getattr(self.body, "vkey", None), str):
            _require_verifier_key(vkey)
        if self._profile is not None and self._profile.id_number:
            normal_id_number(self._profile.id_number)
        if self._profile is not None and self._profile.phone:
            normal_phone(self._profile.phone)

    def _check_guesses(self) -> None:
        """TOO_MANY_ATTEMPTS for those who try codes; the requester needs none, and is nobody's guesser (F06)."""
        code = getattr(self.body, "code", None)
        if self.route.command is not c.RateOrder or code is None:
            return
        order_id = self.ids["order_id"]
        order = self.parts.ledger.state(order_id)
        if isinstance(order, Order) and order.requester_id != self.who.person_id:
            right = self.parts.keys.check_rating_code(order_id, code)
            self.parts.accesses.code_tried(order_id, right, self.parts.ledger.clock())

    def carry_out_erasure(self) -> None:
        """The fact is durable, from this request or an earlier one: now the key goes."""
        request = self.parts.ledger.state(self.ids["request_id"])
        assert isinstance(request, DataRequest)
        erasure.carry_out(self.parts, request.subject_id)

    def _claim(self) -> tuple[UUID, str] | None:
        """One identity number, one person (F12); phones tell who shares one (F06)."""
        profile = self._profile
        if profile is None:
            return None
        person = self.ids.get("volunteer_id") or getattr(self.body, "volunteer_id")  # noqa: B009
        if profile.id_number:
            self.parts.keys.claim_id_number(person, profile.id_number)
        if profile.phone:
            self.parts.keys.set_phone(person, profile.phone)
        return (person, profile.id_number) if profile.id_number else None

    def _independence(self, code: str | None) -> dict[str, Any]:
        order = self.parts.ledger.state(self.ids["order_id"])
        served = tuple(order.sessions) if isinstance(order, Order) else ()
        # Staff who relay a rating speak for the resident: neither may share a phone with one who served.
        raters = {self.who.person_id}
        if isinstance(order, Order) and self.who.role not in ("resident", "volunteer"):
            raters.add(order.requester_id)
        shared = {person for rater in raters for person in self.parts.keys.same_phone(rater, served)}
        return {
            "code_checked": code is not None
            and self.parts.keys.check_rating_code(self.ids["order_id"], code),
            "same_phone_ids": tuple(sorted(shared)),
        }


def written_form(request: Mapping[str, Any]) -> bytes:
    """A request as bytes, always the same for the same; INVALID_REQUEST for what has no such form."""
    try:
        return canonical_json(request)
    except (TypeError, ValueError):
        problem = "whole numbers lie within ±(2^53 − 1), and text is Unicode without lone surrogates"
        raise InvalidRequestError(problem=problem) from None


def answered_keys(parts: Parts, who: Caller, keys: Iterable[str | None]) -> set[str | None]:
    """Which keys led to something before: for them nothing is decided, and nothing needs sealing or claiming."""
    mine = (outcomes.c.person_id == who.person_id) & outcomes.c.command_key.in_([k for k in keys if k])
    with parts.log.engine.connect() as connection:
        return set(connection.scalars(select(outcomes.c.command_key).where(mine)))


def _fields(value: Any) -> dict[str, str | None]:
    return value.model_dump() if isinstance(value, BaseModel) else {"text": value}


def _require_verifier_key(vkey: str) -> None:
    """INVALID_REQUEST unless the text is a public key whose id is its own."""
    try:
        VerifierKey.from_text(vkey)
    except NoteKeyMalformedError as error:
        raise InvalidRequestError(problem=f"vkey: {error.details['problem']}") from None


def _uuid(name: str, text: str) -> UUID:
    try:
        return UUID(text)
    except ValueError:
        raise InvalidRequestError(problem=f"{name} in the path is not a UUID") from None


def key_of(given: str | None, dry_run: bool) -> str | None:
    """The idempotency key of a write; KEY_REQUIRED if there is none."""
    if dry_run:
        return None
    if given is None or not 1 <= len(given) <= 128 or not given.isascii() or not given.isprintable():
        raise KeyRequiredError
    return given


def _pinned(if_match: str | None, stream_id: UUID | None) -> dict[UUID, int]:
    if if_match is None:
        return {}
    version = if_match.removeprefix("W/").strip('"')
    if stream_id is None or not version.isdecimal() or len(version) > 15:
        raise InvalidRequestError(problem='If-Match is the version of the thing in the path, such as "7"')
    return {stream_id: int(version)}
