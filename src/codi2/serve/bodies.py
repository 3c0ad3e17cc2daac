"""Requests' bodies: they come at a pace, they are not endless lists, and together they fit into memory."""

from __future__ import annotations

import asyncio
from typing import Any

from codi2.errors import BusyError, LateError
from codi2.serve.access import Refused
from codi2.serve.errors import Receive, Scope, Send, answer
from codi2.serve.memory import return_freed

PATIENCE = 20.0  # seconds in which a body has to be there, and
RATE = 64 << 10  # as many bytes of it have to come in each further second
MOST_VALUES = 100_000
"""Values of a JSON body: more take a second to read, in which nothing else runs."""
LARGE = 8 << 20
"""Bytes of a body behind which freed memory goes back to the system."""
MOST_HELD = 1 << 30
"""Bytes of the bodies of all requests that are under way."""


class Bodies:
    """ASGI middleware. A body that trickles in gets a 408, one with too many values a 413; when bodies of other
    requests fill the memory that there is for them, a 429."""

    def __init__(
        self, app: Any, patience: float = PATIENCE, most_values: int = MOST_VALUES, most_held: int = MOST_HELD
    ) -> None:
        self.app, self.patience, self.most_values, self.most_held = app, patience, most_values, most_held
        self.held = 0
        self._returning = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        loop = asyncio.get_running_loop()
        began = loop.time()
        kinds = [value for name, value in scope["headers"] if name.lower() == b"content-type"]
        counts = not kinds or any(b"json" in kind.lower() for kind in kinds)
        taken = values = 0
        whole = refused = False

        async def refuse(error: Exception) -> dict[str, Any]:
            nonlocal refused
            if not refused:
                refused = True
                await answer(error, scope, receive, send, {"connection": "close"})
            return {"type": "http.disconnect"}

        async def paced() -> Any:
            nonlocal taken, values, whole
            if whole or refused:  # what comes now is that the client leaves
                return await receive() if not refused else {"type": "http.disconnect"}
            left = self.patience + taken / RATE - (loop.time() - began)
            try:
                message = await asyncio.wait_for(receive(), max(left, 0.001))
            except TimeoutError:
                return await refuse(
                    LateError(
                        f"after {loop.time() - began:.0f} s only {taken} bytes of the body had come; send it faster"
                    )
                )
            body = message.get("body", b"")
            taken += len(body)
            self.held += len(body)
            whole = not message.get("more_body", False)
            if counts:
                values += body.count(b",") + body.count(b"[") + body.count(b"{")
                if values > self.most_values:
                    return await refuse(
                        Refused(413, f"the request has more than {self.most_values} values; send fewer", "too_large")
                    )
            if self.held > self.most_held and taken < self.held:
                return await refuse(
                    BusyError(f"other requests hold {self.held >> 20} MB already; ask again in 5 seconds", 5.0)
                )
            return message

        async def passed(message: Any) -> None:
            if not refused:
                await send(message)

        try:
            await self.app(scope, paced, passed)
        finally:
            self.held -= taken
            if taken > LARGE and not self._returning:  # it came in many small pieces, which malloc keeps
                self._returning = True
                loop.call_later(0.3, self._return_memory)

    def _return_memory(self) -> None:
        self._returning = False
        asyncio.get_running_loop().run_in_executor(None, return_freed)
