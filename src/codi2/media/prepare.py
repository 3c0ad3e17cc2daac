"""Media → inputs of encoders and decoders: sizes, lengths, ranges."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image as PILImage
from torch import Tensor

NUM_SAMPLES = 40_960  # of a clip: 2.56 s at 16 kHz


def fit_square(pixels: PILImage.Image, size: int) -> PILImage.Image:
    """A picture of any shape → `size` × `size`, with white borders: it is neither cropped nor stretched."""
    if pixels.size == (size, size):
        return pixels
    scale = size / max(pixels.size)
    width, height = (max(1, round(side * scale)) for side in pixels.size)
    canvas = PILImage.new("RGB", (size, size), "white")
    small = pixels.resize((width, height), PILImage.Resampling.LANCZOS)
    canvas.paste(small, ((size - width) // 2, (size - height) // 2))
    return canvas


def cover(pixels: PILImage.Image, width: int, height: int) -> PILImage.Image:
    """A picture of any shape → `width` × `height`: scaled until it covers this size, then cropped to its middle."""
    from PIL import ImageOps

    return ImageOps.fit(pixels.convert("RGB"), (width, height), PILImage.Resampling.LANCZOS)


def pixels_to_tensor(pixels: np.ndarray) -> Tensor:
    """uint8 [B, H, W, 3] → float32 [B, 3, H, W] in [-1, 1], channels last in memory."""
    return scaled_pixels(torch.from_numpy(pixels))


def scaled_pixels(pixels: Tensor) -> Tensor:
    """As `pixels_to_tensor`, from a tensor, on its device."""
    return (pixels.permute(0, 3, 1, 2).float() / 127.5 - 1).contiguous(memory_format=torch.channels_last)


def spread(frames: Sequence[PILImage.Image], count: int) -> list[PILImage.Image]:
    """`count` frames, evenly over the clip; a clip with fewer frames has frames repeated."""
    return [frames[i] for i in np.linspace(0, len(frames) - 1, count).round().astype(int)]
