"""Find pictures that are nearly the same in training and in a held-out split, and move one of each pair.

Examples: the mage and the man mage of one emoji set, or a sign that is alike in two sets.
"""

from __future__ import annotations

import numpy as np

from codi2.data.items import Item, Split
from codi2.data.world import ADDED_RENDERINGS

_RMS = 6.0  # of 255, over averages of 2×2 pixels: no more than a recoloured detail
_CHUNK = 512  # pictures compared at once


def give_up_twins(items: list[Item], images: np.ndarray, split: dict[str, Split]) -> dict[str, Split]:
    """`split` without twins in training and a held-out split; `images` uint8 [N, side, side, 3].

    A held-out picture that is not of an added rendering moves to training if it has a twin there. A training picture of
    an added rendering takes the split of such a picture if that is its twin. Then held-out pictures of known things in
    the added renderings (`test_rendering`, `val`) move to training if they have a twin there. Held-out families of the
    added renderings and the rendering that is held out whole never move: they would no longer be unseen.
    """
    pictures = [item for item in items if item.modality == "image"]
    first = [item for item in pictures if item.style not in ADDED_RENDERINGS]
    added = [item for item in pictures if item.style in ADDED_RENDERINGS]

    def in_training(candidates: list[Item]) -> list[Item]:
        return [item for item in candidates if split[item.id] == "train"]

    def held_out(candidates: list[Item]) -> list[Item]:
        return [item for item in candidates if split[item.id] != "train"]

    split = split | {item.id: "train" for item in twins(images, held_out(first), in_training(first))}
    split |= {item.id: split[twin.id] for item, twin in twins(images, in_training(added), held_out(first)).items()}
    movable = [item for item in added if split[item.id] in ("test_rendering", "val")]
    return split | {item.id: "train" for item in twins(images, movable, in_training(pictures))}


def twins(images: np.ndarray, items: list[Item], references: list[Item]) -> dict[Item, Item]:
    """Item → the nearest reference, for every item whose picture has a twin among the references."""
    if not items or not references:
        return {}
    twin_of: dict[Item, Item] = {}
    reference_pixels = _small(images, references)
    reference_squares = (reference_pixels**2).sum(1)
    for start in range(0, len(items), _CHUNK):
        chunk = items[start : start + _CHUNK]
        pixels = _small(images, chunk)
        # |a - b|² = |a|² + |b|² - 2ab, so that one product compares all with all
        distances = (pixels**2).sum(1)[:, None] + reference_squares - 2 * pixels @ reference_pixels.T
        nearest = distances.argmin(1)
        for item, index, distance in zip(chunk, nearest, distances.min(1), strict=True):
            if distance / pixels.shape[1] < _RMS**2:
                twin_of[item] = references[int(index)]
    return twin_of


def _small(images: np.ndarray, items: list[Item]) -> np.ndarray:
    """Averages of 2×2 pixels of the items' pictures, float32 [n, numbers]."""
    chunks = []
    for start in range(0, len(items), _CHUNK):
        pixels = images[[item.row for item in items[start : start + _CHUNK]]].astype(np.float32)
        n, height, width, channels = pixels.shape
        chunks.append(pixels.reshape(n, height // 2, 2, width // 2, 2, channels).mean((2, 4)).reshape(n, -1))
    return np.concatenate(chunks)
