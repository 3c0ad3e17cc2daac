"""Clips of the training split: those of the corpus, and pictures with an added motion.

As in `media` and `pairs`, everything is a function of (seed, number), and no held-out item, value or kind is used. All
frames of a clip have the same edit.

Letters: F frames.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from PIL import Image as PILImage

from codi2.data import cache, edits, motions
from codi2.data.scene import is_cut_out
from codi2.prompt.parts import Image, Part
from codi2.train.parts.draw import numpy_at
from codi2.train.parts.pairs import Pair
from codi2.train.shares import WHOLE, Share

MOVED = 0.5  # share of the clips that are a picture with a random motion
RETIMED = 0.25  # share of the clips that are reversed, slower or faster
EDITED = 0.4  # share of the clips that are edited
SOURCES = {"": 0.05, "first frame": 0.65, "clip": 0.3}
"""Kinds of sources of a pair, and their shares. In generation a clip without a source has a drawn first frame."""
HELD_OUT_MOVED = 20  # pictures of `val` with a random motion, in addition to its clips


class TrainingClips:
    """Draws clips uint8 [F, 64, 64, 3].

    Args:
        seed: of all random choices.
        split: of the corpus.
    """

    def __init__(self, seed: int, split: str = "train") -> None:
        self.seed = seed
        self.clips, self.pictures = cache.rows("video", split), cache.rows("image", split)

    @property
    def settings(self) -> dict[str, Any]:
        """The settings on which the pairs depend, for the key of a bank."""
        return {"moved": MOVED, "retimed": RETIMED, "edited": EDITED, "sources": SOURCES}

    def batch(self, step: int, size: int, share: Share = WHOLE) -> np.ndarray:
        """uint8 [n, F, 64, 64, 3]: this share of the `size` clips of a step."""
        places = share.rows(size)
        return np.stack([self.clip(numpy_at(self.seed, step * size + place)) for place in places])

    def clip(self, draw: np.random.Generator) -> np.ndarray:
        frames = self._plain(draw)
        if draw.random() < 0.5:
            frames = frames[:, :, ::-1]
        return edited(frames, draw) if draw.random() < EDITED else frames.copy()

    def pair(self, number: int) -> Pair:
        """Source and target; a source of one frame [1, 64, 64, 3] is the first frame of the clip."""
        draw = np.random.default_rng((self.seed, number))
        kind = str(draw.choice(list(SOURCES), p=list(SOURCES.values())))
        target = self.clip(draw)
        if kind == "clip":
            return target, retimed(target, draw) if draw.random() < RETIMED else edited(target, draw)
        return (target[:1] if kind else None), target

    def _plain(self, draw: np.random.Generator) -> np.ndarray:
        if draw.random() < MOVED:
            return moved(self.pictures, draw)
        frames = np.asarray(cache.corpus().clips[draw.choice(self.clips)])
        return retimed(frames, draw) if draw.random() < RETIMED else frames


def moved(rows: np.ndarray, draw: np.random.Generator) -> np.ndarray:
    """One of the pictures with a random motion; a cut-out, if one is found in a few tries."""
    for _ in range(8):
        picture = np.asarray(cache.view("image")[draw.choice(rows)])
        if is_cut_out(picture):
            break
    return motions.draw(picture, draw)


def edited(frames: np.ndarray, draw: np.random.Generator) -> np.ndarray:
    """The same training edit of every frame."""
    edit = edits.draw("image", draw)
    return np.stack([edit(frame) for frame in frames])


def retimed(frames: np.ndarray, draw: np.random.Generator) -> np.ndarray:
    """The frames reversed, slower or faster."""
    speeds = list(motions.SPEEDS.values())
    return speeds[int(draw.integers(len(speeds)))](frames).copy()


def held_out_clips() -> list[np.ndarray]:
    """The clips of the `val` split, and some of its pictures with a motion."""
    pictures = cache.rows("image", "val")
    with_motion = [moved(pictures, np.random.default_rng((2, n))) for n in range(HELD_OUT_MOVED)]
    return [np.asarray(cache.corpus().clips[row]) for row in cache.rows("video", "val")] + with_motion


def first_frames(clips: Sequence[np.ndarray]) -> list[Part]:
    """The first frame of each clip as a picture."""
    return [Image(PILImage.fromarray(clip[0])) for clip in clips]


def held_out_pairs() -> Callable[[int], Pair]:
    """Three kinds of pairs in turn: without a source, from the first frame, and a training edit of a clip."""
    clips = held_out_clips()

    def pair(number: int) -> Pair:
        target, draw = clips[number % len(clips)], np.random.default_rng((1, number))
        return [(None, target), (target[:1], target), (target, edited(target, draw))][number % 3]

    return pair


def batches(clips: list[np.ndarray], size: int = 16) -> Iterator[np.ndarray]:
    for start in range(0, len(clips), size):
        yield np.stack(clips[start : start + size])
