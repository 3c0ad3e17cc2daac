"""Operators of the appearance token, fitted in closed form: ridge regression from before a change to after it.

Before and after are made of training items by the changes of the tables (`data.tables.steps`); nothing is trained.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn

from codi2.config import HeadsConfig
from codi2.data import cache
from codi2.data.tables.steps import Change, changes
from codi2.encode.appearance import cells
from codi2.encode.tiny import Heads
from codi2.media.mel import MelSpectrogram

ITEMS = 1500  # training items that each is fitted to
RIDGE = 3.0  # added to the sums of squares of about unit numbers
BATCH = 256


def known_changes(heads: HeadsConfig) -> dict[str, tuple[str, dict[str, Change]]]:
    """Name of a group → the modality that its operators are fitted to, and the changes."""
    return {heads.groups[modality]: (modality, changes(modality)) for modality in ("image", "audio")}


@torch.no_grad()
def fit_operators(maps: nn.ParameterDict, heads: Mapping[str, tuple[str, dict[str, Change]]], encoder: Heads) -> None:
    """Fills `maps` [E, D + 1, D] of each group with what the changes do. Raises DataError: the corpus was not built."""
    corpus = cache.corpus()
    for name, (modality, known) in heads.items():
        token, draw = _Token(encoder, modality), np.random.default_rng(0)
        items = corpus.select(modality, "train")
        media = [corpus.media(items[int(i)]) for i in draw.permutation(len(items))[:ITEMS]]
        for i, change in enumerate(known.values()):
            pairs = [change(medium, draw) for medium in media]
            before, after = (token([pair[k] for pair in pairs]) for k in (0, 1))
            maps[name][i] = ridge(before, after)


def ridge(before: Tensor, after: Tensor) -> Tensor:
    """Tokens [n, D] → what is added to one with a one behind it, [D + 1, D]."""
    x = nn.functional.pad(before, (0, 1), value=1.0).double()
    squares = x.T @ x + RIDGE * torch.eye(x.shape[1], dtype=torch.float64)
    found: Tensor = torch.linalg.solve(squares, x.T @ (after - before).double())
    return found.float()


class _Token:
    """Media as the corpus keeps them → appearance tokens [n, D]."""

    def __init__(self, encoder: Heads, modality: str) -> None:
        self.read, self.modality, self.mel = encoder[modality].appearance, modality, MelSpectrogram()

    def __call__(self, media: list[np.ndarray]) -> Tensor:
        assert self.read is not None
        found = []
        for some in torch.from_numpy(np.stack(media)).split(BATCH):
            seen = self.modality == "image"
            maps = some.permute(0, 3, 1, 2).float() / 127.5 - 1 if seen else self.mel(some.float() / 32768)
            found.append(self.read(cells(maps)))
        return torch.cat(found)
