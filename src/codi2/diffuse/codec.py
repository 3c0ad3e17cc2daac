"""Codecs convert media to the latents of diffusion and back. One contract for every modality.

Letters: B batch, c channels, h w latent size.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image as PILImage
from torch import Tensor, nn

from codi2.media.prepare import NUM_SAMPLES, fit_square, scaled_pixels
from codi2.prompt.parts import Audio, Image, Part


class Codec(nn.Module):
    """A diffusers `AutoencoderKL` with the conversion of media to its input tensors and back.

    `encode` and `decode` work on latents scaled to unit variance by the autoencoder's `scaling_factor`.
    """

    modality: ClassVar[str]
    others: ClassVar[tuple[str, ...]] = ()
    """Other modalities that it reads as a source."""
    time: ClassVar[Literal["", "frames", "rows"]] = ""
    """The axis of time of its latents: the frames F of [c, F, h, w], the rows h of [c, h, w]; "": none."""
    channels: ClassVar[int] = 3
    """Of a medium as a tensor. An autoencoder with patch² times as many input channels reads patches."""

    def __init__(self, vae: Any) -> None:
        super().__init__()
        self.vae = vae
        self.patch = math.isqrt(max(1, getattr(vae.config, "in_channels", 0) // self.channels))

    def to_tensor(self, parts: Sequence[Part]) -> Tensor:
        """Media → the autoencoder's input [B, channels, H, W], about [-1, 1]."""
        return self.prepare(self.read(parts).to(self.vae.device))

    def read(self, parts: Sequence[Part]) -> Tensor:
        """Media → compact arrays on the CPU [B, …] for `prepare`. Processes that prepare batches call this."""
        raise NotImplementedError

    def prepare(self, numbers: Tensor) -> Tensor:
        """The output of `read`, on any device → the autoencoder's input on that device."""
        raise NotImplementedError

    def to_parts(self, tensor: Tensor) -> list[Part]:
        """The autoencoder's output [B, channels, H, W] → media."""
        raise NotImplementedError

    @property
    def reads(self) -> tuple[str, ...]:
        """Modalities that may be a source."""
        return (self.modality, *self.others)

    def latent_shape(self, unet: Any) -> tuple[int, ...]:
        """[c, h, w] of the network's configured size."""
        size = unet.config.sample_size
        return (unet.config.out_channels, *((size, size) if isinstance(size, int) else size))

    def encode(self, tensor: Tensor) -> Tensor:
        """[B, channels, H, W] → latents [B, c, h, w]: the mode of the posterior, unit variance."""
        posterior = self.vae.encode(F.pixel_unshuffle(tensor, self.patch)).latent_dist
        return posterior.mode() * self.vae.config.scaling_factor

    def encode_source(self, tensor: Tensor) -> Tensor:
        """The latents of a source, for the fidelity path. Here they are scaled as by `encode`; other codecs leave them
        unscaled, as the published networks have it."""
        return self.encode(tensor)

    def decode(self, latents: Tensor) -> Tensor:
        """Latents [B, c, h, w] → [B, channels, H, W]."""
        maps: Tensor = self.vae.decode(latents / self.vae.config.scaling_factor).sample
        return F.pixel_shuffle(maps, self.patch)


class ImageCodec(Codec):
    """Pictures, brought to the autoencoder's square size."""

    modality = "image"

    def __init__(self, vae: Any) -> None:
        super().__init__(vae)
        self.size: int = vae.config.sample_size

    def read(self, parts: Sequence[Part]) -> Tensor:
        """uint8 [B, H, W, 3]."""
        arrays = [np.asarray(self.fit(part.pixels)) for part in parts if isinstance(part, Image)]
        return torch.from_numpy(np.stack(arrays))

    def fit(self, pixels: PILImage.Image) -> PILImage.Image:
        """A picture of any aspect at the codec's size, as the model's encoder reads it: whole, padded with white."""
        return fit_square(pixels, self.size)

    def prepare(self, numbers: Tensor) -> Tensor:
        return scaled_pixels(numbers).to(self.vae.dtype)

    def to_parts(self, tensor: Tensor) -> list[Part]:
        arrays = ((tensor.float().clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1).cpu().numpy()
        return [Image(PILImage.fromarray(array)) for array in arrays]


class AudioCodec(Codec):
    """Sounds as log-mel spectrograms [B, 1, frames, bins]; a vocoder makes the waveform.

    Args:
        mel: waveform [B, N] → normalised log-mel [B, 1, frames, bins].
        vocoder: its `decode` is the inverse; encoding needs none.
    """

    modality = "audio"
    time = "rows"
    channels = 1

    def __init__(self, vae: Any, mel: Any, vocoder: Any) -> None:
        super().__init__(vae)
        self.mel = mel
        self.vocoder = vocoder

    def read(self, parts: Sequence[Part]) -> Tensor:
        """float32 waveforms [B, N]."""
        from codi2.media import to_clip

        clips = [to_clip(p, self.mel.rate, NUM_SAMPLES) for p in parts if isinstance(p, Audio)]
        return torch.from_numpy(np.stack(clips))

    def prepare(self, numbers: Tensor) -> Tensor:
        log_mel: Tensor = self.mel(numbers)
        return log_mel.to(self.vae.dtype)

    def to_parts(self, tensor: Tensor) -> list[Part]:
        # spectra and their inverse exist in single precision only
        waves = self.vocoder.float().decode(tensor.float()).cpu().numpy()
        return [Audio(wave, self.mel.rate) for wave in waves]


def edges(maps: Tensor) -> Tensor:
    """Sharpness [B] of maps [B, C, H, W]: the mean absolute difference of neighbours."""
    return maps.diff(dim=-1).abs().mean((1, 2, 3)) + maps.diff(dim=-2).abs().mean((1, 2, 3))
