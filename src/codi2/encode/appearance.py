"""The appearance token: a medium as it looks, beside the joint vector, which says what it is.

A joint vector that is drawn to words keeps little of how a thing is drawn or how loud it is: night, a blue ground or
grey are less than a hundredth of its variance over the edits of one picture set. The token holds just that: mean and
spread of every cell of the picture, or of the log-mel spectrogram, as their strongest principal components.

Letters: B batch, C H W size of the maps.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

CELL = 4  # pixels, or frames and mel bins
SPREAD = 2.0  # weight of a cell's standard deviation beside its mean
NUM_CELLS = {"image": 2 * 3 * 16 * 16, "audio": 2 * 40 * 16}
"""Numbers that `cells` gives for a picture of 64×64 and for a log-mel of 160×64."""


def cells(maps: Tensor) -> Tensor:
    """Maps [B, C, H, W], about [-1, 1] → [B, 2·C·H/4·W/4], means and weighted standard deviations."""
    mean = F.avg_pool2d(maps, CELL)
    spread = (F.avg_pool2d(maps * maps, CELL) - mean * mean).clamp(min=0).sqrt()
    return torch.cat([mean.flatten(1), SPREAD * spread.flatten(1)], dim=1)


@torch.no_grad()
def fit_components(token: nn.Linear, samples: Tensor) -> float:
    """Makes `token` the strongest principal components of `samples` [n, numbers]; returns their share of the variance.

    One scale for all of them makes the mean square 1, so that what varies most stays what counts most.
    """
    mean = samples.mean(0)
    # double precision: in single, the many equal eigenvalues of few samples can keep the solver from converging
    centred = (samples - mean).double()
    values, vectors = torch.linalg.eigh(centred.T @ centred / len(samples))
    count = token.out_features
    scale = (values[-count:].sum() / count).sqrt()
    token.weight.copy_(vectors[:, -count:].flip(1).T / scale)
    token.bias.copy_(-token.weight @ mean)
    return float(values[-count:].sum() / values.sum())
