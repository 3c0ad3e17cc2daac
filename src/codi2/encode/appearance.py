"""Tokens that say how a medium looks or sounds, beside the joint vector, which says what it is.

A joint vector that is drawn to words keeps little of how a thing is drawn or how loud it is: night, a blue ground or
grey are less than a hundredth of its variance over the edits of one picture set. The appearance token holds just that:
mean and spread of every cell of the picture, or of the log-mel spectrogram, as their strongest principal components. It
does not tell well whose hand drew a picture (.63 of held-out emoji); means and spreads of the trunk's first maps do
(.92). The manner token is what tells hands and edits apart in them: their linear discriminants. Of a clip it is the
motion token, how much and when each place changes, as principal components.

Letters: B batch, F frames, C H W size of the maps.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

CELL = 4  # pixels, or frames and mel bins
SPREAD = 2.0  # weight of a cell's standard deviation beside its mean
NUM_CELLS = {"image": 2 * 3 * 16 * 16, "audio": 2 * 40 * 16}
"""Numbers that `cells` gives for a picture of 64×64 and for a log-mel of 160×64."""
MANNER_TAPS = (-1, 1, 3, 5)  # of the image trunk: the stem, and the blocks after which its maps are looked at
NUM_MANNER = 2 * (32 + 24 + 40 + 80)
HARMONICS, MOTION_SIDE = 2, 8  # of a clip's length; places of a side where motion is looked at
NUM_MOTION = (2 * HARMONICS + 1) * 3 * MOTION_SIDE**2


def cells(maps: Tensor) -> Tensor:
    """Maps [B, C, H, W], about [-1, 1] → [B, 2·C·H/4·W/4], means and weighted standard deviations."""
    mean = F.avg_pool2d(maps, CELL)
    spread = (F.avg_pool2d(maps * maps, CELL) - mean * mean).clamp(min=0).sqrt()
    return torch.cat([mean.flatten(1), SPREAD * spread.flatten(1)], dim=1)


@torch.no_grad()
def towards(token: nn.Linear, maps: Tensor, wished: Tensor, share: float) -> Tensor:
    """Maps [B, C, H, W], moved by `share` of the way to those whose appearance tokens are `wished` [B, D].

    Only the means of their cells move, smoothly from one to the next: what is finer stays. The rows of `token` are
    orthogonal and of one length, so that its transpose leads back. A token of zeros is absent and moves nothing.
    """
    missing = (wished - token(cells(maps))) * wished.any(1, keepdim=True)
    means = missing @ token.weight / token.weight.square().sum(1).mean()
    grid = (maps.shape[1], maps.shape[2] // CELL, maps.shape[3] // CELL)
    means = means[:, : means.shape[1] // 2].unflatten(1, grid)  # the others are spreads
    return maps + share * F.interpolate(means, scale_factor=CELL, mode="bilinear")


def manner(maps: Tensor) -> Tensor:
    """Maps [B, C, H, W] → means and spreads of their channels [B, 2C], wherever in the picture they are."""
    spread = (maps.flatten(2).var(2) + 1e-6).sqrt()  # the root of zero has no gradient
    return torch.cat([maps.mean((2, 3)), spread], dim=1)


def motion(frames: Tensor) -> Tensor:
    """Frames [B, F, 3, H, W] in [-1, 1] → [B, numbers]: of each place its first harmonics in time, which say when it
    is bright, and how much it changes from frame to frame. A still clip has zeros.
    """
    batch, count = frames.shape[:2]
    places = F.adaptive_avg_pool2d(frames.flatten(0, 1), MOTION_SIDE).reshape(batch, count, -1)
    turn = 2 * torch.pi * torch.arange(count, device=frames.device) / count
    waves = [wave(k * turn) for k in range(1, HARMONICS + 1) for wave in (torch.cos, torch.sin)]
    parts = torch.einsum("wf,bfp->bwp", torch.stack(waves) * 2 / count, places)
    change = places.diff(dim=1).abs().mean(1, keepdim=True)
    return torch.cat([parts, change], dim=1).flatten(1)


@torch.no_grad()
def fit_discriminants(token: nn.Linear, samples: Tensor, kinds: Tensor, shrinkage: float = 0.1) -> float:
    """Makes `token` the linear discriminants (Fisher 1936) of `samples` [n, numbers] of the `kinds` [n].

    They are as many as there are kinds, less one, turned into all of the token's numbers, whose mean square is 1.

    Args:
        shrinkage: share of the mean variance in the variance within kinds, so that few samples do not seem certain.
    Returns:
        The share of the token's variance that lies between kinds.
    """
    x = samples.double()
    mean, names = x.mean(0), kinds.unique()
    means = torch.stack([x[kinds == k].mean(0) for k in names])
    counts = torch.stack([(kinds == k).sum() for k in names]).double()
    between = means[torch.searchsorted(names, kinds)]
    unit = (x - between).std(0).clamp(min=1e-6)
    within = torch.cov(((x - between) / unit).T)
    within = (1 - shrinkage) * within + shrinkage * torch.eye(len(unit), dtype=torch.float64)
    whiten = torch.linalg.inv(torch.linalg.cholesky(within)) / unit  # rows: numbers that vary alike within a kind
    spread = ((means - mean) @ whiten.T) * (counts / counts.sum()).sqrt()[:, None]
    count = min(len(names) - 1, token.out_features, x.shape[1])
    directions = torch.linalg.svd(spread, full_matrices=False).Vh[:count] @ whiten
    generator = torch.Generator().manual_seed(0)
    turn = torch.linalg.qr(torch.randn(token.out_features, count, generator=generator, dtype=torch.float64)).Q
    found = (x - mean) @ directions.T
    weight = turn @ directions * (token.out_features / found.square().sum(1).mean()).sqrt()
    token.weight.copy_(weight)
    token.bias.copy_(-weight @ mean)
    return float(((between - mean) @ directions.T).square().sum() / found.square().sum())


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
