"""HTTP as uvicorn speaks it with h11, which is strict and bounds the headers; its own errors in the documented form."""

from __future__ import annotations

import json

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from codi2.serve.errors import body
from codi2.serve.middleware import HEADERS


class Http(H11Protocol):
    """A connection."""

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
