"""ASGI middleware of all requests and answers, from the outside to the routes:

`Head` → `Counted` → `SafeHeaders` → `Faults` → `Origins` → (CORS → `Faults`) → `Gate` → `bodies.Bodies` → the routes.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable
from typing import Any

from starlette.requests import ClientDisconnect

from codi2.errors import CoDi2Error
from codi2.serve.access import ANYONE, Access, Refused, needs_key
from codi2.serve.errors import Receive, Scope, Send, answer
from codi2.serve.origins import Served, check

# the page may load its own files and show media that it made itself, and no other page may frame it
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; font-src 'self'; connect-src 'self'; "
    "img-src 'self' blob: data:; media-src 'self' blob: data:; "
    "frame-ancestors 'none'; form-action 'self'; base-uri 'none'"
)
HEADERS = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "same-origin",  # with `no-referrer` browsers send `Origin: null` to this server, too
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cache-control": "no-store",
}
FORMS = ("text/plain", "application/x-www-form-urlencoded")  # bodies that pages of any site may send without preflight
FORWARDED = (b"x-forwarded-for", b"x-real-ip", b"forwarded", b"via")  # headers of proxies, which other machines may use
_CHARSET = re.compile(r'charset[*0-9]*\s*=\s*"?([^;"]*)')


class Head:
    """Answers HEAD as GET; the HTTP server leaves out the body."""

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["method"] == "HEAD":
            scope = {**scope, "method": "GET"}
        await self.app(scope, receive, send)


class Counted:
    """Counts requests by route and status."""

    def __init__(self, app: Any, counts: dict[tuple[str, int], int]) -> None:
        self.app, self.counts = app, counts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_and_count(message: Any) -> None:
            if message["type"] == "http.response.start":
                key = (getattr(scope.get("route"), "path", "other"), message["status"])
                self.counts[key] = self.counts.get(key, 0) + 1
            await send(message)

        await self.app(scope, receive, send_and_count)


class SafeHeaders:
    """Adds the headers that limit what browsers do with an answer. Headers that a route has set stay."""

    def __init__(self, app: Any) -> None:
        self.app = app
        self.headers = [(name.encode(), value.encode()) for name, value in HEADERS.items()]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_with_headers(message: Any) -> None:
            if message["type"] == "http.response.start":
                headers = list(message.get("headers", []))
                present = {name.lower() for name, _ in headers}
                missing = [(name, value) for name, value in self.headers if name not in present]
                message = {**message, "headers": headers + missing}
            await send(message)

        await self.app(scope, receive, send_with_headers)


class Faults:
    """Logs errors that have no handler, and answers with a 500 in the documented form."""

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = False

        async def send_and_note(message: Any) -> None:
            nonlocal started
            started = started or message["type"] == "http.response.start"
            await send(message)

        try:
            await self.app(scope, receive, send_and_note)
        except ClientDisconnect:
            return
        except Exception as error:
            if scope["type"] != "http" or started:
                raise  # the HTTP server ends the connection
            logging.getLogger("codi2").exception("a request failed", exc_info=error)
            await answer(error, scope, receive, send)


class Origins:
    """Refuses requests for other hosts and from other origins by their headers (`origins.check`)."""

    def __init__(self, app: Any, served: Served, allowed: Iterable[str] = ()) -> None:
        self.app, self.served, self.allowed = app, served, frozenset(allowed)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            try:
                check(scope, self.served, self.allowed)
            except Refused as error:
                await answer(error, scope, receive, send)
                return
        await self.app(scope, receive, send)


class Gate:
    """Refuses requests without a valid key, and bodies that are neither JSON nor multipart, by their headers alone.

    The key is looked up in the event loop: this reads a small table, and all threads may be busy.
    """

    def __init__(self, app: Any, access: Access) -> None:
        self.app, self.access = app, access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            try:
                if needs_key(scope["method"], scope["path"]):
                    client = self.access.client(values_of(scope, b"authorization"))
                    if client == ANYONE and any(values_of(scope, name) for name in FORWARDED):
                        raise Refused(403, "this server has no key and was reached through a proxy; make a key first")
                    scope.setdefault("state", {})["client"] = client
                _check_body(scope)
            except CoDi2Error as error:
                await answer(error, scope, receive, send)
                return
        await self.app(scope, receive, send)


def _check_body(scope: Scope) -> None:
    """Raises Refused: the headers contradict each other, or name a type or charset that no route reads."""
    if values_of(scope, b"transfer-encoding") and values_of(scope, b"content-length"):
        raise Refused(400, "the request has both Content-Length and Transfer-Encoding; send one of them")
    types = [value.decode("latin-1").lower() for value in values_of(scope, b"content-type")]
    if len(types) > 1:
        raise Refused(400, f"the request has {len(types)} Content-Type headers; send one")
    for media_type in types:
        if media_type.partition(";")[0].strip() in FORMS:
            raise Refused(415, f"the body is {media_type[:100]!r}; send JSON with Content-Type: application/json")
        for charset in _CHARSET.findall(media_type):
            if charset.strip() not in ("utf-8", "utf8"):
                raise Refused(415, f"the body's charset is {charset[:100]!r}; send UTF-8")


def values_of(scope: Scope, name: bytes) -> list[bytes]:
    """The values of a header; several where it is repeated."""
    return [value for key, value in scope["headers"] if key.lower() == name]
