from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import openai
import pytest

from codi2.model import CoDi2
from codi2.serve.engine import Engine


class Running:
    """A server in a process of its own."""

    def __init__(self, folder: Path, *options: str, model: str = "debug", port: int = 0) -> None:
        command = [sys.executable, "-m", "codi2", "serve", "--model", model, "--port", str(port), "--data", str(folder)]
        env = os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
        self.log = folder.parent / f"{folder.name}.log"
        with open(self.log, "a") as log:
            self.process = subprocess.Popen(
                [*command, *options], stdout=subprocess.PIPE, stderr=log, text=True, env=env
            )
        assert self.process.stdout is not None
        self.url, self.output = "", ""
        for line in self.process.stdout:
            self.output += line
            if match := re.search(r"Serving at (http://\S+)", line):
                self.url = match[1]
                break
        assert self.url, self.log.read_text()

    def stop(self, signal_number: int = signal.SIGTERM) -> int:
        self.process.send_signal(signal_number)
        return self.process.wait(60)


Start = Callable[..., Running]


@pytest.fixture(scope="session")
def model() -> CoDi2:
    return CoDi2.from_pretrained("debug")


@pytest.fixture
def engine(model: CoDi2) -> Iterator[Engine]:
    engine = Engine(model, max_batch=4, max_waiting=12)
    yield engine
    engine.close(10)


@pytest.fixture(scope="session")
def start(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Start]:
    """Starts servers; they stop with the tests."""
    running: list[Running] = []

    def start_server(*options: str, folder: Path | None = None, port: int = 0) -> Running:
        running.append(Running(folder or tmp_path_factory.mktemp("serve"), *options, port=port))
        return running[-1]

    yield start_server
    for server in running:
        if server.process.poll() is None:
            server.process.kill()
            server.process.wait()


@pytest.fixture(scope="session")
def server(start: Start) -> Running:
    """A server without a page that all tests share."""
    return start("--no-page")


@dataclass
class Answer:
    """The answer to a request that no client library would send."""

    status: int
    headers: dict[str, str]
    body: bytes
    read: int = 0  # times that the application called `receive`

    @property
    def error(self) -> dict[str, Any]:
        """The documented form of an error."""
        content = json.loads(self.body)
        assert set(content) == {"error"} and set(content["error"]) == {"message", "type", "param", "code"}, content
        assert content["error"]["message"] and "\n" not in content["error"]["message"]
        error: dict[str, Any] = content["error"]
        return error


def exchange(server: Running, request: bytes) -> Answer | None:
    """The answer of a server to these bytes; None: it closed the connection."""
    host, port = server.url.removeprefix("http://").split(":")
    data = b""
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        connection.settimeout(10)
        try:
            connection.sendall(request)
            while chunk := connection.recv(65536):
                data += chunk
        except (TimeoutError, ConnectionError):
            pass
    if not data:
        return None
    head, _, body = data.partition(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")
    headers = {line.partition(":")[0].lower(): line.partition(":")[2].strip() for line in lines}
    return Answer(int(first.split(" ")[1]), headers, body)


def ask(
    app: Any, method: str, path: str, headers: Sequence[tuple[str, str]] = (), body: bytes = b"", scheme: str = "http"
) -> Answer:
    """A request to an application in this process, with exactly these headers and Host."""
    raw_headers = [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in headers]
    if not any(name == b"host" for name, _ in raw_headers):
        raw_headers.append((b"host", b"127.0.0.1:8000"))
    answer = Answer(0, {}, b"")

    async def receive() -> dict[str, Any]:
        answer.read += 1
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: dict[str, Any]) -> None:
        if message["type"] == "http.response.start":
            answer.status = message["status"]
            answer.headers = {name.decode().lower(): value.decode("latin-1") for name, value in message["headers"]}
        else:
            answer.body += message.get("body", b"")

    scope = {"type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "scheme": scheme, "root_path": ""}
    scope |= {"method": method, "path": path, "raw_path": path.encode(), "query_string": b"", "headers": raw_headers}
    scope |= {"server": ("127.0.0.1", 8000), "client": ("127.0.0.1", 9), "state": {}}
    asyncio.run(app(scope, receive, send))
    return answer


@pytest.fixture(scope="session")
def client(server: Running) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)
