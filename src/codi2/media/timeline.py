"""Chooses frames of a clip at even times, so that frames which are sampled evenly later are even in time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from codi2.media import bounds

if TYPE_CHECKING:
    from PIL import Image as PILImage

MAX_BEATS = 4096  # limit of a clip's time grid, whose step is the shortest frame
MAX_FRAMES = 256
"""Limit of a clip's frames; longer clips are thinned evenly."""
MAX_FRAME_SIDE = 512
"""Pixels; larger frames of a clip are scaled down, as a minute of them would fill the memory."""


def even_frames(starts: Sequence[float], end: float) -> tuple[np.ndarray, float]:
    """The numbers of the frames that are shown at even times, int [K], and the frames a second.

    The step is the duration of the shortest frame: longer frames are repeated.

    Args:
        starts: seconds at which each frame begins, in ascending order.
        end: seconds at which the last one ends.
    """
    times = np.asarray(starts, np.float64) - starts[0]
    total = end - starts[0]
    mean = total / len(times)
    if np.abs(times - mean * np.arange(len(times))).max() < mean / 2:  # containers round times
        beat, shown = mean, np.arange(len(times))
    else:
        # without the last frame, whose duration many files do not have
        beat = max(float(np.diff(times).min()), total / MAX_BEATS)
        places = np.floor(np.array([*times, total]) / beat + 0.5).astype(int)
        places[-1] = max(places[-1], places[-2] + 1)
        shown = np.repeat(np.arange(len(times)), np.diff(places))
    count = len(shown) // -(-len(shown) // MAX_FRAMES)
    return shown[np.arange(count) * len(shown) // count], min(count / (beat * len(shown)), bounds.MAX_FPS)


def scaled(frame: PILImage.Image) -> PILImage.Image:
    """The same frame object, scaled down to MAX_FRAME_SIDE."""
    frame.thumbnail((MAX_FRAME_SIDE, MAX_FRAME_SIDE))
    return frame


def of_one_size(frames: Sequence[PILImage.Image]) -> tuple[PILImage.Image, ...]:
    """The frames at the size of the first one: the size may change within a stream."""
    size = frames[0].size
    return tuple(frame if frame.size == size else frame.resize(size) for frame in frames)
