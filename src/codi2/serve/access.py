"""Who may ask, how much at once, and how often: keys, limits of a request's size, and requests a minute."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from codi2.errors import BusyError, CoDi2Error
from codi2.serve.store import Store

ANYONE = ""  # the client where no key is asked for


class NoKey(CoDi2Error):
    """A key is asked for, and none or a wrong one was shown."""


@dataclass
class Access:
    """Whether a request may be made, by the key in `Authorization: Bearer …`.

    Without any key in the store everyone may, as one client: the server listens to this machine only, then.
    """

    store: Store
    _seen: dict[str, list[float]] = field(default_factory=dict)  # when a key's requests of the last minute came

    def client(self, authorization: str | None) -> str:
        """The label of the key. Raises NoKey; BusyError: the key has had its requests of this minute."""
        if not self.store.list_keys():
            return ANYONE
        scheme, _, secret = (authorization or "").partition(" ")
        key = self.store.key(secret.strip()) if scheme.lower() == "bearer" else None
        if key is None:
            raise NoKey("this server asks for an API key: Authorization: Bearer …")
        if key.per_minute:
            now = time.monotonic()
            recent = [moment for moment in self._seen.get(key.label, []) if now - moment < 60]
            if len(recent) >= key.per_minute:
                wait = 60 - (now - recent[0])
                raise BusyError(f"this key may ask {key.per_minute} times a minute; ask again in {wait:.0f} s", wait)
            self._seen[key.label] = [*recent, now]
        return key.label


class BodyLimit:
    """ASGI middleware: a request that is larger than `most` bytes ends in a 413, before it is in memory."""

    def __init__(self, app: Any, most: int) -> None:
        self.app, self.most = app, most

    async def __call__(
        self, scope: dict[str, Any], receive: Callable[[], Awaitable[Any]], send: Callable[[Any], Awaitable[None]]
    ) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        said = dict(scope["headers"]).get(b"content-length", b"0")
        if not said.isdigit() or int(said) > self.most:
            await self._refuse(scope, receive, send)
            return
        taken, refused = 0, False

        async def counted() -> Any:
            nonlocal taken, refused
            message = await receive()
            taken += len(message.get("body", b""))
            if taken > self.most:
                if not refused:
                    refused = True
                    await self._refuse(scope, receive, send)
                return {"type": "http.disconnect"}
            return message

        async def passed(message: Any) -> None:
            if not refused:
                await send(message)

        await self.app(scope, counted, passed)

    async def _refuse(self, scope: Any, receive: Any, send: Any) -> None:
        from starlette.responses import JSONResponse

        message = f"the request is larger than {self.most >> 20} MB; send smaller media"
        body = {"error": {"message": message, "type": "invalid_request_error", "param": None, "code": "too_large"}}
        await JSONResponse(body, 413)(scope, receive, send)


class Counted:
    """ASGI middleware: requests by route and status."""

    def __init__(self, app: Any, counts: dict[tuple[str, int], int]) -> None:
        self.app, self.counts = app, counts

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        async def noted(message: Any) -> None:
            if message["type"] == "http.response.start":
                key = (getattr(scope.get("route"), "path", "other"), message["status"])
                self.counts[key] = self.counts.get(key, 0) + 1
            await send(message)

        await self.app(scope, receive, noted)
