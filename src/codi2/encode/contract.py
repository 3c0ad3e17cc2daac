"""The interface of every encoder, for all modalities.

B: parts in the call, T: feature vectors of one part, D: width of the joint space.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from codi2.prompt.parts import Part


class Encoder(nn.Module):
    """Media to features of one joint space.

    A subclass sets `dim` (D) and `modalities` (the `Part.modality` names it reads) and defines `forward`. All vectors
    of an encoder have one scale: the mean square over T and D is about 1 for encoders trained here (norm sqrt(D)), 1/D
    for ImageBind (norm 1). The same parts always give the same features.
    """

    dim: int
    modalities: tuple[str, ...]
    supports_half: bool = False  # whether it may run in half precision

    def forward(self, parts: Sequence[Part], count: int | None = None) -> Tensor:
        """Features float32 [B, T, D] of `parts`, at least one and all of one modality of `modalities`, in their order.

        Vector 1 is the joint vector C_x(x) of section 3.2, aligned across modalities; further vectors describe the
        form, for example pooled patch tokens or compact features. `count` is their number: T by default, K for targets.
        """
        raise NotImplementedError

    def read(self, parts: Sequence[Part]) -> Any:
        """The CPU work of `forward` before its networks, for a process that prepares batches: B parts as the input of
        `forward_read`. By default the parts themselves.
        """
        return parts

    def forward_read(self, modality: str, read: Any, count: int | None = None) -> Tensor:
        """`forward` of parts of `modality`, from the output of `read`."""
        features: Tensor = self(read, count)
        return features

    def within(self, values: Tensor, modality: str) -> Tensor:
        """Joint vectors [B, D] projected to the subspace of `modality`: unchanged where all modalities share one space;
        zeros where they share none."""
        return values
