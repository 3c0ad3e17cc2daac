"""What nothing in a prompt shows, taken to be as the training item that comes nearest.

How a thing looks or sounds that is asked for by its name cannot be regressed: the mean of all lighthouses is a blur,
and a decoder draws what it is told. Its joint vector can. So its features are those of one training item, found by the
regressed joint vector, as retrieval-augmented diffusion conditions on neighbours (arXiv:2204.11824). The items'
features ship with the weights; their media do not.

Letters: N items, T features of an item, K slots, D joint width.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor
from torch.nn import functional as F

from codi2.tensors import in_half, read_tensors

SHARED = 2  # features that modalities of one group have in common: the joint vector and the appearance
FILE = "recall.safetensors"


class Recall:
    """The features of training items by modality, each [N, T, D]."""

    def __init__(self, items: Mapping[str, Tensor]) -> None:
        self.items = dict(items)
        self._joint = {modality: F.normalize(known[:, 0], dim=-1) for modality, known in items.items()}

    @classmethod
    def load(cls, path: Path) -> Recall:
        """Raises WeightsError: the file is missing or damaged."""
        return cls(read_tensors(path))

    def save(self, path: Path) -> None:
        """In bytes, with a scale for each feature."""
        from safetensors.torch import save

        from codi2.hub import write_atomic

        write_atomic(path, save(in_half(self.items, self.items)))

    def nearest(self, modality: str, joint: Tensor) -> tuple[int, float]:
        """The row of the item whose joint vector is nearest to `joint` [D], and their cosine."""
        cosines = self._joint[modality] @ F.normalize(joint.to(self._joint[modality]), dim=-1)
        row = int(cosines.argmax())
        return row, float(cosines[row])

    def __call__(self, modality: str, group: str, features: Tensor, share: float) -> Tensor:
        """Features [K, D] of a medium, moved by `share` of the way to the nearest item's.

        Args:
            group: the modality whose items are looked through: a clip is where its pictures are.
        """
        if group not in self.items:
            return features
        row, _ = self.nearest(group, features[0])
        count = len(features) if group == modality else SHARED
        known = self.items[group][row, :count].to(features)
        told = features.clone()
        told[: len(known)] = features[: len(known)].lerp(known, share)
        return told
