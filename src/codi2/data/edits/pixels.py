"""Functions for the edits of pictures. Pictures are uint8 [H, W, 3]; floats are float32 in the same units, 0 to 255."""

from __future__ import annotations

from colorsys import hls_to_rgb
from functools import lru_cache

import numpy as np
from PIL import Image, ImageFilter

from codi2.data.scene import Pixels, background_mask

LUMA = np.array([0.299, 0.587, 0.114], np.float32)


def rgb(hue: float, light: float = 0.5, saturation: float = 0.8) -> np.ndarray:
    """The colour [3] of a hue in degrees, a lightness and a saturation of 1."""
    return np.array(hls_to_rgb(hue / 360, light, saturation), np.float32) * 255


def whole(values: np.ndarray) -> Pixels:
    """Rounded and limited to uint8."""
    return np.clip(values + 0.5, 0, 255).astype(np.uint8)


def floats(pixels: Pixels) -> np.ndarray:
    return pixels.astype(np.float32)


def grey(pixels: Pixels) -> np.ndarray:
    """Lightness, float32 [H, W, 1]."""
    return (pixels @ LUMA)[..., None]


def mixed(old: np.ndarray, new: np.ndarray | float, share: float | np.ndarray) -> Pixels:
    """Interpolation from `old` (share 0) to `new` (share 1)."""
    return whole(old + (np.asarray(new, np.float32) - old) * np.asarray(share, np.float32))


@lru_cache(maxsize=8)
def grid(height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows and columns, float32 [H, W] each, from -1 to 1 around the middle."""
    y, x = np.mgrid[:height, :width].astype(np.float32)
    y, x = (y + 0.5) / height * 2 - 1, (x + 0.5) / width * 2 - 1
    y.flags.writeable = x.flags.writeable = False
    return y, x


def along(shape: tuple[int, ...], angle: float) -> np.ndarray:
    """Distance [H, W] from the middle in the direction of `angle`, in half sides; 0 degrees points to the right."""
    y, x = grid(*shape[:2])
    turn = np.radians(angle)
    return (x * np.cos(turn) + y * np.sin(turn)).astype(np.float32)


def soft(distance: np.ndarray, width: float) -> np.ndarray:
    """0 below, 1 above, a ramp of `width` around zero: an edge without steps."""
    return np.clip(distance / width + 0.5, 0, 1).astype(np.float32)


def blurred(values: np.ndarray, radius: float) -> np.ndarray:
    """Gaussian blur of uint8 [H, W] or [H, W, 3]; uint8."""
    return np.asarray(Image.fromarray(values).filter(ImageFilter.GaussianBlur(radius)))


def _smallest(values: np.ndarray) -> np.ndarray:
    """The smallest value of each pixel's 3 x 3 neighbours, per channel, for [H, W] and [H, W, 3]."""
    padded = np.pad(values, ((1, 1), (1, 1), *((0, 0),) * (values.ndim - 2)), mode="edge")
    rows = np.minimum(np.minimum(padded[:-2], padded[1:-1]), padded[2:])
    return np.asarray(np.minimum(np.minimum(rows[:, :-2], rows[:, 1:-1]), rows[:, 2:]))


def ground(pixels: Pixels) -> np.ndarray | None:
    """The share of the white background in each pixel, float32 [H, W, 1] from 0 to 1; None: there is no background.

    Pixels at the edge of a cut-out are blends of the object and white: their share is computed from the darkest
    neighbour, so that a new background has no white fringe.
    """
    white = background_mask(pixels)
    if white.mean() < 0.04:
        return None
    share = white.astype(np.float32)
    rows, columns = np.nonzero(~_smallest(~white) & ~white)
    dark = 255 - _smallest(pixels)[rows, columns].astype(np.float32)
    own = 255 - pixels[rows, columns].astype(np.float32)
    cover = (own / np.maximum(dark, 1)).max(-1)
    share[rows, columns] = np.clip(1 - cover, 0, 1)
    return share[..., None]


def on_ground(pixels: Pixels, new: np.ndarray, share: np.ndarray | None = None) -> Pixels:
    """Replaces the white background by `new`, float32 [3] or [H, W, 3]; a picture without one is unchanged."""
    share = ground(pixels) if share is None else share
    return pixels.copy() if share is None else whole(pixels + share * (new - 255))


def sampled(pixels: Pixels, y: np.ndarray, x: np.ndarray) -> Pixels:
    """Bilinear samples at rows and columns [H, W] from -1 to 1; outside is white."""
    height, width = pixels.shape[:2]
    padded = np.pad(floats(pixels), ((1, 1), (1, 1), (0, 0)), constant_values=255)
    row = np.clip((y + 1) / 2 * height + 0.5, 0, height + 0.999)
    column = np.clip((x + 1) / 2 * width + 0.5, 0, width + 0.999)
    top, left = row.astype(np.int32), column.astype(np.int32)
    down, right = (row - top)[..., None], (column - left)[..., None]
    flat, at = padded.reshape(-1, 3), top * (width + 2) + left
    upper = flat[at] * (1 - right) + flat[at + 1] * right
    lower = flat[at + width + 2] * (1 - right) + flat[at + width + 3] * right
    return whole(upper * (1 - down) + lower * down)


def image(pixels: Pixels) -> Image.Image:
    return Image.fromarray(pixels)
