"""Small pictures and spectrograms as they are, behind the interface of an `AutoencoderKL`: nothing is lost or trained.

A picture of 64 × 64 and a log-mel spectrogram of 160 × 64 have no more numbers than a denoising network of this size
can carry. A codec that made pictures six times smaller gave back what the judge of the evaluation held for .56 the
same, and no edit can be better than that.

Letters: B batch, C channels, H W size, c channels of a patch, h w patches.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import Tensor


class Patches(ModelMixin, ConfigMixin):
    """Numbers of a patch become channels: [B, C, H, W] ↔ [B, C·patch², H/patch, W/patch].

    Args:
        patch: pixels, or frames and mel bins, of a side.
        sample_size: of the longer side of what is read.
        mean, std: of its numbers; the latents have zero mean and unit variance.
    """

    @register_to_config
    def __init__(
        self, patch: int = 4, sample_size: int = 64, mean: float = 0.0, std: float = 1.0, scaling_factor: float = 1.0
    ) -> None:
        super().__init__()
        self.register_buffer("level", torch.tensor([mean, std]))

    def encode(self, maps: Tensor) -> Any:
        """`.latent_dist.mode()` is [B, c, h, w]."""
        mean, std = self.level
        latents = F.pixel_unshuffle((maps - mean) / std, self.config["patch"])
        return SimpleNamespace(latent_dist=SimpleNamespace(mode=lambda: latents))

    def decode(self, latents: Tensor) -> Any:
        """`.sample` is [B, C, H, W]."""
        mean, std = self.level
        return SimpleNamespace(sample=F.pixel_shuffle(latents, self.config["patch"]) * std + mean)
