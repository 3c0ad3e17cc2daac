"""Two replicas of Ray Serve around the same engine."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from .conftest import Start


@pytest.mark.slow
def test_two_replicas_share_their_sessions(start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    server = start("--ray", "2", port=8765, folder=tmp_path / "ray")
    http = httpx.Client(base_url=server.url, timeout=120)

    def draw(seed: int) -> str:
        body = {"prompt": "a goose", "seed": seed}
        answer = httpx.post(f"{server.url}/v1/images/generations", json=body, timeout=120)
        assert answer.status_code == 200, answer.text
        picture: str = answer.json()["data"][0]["b64_json"]
        return picture

    with ThreadPoolExecutor(8) as pool:
        pictures = list(pool.map(draw, [i % 4 for i in range(16)]))
    for i in range(4):
        assert len({pictures[k] for k in range(i, 16, 4)}) == 1, "whoever draws it, the seed decides"
    assert len(set(pictures)) == 4
    name = http.post("/v1/sessions", json={"title": "Geese"}).json()["id"]
    for round_ in range(6):  # replicas take turns: each reads what the other has played
        body = {"content": "Draw a goose", "codi2": {"want": ["image"]}, "max_tokens": 2}
        answer = http.post(f"/v1/sessions/{name}/rounds", json=body)
        assert answer.status_code == 200, answer.text
        assert http.get(f"/v1/sessions/{name}").json()["rounds"] == round_ + 1
    assert server.stop() is not None
