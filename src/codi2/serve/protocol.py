"""HTTP by uvicorn with h11, which is strict and limits the headers. Its own errors get the documented form.

A connection is closed when it is idle, when its headers take too long, or when its client does not read the answer.
`serve.bodies` limits how slowly a body may arrive.
"""

from __future__ import annotations

import asyncio
import json

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from codi2.serve.errors import error_body
from codi2.serve.middleware import HEADERS

HEADERS_WITHIN = 20.0  # seconds from the connection, or the first byte of a further request, to the end of its headers
READ_WITHIN = 120.0  # seconds in which a client has to read a third of the system's send buffer, about a MB
CHECK_EVERY = 5.0  # seconds


class Http(H11Protocol):
    """A connection."""

    _waiting_since: float | None = None  # seconds of the loop's clock; None: it does not wait for headers
    _unread, _unread_since = 0, 0.0  # bytes in the write buffer, and the time since which their number is the same
    _timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._waiting_since = self.loop.time()
        self._timer = self.loop.call_later(CHECK_EVERY, self._check_progress)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self.cycle is not None and not self.cycle.response_complete:
            self._waiting_since = None  # the headers are complete
        elif self._waiting_since is None:
            self._waiting_since = self.loop.time()

    def _check_progress(self) -> None:
        """Closes the connection when its client neither sends headers nor reads the answer in time."""
        now, unread = self.loop.time(), self.transport.get_write_buffer_size()
        if self.transport.is_closing() and not unread:
            return
        if unread != self._unread or not unread:
            self._unread, self._unread_since = unread, now
        idle = self._waiting_since is not None and now - self._waiting_since > HEADERS_WITHIN
        if (idle and not self.timeout_keep_alive_task) or now - self._unread_since > READ_WITHIN:
            self.transport.abort()
            return
        self._timer = self.loop.call_later(CHECK_EVERY, self._check_progress)

    def send_400_response(self, msg: str) -> None:
        """Answers bytes that are not HTTP, which never reach the application."""
        if self.conn.our_state is h11.IDLE or self.conn.our_state is h11.SEND_RESPONSE:
            content = json.dumps(error_body("these bytes are no valid HTTP request", "invalid_request_error")).encode()
            headers = {**HEADERS, "content-type": "application/json", "content-length": str(len(content))}
            headers["connection"] = "close"
            for event in (
                h11.Response(status_code=400, headers=list(headers.items()), reason=b"Bad Request"),
                h11.Data(data=content),
                h11.EndOfMessage(),
            ):
                self.transport.write(self.conn.send(event))
        if self.cycle is not None:  # the body of a request is broken: the application must not answer it as well
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        self.transport.close()
