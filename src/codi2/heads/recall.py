"""What nothing in a prompt shows, taken to be as the training item that comes nearest.

How a thing looks or sounds that is asked for by its name cannot be regressed: the mean of all lighthouses is a blur,
and a decoder draws what it is told. Its joint vector can. So its features are those of one training item, found by the
regressed joint vector, as retrieval-augmented diffusion conditions on neighbours (arXiv:2204.11824). The items'
features ship with the weights; their media do not.

Words may say more than a name: by night, in blue. Then the regressed appearance lies farther from the mean of the items
like it than these lie themselves, and is taken as it is.

Letters: N items, T features of an item, K slots, D joint width.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor
from torch.nn import functional as F

from codi2.tensors import in_half, read_tensors

ALIKE = 32  # items that are like what is asked for
LOOK = 1  # number of the appearance token
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
        cosines = self._cosines(modality, joint)
        row = int(cosines.argmax())
        return row, float(cosines[row])

    def __call__(self, modality: str, features: Tensor, share: float) -> Tensor:
        """Features [K, D] of a medium that nothing given shows, moved by `share` of the way to the nearest item's."""
        if modality not in self.items:
            return features
        known = self.items[modality]
        alike = known[self._cosines(modality, features[0]).topk(min(ALIKE, len(known))).indices, : len(features)].to(
            features
        )
        if len(features) > LOOK and _apart(features, alike.mean(0)) > _apart(alike, alike.mean(0)):
            return features
        return features.lerp(alike[0], share)

    def _cosines(self, modality: str, joint: Tensor) -> Tensor:
        joints = self._joint[modality]
        return joints @ F.normalize(joint.to(joints), dim=-1)


def _apart(features: Tensor, mean: Tensor) -> Tensor:
    """Mean square distance of the appearance of features [..., K, D] from that of others [K, D]."""
    return (features[..., LOOK, :] - mean[LOOK]).square().mean()
