"""Projections between the joint space and the language model (section 5.1).

S: features, P: predictions, N: items that can be pointed at, T: their features, D: joint space, W: LLM width.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from codi2.config import HeadsConfig
from codi2.heads.operators import Operators
from codi2.prompt.layout import MODALITIES
from codi2.tensors import full_precision

LATEST = 8  # items from the end that a head tells apart by how late they came
POINTED = 5.0  # score of the item that a head starts at, where others have zero
MAPPED = 2  # heads whose items the linear maps read
KEPT = 0.3  # share of the features that the first two heads point at, in a prediction at the start


class Projection(nn.Module):
    """`Linear -> GELU -> LayerNorm -> Linear`, one per group of modalities.

    `rms` is the root mean square of the outputs at initialisation.
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


@dataclass(frozen=True)
class Memory:
    """The items that a prediction may point at, in reading order."""

    hidden: Tensor  # [N, W], the language model's state at each item's end token
    features: Tensor  # float32 [N, T, D], zero beyond an item's own features
    sample: Tensor  # int64 [N], row of the batch
    modality: Tensor  # int64 [N], index in MODALITIES

    def extend(self, other: Memory) -> Memory:
        """With further items appended."""
        return Memory(*(torch.cat(pair) for pair in zip(self._tensors(), other._tensors(), strict=True)))

    def first(self, count: int) -> Memory:
        """The first items alone."""
        return Memory(*(tensor[:count] for tensor in self._tensors()))

    def _tensors(self) -> tuple[Tensor, ...]:
        return self.hidden, self.features, self.sample, self.modality


class Edits(nn.Module):
    """Linear maps of what the first heads point at, and how much of each a state takes. Fresh ones add nothing."""

    def __init__(self, config: HeadsConfig, width: int, groups: int) -> None:
        super().__init__()
        num_features, dim = max(config.num_slots.values()), config.feature_dim
        self.read = min(config.copies, MAPPED)
        self.choose = nn.Linear(width, groups * config.maps)
        self.favour = nn.Parameter(torch.zeros(groups, num_features, config.maps))  # what each slot is apt to take
        self.maps = nn.Parameter(torch.zeros(groups, config.maps, dim, self.read * dim))

    def forward(self, hidden: Tensor, given: Tensor, group: Tensor, number: Tensor) -> Tensor:
        """States [P, W] and features [P, copies, D] pointed at → [P, D]; `group`, `number` int64 [P] of the slots."""
        chosen = self.choose(hidden).unflatten(-1, (len(self.maps), -1)) + self.favour[:, number].transpose(0, 1)
        given = given[:, : self.read].flatten(1)
        out = torch.zeros(len(given), self.maps.shape[2], device=given.device)
        for g, maps in enumerate(self.maps):
            (rows,) = (group == g).nonzero(as_tuple=True)  # of none too, as in `Projection`
            ways = torch.einsum("pi,mdi->pmd", given[rows], maps)
            out = out.index_put((rows,), torch.einsum("pm,pmd->pd", chosen[rows, g].softmax(-1), ways))
        return out


