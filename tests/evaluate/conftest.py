"""A judge that needs no download."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from codi2.evaluate.judge import Judge


@pytest.fixture
def judge(monkeypatch: pytest.MonkeyPatch) -> Judge:
    """A judge that sees the colours of nine fields; the suites find it in place of the downloaded one."""
    from torch import nn

    from codi2.evaluate import bench
    from codi2.evaluate.judge import Judge

    stub = Judge(nn.Sequential(nn.AdaptiveAvgPool2d(3), nn.Flatten(1), nn.Unflatten(1, (27, 1, 1))))
    monkeypatch.setattr(bench, "load_judge", lambda: stub)
    return stub


@pytest.fixture
def ears(monkeypatch: pytest.MonkeyPatch) -> None:
    """A judge of sounds that hears the loudness of eight stretches, in place of the downloaded one."""
    import numpy as np

    from codi2.evaluate import bench
    from codi2.media import to_clip

    def hear(sounds):
        waves = np.stack([to_clip(sound) for sound in sounds])
        loud = np.sqrt((waves.reshape(len(waves), 8, -1) ** 2).mean(-1))
        return loud, loud[:, :5] * 10

    monkeypatch.setattr(bench, "load_sound_judge", lambda: hear)


@pytest.fixture(autouse=True)
def words(monkeypatch: pytest.MonkeyPatch) -> None:
    """A sentence encoder that counts letters, in place of the downloaded one."""
    import torch

    from codi2.encode import tiny

    def counts(texts):
        rows = [[text.lower().count(letter) + 0.01 for letter in "abcdefghijklmnopqrstuvwxyz"] for text in texts]
        return torch.tensor(rows)[:, None]

    monkeypatch.setattr(tiny, "load_trunk", lambda kind: counts)
