"""Projections between the joint space and the language model (section 5.1)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from codi2.prompt.layout import MODALITIES
from codi2.tensors import full_precision


class Projection(nn.Module):
    """`Linear -> GELU -> LayerNorm -> Linear`, one per group of modalities.

    Args:
        groups: modality → name of the map that it shares with others.
        rms: root mean square of the outputs at initialisation.
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
        """[S, width_in] to float32 [S, width_out], in float32 whatever autocast is on; `modality` int64 [S], indices in
        MODALITIES.

        Every map runs on every row: to gather the rows of one map, the CPU would wait for the GPU to count them. It
        also gives every process a gradient for every map, which may be zero.
        """
        out = x.new_zeros(len(x), self.width_out, dtype=torch.float32)
        groups = self.group_of[modality][:, None]
        with full_precision(x):
            for group, mlp in enumerate(self.maps.values()):
                out = torch.where(groups == group, mlp(x.float()), out)
        return out


def _mlp(width_in: int, hidden: int, width_out: int, rms: float) -> nn.Sequential:
    last = nn.Linear(hidden, width_out)
    nn.init.normal_(last.weight, std=rms / hidden**0.5)  # its inputs come from a LayerNorm, with unit variance
    nn.init.zeros_(last.bias)
    return nn.Sequential(nn.Linear(width_in, hidden), nn.GELU(), nn.LayerNorm(hidden), last)
