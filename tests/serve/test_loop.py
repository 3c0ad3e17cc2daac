"""Long work of one request: others are answered meanwhile, and its memory comes back."""

from __future__ import annotations

import base64
import io
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image as PILImage

from .. import bombs
from .conftest import Running, Start

pytestmark = pytest.mark.slow
SHORT = 3.0  # seconds: shorter waits occur on a busy machine, and show nothing
WORDS: dict[str, Any] = {"max_tokens": 1, "modalities": ["text"]}


@contextmanager
def health(server: Running) -> Iterator[None]:
    """Asks for /health all the time: the longest wait is a fraction of the work that is done meanwhile."""
    longest, ends = 0.0, threading.Event()

    def ask() -> None:
        nonlocal longest
        with httpx.Client(timeout=120) as http:
            while not ends.is_set():
                began = time.monotonic()
                http.get(f"{server.url}/health")
                longest = max(longest, time.monotonic() - began)
                time.sleep(0.05)

    asking, start = threading.Thread(target=ask), time.monotonic()
    asking.start()
    try:
        yield
    finally:
        ends.set()
        asking.join()
    whole = time.monotonic() - start
    assert longest < max(SHORT, whole / 4), f"/health took {longest:.1f} of {whole:.1f} s"


def picture(data: bytes, kind: str) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": f"data:image/{kind};base64,{base64.b64encode(data).decode()}"}}


def noise(width: int, height: int) -> bytes:
    out = io.BytesIO()
    PILImage.effect_noise((width, height), 80).convert("RGB").save(out, "JPEG", quality=60)
    return out.getvalue()


@pytest.mark.parametrize("words", ["the quick brown fox ", "[image0: ", "\\", '"a",', "it "], ids=repr)
def test_long_texts(server: Running, words: str):
    text = words * ((16 << 20) // len(words))
    name = httpx.post(f"{server.url}/v1/sessions", json={}, timeout=60).json()["id"]
    for path, body in (
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": text}], **WORDS}),
        ("/v1/responses", {"input": text, "max_output_tokens": 1, "modalities": ["text"]}),
        (f"/v1/sessions/{name}/rounds", {"content": text, **WORDS}),
    ):
        with health(server):
            answer = httpx.post(f"{server.url}{path}", json=body, timeout=120)
        assert answer.status_code in (400, 413) and len(answer.content) < 1000, answer.text[:500]


def test_a_large_picture_and_a_long_session(server: Running):
    name = httpx.post(f"{server.url}/v1/sessions", json={}, timeout=60).json()["id"]
    rounds = f"{server.url}/v1/sessions/{name}/rounds"
    large, small = picture(noise(5000, 5000), "jpeg"), picture(noise(200, 200), "jpeg")
    with health(server):
        assert httpx.post(rounds, json={"content": [large], **WORDS}, timeout=300).status_code == 200
    with httpx.Client(timeout=60) as http:
        for i in range(199):
            content = [{"type": "text", "text": f"round {i} "}, *[small] * (i % 2)]
            assert http.post(rounds, json={"content": content, **WORDS}).status_code == 200
    with health(server):
        whole = httpx.get(f"{server.url}/v1/sessions/{name}", timeout=300).json()
    assert whole["rounds"] == 200 and len(whole["messages"]) == 400
    with health(server):
        assert len(httpx.get(f"{server.url}/v1/sessions/{name}/export", timeout=300).content) > 1 << 20
    assert httpx.delete(f"{server.url}/v1/sessions/{name}", timeout=60).status_code == 200


def seconds_of_a_round(server: Running) -> float:
    """The first round of a new session."""
    name = httpx.post(f"{server.url}/v1/sessions", json={}, timeout=60).json()["id"]
    began = time.monotonic()
    rounds = f"{server.url}/v1/sessions/{name}/rounds"
    assert httpx.post(rounds, json={"content": "a", **WORDS}, timeout=60).status_code == 200
    return time.monotonic() - began


def test_opening_a_large_session_delays_no_other(start: Start, tmp_path: Path):
    first = start("--no-page", folder=tmp_path / "opened")
    name = httpx.post(f"{first.url}/v1/sessions", json={}).json()["id"]
    content = [picture(bombs.png(8000, 8000), "png")] * 2
    body = {"content": content, **WORDS}
    assert httpx.post(f"{first.url}/v1/sessions/{name}/rounds", json=body, timeout=300).status_code == 200
    first.stop()
    again = start("--no-page", folder=tmp_path / "opened")
    reading = threading.Thread(target=lambda: httpx.get(f"{again.url}/v1/sessions/{name}", timeout=300))
    with health(again):
        reading.start()
        during = seconds_of_a_round(again)
        reading.join()
    assert during < max(SHORT, 4 * seconds_of_a_round(again))


def rss(server: Running) -> float:
    """MB."""
    status = Path(f"/proc/{server.process.pid}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0]) / 1024


def test_memory_comes_back_after_a_reply(start: Start, tmp_path: Path):
    server = start("--no-page", folder=tmp_path / "memory")
    post = f"{server.url}/v1/chat/completions"
    large, small = picture(bombs.png(8000, 8000), "png"), picture(noise(1500, 1500), "jpeg")
    bodies = [{"messages": [{"role": "user", "content": content}], **WORDS} for content in ([large] * 2, [small] * 3)]
    for body in bodies:
        assert httpx.post(post, json=body, timeout=120).status_code == 200
    before = rss(server)
    for body in bodies * 3:
        assert httpx.post(post, json=body, timeout=120).status_code == 200
    time.sleep(1)
    assert rss(server) < before + 100, "a request's two pictures take 512 MB"
