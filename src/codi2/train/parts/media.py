"""Media of the training split: original, edited or mixed; functions of (seed, step).

Pictures are those of the corpus and frames of its clips. The edits are training draws (`codi2.data.edits`), so no
held-out item, value or kind is used.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from torch import Tensor

from codi2.data import cache, edits
from codi2.data.mixes import overlay
from codi2.data.scene import is_cut_out, placed
from codi2.modalities import Modality
from codi2.train.parts.draw import epoch_order, numpy_at
from codi2.train.shares import WHOLE, Share

FRAMES = 0.1  # share of the pictures that are frames of clips
PLACED = 0.1  # share of the pictures that are composed of an object and a scene
MIXED = 0.25  # share of the sounds that are two sounds at once
EDITED = 0.6  # share of the media that are edited, a third of those twice


class TrainingMedia:
    """Draws batches of one modality.

    Args:
        seed: of the order and of the edits.
    """

    def __init__(self, modality: Modality, seed: int) -> None:
        self.modality, self.seed = modality, seed
        self.media, self.rows = cache.view(modality), cache.rows(modality, "train")
        pictures = modality == "image"
        self.clips = cache.rows("video", "train") if pictures else np.array([], dtype=np.int64)
        backgrounds = [row for row in self.rows if pictures and cache.items(modality)[row].background]
        self.scenes = np.array(backgrounds, dtype=np.int64)

    def batch(self, step: int, size: int, share: Share = WHOLE) -> np.ndarray:
        """uint8 [n, 64, 64, 3] or int16 [n, 40960]: this share of the `size` media of a step."""
        order = self.rows[epoch_order(self.seed, step, size, len(self.rows))]
        places = share.rows(size)
        return np.stack([self._medium(numpy_at(self.seed, step * size + place), int(order[place])) for place in places])

    def _medium(self, draw: np.random.Generator, row: int) -> np.ndarray:
        medium = self._picture(draw, row) if self.modality == "image" else self._sound(draw, row)
        for _ in range(int(draw.random() < EDITED) * (1 + int(draw.random() < 1 / 3))):
            medium = edits.draw(self.modality, draw)(medium)
        return medium

    def _picture(self, draw: np.random.Generator, row: int) -> np.ndarray:
        chance, picture = draw.random(), np.asarray(self.media[row])
        if chance < FRAMES and len(self.clips):
            clip = cache.corpus().clips[draw.choice(self.clips)]
            picture = np.asarray(clip[draw.integers(len(clip))])
        elif chance < FRAMES + PLACED and len(self.scenes) and is_cut_out(picture):
            place = (float(draw.uniform(0.3, 0.7)), float(draw.uniform(0.75, 1.0)), float(draw.uniform(0.35, 0.8)))
            picture = placed(np.asarray(self.media[draw.choice(self.scenes)]), [picture], [place])
        return picture[:, ::-1].copy() if draw.random() < 0.5 else picture

    def _sound(self, draw: np.random.Generator, row: int) -> np.ndarray:
        clip = np.asarray(self.media[row])
        if draw.random() < MIXED:
            clip = overlay(clip, self.media[draw.choice(self.rows)], float(draw.uniform(-6, 6)))
        return clip


def held_out_media(modality: Modality, most: int = 256) -> Iterator[Tensor]:
    """Pictures or sounds of the `val` split as tensors [B, C, H, W]."""
    rows = cache.rows(modality, "val")[:most]
    for batch in np.array_split(rows, max(1, len(rows) // 32)):
        yield cache.codec_inputs(modality, cache.view(modality)[batch])
