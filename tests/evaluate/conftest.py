"""A judge that needs no download."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from codi2.evaluate.judge import Judge


@pytest.fixture
def judge(monkeypatch: pytest.MonkeyPatch) -> Judge:
    """A judge that sees the colours of nine fields; the suites find it in place of the downloaded one."""
    from torch import nn

    from codi2.evaluate import context
    from codi2.evaluate.judge import Judge

    stub = Judge(nn.Sequential(nn.AdaptiveAvgPool2d(3), nn.Flatten(1), nn.Unflatten(1, (27, 1, 1))))
    monkeypatch.setattr(context, "load_judge", lambda *_: stub)
    return stub


@pytest.fixture
def ears(monkeypatch: pytest.MonkeyPatch) -> None:
    """A judge of sounds that with_sound the loudness of eight stretches, in place of the downloaded one."""
    import numpy as np

    from codi2.evaluate import context
    from codi2.media import to_clip

    def hear(sounds):
        waves = np.stack([to_clip(sound) for sound in sounds])
        loud = np.sqrt((waves.reshape(len(waves), 8, -1) ** 2).mean(-1))
        return loud, loud[:, :5] * 10

    monkeypatch.setattr(context, "load_sound_judge", lambda *_: hear)


@pytest.fixture(autouse=True)
def words(monkeypatch: pytest.MonkeyPatch) -> None:
    """A sentence encoder that counts letters, in place of the downloaded one."""
    import torch

    from codi2.encode import trunks

    def counts(texts):
        rows = [[text.lower().count(letter) + 0.01 for letter in "abcdefghijklmnopqrstuvwxyz"] for text in texts]
        return torch.tensor(rows)[:, None]

    monkeypatch.setattr(trunks, "load_trunk", lambda kind: counts)


@pytest.fixture
def backbones(tmp_path: Path) -> dict[str, str]:
    """Folders of DINO and CLIP: their real classes at a small size."""
    import torch
    from transformers import (
        CLIPConfig,
        CLIPImageProcessor,
        CLIPModel,
        CLIPProcessor,
        CLIPTokenizer,
        ViTConfig,
        ViTImageProcessor,
        ViTModel,
    )  # fmt: skip

    torch.manual_seed(0)
    small = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    dino, clip = tmp_path / "dino", tmp_path / "clip"
    ViTModel(ViTConfig(**small, image_size=32, patch_size=16)).save_pretrained(dino)
    ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(dino)
    text = {**small, "vocab_size": 90, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1}
    config = CLIPConfig(text_config=text, vision_config={**small, "image_size": 32, "patch_size": 16}, projection_dim=8)
    CLIPModel(config).save_pretrained(clip)
    known = "abcdefghijklmnopqrstuvwxyz0123456789,."
    letters = [*known, *(f"{c}</w>" for c in known)]
    vocab = {token: i for i, token in enumerate(["<|startoftext|>", "<|endoftext|>", *letters])}
    (clip / "vocab.json").write_text(json.dumps(vocab))
    (clip / "merges.txt").write_text("#version: 0.2\n")
    tokenizer = CLIPTokenizer(str(clip / "vocab.json"), str(clip / "merges.txt"))
    pictures = CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    CLIPProcessor(pictures, tokenizer).save_pretrained(clip)
    return {"dino": str(dino), "clip": str(clip)}
