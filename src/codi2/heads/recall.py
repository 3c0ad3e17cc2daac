"""What nothing in a prompt shows, taken to be as the training item that comes nearest.

How a thing looks or sounds that is asked for by its name cannot be regressed: the mean of all lighthouses is a blur,
and a decoder draws what it is told. Its joint vector can. So its features are those of one training item, found by the
regressed joint vector, as retrieval-augmented diffusion conditions on neighbours (arXiv:2204.11824). The items'
features ship with the weights; their media do not.

Words may say more than a name: by night, in blue, hopping. Then the regressed appearance lies farther from the mean of
the items like it than these lie themselves, and is taken as it is; or the motion of a clip, which nearly always is
regressed as none at all, lies some way from it.

Letters: N items, T features of an item, K slots, D joint width.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor
from torch.nn import functional as F

from codi2.tensors import in_half, read_tensors

ALIKE = 32  # items that are like what is asked for
LOOK, MOVES = (1.0,), {"video": (1.0, 0.2)}
"""How far the regressed tokens behind the joint vector are from the mean of those like them where words said more than
a name, as a share of the mean square distance of these: an appearance, and of a clip its motion."""
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

    def told_more(self, modality: str, features: Tensor) -> bool:
        """Whether features [K, D] say how it looks or moves, and not only what it is."""
        if modality not in self.items:
            return False
        alike = self._alike(modality, features)
        apart, spread = ((x - alike.mean(0)).square().mean(-1) for x in (features, alike))
        limits = enumerate(MOVES.get(modality, LOOK)[: len(features) - 1], 1)
        return any(bool(apart[n] > far * spread[:, n].mean()) for n, far in limits)

    def __call__(self, modality: str, features: Tensor, share: float) -> Tensor:
        """Features [K, D] of a medium that nothing given shows, moved by `share` of the way to the nearest item's."""
        return features if modality not in self.items else features.lerp(self._alike(modality, features)[0], share)

    def _alike(self, modality: str, features: Tensor) -> Tensor:
        """Features of the items that are like it [ALIKE, K, D], the nearest first."""
        known = self.items[modality]
        rows = self._cosines(modality, features[0]).topk(min(ALIKE, len(known))).indices
        return known[rows, : len(features)].to(features)

    def _cosines(self, modality: str, joint: Tensor) -> Tensor:
        joints = self._joint[modality]
        return joints @ F.normalize(joint.to(joints), dim=-1)
