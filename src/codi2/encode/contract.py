"""The interface of every encoder, for all modalities.

B: parts in the call, T: feature vectors of one part, D: width of the joint space.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from codi2.prompt.parts import Part


@dataclass(frozen=True)
class Features:
    """An encoder's output for B parts of one modality.

    `values` float32 [B, T, D]: vector 1 is the joint vector C_x(x) of section 3.2, aligned across modalities; further
    vectors describe the form, for example pooled patch tokens or compact features. `mask` bool [B, T]: True where a
    vector is present; `values` is zero elsewhere.
    """

    values: Tensor
    mask: Tensor


class Encoder(nn.Module):
    """Media to features of one joint space.

    A subclass sets `dim` (D) and `modalities` (the `Part.modality` names it reads) and defines `forward`. All vectors
    of an encoder have one scale: the mean square over T and D is about 1 for encoders trained here (norm sqrt(D)), 1/D
    for ImageBind (norm 1). The same parts always give the same features.
    """

    dim: int
    modalities: tuple[str, ...]
    in_half: bool = False  # whether it may run in half precision

    def forward(self, parts: Sequence[Part], count: int | None = None) -> Features:
        """Encode `parts`, at least one and all of one modality of `modalities`, in their order.

        `count` is the number of features of each part, the joint vector first: T by default, K for targets.
        """
        raise NotImplementedError

    def read(self, parts: Sequence[Part]) -> Any:
        """The CPU work of `forward` before its networks, for a process that prepares batches: B parts as the input of
        `forward_read`. By default the parts themselves.
        """
        return parts

    def forward_read(self, modality: str, read: Any, count: int | None = None) -> Features:
        """`forward` of parts of `modality`, from the output of `read`."""
        features: Features = self(read, count)
        return features

    def within(self, values: Tensor, modality: str) -> Tensor:
        """Joint vectors [B, D] projected to the subspace of `modality`: unchanged where all modalities share one space;
        zeros where they share none."""
        return values
