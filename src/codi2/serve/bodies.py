"""Limits of requests' bodies: size, rate, number of JSON values, and memory of all together."""

from __future__ import annotations

import asyncio
from typing import Any

from codi2.errors import BusyError, LateError
from codi2.serve.access import Refused
from codi2.serve.errors import Receive, Scope, Send, answer
from codi2.serve.memory import return_freed
from codi2.serve.middleware import values_of
from codi2.serve.schemas import MOST_VALUES

MOST_BODY = 64 << 20  # bytes of a request
PATIENCE = 20.0  # seconds in which a body has to arrive, plus one second for each
RATE = 64 << 10  # bytes
LARGE = 8 << 20
"""Bytes of a body after which freed memory is returned to the system."""
MOST_HELD = 1 << 30
"""Bytes of the bodies of all requests in progress."""


class Bodies:
    """ASGI middleware. A body that arrives too slowly gets a 408. One with too many bytes or values gets a 413, before
    all of it is in memory. One for which the bodies of other requests leave no memory gets a 429.
    """

    def __init__(
        self,
        app: Any,
        most: int = MOST_BODY,
        patience: float = PATIENCE,
        most_values: int = MOST_VALUES,
        most_held: int = MOST_HELD,
    ) -> None:
        self.app, self.patience, self.most_values, self.most_held = app, patience, most_values, most_held
        self.most = most
        self.too_large = Refused(413, f"the request is larger than {most >> 20} MB; send smaller media", "too_large")
        self.held = 0
        self._returning = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        if any(not value.isdigit() or int(value) > self.most for value in values_of(scope, b"content-length")):
            await answer(self.too_large, scope, receive, send)
            return
        loop = asyncio.get_running_loop()
        start = loop.time()
        types = values_of(scope, b"content-type")
        is_json = not types or any(b"json" in type_.lower() for type_ in types)
        received = values = 0
        complete = refused = False

        async def refuse(error: Exception) -> dict[str, Any]:
            nonlocal refused
            if not refused:
                refused = True
                await answer(error, scope, receive, send, {"connection": "close"})
            return {"type": "http.disconnect"}

        async def receive_within_limits() -> Any:
            nonlocal received, values, complete
            if complete or refused:  # the next message is that the client disconnects
                return await receive() if not refused else {"type": "http.disconnect"}
            left = self.patience + received / RATE - (loop.time() - start)
            try:
                message = await asyncio.wait_for(receive(), max(left, 0.001))
            except TimeoutError:
                return await refuse(
                    LateError(
                        f"after {loop.time() - start:.0f} s only {received} bytes of the body had come; send it faster"
                    )
                )
            body = message.get("body", b"")
            received += len(body)
            self.held += len(body)
            complete = not message.get("more_body", False)
            if received > self.most:
                return await refuse(self.too_large)
            if is_json:
                values += body.count(b",") + body.count(b"[") + body.count(b"{")
                if values > self.most_values:
                    return await refuse(
                        Refused(413, f"the request has more than {self.most_values} values; send fewer", "too_large")
                    )
            if self.held > self.most_held and received < self.held:
                return await refuse(
                    BusyError(f"other requests hold {self.held >> 20} MB already; ask again in 5 seconds", 5.0)
                )
            return message

        async def send_unless_refused(message: Any) -> None:
            if not refused:
                await send(message)

        try:
            await self.app(scope, receive_within_limits, send_unless_refused)
        finally:
            self.held -= received
            if received > LARGE and not self._returning:  # it arrived in many small pieces, which malloc keeps
                self._returning = True
                loop.call_later(0.3, self._return_memory)

    def _return_memory(self) -> None:
        self._returning = False
        asyncio.get_running_loop().run_in_executor(None, return_freed)
