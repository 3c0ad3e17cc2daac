"""Recall among a fixed number of candidates."""

from __future__ import annotations

import numpy as np
import torch.nn.functional as F
from torch import Tensor


def recall_at(
    k: int, queries: Tensor, gallery: Tensor, candidates: int = 100, draws: int = 20, seed: int = 0
) -> dict[str, float]:
    """The fraction of queries whose true row is among the first `k` of `candidates` by cosine.

    Row i of `gallery` [N, D] is the answer to row i of `queries` [N, D]. Each query is compared with `draws` seeded
    sets of `candidates` − 1 other rows (all others where N is smaller), so the figure does not depend on one set.

    Returns:
        `mean`, `low` and `high` (95 % bootstrap interval over queries), `n` queries, `chance` (k / candidates).
    """
    size = min(candidates, len(gallery))
    similarity = (F.normalize(queries.float(), dim=-1) @ F.normalize(gallery.float(), dim=-1).T).numpy()
    generator = np.random.default_rng(seed)
    hits = np.zeros(len(queries))
    for i, row in enumerate(similarity):
        others = np.delete(np.arange(len(row)), i)
        for _ in range(draws):
            chosen = generator.choice(others, size - 1, replace=False)
            hits[i] += (row[chosen] > row[i]).sum() < k
    hits /= draws
    return {"mean": float(hits.mean()), **bootstrap(hits, seed), "n": len(hits), "chance": k / size}


def bootstrap(values: np.ndarray, seed: int = 0, draws: int = 1000) -> dict[str, float]:
    """95 % percentile interval of the mean of `values` [n], by resampling."""
    values = np.asarray(values, dtype=np.float64)
    picks = np.random.default_rng(seed).integers(len(values), size=(draws, len(values)))
    means = values[picks].mean(1)
    return {"low": float(np.quantile(means, 0.025)), "high": float(np.quantile(means, 0.975))}
