"""Conversations that the server holds, over HTTP; keys; and what a kill leaves."""

from __future__ import annotations

import base64
import io
import signal
import threading
import time
import zipfile
from pathlib import Path
from typing import Any

import httpx
import pytest

from codi2.serve.application import open_store

from .conftest import Running, Start

WORDS: dict[str, Any] = {"modalities": ["text"], "max_tokens": 3}


def ask(http: httpx.Client, name: str, content: Any, **settings: Any) -> dict[str, Any]:
    answer = http.post(f"/v1/sessions/{name}/rounds", json={"content": content, **settings})
    assert answer.status_code == 200, answer.text
    message: dict[str, Any] = answer.json()["message"]
    return message


@pytest.fixture
def http(server: Running) -> httpx.Client:
    return httpx.Client(base_url=server.url, timeout=60)


def test_a_session_from_beginning_to_end(http: httpx.Client, media: Path):
    name = http.post("/v1/sessions", json={"title": "Geese", "system": "Be kind."}).json()["id"]
    goose = base64.b64encode((media / "goose-google.png").read_bytes()).decode()
    picture = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{goose}"}}
    reply = ask(http, name, [{"type": "text", "text": "Draw "}, picture], modalities=["image"], max_tokens=2)
    assert reply["codi2"]["parts"][0]["type"] == "image_url"
    ask(http, name, "Now make the first picture night, like [image1]", modalities=["image"], max_tokens=2)
    whole = http.get(f"/v1/sessions/{name}").json()
    assert whole["rounds"] == 2 and [m["role"] for m in whole["messages"]] == ["user", "assistant"] * 2
    content = whole["messages"][2]["content"]
    assert [part["type"] for part in content].count("image_url") == 2, "with the picture that it refers to"
    assert http.delete(f"/v1/sessions/{name}/rounds/last").json()["rounds"] == 1
    assert http.patch(f"/v1/sessions/{name}", json={"title": "Ducks"}).json()["title"] == "Ducks"
    for body in ({}, {"title": "Geese", "system": "Be brief."}):  # the system prompt of a session stays
        assert http.patch(f"/v1/sessions/{name}", json=body).status_code == 400
    archive = zipfile.ZipFile(io.BytesIO(http.get(f"/v1/sessions/{name}/export").content))
    page = archive.read("conversation/index.html").decode()
    assert "Ducks" in page and page.count("data:image/png") == 2
    assert name in [session["id"] for session in http.get("/v1/sessions").json()["data"]]
    assert http.delete(f"/v1/sessions/{name}").json()["deleted"]
    assert http.get(f"/v1/sessions/{name}").status_code == 404
    for bad, words in (("Mirror the ninth picture", "no ninth picture"), ("Mirror [image0]", "[image0]")):
        name = http.post("/v1/sessions", json={}).json()["id"]
        answer = http.post(f"/v1/sessions/{name}/rounds", json={"content": bad})
        if "ninth" in bad:
            ask(http, name, [picture], **WORDS)
            answer = http.post(f"/v1/sessions/{name}/rounds", json={"content": bad})
        assert answer.status_code == 400 and words in answer.json()["error"]["message"]
        assert ask(http, name, "Still there?", **WORDS), "a failed round leaves the conversation free"


def test_a_streamed_round_is_kept(http: httpx.Client):
    name = http.post("/v1/sessions", json={}).json()["id"]
    body = {"content": "Draw", "codi2": {"want": ["image"]}, "max_tokens": 2, "stream": True}
    with http.stream("POST", f"/v1/sessions/{name}/rounds", json=body) as answer:
        lines = [line for line in answer.iter_lines() if line.startswith("data:")]
    assert lines[-1] == "data: [DONE]" and '"type": "part"' in "".join(lines)
    assert http.get(f"/v1/sessions/{name}").json()["rounds"] == 1


def test_a_client_who_leaves_ends_its_round(http: httpx.Client):
    name = http.post("/v1/sessions", json={}).json()["id"]
    with http.stream(
        "POST",
        f"/v1/sessions/{name}/rounds",
        json={"content": "Go on", "stream": True, "max_tokens": 1500, "modalities": ["text"]},
    ) as answer:
        for line in answer.iter_lines():
            if '"text"' in line:
                break
    deadline = time.monotonic() + 20
    while http.get("/health").json()["running"]:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert http.get(f"/v1/sessions/{name}").json()["rounds"] == 0


