"""What programs that read the events topic may rely on, for anybody: the AsyncAPI document and its JSON Schemas.

The same bytes as `wenming export contract` writes; relative places are the same too.
"""

from functools import cache
from hashlib import sha256
from typing import Annotated

from fastapi import APIRouter, Path, Request, Response

from api.integrity import NEWEST
from ledger.asyncapi import ASYNCAPI_VERSION, contract_files
from ledger.errors import NotFoundError

ASYNCAPI = f"application/vnd.aai.asyncapi+json;version={ASYNCAPI_VERSION}"
SCHEMA = "application/schema+json"

router = APIRouter(prefix="/contract", tags=["contract"])


@router.get(
    "/asyncapi.json",
    response_class=Response,
    responses={200: {"content": {ASYNCAPI: {}}, "description": "The document."}},
)
def asyncapi(request: Request) -> Response:
    """The events topic as an AsyncAPI document: its messages, their order, and how to read them."""
    return _file(request, "asyncapi.json", ASYNCAPI)


@router.get(
    "/schemas/{name}",
    response_class=Response,
    responses={200: {"content": {SCHEMA: {}}, "description": "The schema."}},
)
def schema(
    request: Request,
    name: Annotated[str, Path(description="An event type with its version: entry.posted.v1.json")],
) -> Response:
    """The JSON Schema of one event type as it is stored, of a message (envelope.v1.json) or its headers."""
    return _file(request, f"schemas/{name}", SCHEMA)


def _file(request: Request, path: str, media_type: str) -> Response:
    found = _tagged().get(path)
    if found is None:
        raise NotFoundError(what=f"{path} in the contract; asyncapi.json names every event type")
    content, tag = found
    headers = {"Cache-Control": NEWEST, "ETag": tag}
    known = [one.strip().removeprefix("W/") for one in request.headers.get("if-none-match", "").split(",")]
    if tag in known or "*" in known:
        return Response(status_code=304, headers=headers)
    return Response(content, media_type=media_type, headers=headers)


@cache
def _tagged() -> dict[str, tuple[bytes, str]]:
    return {path: (content, f'"{sha256(content).hexdigest()}"') for path, content in contract_files().items()}
