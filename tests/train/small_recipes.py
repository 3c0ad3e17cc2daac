"""Configs and stand-ins of recipes at small sizes."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from codi2.diffuse.build import new_vae
from codi2.diffuse.codec import AudioCodec, ImageCodec
from codi2.diffuse.load import clip_codec
from codi2.media.mel import MelSpectrogram
from codi2.train.config import TrainConfig

SMALL = {"channels": (8, 8, 8, 8), "latent_channels": 3, "feature_dim": 16, "perception_weight": 0.0}


def config(part: str, **options: Any) -> TrainConfig:
    return TrainConfig(part, 3, 4, 1e-3, ema_decay=0.5, options=options)


class Encoded(nn.Module):
    """In place of `denoiser.FrozenNetworks`: noise."""

    def __init__(self, modality: str) -> None:
        super().__init__()
        self.modality = modality
        vae = new_vae("audio" if modality == "audio" else "image", (8, 8), 4, patch=2)
        self.codec = {
            "image": ImageCodec, "audio": lambda vae: AudioCodec(vae, MelSpectrogram(), None), "video": clip_codec,
        }[modality](vae)  # fmt: skip
        self.map_shape = {"image": (3, 8, 8), "audio": (2, 20, 8), "video": (4, 8, 8)}[modality]
        self.encoder = SimpleNamespace(dim=16)
        self.shapes = {"latents": {"image": (4, 16, 16), "audio": (4, 40, 16), "video": (4, 8, 16, 16)}[modality]}
        self.shapes |= {"source": self.shapes["latents"], "features": (1 + int(np.prod(self.map_shape)) // 16, 16)}

    def depends(self) -> dict[str, str]:
        return {}

    def many(self, pair: Any, places: Sequence[int]) -> dict[str, Tensor]:
        made = {name: torch.randn(len(places), *shape) for name, shape in self.shapes.items()}
        made["source"][::2] = 0
        return made


def language(data: dict[str, float], phase: str, **options: Any) -> TrainConfig:
    names = {"data": data, "held_out": data, "model": "debug", "lookahead": 1, "diffusion_share": 1.0}
    return config("llm", **names, phases={phase: 1.0}, diffusion_items=2, **options)
