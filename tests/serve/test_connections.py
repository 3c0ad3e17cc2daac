"""Slow, idle and endless connections: what a client lets the server wait for has an end."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import Response

from codi2.serve import protocol
from codi2.serve.bodies import Bodies
from codi2.serve.protocol import Http


class Asgi:
    """One request to an application behind `Bodies`, message by message."""

    def __init__(self, bodies: Bodies, kind: bytes = b"application/json") -> None:
        self.scope = {"type": "http", "headers": [(b"content-type", kind)], "method": "POST", "path": "/"}
        self.bodies, self.sent, self.coming = bodies, [], asyncio.Queue()  # type: ignore[var-annotated]
        self.task = asyncio.ensure_future(bodies(self.scope, self.coming.get, self._send))

    async def _send(self, message: Any) -> None:
        self.sent.append(message)

    async def come(self, body: bytes, more: bool = True) -> None:
        self.coming.put_nowait({"type": "http.request", "body": body, "more_body": more})
        await asyncio.sleep(0)

    async def end(self) -> tuple[int, dict[str, Any]]:
        await asyncio.wait_for(self.task, 20)
        return self.sent[0]["status"], json.loads(b"".join(m.get("body", b"") for m in self.sent[1:]) or b"{}")


async def reader(scope: Any, receive: Any, send: Any) -> None:
    """An application that reads its body, works for a moment and answers."""
    body = b""
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return
        body += message["body"]
        if not message["more_body"]:
            break
    await asyncio.sleep(0.3)
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": json.dumps({"bytes": len(body)}).encode()})


def test_a_body_that_trickles_in_ends_and_a_slow_one_does_not():
    async def run() -> None:
        trickle = Asgi(Bodies(reader, patience=0.5))
        for _ in range(20):
            if not trickle.task.done():
                await trickle.come(b"a")
                await asyncio.sleep(0.1)
        status, answer = await trickle.end()
        assert status == 408 and "bytes of the body had come; send it faster" in answer["error"]["message"]
        assert (b"connection", b"close") in trickle.sent[0]["headers"]
        slow = Asgi(Bodies(reader, patience=0.5))
        for _ in range(8):  # 1.6 s
            await slow.come(bytes(64 << 10))
            await asyncio.sleep(0.2)
        await slow.come(b"", more=False)
        assert await slow.end() == (200, {"bytes": 8 * 64 << 10})
        waits = Asgi(Bodies(reader, patience=0.1))  # the reply takes longer than a body may
        await waits.come(b"whole", more=False)
        assert await waits.end() == (200, {"bytes": 5})

    asyncio.run(run())


def test_endless_lists_are_refused_and_large_files_are_not():
    async def run() -> None:
        bodies = Bodies(reader, most_values=1000)
        many = Asgi(bodies)
        for _ in range(20):
            await many.come(b'{"a":[],' * 50)
        status, answer = await many.end()
        assert status == 413 and answer["error"]["code"] == "too_large"
        assert "more than 1000 values" in answer["error"]["message"]
        file = Asgi(bodies, b"image/png")
        await file.come(b",[{" * 1000, more=False)
        assert (await file.end())[0] == 200

    asyncio.run(run())


def test_bodies_of_all_requests_fit_into_memory_together():
    async def run() -> None:
        bodies = Bodies(reader, most_held=1000)
        first, second = Asgi(bodies), Asgi(bodies)
        await first.come(bytes(800))
        await asyncio.sleep(0.01)
        await second.come(bytes(300))
        status, answer = await second.end()
        assert status == 429 and "ask again" in answer["error"]["message"]
        await first.come(bytes(800), more=False)  # alone it may be larger
        assert (await first.end())[0] == 200 and bodies.held == 0

    asyncio.run(run())


@pytest.fixture
def port(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """A small server with our connections and short patience."""
    monkeypatch.setattr(protocol, "HEADERS_WITHIN", 0.6)
    monkeypatch.setattr(protocol, "READ_WITHIN", 3.0)
    monkeypatch.setattr(protocol, "CHECK_EVERY", 0.1)
    app = FastAPI()

    @app.post("/")
    async def refuse() -> Response:
        return Response("no", 403)

    @app.get("/slow")
    async def slow() -> Response:
        await asyncio.sleep(1.5)
        return Response("done")

    @app.get("/large")
    async def large(request: Request) -> Response:
        return Response(bytes(64 << 20))

    server = uvicorn.Server(uvicorn.Config(app, port=0, http=Http, ws="none", log_level="error", timeout_keep_alive=1))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    yield server.servers[0].sockets[0].getsockname()[1]
    server.should_exit = server.force_exit = True
    thread.join(20)


def closed(connection: socket.socket, trickle: bytes = b"", within: float = 8.0) -> bool:
    """Whether the server closes it, while bytes trickle in."""
    until = time.monotonic() + within
    connection.settimeout(0.1)
    while time.monotonic() < until:
        try:
            if trickle:
                connection.sendall(trickle)
            if connection.recv(65_536) == b"":
                return True
        except TimeoutError:
            continue
        except OSError:
            return True
    return False


def test_headers_and_refused_bodies_that_trickle_and_silence_are_closed(port: int):
    head = b"POST / HTTP/1.1\r\nHost: x\r\n"
    for first, trickle in (
        (b"", b""),
        (head + b"X-a: ", b"a"),
        (head + b"Content-Length: 1000000\r\n\r\n", b"a"),  # answered before its body is there
        (b"GET /slow HTTP/1.1\r\nHost: x\r\n\r\n", b""),  # kept alive, and nothing more comes
    ):
        with socket.create_connection(("127.0.0.1", port)) as connection:
            connection.sendall(first)
            assert closed(connection, trickle), (first, trickle)


def test_a_slow_reply_is_waited_for(port: int):
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        connection.sendall(b"GET /slow HTTP/1.1\r\nHost: x\r\n\r\n")
        data = b""
        while b"done" not in data and (more := connection.recv(4096)):
            data += more
        assert data.startswith(b"HTTP/1.1 200") and data.endswith(b"done")


def test_who_does_not_read_an_answer_is_let_go_and_who_reads_slowly_is_not(port: int):
    for reads in (False, True):
        with socket.socket() as connection:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65_536)
            connection.connect(("127.0.0.1", port))
            connection.sendall(b"GET /large HTTP/1.1\r\nHost: x\r\n\r\n")
            got = 0
            for _ in range(50):
                time.sleep(0.1)
                if reads:
                    got += len(connection.recv(4 << 20))
            connection.settimeout(10)
            try:
                while more := len(connection.recv(4 << 20)):
                    got += more
                    if got >= 64 << 20:
                        break
            except OSError:
                assert not reads
            assert (got >= 64 << 20) == reads, got
