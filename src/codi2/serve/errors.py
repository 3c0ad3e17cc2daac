"""Errors → HTTP: a status, and `{"error": {"message", "type", "param", "code"}}` with the message in one sentence."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from starlette.exceptions import HTTPException

from codi2.errors import BusyError, CoDi2Error, DeviceMemoryError, LateError, LimitError, OutputError
from codi2.serve.absent import instead
from codi2.serve.access import NoKey, Refused
from codi2.serve.fields import FieldError
from codi2.serve.store import NoSession, SessionChanged
from codi2.serve.uploads import NoMedium

Scope = MutableMapping[str, Any]  # the types of ASGI
Receive = Callable[[], Awaitable[Any]]
Send = Callable[[Any], Awaitable[None]]

LONGEST = 500  # characters of a message
OWN_FAULT = "the server failed while it handled this request; its log holds the cause"
NO_ROOM = "the server cannot write to its disk at the moment, so nothing was kept; try again later"
NO_MEMORY = (
    "the server has no memory left for a request of this size; ask for fewer or shorter media, or try again later"
)
RETRY = 10  # seconds, after which other requests have probably freed their memory
PHRASES = {  # message of the framework → ours
    "Not Found": "there is nothing at this path; /openapi.json lists what there is",
    "Method Not Allowed": "this path does not take this method; /openapi.json lists those that it takes",
    "There was an error parsing the body": "the body cannot be parsed; send what Content-Type says",
}
TYPES = {401: "authentication_error", 403: "permission_error", 404: "not_found_error", 408: "timeout_error"}
TYPES |= {429: "rate_limit_error"}


class Problem(BaseModel):
    """An error in the form of OpenAI's API."""

    message: str
    type: str
    param: str | None = None
    code: str | None = None


class Failure(BaseModel):
    """The body of every answer of 400 or above."""

    error: Problem


def describe_error(error: Exception) -> tuple[int, dict[str, Any], dict[str, str]]:
    """The status, the body and the headers of the answer to an error."""
    status, message, code, param = 500, OWN_FAULT, None, None
    headers: dict[str, str] = {}
    match error:
        case BusyError():
            status, message = 429, str(error)
            headers = {"Retry-After": str(max(1, round(error.retry_after)))}
        case LateError():
            status, message = 408, str(error)
        case NoKey():
            status, message, headers = 401, str(error), {"WWW-Authenticate": "Bearer"}
        case NoSession() | NoMedium():
            status, message = 404, str(error)
        case SessionChanged():
            status, message = 409, str(error)
        case OutputError():
            status, message, code = 507, NO_ROOM, "no_room"  # the error itself names folders of the server
        case DeviceMemoryError():
            status, message, code = 503, NO_MEMORY, "no_memory"
            headers = {"Retry-After": str(RETRY)}
        case LimitError():
            status, message, code = 413, str(error), "too_large"
        case Refused():
            status, message, code = error.status, str(error), error.code
        case FieldError():
            status, message, param = 400, str(error), error.param
        case CoDi2Error():
            status, message = 400, str(error)
        case HTTPException():
            status, headers = error.status_code, dict(error.headers or {})
            message = PHRASES.get(str(error.detail), str(error.detail))
        case RequestValidationError():
            status, (message, param) = 400, _invalid(error)
    kind = TYPES.get(status, "server_error" if status >= 500 else "invalid_request_error")
    return status, error_body(message, kind, code, param), headers


def error_body(message: str, kind: str, code: str | None = None, param: str | None = None) -> dict[str, Any]:
    """The JSON form. Line breaks become spaces; halves of surrogate pairs, which UTF-8 cannot encode, are escaped."""
    place = None if param is None else _one_line(param)
    return {"error": {"message": _one_line(message), "type": kind, "param": place, "code": code}}


def _one_line(text: str) -> str:
    text = " ".join(text.encode("utf-8", "backslashreplace").decode("utf-8").split())
    return text if len(text) <= LONGEST else text[: LONGEST - 1] + "…"


def _invalid(error: RequestValidationError) -> tuple[str, str | None]:
    """The sentence, and the path of the field."""
    problems = error.errors()
    # a content may be text or parts: an error in the parts is more specific
    first = next((problem for problem in problems if problem["type"] != "string_type"), problems[0])
    if first["type"] == "json_invalid":
        reason = first.get("ctx", {}).get("error", "")
        return f"the body is no JSON: {reason} at character {first['loc'][-1]}", None
    place = ".".join(str(step) for step in first["loc"] if step != "body")
    return f"{place or 'the body'}: {str(first['msg']).removeprefix('Value error, ')}", place or None


async def as_json(request: Request, error: Exception) -> JSONResponse:
    """The handler of the application's errors."""
    if isinstance(error, HTTPException) and error.status_code == 404 and error.detail == "Not Found":
        error = HTTPException(404, instead(request.url.path) or error.detail)
    status, content, headers = describe_error(error)
    return JSONResponse(content, status, headers)


async def answer(error: Exception, scope: Scope, receive: Receive, send: Send, more: Mapping[str, str] = {}) -> None:
    """Answers a request with an error; its body is not read."""
    status, content, headers = describe_error(error)
    await JSONResponse(content, status, {**headers, **more})(scope, receive, send)
