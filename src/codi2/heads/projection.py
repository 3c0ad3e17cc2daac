"""Projections between the joint space and the language model (section 5.1).

S: features, P: predictions, N: items that can be copied from, T: their features, D: joint space, W: LLM width.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from codi2.config import HeadsConfig
from codi2.prompt.layout import MODALITIES

MAX_WEIGHT = 2.0  # of an item in a copied sum


class Projection(nn.Module):
    """`Linear -> GELU -> LayerNorm -> Linear`, one per group of modalities.

    `rms` is the root mean square of the outputs at the start.
    """

    group_of: Tensor  # int64 [len(MODALITIES)], index in `maps`

    def __init__(self, groups: Mapping[str, str], width_in: int, hidden: int, width_out: int, rms: float = 1.0) -> None:
        super().__init__()
        names = list(dict.fromkeys(groups[m] for m in MODALITIES if m in groups))
        self.maps = nn.ModuleDict({name: _mlp(width_in, hidden, width_out, rms) for name in names})
        group_of = [names.index(groups[m]) if m in groups else -1 for m in MODALITIES]
        self.register_buffer("group_of", torch.tensor(group_of), persistent=False)
        self.width_out = width_out

    def forward(self, x: Tensor, modality: Tensor) -> Tensor:
        """[S, width_in] to float32 [S, width_out]; `modality` int64 [S], indices in MODALITIES."""
        out = x.new_zeros(len(x), self.width_out, dtype=torch.float32)
        for group, mlp in enumerate(self.maps.values()):
            (chosen,) = (self.group_of[modality] == group).nonzero(as_tuple=True)
            if len(chosen):
                out = out.index_put((chosen,), mlp(x[chosen].float()))
        return out


def _mlp(width_in: int, hidden: int, width_out: int, rms: float) -> nn.Sequential:
    last = nn.Linear(hidden, width_out)
    nn.init.normal_(last.weight, std=rms / hidden**0.5)  # behind a LayerNorm: unit inputs
    nn.init.zeros_(last.bias)
    return nn.Sequential(nn.Linear(width_in, hidden), nn.GELU(), nn.LayerNorm(hidden), last)


@dataclass(frozen=True)
class Memory:
    """The media items that a prediction may copy from."""

    hidden: Tensor  # [N, W], the language model's state at each item's end token
    features: Tensor  # float32 [N, T, D], zero beyond an item's own features
    sample: Tensor  # int64 [N], row of the batch

    def extend(self, hidden: Tensor, features: Tensor, sample: Tensor) -> Memory:
        """With further items appended."""
        return Memory(
            torch.cat([self.hidden, hidden]), torch.cat([self.features, features]), torch.cat([self.sample, sample])
        )


class Leave(nn.Module):
    """Hidden states to features, with a copy path where the config asks for it.

    Each of `copies` heads makes one sum over the items m given earlier, sum_m w_m x_m, where x_m is the item's feature
    of the same number and w_m comes from q(h) . key(h_m) / sqrt(copy_dim). The weights lie in (-2, 2) and need not sum
    to one, so c2 + c1 - c0 (an analogy) is in reach, and they start at zero: the model learns when to copy. The sums
    are added to the prediction, and the projection sees them beside the hidden state: what an edit does to a feature is
    then a map of that feature, which need not pass through the language model.
    """

    def __init__(self, config: HeadsConfig, width: int) -> None:
        super().__init__()
        outputs = {modality: config.groups[modality] for modality in config.num_slots}
        self.copies = config.copies
        seen = width + config.copies * config.feature_dim
        self.projection = Projection(outputs, seen, config.hidden, config.feature_dim, rms=0.1)
        self.query = nn.Linear(width, config.copies * config.copy_dim) if config.copies else None
        self.key = nn.Linear(width, config.copies * config.copy_dim) if config.copies else None
        if self.query is not None:
            nn.init.zeros_(self.query.weight)
            nn.init.zeros_(self.query.bias)

    def forward(self, hidden: Tensor, modality: Tensor, number: Tensor, memory: Memory, visible: Tensor) -> Tensor:
        """Features float32 [P, D].

        `hidden` [P, W] are the states before the slots; `modality`, `number` int64 [P] name the slots; `visible` bool
        [P, N] says which items of `memory` came before each.
        """
        hidden = self._normal(hidden)
        if self.query is None or self.key is None:
            return self.projection(hidden, modality)
        query = self.query(hidden).unflatten(-1, (self.copies, -1))
        key = self.key(self._normal(memory.hidden)).unflatten(-1, (self.copies, -1))
        scores = torch.einsum("pcr,ncr->pcn", query, key) / query.shape[-1] ** 0.5
        # unbounded weights grow with the states, and a single step of them can undo a hundred
        weights = MAX_WEIGHT * torch.tanh(scores / MAX_WEIGHT) * visible[:, None]
        rows = torch.arange(len(hidden), device=hidden.device)
        sums = torch.einsum("pcn,ntd->ptcd", weights, memory.features)[rows, number]
        return self.projection(torch.cat([hidden, sums.flatten(1)], dim=-1), modality) + sums.sum(1)

    @staticmethod
    def _normal(hidden: Tensor) -> Tensor:
        """States of a language model come at any scale; here they meet features of unit size."""
        return F.layer_norm(hidden.float(), hidden.shape[-1:])


def fit_features(features: Tensor, count: int) -> Tensor:
    """[N, T, D] to [N, count, D]: zeros behind, or the last ones left out."""
    return F.pad(features, (0, 0, 0, count - features.shape[1]))
