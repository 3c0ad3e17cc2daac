"""Clips drawn from a single picture: a thing on white that moves by a rule with continuous values.

    frames = draw(picture, np.random.default_rng(0))    # uint8 [FRAMES, 64, 64, 3]

A motion begins anywhere in its course, so that the first frame does not give away what follows.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from PIL import Image

from codi2.data.prepare import FRAMES
from codi2.data.tables.clips import hopping, loudness, onsets, struck

Motion = Callable[[np.random.Generator], np.ndarray]
"""Draws the poses [FRAMES, 4] of a thing: size as a share of its own, degrees clockwise, right and down as shares of
the side."""

TIME = np.linspace(0, 1, FRAMES)


def draw(pixels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A picture uint8 [64, 64, 3] in one of the motions, frames uint8 [FRAMES, 64, 64, 3]."""
    names = (*COURSES, "hop")
    name = names[int(rng.integers(len(names)))]
    if name == "hop":
        return hopping(pixels, onsets(rng))
    return np.stack([posed(pixels, *pose) for pose in COURSES[name](rng)])


def timed(pixels: np.ndarray, clip: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """A picture and a sound int16 [N] → frames in which the thing hops at each onset, and the sound int16 [N]."""
    sound = struck(clip, onsets(rng))
    return hopping(pixels, loudness(sound)), sound


def motion(frames: np.ndarray) -> np.ndarray:
    """Mean absolute difference of neighbouring frames [F, H, W, 3], in grey levels of 255 [F - 1]."""
    moved: np.ndarray = np.abs(np.diff(frames.astype(np.float32), axis=0)).mean((1, 2, 3))
    return moved


def in_step(frames: np.ndarray, samples: np.ndarray) -> float:
    """Pearson's correlation of a clip's motion and a sound's loudness over neighbouring frames; 0: one never changes.

    Args:
        frames: [FRAMES, H, W, 3].
        samples: [N].
    """
    loud = loudness(samples)
    moved, heard = motion(frames), (loud[1:] + loud[:-1]) / 2
    if moved.std() < 1e-6 or heard.std() < 1e-6:
        return 0.0
    return float(np.corrcoef(moved, heard)[0, 1])


def posed(pixels: np.ndarray, size: float, degrees: float, right: float, down: float) -> np.ndarray:
    """A picture in one pose; what is uncovered is white."""
    side = len(pixels)
    angle = np.deg2rad(degrees)
    # from places of the result to places of the picture, around the middle
    a, b = np.cos(angle) / size, np.sin(angle) / size
    x, y = side / 2 * (1 + 2 * right), side / 2 * (1 + 2 * down)
    matrix = (a, b, side / 2 - a * x - b * y, -b, a, side / 2 + b * x - a * y)
    image = Image.fromarray(pixels)
    return np.asarray(
        image.transform(image.size, Image.Transform.AFFINE, matrix, Image.Resampling.BICUBIC, fillcolor="white")
    )


def _poses(size: object = 1.0, degrees: object = 0.0, right: object = 0.0, down: object = 0.0) -> np.ndarray:
    return np.stack([np.broadcast_to(np.asarray(value, float), FRAMES) for value in (size, degrees, right, down)], 1)


def _sign(rng: np.random.Generator) -> int:
    return 1 if rng.random() < 0.5 else -1


def _wave(rng: np.random.Generator) -> np.ndarray:
    """-1 … 1, a half to two and a half times there and back."""
    return np.sin(2 * np.pi * (rng.uniform(0.5, 2.5) * TIME + rng.random()))


def _slide(rng: np.random.Generator) -> np.ndarray:
    """In a straight line."""
    reach, angle = rng.uniform(0.15, 0.5), rng.uniform(0, 2 * np.pi)
    along = (TIME - rng.uniform(0, 1)) * reach
    return _poses(rng.uniform(0.5, 0.8), right=along * np.cos(angle), down=along * np.sin(angle))


def _grow(rng: np.random.Generator) -> np.ndarray:
    """Nearer or away."""
    first, last = rng.uniform(0.35, 0.6), rng.uniform(0.75, 1.2)
    sizes = np.geomspace(first, last, FRAMES)
    return _poses(sizes if rng.random() < 0.5 else sizes[::-1])


def _turn(rng: np.random.Generator) -> np.ndarray:
    """All the way in one direction."""
    return _poses(rng.uniform(0.6, 0.8), _sign(rng) * rng.uniform(90, 400) * TIME + rng.uniform(-30, 30))


def _swing(rng: np.random.Generator) -> np.ndarray:
    """To and fro, as a bell."""
    return _poses(rng.uniform(0.65, 0.9), rng.uniform(10, 35) * _wave(rng))


def _shake(rng: np.random.Generator) -> np.ndarray:
    """From side to side, or up and down."""
    way = rng.uniform(0.04, 0.15) * _wave(rng)
    return _poses(rng.uniform(0.6, 0.9), **{str(rng.choice(["right", "down"])): way})


def _pulse(rng: np.random.Generator) -> np.ndarray:
    """Larger and smaller, as a heart."""
    return _poses(rng.uniform(0.6, 0.85) * (1 + rng.uniform(0.08, 0.25) * _wave(rng)))


def _fall(rng: np.random.Generator) -> np.ndarray:
    """Down, ever faster, or thrown up and down again."""
    rise = rng.uniform(0, 1.2)
    return _poses(
        rng.uniform(0.4, 0.65),
        rng.uniform(-60, 60) * TIME,
        down=0.2 - rise * TIME + rng.uniform(0.8, 1.3) * TIME**2 - 0.4,
    )


COURSES: dict[str, Motion] = {
    "slide": _slide,
    "grow": _grow,
    "turn": _turn,
    "swing": _swing,
    "shake": _shake,
    "pulse": _pulse,
    "fall": _fall,
}
