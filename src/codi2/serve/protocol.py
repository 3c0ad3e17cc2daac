"""HTTP as uvicorn speaks it with h11, which is strict and bounds the headers; its own errors in the documented form.

A connection that is idle, whose headers trickle in, or whose client does not read the answer is closed; how fast bodies
come, `serve.bodies` watches.
"""

from __future__ import annotations

import asyncio
import json

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from codi2.serve.errors import body
from codi2.serve.middleware import HEADERS

HEADERS_WITHIN = 20.0  # seconds from the connection, or the first byte of a further request, to the end of its headers
READ_WITHIN = 120.0  # seconds in which a client has to take a third of what the system holds of an answer, about a MB
LOOKS_EVERY = 5.0  # seconds


class Http(H11Protocol):
    """A connection."""

    _since: float | None = None  # when it began to wait for headers
    _unread, _unread_since = 0, 0.0  # bytes that wait for the client to take them, and since when it is as many
    _look: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._since = self.loop.time()
        self._look = self.loop.call_later(LOOKS_EVERY, self._watch)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._look is not None:
            self._look.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self.cycle is not None and not self.cycle.response_complete:
            self._since = None  # its headers are there
        elif self._since is None:
            self._since = self.loop.time()

    def _watch(self) -> None:
        """Closes the connection when its client lets it wait."""
        now, unread = self.loop.time(), self.transport.get_write_buffer_size()
        if self.transport.is_closing() and not unread:
            return
        if unread != self._unread or not unread:
            self._unread, self._unread_since = unread, now
        idle = self._since is not None and now - self._since > HEADERS_WITHIN
        if (idle and not self.timeout_keep_alive_task) or now - self._unread_since > READ_WITHIN:
            self.transport.abort()
            return
        self._look = self.loop.call_later(LOOKS_EVERY, self._watch)

    def send_400_response(self, msg: str) -> None:
        """Bytes that are no HTTP: what the application does not see."""
        if self.conn.our_state is h11.IDLE or self.conn.our_state is h11.SEND_RESPONSE:
            content = json.dumps(body("these bytes are no valid HTTP request", "invalid_request_error")).encode()
            headers = {**HEADERS, "content-type": "application/json", "content-length": str(len(content))}
            headers["connection"] = "close"
            for event in (
                h11.Response(status_code=400, headers=list(headers.items()), reason=b"Bad Request"),
                h11.Data(data=content),
                h11.EndOfMessage(),
            ):
                self.transport.write(self.conn.send(event))
        if self.cycle is not None:  # a request whose body is broken: the application must not answer it as well
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        self.transport.close()
