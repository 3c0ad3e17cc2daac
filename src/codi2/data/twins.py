"""Pictures that are nearly the same on both sides of the split, and which of them change sides.

The mage and the man mage of one emoji set, for example, or a sign that is alike in two sets.
"""

from __future__ import annotations

import numpy as np

from codi2.data.items import Item, Split
from codi2.data.world import ADDED_RENDERINGS

_RMS = 6.0  # of 255, over averages of 2×2 pixels: no more than a recoloured detail
_CHUNK = 512  # pictures compared at once


def give_up_twins(items: list[Item], images: np.ndarray, split: dict[str, Split]) -> dict[str, Split]:
    """`split` without twins across it; `images` uint8 [N, side, side, 3].

    Of the first renderings and all other pictures a held-out one that training shows too moves to training. An added
    rendering never moves one of those: its training picture takes the side of the held-out twin. Then its own known
    things that are held out (`test_rendering`, `val`) move to training if training shows them too. Held-out families
    and the rendering that is held out whole never move: they would no longer be unseen.
    """
    pictures = [item for item in items if item.modality == "image"]
    first = [item for item in pictures if item.style not in ADDED_RENDERINGS]
    added = [item for item in pictures if item.style in ADDED_RENDERINGS]

    def on(side: bool, some: list[Item]) -> list[Item]:
        return [item for item in some if (split[item.id] == "train") == side]

    split = split | {item.id: "train" for item in twins(images, on(False, first), on(True, first))}
    split |= {item.id: split[other.id] for item, other in twins(images, on(True, added), on(False, first)).items()}
    movable = [item for item in added if split[item.id] in ("test_rendering", "val")]
    return split | {item.id: "train" for item in twins(images, movable, on(True, pictures))}


def twins(images: np.ndarray, ours: list[Item], theirs: list[Item]) -> dict[Item, Item]:
    """Those of our pictures that have a twin among theirs → the nearest one."""
    if not ours or not theirs:
        return {}
    found: dict[Item, Item] = {}
    others = _small(images, theirs)
    lengths = (others**2).sum(1)
    for start in range(0, len(ours), _CHUNK):
        some = ours[start : start + _CHUNK]
        mine = _small(images, some)
        # |a - b|² = |a|² + |b|² - 2ab, so that one product compares all with all
        squares = (mine**2).sum(1)[:, None] + lengths - 2 * mine @ others.T
        nearest = squares.argmin(1)
        for item, other, square in zip(some, nearest, squares.min(1), strict=True):
            if square / mine.shape[1] < _RMS**2:
                found[item] = theirs[int(other)]
    return found


def _small(images: np.ndarray, items: list[Item]) -> np.ndarray:
    """Averages of 2×2 pixels of the items' pictures, float32 [n, numbers]."""
    chunks = []
    for start in range(0, len(items), _CHUNK):
        pixels = images[[item.row for item in items[start : start + _CHUNK]]].astype(np.float32)
        n, height, width, channels = pixels.shape
        chunks.append(pixels.reshape(n, height // 2, 2, width // 2, 2, channels).mean((2, 4)).reshape(n, -1))
    return np.concatenate(chunks)
