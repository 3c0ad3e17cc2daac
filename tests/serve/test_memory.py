"""A GPU that is full fails the request that filled it, and no other."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import pytest
import torch
from fastapi.testclient import TestClient

from codi2.model import CoDi2
from codi2.serve.api import create_app
from codi2.serve.engine import Engine
from codi2.serve.store import Store

FULL = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has 3.00 MiB free.")


@pytest.fixture
def model() -> CoDi2:
    return CoDi2.from_pretrained("debug")


@pytest.fixture
def http(model: CoDi2, tmp_path: Path) -> Iterator[TestClient]:
    engine, store = Engine(model), Store(tmp_path / "data")
    yield TestClient(create_app(engine, store, "debug"), base_url="http://localhost")
    engine.close(10)
    store.close()


def draw(http: TestClient) -> tuple[int, dict, str | None]:
    answer = http.post("/v1/images/generations", json={"prompt": "a goose"})
    return answer.status_code, answer.json(), answer.headers.get("Retry-After")


@pytest.mark.parametrize("stage", ["write", "decode"])
def test_a_request_that_does_not_fit_is_a_503_and_the_next_is_answered(
    stage: str, model: CoDi2, http: TestClient, caplog: pytest.LogCaptureFixture
):
    part = model.mllm.backbone.model.base_model if stage == "write" else model.decoders["image"].unet
    with mock.patch.object(part, "forward", mock.Mock(side_effect=FULL)):
        status, body, retry = draw(http)
    assert status == 503 and int(retry or 0) > 0
    assert body["error"]["code"] == "no_memory" and body["error"]["type"] == "server_error"
    assert "fewer or shorter media" in body["error"]["message"] and "GiB" not in body["error"]["message"]
    assert "--offload" in caplog.text  # what the operator can change
    assert draw(http)[0] == 200 and http.get("/health").status_code == 200


def test_in_a_stream_it_is_the_last_event(model: CoDi2, http: TestClient):
    body = {"model": "debug", "messages": [{"role": "user", "content": "hi"}], "stream": True}
    with mock.patch.object(model.mllm.backbone.model.base_model, "forward", mock.Mock(side_effect=FULL)):
        lines = http.post("/v1/chat/completions", json=body).text.strip().splitlines()
    assert '"code": "no_memory"' in lines[-1]
