"""Randomness of a run as functions of (seed, step): what makes a resume continue bit for bit.

What is drawn belongs to the whole batch or to one row of it, so two processes that take half of it each see what one
would see.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def numpy_at(seed: int, step: int) -> np.random.Generator:
    """A NumPy generator that belongs to this step alone."""
    return np.random.default_rng((seed, step))


def torch_at(seed: int, step: int) -> torch.Generator:
    """A torch generator that belongs to this step alone."""
    state = np.random.SeedSequence((seed, step, 1)).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(state >> 1))


def epoch_order(seed: int, step: int, batch_size: int, count: int) -> np.ndarray:
    """Indices [batch_size] of this step: every sample once per epoch, each epoch in a new order."""
    places = np.arange(step * batch_size, (step + 1) * batch_size)
    epochs = places // count
    orders = {epoch: np.random.default_rng((seed, 7, int(epoch))).permutation(count) for epoch in np.unique(epochs)}
    return np.array([orders[epoch][place % count] for epoch, place in zip(epochs, places, strict=True)])


def noised_features(features: Tensor, amount: Tensor, noise: Tensor) -> Tensor:
    """Features [n, K, D] mixed with as strong noise, `noise` [n, K, D] being standard normal.

    `amount` [n, 1, 1] is 0 (none) to 1 (nothing else). What is absent, all zeros, stays so; norms stay about the same.
    """
    scale = features.square().mean(-1, keepdim=True).sqrt()
    return (1 - amount**2).sqrt() * features + amount * scale * noise


WITHHELD = {"": 0.85, "feature": 0.05, "source": 0.05, "both": 0.05}
"""What of its condition a sample is trained without, and how often: guidance towards feature and source needs all four
(InstructPix2Pix, section 3.2.1)."""


def withheld(draw: np.random.Generator, count: int) -> tuple[Tensor, Tensor]:
    """Which samples are trained without their feature, and which without their source: bool [count] each."""
    kinds = draw.choice(list(WITHHELD), count, p=list(WITHHELD.values()))
    feature, source = (torch.from_numpy(np.isin(kinds, [one, "both"])) for one in ("feature", "source"))
    return feature, source