def test_keys_and_limits(start: Start, tmp_path: Path):
    store = open_store(tmp_path / "keyed")
    secrets = {label: store.make_key(label, per_minute) for label, per_minute in (("ann", 0), ("bob", 3))}
    server = start("--no-page", folder=tmp_path / "keyed")
    assert httpx.get(f"{server.url}/health").status_code == 200
    for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": secrets["ann"]}):
        answer = httpx.get(f"{server.url}/v1/models", headers=headers)
        assert answer.status_code == 401 and "API key" in answer.json()["error"]["message"]
    ann, bob = (
        httpx.Client(base_url=server.url, headers={"Authorization": f"Bearer {secret}"}, timeout=60)
        for secret in secrets.values()
    )
    name = ann.post("/v1/sessions", json={"title": "private"}).json()["id"]
    for answer in (bob.get(f"/v1/sessions/{name}"), bob.delete(f"/v1/sessions/{name}"), bob.get("/v1/sessions")):
        assert answer.status_code == 404 or answer.json()["data"] == []
    limited = bob.get("/v1/models")
    assert limited.status_code == 429 and 0 < int(limited.headers["Retry-After"]) <= 60
    assert ann.get(f"/v1/sessions/{name}").status_code == 200
    store.revoke("ann")
    assert ann.get("/v1/models").status_code == 401


def test_others_are_not_let_in_without_a_key(cli: Any, tmp_path: Path):
    run = cli("serve", "--host", "0.0.0.0", "--model", "debug", "--data", tmp_path / "open")
    assert run.returncode == 2 and "make a key first (codi2 keys new LABEL)" in run.stderr
    new_key = cli("keys", "new", "ann", "--per-minute", "9", "--data", tmp_path / "open")
    assert new_key.stdout.startswith("codi2-")
    assert "ann  9 a minute" in cli("keys", "list", "--data", tmp_path / "open").stdout
    assert cli("keys", "revoke", "bob", "--data", tmp_path / "open").returncode == 2


def test_stopping_finishes_what_was_taken(start: Start, tmp_path: Path):
    server = start("--no-page", folder=tmp_path / "stopped")
    answers: list[httpx.Response] = []

    def post() -> None:
        body = {"messages": [{"role": "user", "content": "Go on"}], "max_tokens": 60, "modalities": ["text"]}
        answers.append(httpx.post(f"{server.url}/v1/chat/completions", json=body, timeout=60))

    clients = [threading.Thread(target=post) for _ in range(4)]
    for thread in clients:
        thread.start()
    while not httpx.get(f"{server.url}/health").json()["running"]:
        time.sleep(0.01)
    assert server.stop() in (0, -signal.SIGTERM)
    for thread in clients:
        thread.join()
    assert [answer.status_code for answer in answers] == [200] * 4


@pytest.mark.slow
def test_twenty_kills_lose_no_finished_round(start: Start, tmp_path: Path):
    """Three clients with a session each: it has every reply that its client got, and at most one more."""
    acknowledged: dict[str, list[str]] = {}
    names: list[str] = []
    for kill in range(20):
        server = start("--no-page", folder=tmp_path / "killed")
        with httpx.Client(base_url=server.url, timeout=60) as http:
            for name in names:
                stored = [
                    m["content"]
                    for m in http.get(f"/v1/sessions/{name}").json()["messages"]
                    if m["role"] == "assistant"
                ]
                count = len(acknowledged[name])
                assert stored[:count] == acknowledged[name] and len(stored) <= count + 1, kill
                acknowledged[name] = stored
            while len(names) < 3:
                names.append(http.post("/v1/sessions", json={}).json()["id"])
                acknowledged[names[-1]] = []

        def talk(name: str, url: str) -> None:
            try:
                while True:
                    body = {"content": "Draw a goose", "codi2": {"want": ["image"]}, "max_tokens": 3}
                    answer = httpx.post(f"{url}/v1/sessions/{name}/rounds", json=body, timeout=60)
                    acknowledged[name].append(answer.json()["message"]["content"])
            except (httpx.HTTPError, ValueError, KeyError):
                return

        clients = [threading.Thread(target=talk, args=(name, server.url)) for name in names]
        for thread in clients:
            thread.start()
        time.sleep(0.2 + 0.13 * kill)
        server.stop(signal.SIGKILL)
        for thread in clients:
            thread.join()
    assert sum(map(len, acknowledged.values())) > 20
