"""HTTP below the routes: paths, headers and bytes that no client library would send."""

from __future__ import annotations

import socket
from typing import Any

import httpx
import pytest
from starlette.requests import Request

from codi2.errors import ConfigError
from codi2.serve.bodies import Bodies
from codi2.serve.middleware import Faults
from codi2.serve.run import check_port

from .conftest import Running, ask, exchange


def test_paths_outside_of_the_folder_and_strange_headers(server: Running):
    for path in (
        "/../../etc/passwd",
        "/%2e%2e/%2e%2e/etc/passwd",
        "/v1/sessions/..%2f..%2fcodi2.db",
        "/v1/sessions/%00",
        "/v1/sessions/%ff%fe",
        "/v1/models/%ED%A0%80",
        "/v1/models/" + "a" * 5000,
    ):
        answer = httpx.get(server.url + path)
        assert answer.status_code in (400, 404) and "root:" not in answer.text and answer.json()["error"]["message"]
    for header in (
        "X-Forwarded-For: " + "x" * 9000,
        "Authorization: Bearer " + "x" * 9000,
        "X-Forwarded-Host: evil.example",
        "X-Original-URL: /v1/sessions",
        "Content-Length: 99999999999999999999",
    ):
        answer = exchange(
            server, f"GET /health HTTP/1.1\r\nHost: localhost\r\n{header}\r\nConnection: close\r\n\r\n".encode()
        )
        assert answer is not None and (answer.status == 200 or answer.error), header[:40]
        assert not any(name.startswith("access-control") for name in answer.headers)
    assert httpx.get(f"{server.url}/health").status_code == 200


CHUNKS = "5\r\nhello\r\n0\r\n\r\n"
BROKEN = {
    "negative length": "Content-Length: -1\r\n\r\n",
    "signed length": "Content-Length: +5\r\n\r\nhello",
    "hexadecimal length": "Content-Length: 0x5\r\n\r\nhello",
    "two lengths": "Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
    "length and chunks": f"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n{CHUNKS}",
    "unknown encoding": f"Transfer-Encoding: nonsense\r\n\r\n{CHUNKS}",
    "two encodings": f"Transfer-Encoding: gzip, chunked\r\n\r\n{CHUNKS}",
    "chunked twice": f"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n{CHUNKS}",
    "space before the colon": f"Transfer-Encoding : chunked\r\n\r\n{CHUNKS}",
    "control character": f"Transfer-Encoding: \x0bchunked\r\n\r\n{CHUNKS}",
    "broken chunk": "Transfer-Encoding: chunked\r\n\r\nZZ\r\n",
    "broken second chunk": "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n-1\r\n",
    "endless chunk extension": "Transfer-Encoding: chunked\r\n\r\n5;" + "a" * 300_000,
    "zero byte": "X: a\0b\r\n\r\n",
    "bare carriage return": "X: a\rContent-Length: 5\r\n\r\nhello",
    "two kinds": "Content-Type: text/plain\r\nContent-Length: 2\r\n\r\n{}",
    "header of 300 KB": "X: " + "a" * 300_000 + "\r\n\r\n",
    "100,000 headers": "X: y\r\n" * 100_000 + "\r\n",
}


@pytest.mark.parametrize("what", BROKEN)
def test_requests_whose_body_can_be_read_in_two_ways(server: Running, what: str):
    request = "POST /v1/sessions HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: application/json\r\n"
    answer = exchange(server, (request + BROKEN[what]).encode("latin-1"))
    assert answer is None or (answer.status == 400 and answer.error and "nosniff" in str(answer.headers)), answer
    assert answer is not None or len(BROKEN[what]) > 100_000, "only floods are cut off without an answer"
    assert b"HTTP/1.1" not in (answer.body if answer else b""), "one answer to one request"


def test_what_is_no_http(server: Running):
    for request in (
        b"GET /health\r\n\r\n",
        b"\x16\x03\x01\x02\0\x01" + b"\0" * 300,
        b"GET / x HTTP/1.1\r\n\r\n",
        b"\r\n" * 9_999,
    ):
        answer = exchange(server, request)
        assert answer is not None and answer.status == 400 and "no valid HTTP" in answer.error["message"]
    upgrade = b"GET /v1/sessions HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade, close\r\nUpgrade: websocket\r\n"
    answer = exchange(
        server, upgrade + b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
    assert answer is not None and answer.status == 200, "there is no WebSocket: the request is what it is without"
    assert "Traceback" not in server.log.read_text()


def test_a_request_inside_a_refused_body_is_no_request(server: Running):
    inside = b"DELETE /v1/sessions/x HTTP/1.1\r\nHost: localhost\r\n\r\n"
    head = b"POST /v1/sessions HTTP/1.1\r\nHost: localhost\r\nOrigin: https://evil.example\r\n"
    last = b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    answer = exchange(server, head + b"Content-Length: %d\r\n\r\n" % len(inside) + inside + last)
    assert answer is not None and answer.status == 403
    assert answer.body.count(b"HTTP/1.1 ") == 1 and answer.body.count(b"HTTP/1.1 200") == 1, "of the last one"


def test_a_refused_client_is_not_asked_for_its_body(server: Running):
    request = "POST /v1/sessions HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n"
    request += "Expect: 100-continue\r\nContent-Length: 5\r\n\r\n"
    refused = exchange(server, request.format("evil.example").encode())
    assert refused is not None and refused.status == 403
    accepted = exchange(server, (request.format("localhost") + "hello").encode())
    assert accepted is not None and accepted.status == 100


def test_a_body_that_is_cut_off_is_no_fault_of_the_server(caplog: pytest.LogCaptureFixture):
    """A route that reads a stream: its client leaves, or sends too much."""

    async def upload(scope: Any, receive: Any, send: Any) -> None:
        async for _ in Request(scope, receive).stream():
            pass

    async def leave() -> dict[str, str]:
        return {"type": "http.disconnect"}

    async def left(scope: Any, receive: Any, send: Any) -> None:
        await upload(scope, leave, send)

    assert ask(Faults(left), "POST", "/").status == 0
    answer = ask(Faults(Bodies(upload, most=9)), "POST", "/", body=b"x" * 10)
    assert answer.status == 413 and answer.error["code"] == "too_large"
    assert not caplog.records


def test_a_port_in_use_is_refused_before_the_model_is_loaded():
    with socket.create_server(("127.0.0.1", 0)) as used:
        port = used.getsockname()[1]
        with pytest.raises(ConfigError, match=f"cannot listen at 127.0.0.1, port {port} .*; choose another"):
            check_port("127.0.0.1", port)
    check_port("127.0.0.1", port)


def test_a_fault_is_logged_and_says_nothing_of_itself(caplog: pytest.LogCaptureFixture):
    async def broken(scope: Any, receive: Any, send: Any) -> None:
        raise RuntimeError("a secret of /home/ann")

    answer = ask(Faults(broken), "GET", "/")
    assert answer.status == 500 and answer.error["type"] == "server_error" and b"ann" not in answer.body
    assert "a secret" in caplog.text

    async def broken_later(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        raise RuntimeError("later")

    with pytest.raises(RuntimeError, match="later"):  # the HTTP server ends the connection: no half answer looks whole
        ask(Faults(broken_later), "GET", "/")
