"""The codecs: a small `AutoencoderKL` for pictures, and one for log-mel spectrograms.

Trained on random crops: the network is convolutional, without attention, and a crop of half the side costs a quarter.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from codi2.diffuse.build import new_vae
from codi2.errors import ConfigError
from codi2.media.prepare import pixels_to_tensor
from codi2.train.config import TrainConfig, options_of
from codi2.train.loop import WHOLE, Share
from codi2.train.parts.draw import epoch_order, numpy_at, torch_at
from codi2.train.parts.reconstruction import reconstruction_terms, total
from codi2.weight_files import export_module, restore_module

HELD_OUT = ("val", "test_rendering")


@dataclass(frozen=True)
class CodecOptions:
    modality: str  # image or audio
    channels: tuple[int, ...] = (32, 64, 96)  # of each level; each level but the last halves the sides
    latent_channels: int = 4
    crop: tuple[int, int] = (32, 32)  # height and width of a training crop; spectrograms: frames and bins
    kl_weight: float = 1e-4  # on the mean KL per latent number, beside a mean absolute error


class CodecRecipe:
    divides = True

    def __init__(self, config: TrainConfig) -> None:
        self.config = config
        self.options = options = options_of(CodecOptions, config)
        torch.manual_seed(config.seed)
        self.data, self.held_out = _tensors(options.modality)
        self.model = new_vae(options.modality, options.channels, options.latent_channels)

    def batch(self, step: int, share: Share = WHOLE) -> tuple[Tensor, Tensor]:
        order = epoch_order(self.config.seed, step, self.config.batch_size, len(self.data))
        draw = numpy_at(self.config.seed, step)
        x = self.data[order].tensor()
        height, width = self.options.crop
        crops = []
        for row in x:
            top = draw.integers(row.shape[1] - height + 1)
            left = draw.integers(row.shape[2] - width + 1)
            crop = row[:, top : top + height, left : left + width]
            # only pictures may be mirrored: time and frequency have a direction
            crops.append(crop.flip(-1) if self.options.modality == "image" and draw.random() < 0.5 else crop)
        x = torch.stack(crops)
        scale = 2 ** (len(self.options.channels) - 1)
        shape = (len(x), self.options.latent_channels, height // scale, width // scale)
        noise, rows = torch.randn(shape, generator=torch_at(self.config.seed, step)), share.rows(len(x))
        return x[rows].contiguous(memory_format=torch.channels_last), noise[rows]

    def losses(self, model: nn.Module, batch: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
        x, noise = batch
        posterior = self.model.encode(x).latent_dist
        y = self.model.decode(posterior.mean + posterior.std * noise).sample
        terms = reconstruction_terms(y, x)
        kl = 0.5 * (posterior.mean**2 + posterior.var - 1 - posterior.logvar).mean()
        return {"loss": total(terms) + self.options.kl_weight * kl, **terms, "kl": kl}

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        errors = []
        for rows in np.array_split(np.arange(len(self.held_out)), max(1, len(self.held_out) // 32)):
            x = self.held_out[rows].tensor()
            y = self.model.decode(self.model.encode(x).latent_dist.mode()).sample
            errors.append(((y.clamp(-1, 1) - x) ** 2).mean(dim=(1, 2, 3)))
        mse = torch.cat(errors)
        return {"psnr": float((10 * torch.log10(4 / mse)).mean()), "mse": float(mse.mean())}

    @torch.no_grad()
    def export(self, folder: Path, provenance: dict[str, Any]) -> None:
        rows = np.random.default_rng(0).choice(len(self.data), min(512, len(self.data)), replace=False)
        latents = [self.model.encode(self.data[r].tensor()).latent_dist.mode() for r in np.array_split(rows, 16)]
        # diffusion wants latents of unit variance
        self.model.register_to_config(scaling_factor=float(1 / torch.cat(latents).std()))
        export_module(self.model, folder, provenance)

    def restore(self, folder: Path) -> None:
        restore_module(self.model, folder)


class _Rows:
    """Rows of a uint8 or float array that become a tensor when they are used."""

    def __init__(self, array: np.ndarray) -> None:
        self.array = array

    def __len__(self) -> int:
        return len(self.array)

    def __getitem__(self, rows: Any) -> _Rows:
        return _Rows(self.array[rows])

    def tensor(self) -> Tensor:
        if self.array.dtype == np.uint8:
            return pixels_to_tensor(self.array)
        return torch.from_numpy(self.array.astype(np.float32))


def _tensors(modality: str) -> tuple[_Rows, _Rows]:
    from codi2.data.cache import mels, pixels

    if modality == "image":
        return _Rows(pixels("train")), _Rows(pixels(*HELD_OUT))
    if modality == "audio":
        return _Rows(mels("train")), _Rows(mels(*HELD_OUT))
    raise ConfigError(f"a codec is for image or audio, not {modality!r}")


def build(config: TrainConfig) -> CodecRecipe:
    return CodecRecipe(config)
