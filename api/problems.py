"""Refusals and troubles as problem+json (RFC 9457): one table from stable codes to HTTP; nothing private in a body."""

import logging
import re
from datetime import date
from http import HTTPStatus
from typing import Any
from uuid import uuid4

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from sqlalchemy.exc import SQLAlchemyError
from starlette.exceptions import HTTPException

from ledger.errors import ExpectedError, InvalidRequestError, LedgerError, NotFoundError, Refusal

MEDIA_TYPE = "application/problem+json"
BODY_BYTES_MAX = 1_000_000
log = logging.getLogger("wenming.api")


class KeyRequiredError(Refusal):
    code = "KEY_REQUIRED"
    zh = "写入请求必须带 Idempotency-Key 请求头，以便安全重试。"
    en = "A write needs an Idempotency-Key header (1 to 128 visible characters), so that it can be retried safely."


class MalformedJsonError(Refusal):
    code = "MALFORMED_JSON"
    zh = "请求正文不是有效的 JSON（{where}）。"
    en = "The body is not valid JSON ({where})."


class TooLargeError(Refusal):
    code = "PAYLOAD_TOO_LARGE"
    zh = "请求正文超过 {bytes_max} 字节。"
    en = "The body is larger than {bytes_max} bytes."


class FiguresBehindError(LedgerError):
    code = "PROJECTION_BEHIND"
    zh = "统计数据只到第 {position} 条，尚未到第 {wanted} 条。请稍后重试。"
    en = "The figures are at position {position}, not yet at {wanted}. Try again shortly."


class TooManyAttemptsError(Refusal):
    code = "TOO_MANY_ATTEMPTS"
    zh = "这一单的评价码已多次输错，请在 {retry_seconds} 秒后再试。"
    en = "Too many wrong codes were tried for this order. Try again in {retry_seconds} seconds."


class TooManyNamesError(Refusal):
    code = "TOO_MANY_NAMES"
    zh = "这份证明的姓名已多次核对不符，请在 {retry_seconds} 秒后再试。"
    en = "Too many wrong names were tried for this certificate. Try again in {retry_seconds} seconds."


class TooManyRequestsError(Refusal):
    code = "TOO_MANY_REQUESTS"
    zh = "查验过于频繁，请在 {retry_seconds} 秒后再试。"
    en = "Too many certificates were checked from this address. Try again in {retry_seconds} seconds."


class UnavailableError(LedgerError):
    code = "LEDGER_UNAVAILABLE"
    zh = "暂时无法读取账本数据库。什么都没有写入；请稍后用同一个键重试。"
    en = "The ledger's database cannot be reached now. If this was a write, retry it with the same key."


class InternalError(LedgerError):
    code = "INTERNAL"
    zh = "程序出现了意料之外的错误，请把请求编号告诉管理员。"
    en = "Something unexpected went wrong. Give the request id to the administrator."


STATUS: dict[str, int] = {
    "UNAUTHENTICATED": 401,
    "WRONG_ROLE": 403,
    "OUTSIDE_YOUR_UNITS": 403,
    "ONLY_THEMSELVES": 403,
    "KEY_REQUIRED": 400,
    "MALFORMED_JSON": 400,
    "AS_OF_BEYOND_HEAD": 400,
    "MOMENTS_REVERSED": 422,
    "INVALID_REQUEST": 422,
    "ID_NUMBER_INVALID": 422,
    "PHONE_INVALID": 422,
    "BAD_WINDOW": 422,
    "END_BEFORE_START": 422,
    "SCORE_OUT_OF_RANGE": 422,
    "BAD_PERIOD": 422,
    "CERTIFICATE_NUMBER_WRONG": 422,
    "GLYPH_MISSING": 422,
    "KEY_REUSED": 422,
    "KEY_IN_FLIGHT": 409,
    "VERSION_MISMATCH": 412,
    "SUBJECT_ERASED": 410,
    "TOO_MANY_ATTEMPTS": 429,
    "TOO_MANY_NAMES": 429,
    "TOO_MANY_REQUESTS": 429,
    "NOT_FOUND": 404,
    "UNKNOWN_UNIT": 404,
    "UNKNOWN_TEAM": 404,
    "UNKNOWN_VOLUNTEER": 404,
    "UNKNOWN_ORDER": 404,
    "UNKNOWN_SESSION": 404,
    "UNKNOWN_REQUEST": 404,
    "UNKNOWN_RATING": 404,
    "UNKNOWN_CHECKPOINT": 404,
    "UNKNOWN_DATA_REQUEST": 404,
    "UNKNOWN_CERTIFICATE": 404,
    "UNKNOWN_ISSUER_KEY": 404,
    "METHOD_NOT_ALLOWED": 405,
    "PAYLOAD_TOO_LARGE": 413,
    "LEDGER_BUSY": 503,
    "LEDGER_UNAVAILABLE": 503,
    "PROJECTION_BEHIND": 503,
    "FIGURES_APART": 503,
}
"""Every code that is not a 409 (a refusal: it conflicts with what the ledger holds) or a 500 (trouble of our own)."""

