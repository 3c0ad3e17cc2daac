"""Hostile requests: whatever comes, a 2xx or a 4xx with one sentence, and the server's memory comes back."""

from __future__ import annotations

import base64
import random
import time
from pathlib import Path

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings

from .conftest import Running, Start, exchange


@pytest.fixture(scope="module")
def server(start: Start) -> Running:
    return start("--no-page", "--timeout", "20")


def rss(server: Running) -> float:
    """MB."""
    for line in Path(f"/proc/{server.process.pid}/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1]) / 1024
    raise AssertionError


@pytest.mark.slow
def test_the_schema_holds(server: Running):
    schema = schemathesis.openapi.from_url(f"{server.url}/openapi.json")
    statuses: list[int] = []
    for operation in schema.get_all_operations():
        made = operation.ok()

        @settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
        @given(case=made.as_strategy())
        def attack(case: schemathesis.Case) -> None:
            response = case.call(base_url=server.url, timeout=60)
            statuses.append(response.status_code)
            assert response.status_code < 500, (case.method, case.path, response.text[:300])
            if response.status_code >= 400:
                assert "\n" not in response.json()["error"]["message"]

        attack()
    assert len(statuses) > 300 and len(set(statuses)) >= 3
    assert httpx.get(f"{server.url}/health").json()["status"] == "ok"


@pytest.mark.slow
def test_a_thousand_broken_media(server: Running, media: Path):
    """Flipped, cut, doubled and exchanged bytes of real files, under true and false names."""
    draw = random.Random(0)
    files = [(media / name).read_bytes() for name in ("goose-google.png", "crow.wav", "piano.wav", "mango-twitter.png")]
    http = httpx.Client(base_url=server.url, timeout=60)

    def mutated() -> bytes:
        data = bytearray(draw.choice(files))
        match draw.randrange(5):
            case 0:
                del data[draw.randrange(len(data)) :]
            case 1:
                for _ in range(draw.randrange(1, 60)):
                    data[draw.randrange(len(data))] = draw.randrange(256)
            case 2:
                data[: draw.randrange(1, 64)] = draw.randbytes(draw.randrange(64))
            case 3:
                at = draw.randrange(len(data))
                data[at:at] = data[draw.randrange(len(data)) :][:5000]
            case _:
                data = bytearray(draw.randbytes(draw.randrange(2000)))
        return bytes(data)

    def post(i: int) -> int:
        text = base64.b64encode(mutated()).decode()
        kind = draw.choice(["image/png", "image/gif", "audio/wav", "video/mp4", "text/html", ""])
        part: dict[str, object] = {"type": "image_url", "image_url": {"url": f"data:{kind};base64,{text}"}}
        if draw.random() < 0.4:
            part = {"type": "input_audio", "input_audio": {"data": text, "format": "wav"}}
        body = {"messages": [{"role": "user", "content": [part]}], "max_tokens": 1, "modalities": ["text"]}
        answer = http.post("/v1/chat/completions", json=body)
        assert answer.status_code in (200, 400), answer.text[:300]
        return answer.status_code

    [post(i) for i in range(150)]  # what libraries load and keep
    before = rss(server)
    statuses = [post(i) for i in range(1000)]
    deadline = time.monotonic() + 20
    while rss(server) > before * 1.05 and time.monotonic() < deadline:
        time.sleep(1)
    assert rss(server) <= before * 1.05, (before, rss(server))
    assert statuses.count(400) > 500
    assert "Traceback" not in server.log.read_text()


def test_ways_out_of_the_folder_and_strange_headers(server: Running):
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
        found = exchange(
            server, f"GET /health HTTP/1.1\r\nHost: localhost\r\n{header}\r\nConnection: close\r\n\r\n".encode()
        )
        assert found is not None and (found.status == 200 or found.error), header[:40]
        assert not any(name.startswith("access-control") for name in found.headers)
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
    request = (
        "POST /v1/sessions HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: application/json\r\n"
    )
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
