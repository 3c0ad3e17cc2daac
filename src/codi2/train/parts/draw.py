"""Random values of a run as functions of (seed, step), so that a resumed run continues bit for bit.

A value belongs to the whole batch or to one row of it, so two processes with half of the rows each have the values of
one process with all rows.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def numpy_at(seed: int, step: int) -> np.random.Generator:
    """The NumPy generator of a step."""
    return np.random.default_rng((seed, step))


def torch_at(seed: int, step: int) -> torch.Generator:
    """The torch generator of a step."""
    state = np.random.SeedSequence((seed, step, 1)).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(state >> 1))


def epoch_order(seed: int, step: int, batch_size: int, count: int) -> np.ndarray:
    """Indices [batch_size] of this step: every sample once per epoch, each epoch in a new order."""
    places = np.arange(step * batch_size, (step + 1) * batch_size)
    epochs = places // count
    orders = {epoch: np.random.default_rng((seed, 7, int(epoch))).permutation(count) for epoch in np.unique(epochs)}
    return np.array([orders[epoch][place % count] for epoch, place in zip(epochs, places, strict=True)])


def noised_features(features: Tensor, amount: Tensor, noise: Tensor) -> Tensor:
    """Features [n, K, D] mixed with noise of the same scale; norms stay about the same.

    Args:
        amount: [n, 1, 1], share of the noise, from 0 (the features) to 1 (noise alone).
        noise: [n, K, D], standard normal. Absent features, all zeros, stay zeros.
    """
    scale = features.square().mean(-1, keepdim=True).sqrt()
    return (1 - amount**2).sqrt() * features + amount * scale * noise


DROPPED = {"": 0.85, "feature": 0.05, "source": 0.05, "both": 0.05}
"""The dropped condition of a sample, and its share (InstructPix2Pix, section 3.2.1): guidance needs all four."""


def draw_dropped(draw: np.random.Generator, count: int) -> tuple[Tensor, Tensor]:
    """bool [count] each: the samples that are trained without their feature, and those without their source."""
    kinds = draw.choice(list(DROPPED), count, p=list(DROPPED.values()))
    feature, source = (torch.from_numpy(np.isin(kinds, [condition, "both"])) for condition in ("feature", "source"))
    return feature, source
