"""Clips drawn from a single picture: a thing on white that moves by a rule with continuous values.

    frames = draw(picture, np.random.default_rng(0))    # uint8 [FRAMES, 64, 64, 3]

A motion begins at a random point of its course, so that the first frame does not determine the next ones.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from PIL import Image

from codi2.data.prepare import FPS, FRAMES, RATE
from codi2.data.scene import scaled

Motion = Callable[[np.random.Generator], np.ndarray]
"""Draws the poses [FRAMES, 4] of a thing: size as a share of its own, degrees clockwise, right and down as shares of
the side."""

TIME = np.linspace(0, 1, FRAMES)
SIZE, LEAP = 0.65, 18  # size of a hopping thing; height of its leap in pixels at the loudest
HIT_SECONDS = 0.3  # of a sound, once: shorter than a frame lasts

SPEEDS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "backwards": lambda frames: frames[::-1],
    "slow": lambda frames: frames[np.arange(len(frames)) // 2],
    "fast": lambda frames: frames[np.arange(len(frames)) * 2 % len(frames)],
}
"""Name → function of frames [F, H, W, 3] that returns as many, in another order."""


def draw(pixels: np.ndarray, rng: np.random.Generator, name: str = "") -> np.ndarray:
    """A picture uint8 [64, 64, 3] in motion, frames uint8 [FRAMES, 64, 64, 3].

    `name` is one of `WORDS`; empty: one is drawn.
    """
    names = (*COURSES, "hop")
    name = name or names[int(rng.integers(len(names)))]
    if name == "hop":
        return hopping(pixels, onsets(rng))
    return np.stack([posed(pixels, *pose) for pose in COURSES[name](rng)])


def timed(pixels: np.ndarray, clip: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """A picture and a sound int16 [N] → frames in which the thing hops at each onset, and the sound int16 [N]."""
    sound = struck(clip, onsets(rng))
    return hopping(pixels, loudness(sound)), sound


def motion(frames: np.ndarray) -> np.ndarray:
    """Mean absolute difference [F - 1] of adjacent frames [F, H, W, 3], in grey levels of 255."""
    differences: np.ndarray = np.abs(np.diff(frames.astype(np.float32), axis=0)).mean((1, 2, 3))
    return differences


def synchrony(frames: np.ndarray, samples: np.ndarray) -> float:
    """Pearson's correlation of a clip's motion and a sound's loudness over adjacent frames; 0: one never changes.

    Args:
        frames: [FRAMES, H, W, 3].
        samples: [N].
    """
    levels = loudness(samples)
    differences, mean_levels = motion(frames), (levels[1:] + levels[:-1]) / 2
    if differences.std() < 1e-6 or mean_levels.std() < 1e-6:
        return 0.0
    return float(np.corrcoef(differences, mean_levels)[0, 1])


def posed(pixels: np.ndarray, size: float, degrees: float, right: float, down: float) -> np.ndarray:
    """A picture in one pose; uncovered pixels are white."""
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
    offsets = rng.uniform(0.04, 0.15) * _wave(rng)
    return _poses(rng.uniform(0.6, 0.9), **{str(rng.choice(["right", "down"])): offsets})


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

WORDS: dict[str, str] = {
    "slide": "that slides in a straight line",
    "grow": "that comes nearer or moves away",
    "turn": "that turns around and around",
    "swing": "that swings to and fro",
    "shake": "that shakes",
    "pulse": "that gets larger and smaller",
    "fall": "that falls",
    "hop": "that hops",
}
"""Motion → the words for it in a caption."""


def onsets(draw: np.random.Generator) -> np.ndarray:
    """The loudness [FRAMES] of a sound that begins at a frame, 0 … 1; one to three are above 0, two or more frames
    apart."""
    hits = np.zeros(FRAMES)
    count = 1 + int(draw.integers(3))
    hits[2 * draw.choice(FRAMES // 2, count, replace=False) + int(draw.integers(2))] = draw.uniform(0.6, 1, count)
    return hits


def struck(clip: np.ndarray, hits: np.ndarray) -> np.ndarray:
    """The loudest moment of a sound int16 [N], repeated at the start of each frame with a level of `hits` [FRAMES],
    0 … 1."""
    frame, length = round(RATE / FPS), round(RATE * HIT_SECONDS)
    energy = np.concatenate([[0.0], np.cumsum(clip.astype(np.float64) ** 2)])
    at = int((energy[length:] - energy[:-length]).argmax())
    moment = clip[at : at + length].astype(np.float64)
    moment *= np.minimum(1, np.minimum(np.arange(length) / 80, np.arange(length)[::-1] / 1600))
    moment *= 0.7 * 32767 / max(1.0, float(np.abs(moment).max()))
    out = np.zeros(len(clip))
    for i in np.flatnonzero(hits):
        out[i * frame : i * frame + length] += hits[i] * moment
    return out.astype(np.int16)


def loudness(clip: np.ndarray) -> np.ndarray:
    """The envelope of a sound [N] over a clip's frames [FRAMES]: root mean squares, the loudest 1."""
    pieces = np.array_split(clip.astype(np.float64), FRAMES)
    levels = np.array([np.sqrt(np.mean(piece**2)) for piece in pieces])
    relative: np.ndarray = levels / max(float(levels.max()), 1e-9)
    return relative


def hopping(pixels: np.ndarray, height: np.ndarray) -> np.ndarray:
    """A picture uint8 [64, 64, 3] → frames [FRAMES, 64, 64, 3]: smaller, and raised by `height` [FRAMES], 0 … 1."""
    low = scaled(SIZE, dy=LEAP / 2 / len(pixels))(pixels)
    frames = np.full((FRAMES, *low.shape), 255, np.uint8)
    for frame, up in zip(frames, np.round(LEAP * height).astype(int), strict=True):
        frame[: len(low) - up] = low[up:]
    return frames