RETRY_SECONDS = {
    "LEDGER_BUSY": "1",
    "LEDGER_UNAVAILABLE": "5",
    "PROJECTION_BEHIND": "1",
    "FIGURES_APART": "1",
    "KEY_IN_FLIGHT": "1",
    "NOT_SIGNED_YET": "2",
}


def status_of(error: ExpectedError) -> int:
    """The HTTP status of a refusal or trouble."""
    return STATUS.get(error.code, 409 if isinstance(error, Refusal) else 500)


def body_of(error: ExpectedError, request_id: str) -> dict[str, Any]:
    """The problem details of an expected error."""
    status = status_of(error)
    members = {
        "type": f"/problems/{error.code.lower().replace('_', '-')}",
        "title": HTTPStatus(status).phrase,
        "status": status,
        "code": error.code,
        "detail": error.sentence_en,
        "detail_zh": error.sentence_zh,
        "request_id": request_id,
    }
    # Some refusals speak of the status of a thing; `status` here is that of the answer.
    return members | {
        f"current_{name}" if name in members else name: _plain(value)
        for name, value in error.details.items()
        if name not in ("first_en", "first_zh")
    }


def _plain(value: object) -> object:
    if isinstance(value, dict):
        return {str(name): _plain(inner) for name, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(inner) for inner in value]
    if isinstance(value, date):  # an instant is one too
        return value.isoformat()
    return value if isinstance(value, (int, str, type(None))) else str(value)


def answer(error: ExpectedError, request: Request) -> JSONResponse:
    """An expected error as a response."""
    request_id = getattr(request.state, "request_id", None) or uuid4().hex
    retry_after = error.details.get("retry_seconds", RETRY_SECONDS.get(error.code))
    headers = {} if retry_after is None else {"Retry-After": str(retry_after)}
    if error.code == "UNAUTHENTICATED":
        headers["WWW-Authenticate"] = "Bearer"
    return JSONResponse(body_of(error, request_id), status_of(error), headers, MEDIA_TYPE)


def install(app: FastAPI) -> None:
    """Answer every error of the application as a problem."""

    @app.exception_handler(ExpectedError)
    def expected(request: Request, error: ExpectedError) -> JSONResponse:
        return answer(error, request)

    @app.exception_handler(RequestValidationError)
    def invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        return answer(_invalid(error), request)

    @app.exception_handler(HTTPException)
    def http(request: Request, error: HTTPException) -> JSONResponse:
        response = answer(_of_http(error, request), request)
        response.headers.update(error.headers or {})
        return response

    @app.exception_handler(SQLAlchemyError)
    def database(request: Request, error: SQLAlchemyError) -> JSONResponse:
        log.error("database trouble: %s", type(error.__cause__ or error).__name__)
        return answer(UnavailableError(), request)

    @app.exception_handler(Exception)
    def unexpected(request: Request, _error: Exception) -> JSONResponse:
        return answer(InternalError(), request)


def _invalid(error: RequestValidationError) -> Refusal:
    """Which fields are wrong and how; never what they held."""
    found = []
    for one in error.errors():
        if one["type"] == "json_invalid":
            return MalformedJsonError(where=f"character {one['loc'][-1]}")
        where = "/".join(_known(part) for part in one["loc"][1:])
        found.append(
            {"in": str(one["loc"][0]), "pointer": f"/{where}", "type": one["type"], "detail": one["msg"]}
        )
    problem = "; ".join(f"{one['in']} {one['pointer']}: {one['detail']}" for one in found[:5])
    return InvalidRequestError(problem=problem, errors=found)


def _known(part: int | str) -> str:
    """A step on the way to a field; what cannot be a field of ours might be anything, and is not repeated."""
    return str(part) if re.fullmatch(r"[a-z0-9_-]{1,40}", str(part)) else "?"


class _MethodNotAllowedError(Refusal):
    code = "METHOD_NOT_ALLOWED"
    zh = "此路径不接受 {method} 方法。"
    en = "This path does not take {method}."


def _of_http(error: HTTPException, request: Request) -> ExpectedError:
    if error.status_code == 404:
        return NotFoundError(what="such path")
    if error.status_code == 405:
        return _MethodNotAllowedError(method=request.method)
    if error.status_code == 413:
        return TooLargeError(bytes_max=BODY_BYTES_MAX)
    if error.status_code == 400:
        return MalformedJsonError(where="not UTF-8, nested too deeply, or a number too long")
    return InvalidRequestError(problem=str(error.detail))
