"""Is what a model draws a training item? The nearest one to a picture, and how near held-out pictures are to theirs.

The nearest is sought in two steps: mean colours of 8 × 8 cells choose a few among all training pictures, and
EfficientNet-Lite2 the nearest among these.

Letters: n pictures, N training pictures, C channels of the judge.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from codi2.data import cache
from codi2.data.items import Item
from codi2.errors import DataError
from codi2.evaluate.context import EvalContext
from codi2.evaluate.figure import Figure, known, mean
from codi2.evaluate.judge import PICTURE_SIZE, similarity
from codi2.media.prepare import fit_square
from codi2.prompt.parts import Image

CELLS, CHOSEN = 8, 16  # along a side; training pictures that the judge looks at for each picture


@dataclass(frozen=True)
class Nearest:
    """The nearest training picture, and its EffNet-sim."""

    picture: Image
    likeness: float


def nearest_training(context: EvalContext, pictures: Sequence[Image]) -> list[Nearest]:
    """Of each picture. Raises DataError: the corpus holds no training pictures."""
    if not pictures:
        return []
    items, cells = context.cached("training cells", _training)
    known: dict[int, Image] = context.cached("training pictures", dict)
    results = []
    for picture, embedding in zip(pictures, context.picture_embeddings(pictures), strict=True):
        distances = np.square(cells - _cells(np.asarray(fit_square(picture.pixels, PICTURE_SIZE))[None])).sum(1)
        candidates = [items[int(i)] for i in np.argsort(distances)[:CHOSEN]]
        for item in candidates:
            if item.row not in known:
                known[item.row] = context.part(item)  # type: ignore[assignment]
        images = [known[item.row] for item in candidates]
        likeness = similarity(embedding[None], context.picture_embeddings(images), context.centre)
        results.append(Nearest(images[int(likeness.argmax())], float(likeness.max())))
    return results


def copied(context: EvalContext, title: str, pictures: Sequence[Image], real: Sequence[Image]) -> Figure:
    """How often a picture is nearer to a training picture than a held-out picture is: .5 for held-out pictures, 1 for
    training pictures.

    Args:
        real: held-out pictures, each of which every picture is compared with.
    """
    likeness, real_likeness = (
        np.array([nearest.likeness for nearest in nearest_training(context, images)]) for images in (pictures, real)
    )
    share = (likeness[:, None] > real_likeness).mean(1) + (likeness[:, None] == real_likeness).mean(1) / 2
    figure = mean(f"{title}: nearer to a training picture than held-out pictures", share, seed=context.seed)
    return figure.beside(**{"held-out pictures": known("held-out pictures", 0.5, len(real))})


def _training() -> tuple[list[Item], np.ndarray]:
    """All training pictures, of every rendering, and their mean colours [N, CELLS² · 3]."""
    corpus = cache.corpus()
    items = corpus.select(modality="image", split="train")
    if not items:
        raise DataError("the corpus holds no training pictures: run `codi2 data build tiny` again")
    return items, _cells(corpus.images[[item.row for item in items]])


def _cells(pixels: np.ndarray) -> np.ndarray:
    """uint8 [n, 64, 64, 3] → float32 [n, CELLS² · 3]."""
    side = pixels.shape[1] // CELLS
    cells = pixels.reshape(len(pixels), CELLS, side, CELLS, side, 3).mean((2, 4), dtype=np.float32)
    return cells.reshape(len(pixels), -1)
