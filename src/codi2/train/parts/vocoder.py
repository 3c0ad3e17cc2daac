"""Trains the vocoder on random crops of the corpus's sounds, edited and mixed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from codi2.data import cache
from codi2.diffuse.vocoder import ISTFTVocoder, training_loss
from codi2.media.mel import MelSpectrogram, griffin_lim
from codi2.tensors import device_of
from codi2.train.config import TrainConfig, options_of
from codi2.train.contract import Recipe
from codi2.train.parts.draw import numpy_at
from codi2.train.parts.media import TrainingMedia
from codi2.train.shares import WHOLE, Share
from codi2.weight_files import export_module, restore_module


@dataclass(frozen=True)
class VocoderOptions:
    crop: int = 16_384  # samples; a multiple of the hop
    channels: int = 256
    blocks: int = 6


class VocoderRecipe(Recipe):
    model: ISTFTVocoder
    divides = True

    def __init__(self, config: TrainConfig) -> None:
        self.config = config
        self.options = options = options_of(VocoderOptions, config)
        torch.manual_seed(config.seed)
        self.model = ISTFTVocoder(channels=options.channels, blocks=options.blocks)
        self.frozen = self.mel = MelSpectrogram()
        self.media = TrainingMedia("audio", config.seed)

    def batch(self, step: int, share: Share = WHOLE) -> Tensor:
        draw, size, length = numpy_at(self.config.seed, step), self.config.batch_size, self.options.crop
        places, levels = draw.random(size), draw.uniform(0.3, 1.0, size)
        crops = []
        for place, clip in zip(share.rows(size), self.media.batch(step, size, share), strict=True):
            # most clips end in silence: begin before the last audible sample
            last = max(1, int(np.flatnonzero(np.abs(clip) > 300).max(initial=0)) - length // 2)
            start = int(places[place] * (min(last, len(clip) - length) + 1))
            crops.append(clip[start : start + length] * levels[place])
        return cache.waveforms(np.stack(crops))

    def losses(self, model: nn.Module, batch: Tensor) -> dict[str, Tensor]:
        return training_loss(self.model, self.mel, batch)

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        """Log-spectral distance on held-out sounds, of the vocoder and of Griffin-Lim."""
        from codi2.metrics.audio import log_spectral_distance

        rows = cache.rows("audio", "val")[:24]
        clips = cache.waveforms(cache.view("audio")[rows]).to(device_of(self.model))
        mel = self.mel(clips)
        generator = torch.Generator().manual_seed(0)
        waves_by_method = {
            "lsd": self.model.decode(mel),
            "griffin_lim": griffin_lim(self.mel, self.mel.magnitude(mel), generator=generator),
        }
        return {
            name: float(
                np.mean([log_spectral_distance(a, b, 16_000) for a, b in zip(clips.cpu().numpy(), waves, strict=True)])
            )
            for name, waves in ((name, wave.cpu().numpy()) for name, wave in waves_by_method.items())
        }

    def export(self, folder: Path, provenance: dict[str, Any]) -> None:
        export_module(self.model, folder, provenance)

    def restore(self, folder: Path) -> None:
        restore_module(self.model, folder)


def build(config: TrainConfig) -> VocoderRecipe:
    return VocoderRecipe(config)
