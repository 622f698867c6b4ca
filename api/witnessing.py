"""The HTTP edge of a witness (c2sp.org/tlog-witness): a body in, a status and a short text out.

Only the statuses that the specification names are answered, and 500 for trouble of the witness's own, which leaves
everything as it was. Anybody may ask: what is asked for must be signed by a key of the log.
"""

import asyncio
import logging

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from ledger.errors import ExpectedError, WitnessRequestMalformedError
from ledger.witness import REQUEST_BYTES_MAX, Witness

READ_SECONDS = 10.0
"""How long a request may take to arrive."""

STATUS = {
    "WITNESS_REQUEST_MALFORMED": 400,
    "NOTE_MALFORMED": 400,
    "CHECKPOINT_MALFORMED": 400,
    "NO_TRUSTED_SIGNATURE": 403,
    "SIGNATURE_WRONG": 403,
    "WITNESS_LOG_UNKNOWN": 404,
    "WITNESS_ELSEWHERE": 409,
    "CHECKPOINT_INCONSISTENT": 422,
}

log = logging.getLogger("wenming.witness")


def create_witness_app(witness: Witness) -> Starlette:
    """The application over an open witness."""

    async def add_checkpoint(request: Request) -> Response:
        body = await _body(request)
        return PlainTextResponse(await run_in_threadpool(witness.add_checkpoint, body))

    def checkpoint(request: Request) -> Response:
        note = witness.newest(request.path_params["origin_hash"])
        return PlainTextResponse(note or "not cosigned here\n", 404 if note is None else 200)

    def health(_request: Request) -> Response:
        return PlainTextResponse("ok\n")

    return Starlette(
        routes=[
            Route("/add-checkpoint", add_checkpoint, methods=["POST"]),
            Route("/healthz", health),
            Route("/{origin_hash:str}/checkpoint", checkpoint),
        ],
        exception_handlers={ExpectedError: _refused},
    )


async def _body(request: Request) -> bytes:
    """All of the body. WITNESS_REQUEST_MALFORMED as soon as it is too long, or too long in coming."""
    body = bytearray()
    try:
        async with asyncio.timeout(READ_SECONDS):
            async for chunk in request.stream():
                body += chunk
                if len(body) > REQUEST_BYTES_MAX:
                    raise WitnessRequestMalformedError(problem=f"it is longer than {REQUEST_BYTES_MAX} bytes")
    except TimeoutError:
        raise WitnessRequestMalformedError(problem="it did not arrive in time") from None
    return bytes(body)


def _refused(_request: Request, error: Exception) -> Response:
    assert isinstance(error, ExpectedError)
    status = STATUS.get(error.code, 500)
    if error.code == "WITNESS_ELSEWHERE":
        # A header of its own: the framework would add a charset, and clients compare the type as it is.
        return Response(f"{error.details['size']}\n", status, {"Content-Type": "text/x.tlog.size"})
    if status == 500:
        log.critical("%s", error)
        return PlainTextResponse("trouble of the witness's own\n", status)
    return PlainTextResponse(f"{error.code}\n{error.sentence_zh}\n{error.sentence_en}\n", status)