class OutputProjection(nn.Module):
    """Hidden states to features, by way of what was given.

    Each of `copies` heads points at items given earlier: the weight of item m is the softmax of q(h) . key(h_m) /
    sqrt(copy_dim) and of how late the item came, over all items and over nothing. Head c starts at the c-th item from
    the end and learns when to look elsewhere. The projection sees all features of the items pointed at, [copies, T, D],
    beside the hidden state, and a share of each goes straight to the prediction: what an edit or an example does to a
    feature is a map of features, which need not pass through the language model.

    Such a map is nearly linear where it is one edit's (an echo, night), of full rank, and another for every edit; the
    projection has no room for them side by side, and so there are `Edits` beside it.
    """

    def __init__(self, config: HeadsConfig, width: int) -> None:
        super().__init__()
        outputs = {modality: config.groups[modality] for modality in config.num_slots}
        self.copies, num_features = config.copies, max(config.num_slots.values())
        seen = width + self.copies * num_features * config.feature_dim
        self.projection = Projection(outputs, seen, config.hidden, config.feature_dim, rms=0.1)
        self.withheld = nn.Dropout(0.0)  # of what the projection sees; training on few records sets it
        if self.copies:
            self.query = nn.Linear(width, self.copies * config.copy_dim)
            self.key = nn.Linear(width, self.copies * config.copy_dim)
            nn.init.zeros_(self.query.weight)
            nn.init.zeros_(self.query.bias)
            self.late = nn.Parameter(torch.zeros(self.copies, LATEST))
            self.share = nn.Parameter(torch.zeros(len(self.projection.maps), num_features, self.copies))
            with torch.no_grad():
                self.late.fill_diagonal_(POINTED)
                self.share[..., :2] = KEPT
        names = list(self.projection.maps)
        self.edits = Edits(config, width, len(names)) if self.copies and config.maps else None
        self.operators = Operators(config.operators, names, config.feature_dim, width) if config.operators else None

    @property
    def wide(self) -> list[str]:
        """The tensors that are kept in bytes: where it has linear maps, all of its matrices."""
        matrices = [
            n for n, value in self.named_parameters() if value.ndim > 1 and ("maps" in n or n.endswith("weight"))
        ]
        return matrices if self.edits is not None else []

    def forward(self, hidden: Tensor, modality: Tensor, number: Tensor, memory: Memory, visible: Tensor) -> Tensor:
        """Features float32 [P, D], computed in float32 whatever autocast is on.

        `hidden` [P, W] are the states before the slots; `modality`, `number` int64 [P] name the slots; `visible` bool
        [P, N] says which items of `memory`, in reading order, came before each.
        """
        with full_precision(hidden):
            return self._features(self._normal(hidden), modality, number, memory, visible)

    def _features(self, hidden: Tensor, modality: Tensor, number: Tensor, memory: Memory, visible: Tensor) -> Tensor:
        """`forward` of normalised states."""
        if not self.copies:
            return self.projection(hidden, modality)
        pointed = self.pointed(hidden, memory, visible)
        same = pointed[torch.arange(len(number), device=number.device), :, number]  # [P, copies, D]
        group = self.projection.group_of[modality]
        share = self.share[group, number]
        seen = torch.cat([hidden, pointed.flatten(1)], dim=-1)
        found = self.projection(self.withheld(seen), modality) + torch.einsum("pc,pcd->pd", share, same)
        if self.edits is not None:
            found = found + self.edits(self.withheld(hidden), same, group, number)
        if self.operators is not None:
            of_items = self.projection.group_of[memory.modality]
            found = self.operators(found, self.withheld(hidden), group, number, memory, of_items, visible)
        return found

    def pointed(self, hidden: Tensor, memory: Memory, visible: Tensor) -> Tensor:
        """What each head points at, [P, copies, T, D], from normalised states [P, W]."""
        query = self.query(hidden).unflatten(-1, (self.copies, -1))
        key = self.key(self._normal(memory.hidden)).unflatten(-1, (self.copies, -1))
        scores = torch.einsum("pcr,ncr->pcn", query, key) / query.shape[-1] ** 0.5
        after = visible.flip(-1).cumsum(-1).flip(-1) - visible.long()  # visible items behind each
        scores = scores + self.late[:, after.clamp(max=LATEST - 1)].transpose(0, 1)
        scores = F.pad(scores.masked_fill(~visible[:, None], -torch.inf), (0, 1))  # and nothing, with a score of zero
        return torch.einsum("pcn,ntd->pctd", scores.softmax(-1)[..., :-1], memory.features)

    @staticmethod
    def _normal(hidden: Tensor) -> Tensor:
        """States of a language model come at any scale; here they meet features of unit size."""
        return F.layer_norm(hidden.float(), hidden.shape[-1:])


def kept_in_bytes(heads: Mapping[str, Tensor], output_projection: OutputProjection) -> list[str]:
    """Of heads as a model keeps them: `OutputProjection.wide`, and then the matrices of the input projection."""
    wide = [f"output_projection.{name}" for name in output_projection.wide]
    matrices = [n for n, value in heads.items() if n.startswith("input_projection.") and value.ndim > 1]
    return [n for n in heads if n in wide or (wide and n in matrices)]


def fit_features(features: Tensor, count: int) -> Tensor:
    """[N, T, D] to [N, count, D]: zeros behind, or the last ones left out."""
    return F.pad(features, (0, 0, 0, count - features.shape[1]))
