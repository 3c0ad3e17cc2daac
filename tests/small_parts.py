"""The parts of a recipe at small size: options of the autoencoders, and exports of random weights to stand on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from codi2.data import edits
from codi2.encode.tiny import joint_heads
from codi2.encode.trunks import PICTURE_SIZE, TRUNK_CHANNELS, Trunk
from codi2.prompt.parts import Image, Part, Phrase
from codi2.train.config import TrainConfig
from codi2.train.loop import train
from codi2.train.parts import autoencoder, denoiser
from codi2.weight_files import export_tensors

SMALL: dict[str, dict[str, Any]] = {
    "image_vae": {"channels": (8, 8, 8), "latent_channels": 4, "perception_weight": 0.0},
    "audio_vae": {"channels": (8, 8, 8), "latent_channels": 4},
    "image_features": {"channels": (8, 8, 8, 8), "latent_channels": 3, "feature_dim": 16, "perception_weight": 0.0},
    "audio_features": {"channels": (8, 8, 8, 8), "latent_channels": 2, "feature_dim": 16},
    "video_features": {"channels": (8, 8, 8), "latent_channels": 1, "feature_dim": 16},
}


def config(part: str, options: dict[str, Any] | None = None, steps: int = 3) -> TrainConfig:
    return TrainConfig(
        part, steps, 4, 1e-3, warmup_steps=1, ema_decay=0.5, save_every=2, options=options or SMALL.get(part, {})
    )


class Numbers(Trunk):
    """Media → random projections of their numbers."""

    def __init__(self, modality: str) -> None:
        super().__init__()
        self.modality = modality

    def read(self, parts: Sequence[Part]) -> Tensor:
        """Pictures and texts."""
        from codi2.media.prepare import fit_square

        if self.modality == "phrase":
            texts = [part.text.encode() for part in parts if isinstance(part, Phrase)]
            return torch.from_numpy(np.stack([np.resize(np.frombuffer(text, np.uint8), 401 * 64) for text in texts]))
        arrays = [np.array(fit_square(part.pixels, PICTURE_SIZE)) for part in parts if isinstance(part, Image)]
        return torch.from_numpy(np.stack(arrays))

    def forward(self, media: Tensor) -> Tensor:
        flat = media.float().flatten(1)[:, ::401][:, :64]
        mix = torch.randn(64, TRUNK_CHANNELS[self.modality], generator=torch.Generator().manual_seed(0))
        return (flat @ mix[: flat.shape[1]])[:, None] / 100


def small_exports(folder: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Part → its export of random weights below `folder`; trunks are `Numbers`. A corpus must be there."""
    monkeypatch.setattr(denoiser, "load_trunk", Numbers)
    export_tensors(joint_heads(16).state_dict(), folder / "encoder/export/heads.safetensors", {})
    for part in SMALL:
        recipe_config = config(part, steps=1)
        train(autoencoder.build(recipe_config), recipe_config, folder / part)
    return {part: str(folder / part / "export") for part in ("encoder", *SMALL)}


def denoiser_options(modality: str, exports: dict[str, str], samples: int = 8) -> dict[str, Any]:
    """`[options]` of a small denoiser."""
    still = "audio" if modality == "audio" else "image"
    options: dict[str, Any] = {
        "encoder": exports["encoder"], "features": exports[f"{still}_features"], "vae": exports[f"{still}_vae"],
        "samples": samples, "channels": (8, 16),
    }  # fmt: skip
    return options | ({"motion": exports["video_features"]} if modality == "video" else {})


def no_held_out_edits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Edits leave media as they are, and a draw of a held-out one fails."""
    plain: Callable[..., Any] = edits.draw

    def draw(kind: str, rng: np.random.Generator, held_out: str = "") -> Any:
        assert not held_out
        edit = plain(kind, rng)
        assert not next(k for k in edits.KINDS[kind] if k.name == edit.kind).held_out
        return lambda medium: medium

    monkeypatch.setattr(edits, "draw", draw)
