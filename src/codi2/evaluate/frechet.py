"""The Fréchet distance of a set of answers to real media, in few dimensions of a judge's embeddings.

A judge has more dimensions (1,280) than there are answers, so the distance of the full embeddings is mostly the bias of
their covariances: answers that are all alike have a smaller one than real media. The embeddings are projected onto
their first principal components over training media, in which a hundred answers give a covariance.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from codi2.evaluate.context import EvalContext
from codi2.evaluate.figure import Figure, known
from codi2.metrics.audio import fd

COMPONENTS, FITTED = 32, 512  # training media to which the components are fitted
DRAWS = 200  # of the bootstrap


def projected(context: EvalContext, modality: str, embeddings: NDArray) -> NDArray:
    """The judge's embeddings [n, C] of pictures or sounds in principal components [n, COMPONENTS]."""

    def fit() -> tuple[NDArray, NDArray]:
        items = context.shuffled(context.corpus.select(modality=modality, split="train"))[:FITTED]
        rows = context.embeddings(modality, [context.part(item) for item in items])
        centre = rows.mean(0)
        _, _, axes = np.linalg.svd(rows - centre, full_matrices=False)
        return centre, axes[:COMPONENTS]

    centre, axes = context.cached(("components", modality), fit)
    values: NDArray = (embeddings - centre) @ axes.T
    return values


def distance(name: str, answers: NDArray, reference: NDArray, groups: Sequence[int], seed: int = 0) -> Figure:
    """The distance of answers [n, COMPONENTS] to real media [m, COMPONENTS]; n counts the groups.

    Args:
        groups: [n], what is drawn again for the interval: answers of one group, such as the seeds of a caption, are
            not independent.
    """
    rows = [np.flatnonzero(np.asarray(groups) == group) for group in dict.fromkeys(groups)]
    figure = known(name, fd(answers, reference), len(rows))
    if len(rows) < 4:
        return figure
    draw = np.random.default_rng(seed)
    picks = (np.concatenate([rows[k] for k in draw.integers(len(rows), size=len(rows))]) for _ in range(DRAWS))
    values = [fd(answers[chosen], reference) for chosen in picks]
    return replace(figure, low=float(np.quantile(values, 0.025)), high=float(np.quantile(values, 0.975)))
