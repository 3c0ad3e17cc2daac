"""What tests of clients share: requests without a client library."""

from __future__ import annotations

import base64
from typing import Any

import httpx

from .conftest import Running

HELLO = {"role": "user", "content": "Hello"}


def post(server: Running, path: str, **body: Any) -> httpx.Response:
    return httpx.post(f"{server.url}/v1/{path}", json=body, timeout=60)


def chat(server: Running, *messages: dict[str, Any], **more: Any) -> httpx.Response:
    body: dict[str, Any] = {"model": "debug", "messages": list(messages), "max_tokens": 2, "modalities": ["text"]}
    return post(server, "chat/completions", **body | more)


def bytes_of(b64: str) -> bytes:
    return base64.b64decode(b64.rpartition(",")[2])
