"""The Fréchet distance in principal components orders sets as one expects, with fewer answers than dimensions."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np

from codi2.evaluate.frechet import COMPONENTS, distance, projected
from codi2.metrics.audio import fd

WIDTH, NUMBER = 400, 100


def media(seed: int, count: int = NUMBER) -> np.ndarray:
    """Embeddings with a decaying spectrum, as those of a judge."""
    draw = np.random.default_rng(seed)
    return 3 + draw.normal(size=(count, WIDTH)) * (1 + np.arange(WIDTH)) ** -0.5


def context() -> Any:
    return SimpleNamespace(
        shuffled=list,
        corpus=SimpleNamespace(select=lambda modality, split: range(300)),
        part=lambda item: item,
        embeddings=lambda modality, parts: media(9, len(parts)),
        cached=lambda key, compute: compute(),
    )


def test_collapsed_answers_are_farther_than_real_media_where_the_full_embeddings_say_the_opposite() -> None:
    real, other = media(0), media(1)
    shrunk = other.mean(0) + 0.7 * (other - other.mean(0))
    assert fd(shrunk, real) < fd(other, real)  # the bias of 100 rows in 400 dimensions
    few = {
        name: projected(context(), "image", rows)
        for name, rows in (("real", real), ("other", other), ("shrunk", shrunk))
    }
    assert few["real"].shape == (NUMBER, COMPONENTS)
    assert fd(few["shrunk"], few["real"]) > fd(few["other"], few["real"])


def test_the_interval_draws_groups() -> None:
    answers, reference = media(0, 40)[:, :8], media(1)[:, :8]
    figure = distance("FD", answers, reference, np.repeat(np.arange(10), 4).tolist())
    assert figure.n == 10 and figure.value == fd(answers, reference)
    alone = distance("FD", answers, reference, range(40))
    assert alone.n == 40 and 0 < alone.high - alone.low < figure.high - figure.low
    assert distance("FD", answers, reference, [0] * 40).low == figure.value  # one group has no interval
