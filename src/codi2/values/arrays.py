"""Pictures and sounds in the memory of Python code → RGB pictures and mono samples."""

from __future__ import annotations

from typing import Any

import numpy as np

from codi2.errors import MediaError
from codi2.values.mono import Downmix

MOST_CHANNELS = 8
"""Channels of a sound: the axis of channels is at most this long."""


def as_rgb(value: Any, name: str) -> Any:
    """A Pillow picture of any mode, or an array, as a Pillow picture in RGB.

    Args:
        value: as an array [H, W], [H, W, C] or [C, H, W] with 1, 3 or 4 channels: integers and booleans, of which the
            type's largest value is white, or floats in [0, 1].
    Raises:
        MediaError: it is neither, or empty.
    """
    from PIL import Image as PILImage

    from codi2.values.colour import to_rgb

    label = name or "A picture"
    if isinstance(value, PILImage.Image):
        return to_rgb(value, label)
    array = _array(value)
    if array is None or array.ndim not in (2, 3) or not array.size:
        kind = type(value).__name__ if array is None else f"an array of {_shape(array)}"
        raise MediaError(
            f"{label} is {kind}; give a Pillow picture or an array [H, W, 3], and read files with codi2.load"
        )
    if array.ndim == 3 and array.shape[2] not in (1, 3, 4):
        array = np.moveaxis(array, 0, 2)
    if array.ndim == 3 and array.shape[2] not in (1, 3, 4):
        raise MediaError(f"{label} is an array of {_shape(array)}; give 1, 3 or 4 channels: [H, W, 3]")
    white = 1.0 if array.dtype.kind in "bf" else float(np.iinfo(array.dtype).max)
    low, high = float(array.min()), float(array.max())
    if not (low >= -1e-3 * white and high <= 1.001 * white):
        raise MediaError(f"{label} has values from {low:g} to {high:g}; floats are in [0, 1], or give uint8")
    if array.dtype != np.uint8:
        array = (array.astype(np.float64) / white * 255).clip(0, 255).round().astype(np.uint8)
    return to_rgb(PILImage.fromarray(array[..., 0] if array.shape[2:] == (1,) else array), label)


def as_mono(value: Any, name: str) -> np.ndarray:
    """float32 [N] in [-1, 1] of samples [N], [C, N] or [N, C]: integers are scaled by their type.

    Raises MediaError: they are no samples.
    """
    label = name or "A sound"
    array = _array(value)
    if array is None or array.ndim not in (1, 2):
        kind = type(value).__name__ if array is None else f"an array of {_shape(array)}"
        raise MediaError(f"{label} is {kind}; give samples as an array [N], and read files with codi2.load")
    if array.dtype.kind in "iu":
        half = (float(np.iinfo(array.dtype).max) + 1) / (2 if array.dtype.kind == "u" else 1)
        array = (array.astype(np.float64) - (half if array.dtype.kind == "u" else 0)) / half
    samples = np.asarray(array, np.float32)
    if samples.ndim == 1:
        return samples
    if samples.shape[0] < samples.shape[1]:
        samples = samples.T
    if samples.shape[1] > MOST_CHANNELS:
        raise MediaError(f"{label} is an array of {_shape(array)}; give at most {MOST_CHANNELS} channels: [C, N]")
    mix = Downmix(["NONE"] * samples.shape[1])
    mono = np.ascontiguousarray(mix(samples))
    mix.warn(label)
    return mono


def _array(value: Any) -> np.ndarray | None:
    """Numbers as an array; None: the value is not an array of numbers."""
    try:
        array = np.asarray(value)
    except (TypeError, ValueError, RuntimeError):  # of a tensor on a GPU, or rows of different lengths
        return None
    return array if array.dtype.kind in "biuf" else None


def _shape(array: np.ndarray) -> str:
    return " × ".join(map(str, array.shape)) or "one number"
