"""Replicas of Ray Serve around the same engine, and the GPUs that they ask for."""

from __future__ import annotations

import base64
import io
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np
import pytest
import torch
from PIL import Image as PILImage

from codi2.errors import ConfigError
from codi2.placement import Placement
from codi2.serve import ray as replicas

from .conftest import Start


@pytest.mark.slow
def test_two_replicas_share_their_sessions(start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    server = start("--ray", "2", port=8765, folder=tmp_path / "ray")
    http = httpx.Client(base_url=server.url, timeout=120)

    def draw(seed: int) -> np.ndarray:
        body = {"prompt": "a goose", "seed": seed}
        answer = httpx.post(f"{server.url}/v1/images/generations", json=body, timeout=120)
        assert answer.status_code == 200, answer.text
        file = io.BytesIO(base64.b64decode(answer.json()["data"][0]["b64_json"]))
        return np.asarray(PILImage.open(file)).astype(int)

    with ThreadPoolExecutor(8) as pool:
        pictures = list(pool.map(draw, [i % 4 for i in range(16)]))
    for i, one in enumerate(pictures):
        for k, other in enumerate(pictures):  # whoever draws it, the seed decides, but for rounding in batches
            assert (np.abs(one - other).mean() < 0.5) == (i % 4 == k % 4)
    name = http.post("/v1/sessions", json={"title": "Geese"}).json()["id"]
    for round_ in range(6):  # replicas take turns: each reads what the other has played
        body = {"content": "Draw a goose", "codi2": {"want": ["image"]}, "max_tokens": 2}
        answer = http.post(f"/v1/sessions/{name}/rounds", json=body)
        assert answer.status_code == 200, answer.text
        assert http.get(f"/v1/sessions/{name}").json()["rounds"] == round_ + 1
    assert server.stop() is not None


@pytest.mark.parametrize(("gpus", "device", "each"), [(4, "cuda", 1), (4, "cpu", 0), (0, "cpu", 0)])
def test_each_replica_asks_for_a_gpu_where_it_runs_on_one(
    gpus: int, device: str, each: int, monkeypatch: pytest.MonkeyPatch
):
    """Read from what Ray is given: it no longer hides GPUs from replicas that ask for none."""
    ray, serve = pytest.importorskip("ray"), pytest.importorskip("ray.serve")
    started: dict = {}
    deployed: dict = {}

    class Stopped(Exception):
        pass

    def deployment(**options):
        deployed.update(options)
        raise Stopped

    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    monkeypatch.setattr(ray, "init", lambda **options: started.update(options))
    monkeypatch.setattr(serve, "start", lambda **options: None)
    monkeypatch.setattr(serve, "deployment", deployment)
    with pytest.raises(Stopped):
        replicas.run_replicas(3, "127.0.0.1", 8000, None, placement=Placement(device), model="debug")
    assert deployed["num_replicas"] == 3 and deployed["ray_actor_options"] == {"num_gpus": each}
    assert started["num_gpus"] == gpus


@pytest.mark.parametrize(
    ("device", "message"), [("cuda", "3 replicas need 3 GPUs, and there are 2; ask for fewer"), ("cuda:1", "use cuda")]
)
def test_replicas_without_a_gpu_each_are_refused(device: str, message: str):
    with pytest.raises(ConfigError, match=message):
        replicas.deployment_options(3, Placement(device), 2)
