"""The HTTP edge: `create_app` takes the parts and gives them routes."""

import logging
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from uuid import uuid4

from fastapi import APIRouter, FastAPI, Request, Response
from sqlalchemy.exc import SQLAlchemyError

from api import (
    batches,
    certificates,
    commands,
    contract,
    erasure,
    history,
    integrity,
    problems,
    queries,
    rights,
    travel,
    verify,
)
from api.archiver import keeping_archive
from api.parts import Parts
from api.public_check import STYLESHEET_PATH, stylesheet
from api.signing import signing
from ledger.errors import LedgerError
from projections import follower

FOLLOW_AGAIN_SECONDS = 0.5
log = logging.getLogger("wenming.api")


def create_app(parts: Parts) -> FastAPI:
    """The application over an open ledger; it follows and signs the log itself if the settings say so."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        erasure.resume(parts)
        stop = threading.Event()
        thread = threading.Thread(target=_follow, args=(parts, stop), name="follower")
        follows = parts.settings.follows
        if follows:
            thread.start()
        try:
            with (
                signing(parts.log, parts.settings),
                keeping_archive(parts.log, parts.settings.growing_archive if follows else None),
                batches.working(parts),
            ):
                yield
        finally:
            stop.set()
            if thread.is_alive():
                thread.join()

    app = FastAPI(
        title="文明账本 Wenming Ledger",
        version="1",
        lifespan=lifespan,
        docs_url=None,  # the stock page loads its scripts from elsewhere
        redoc_url=None,
        telemetry={"logs": False},  # its records of invalid requests repeat what was sent
        responses={"default": {"description": "A problem", "content": {problems.MEDIA_TYPE: {}}}},
    )
    app.state.parts = parts
    problems.install(app)
    app.middleware("http")(_frame)
    # Here, not on the application, whose own answer would be no problem+json. It counts what arrives.
    v1 = APIRouter(prefix="/v1", max_body_size=problems.BODY_BYTES_MAX)
    v1.include_router(commands.build())
    v1.include_router(queries.router)
    v1.include_router(history.router)
    v1.include_router(travel.router)
    v1.include_router(rights.router)
    v1.include_router(batches.router)
    v1.include_router(certificates.router)
    v1.include_router(integrity.router)
    v1.include_router(contract.router)
    app.include_router(v1)
    app.include_router(integrity.log_router)
    app.include_router(verify.router)
    app.get(STYLESHEET_PATH, include_in_schema=False)(stylesheet)

    @app.get("/healthz", tags=["health"])
    def health() -> dict[str, object]:
        """Whether the ledger answers, and how far the figures are behind it."""
        return _health(parts)

    return app


def _follow(parts: Parts, stop: threading.Event) -> None:
    """Follow until told to stop. A database held by others for long is no reason to give up for good."""
    while not stop.is_set():
        try:
            follower.follow(parts.log, stop, parts.archive)
        except (LedgerError, SQLAlchemyError) as trouble:
            log.error("the figures could not follow: %s", getattr(trouble, "code", type(trouble).__name__))
            stop.wait(FOLLOW_AGAIN_SECONDS)


def _health(parts: Parts) -> dict[str, object]:
    """The log answers, and how far the figures lag behind it."""
    found = follower.status(parts.log)
    return {
        "status": "ok",
        "kind": parts.log.identity.kind,
        "head": parts.log.head().size,
        "figures": {
            "lag_facts": max(s.lag_facts for s in found),
            "lag_seconds": max(s.lag_seconds for s in found),
        },
    }


async def _frame(request: Request, call_next: Callable[[Request], Awaitable[Response]]) -> Response:
    """A request id on every answer, nothing cached between people, and no body beyond a megabyte."""
    request.state.request_id = uuid4().hex
    length = request.headers.get("content-length", "0")
    if not length.isdecimal() or int(length) > problems.BODY_BYTES_MAX:
        response: Response = problems.answer(
            problems.TooLargeError(bytes_max=problems.BODY_BYTES_MAX), request
        )
    else:
        response = await call_next(request)
    response.headers["Request-Id"] = request.state.request_id
    response.headers.setdefault("Cache-Control", "private, no-store")
    response.headers["X-Content-Type-Options"] = "nosniff"
    if request.url.path.startswith(verify.router.prefix):
        response.headers["X-Robots-Tag"] = "noindex"
    return response
