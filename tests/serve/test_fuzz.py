"""Hostile requests: whatever comes, a 2xx or a 4xx with one sentence, and the server's memory comes back."""

from __future__ import annotations

import base64
import random
import socket
import time
from pathlib import Path

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings

from .conftest import Running, Start


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


def raw(server: Running, request: str) -> str:
    """What a server says to bytes that no client would send."""
    host, port = server.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        connection.sendall(request.encode())
        connection.settimeout(5)
        try:
            return connection.recv(65536).decode("latin-1")
        except (TimeoutError, ConnectionError):
            return ""


def test_ways_out_of_the_folder_and_strange_headers(server: Running):
    for path in (
        "/../../etc/passwd",
        "/%2e%2e/%2e%2e/etc/passwd",
        "/v1/sessions/..%2f..%2fcodi2.db",
        "/v1/models/" + "a" * 5000,
    ):
        answer = httpx.get(server.url + path)
        assert answer.status_code in (400, 404) and "root:" not in answer.text
    for header in (
        "Content-Length: -1",
        "Content-Length: 99999999999999999999",
        "Transfer-Encoding: nonsense",
        "X-Forwarded-For: " + "x" * 9000,
        "Authorization: Bearer " + "x" * 9000,
        "Origin: https://evil.example",
        "Host: evil.example",
    ):
        answer_ = raw(server, f"GET /health HTTP/1.1\r\n{header}\r\nConnection: close\r\n\r\n")
        status = answer_.split(" ")[1] if answer_ else "closed"
        assert status == "closed" or int(status) < 500, (header[:40], answer_[:200])
        assert "access-control-allow-origin" not in answer_.lower()
    assert httpx.get(f"{server.url}/health").status_code == 200
