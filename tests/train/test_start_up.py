"""What a run on records reads and encodes before its first step: what that step needs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from task_set import write_task_set
from torch import Tensor, nn

from codi2.data.mixture import Mixture
from codi2.data.shards import Shard
from codi2.errors import MediaError
from codi2.progress import tracked
from codi2.prompt.parts import Phrase
from codi2.train.config import TrainConfig
from codi2.train.encoded import Encodings
from codi2.train.parts import published_joint

BATCH = 2


class Count:
    """What is read and encoded."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.records, self.shards, self.encoded = [], [], []  # type: ignore[var-annotated]
        self._counts(monkeypatch, Mixture, "read", self.records.append)
        self._counts(monkeypatch, Shard, "__init__", self.shards.append)
        self._counts(monkeypatch, Encodings, "encode", self.encoded.extend)

    def _counts(self, monkeypatch: pytest.MonkeyPatch, kind: type, name: str, note: Callable[[Any], None]) -> None:
        plain = getattr(kind, name)

        def counted(this: Any, what: Any, *others: Any) -> Any:
            note(what)
            return plain(this, what, *others)

        monkeypatch.setattr(kind, name, counted)


def test_the_first_step_of_joint_attention(rich_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = write_task_set(rich_home, tmp_path / "set", 24 * BATCH, ["clip_in_time"])
    count = Count(monkeypatch)
    options = {"data": data, "held_out": data, "model": "debug", "phases": {"video": 1.0}}
    recipe = published_joint.build(TrainConfig("joint", 3, BATCH, 1e-3, options=options))
    assert not count.records and not count.shards and not count.encoded
    recipe.batch(0)
    assert len(count.records) == BATCH and len(count.shards) <= BATCH
    assert len(count.encoded) == 2 * BATCH  # the answers: clips with their sounds


def test_the_encoder_is_on_the_device_as_long_as_it_encodes(monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = nn.Linear(2, 2).requires_grad_(False)
    encodings, seen = Encodings(lambda: encoder, "key", False), []  # type: ignore[arg-type,return-value]

    def encode(pieces: Any) -> list[Tensor]:
        seen.append(encoder.weight.device.type)
        if pieces:
            raise MediaError("the picture is damaged")
        return []

    monkeypatch.setattr(encodings, "encode", encode)
    encodings.encode_on(torch.device("meta"), [])
    assert seen == ["meta"] and encoder.weight.device.type == "cpu"
    with pytest.raises(MediaError):
        encodings.encode_on(torch.device("meta"), [Phrase("a crow")])
    assert seen == ["meta", "meta"] and encoder.weight.device.type == "cpu"


def test_long_work_says_how_long_it_takes(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Where stderr is no terminal: one line in half a minute."""
    seconds = iter([0, *range(0, 120, 20)])
    monkeypatch.setattr("codi2.progress.time.monotonic", lambda: next(seconds))
    assert list(tracked(range(6), "encoding")) == list(range(6))
    assert capsys.readouterr().err.splitlines() == ["encoding 2/6, 1 min left", "encoding 4/6, 1 min left"]
