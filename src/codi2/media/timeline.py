"""Which frames of a clip are kept: at even times, so that what is sampled evenly later is even in time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from codi2.media import bounds

if TYPE_CHECKING:
    from PIL import Image as PILImage

MAX_BEATS = 4096  # of a clip: its shortest frames may be a moment beside the others
MAX_FRAMES = 256
"""Frames kept of a clip; longer ones are thinned evenly."""
MAX_FRAME_SIDE = 512
"""Pixels; larger frames of a clip are scaled down, or a minute of it would fill the memory."""


def even_frames(starts: Sequence[float], end: float) -> tuple[np.ndarray, float]:
    """The number of the frame that is shown at each of the even times that are kept, int [K], and how many a second.

    Frames come at the pace of the shortest one: those that are shown longer come several times.

    Args:
        starts: seconds at which frames are shown first; they grow.
        end: seconds at which the last one is gone.
    """
    times = np.asarray(starts, np.float64) - starts[0]
    total = end - starts[0]
    mean = total / len(times)
    if np.abs(times - mean * np.arange(len(times))).max() < mean / 2:  # clocks of containers round
        beat, shown = mean, np.arange(len(times))
    else:
        # not the last one: how long it is shown, many files do not say
        beat = max(float(np.diff(times).min()), total / MAX_BEATS)
        places = np.floor(np.array([*times, total]) / beat + 0.5).astype(int)
        places[-1] = max(places[-1], places[-2] + 1)
        shown = np.repeat(np.arange(len(times)), np.diff(places))
    count = len(shown) // -(-len(shown) // MAX_FRAMES)
    return shown[np.arange(count) * len(shown) // count], min(count / (beat * len(shown)), bounds.MAX_FPS)


def scaled(frame: PILImage.Image) -> PILImage.Image:
    """The frame itself, made no larger than frames are kept."""
    frame.thumbnail((MAX_FRAME_SIDE, MAX_FRAME_SIDE))
    return frame


def of_one_size(frames: Sequence[PILImage.Image]) -> tuple[PILImage.Image, ...]:
    """The frames at the size of the first one: a stream may change its size on the way."""
    size = frames[0].size
    return tuple(frame if frame.size == size else frame.resize(size) for frame in frames)
