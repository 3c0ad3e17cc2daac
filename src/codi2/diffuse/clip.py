"""Clips ↔ latents, by an autoencoder of pictures (frame by frame) or of clips.

Letters: B batch, F frames, H W pixels, c f h w latent sizes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image as PILImage
from torch import Tensor

from codi2.diffuse.codec import Codec
from codi2.media.prepare import cover, fit_square, scaled_pixels, spread
from codi2.prompt.parts import Image, Part, Video

FPS = 8.0  # of the clips that ModelScope's network was trained on


class ClipCodec(Codec):
    """Clips of a set length and size, frame by frame: tensors [B, 3, F, H, W], latents [B, c, F, h, w].

    A picture is read as a clip without motion, so that it can be a source to animate.

    Args:
        padded: whether frames of another aspect are padded with white, as by the encoder of `tiny`, or cropped.
    """

    modality = "video"
    others = ("image",)
    time = "frames"

    def __init__(self, vae: Any, frames: int, height: int, width: int, fps: float = FPS, padded: bool = False) -> None:
        super().__init__(vae)
        self.frames, self.height, self.width, self.fps, self.padded = frames, height, width, fps, padded

    def latent_shape(self, unet: Any) -> tuple[int, ...]:
        channels, height, width = super().latent_shape(unet)
        return channels, self.frames, height, width

    def read(self, parts: Sequence[Part]) -> Tensor:
        """uint8 [B, F, H, W, 3]."""
        return torch.from_numpy(np.stack([self._read(part) for part in parts if isinstance(part, (Video, Image))]))

    def prepare(self, numbers: Tensor) -> Tensor:
        frames = scaled_pixels(numbers.flatten(0, 1)).unflatten(0, numbers.shape[:2])  # [B, F, 3, H, W]
        return frames.transpose(1, 2).to(self.vae.dtype)

    def _read(self, clip: Video | Image) -> np.ndarray:
        """uint8 [F, H, W, 3]: frames spread evenly over the clip, each fitted once to the network's size."""
        frames = spread(clip.frames if isinstance(clip, Video) else (clip.pixels,), self.frames)
        fitted = {id(frame): np.asarray(self._fit(frame)) for frame in {id(frame): frame for frame in frames}.values()}
        return np.stack([fitted[id(frame)] for frame in frames])

    def _fit(self, frame: PILImage.Image) -> PILImage.Image:
        return fit_square(frame, self.width) if self.padded else cover(frame, self.width, self.height)

    def to_parts(self, tensor: Tensor) -> list[Part]:
        pixels = ((tensor.float().clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 4, 1).cpu().numpy()
        return [Video(tuple(PILImage.fromarray(frame) for frame in clip), self.fps) for clip in pixels]

    def encode(self, tensor: Tensor) -> Tensor:
        return self.encode_source(tensor) * self.vae.config.scaling_factor

    def encode_source(self, tensor: Tensor) -> Tensor:
        frames = tensor.transpose(1, 2)  # [B, F, 3, H, W]
        latents = self.vae.encode(F.pixel_unshuffle(frames.flatten(0, 1), self.patch)).latent_dist.mode()
        return latents.unflatten(0, frames.shape[:2]).transpose(1, 2)

    def decode(self, latents: Tensor) -> Tensor:
        frames = latents.transpose(1, 2)
        pixels = self.vae.decode(frames.flatten(0, 1) / self.vae.config.scaling_factor).sample
        return F.pixel_shuffle(pixels, self.patch).unflatten(0, frames.shape[:2]).transpose(1, 2)
