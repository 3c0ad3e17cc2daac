"""The one contract that every encoder meets, whatever the modality.

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
    """What an encoder makes of B parts of one modality.

    `values` float32 [B, T, D]: vector 1 is the joint vector C_x(x) of section 3.2, aligned across modalities; the
    others, where the encoder has them, say how it looks: pooled patch tokens, or an appearance token. `mask` bool
    [B, T]: True where a vector counts; `values` is zero elsewhere.
    """

    values: Tensor
    mask: Tensor


class Encoder(nn.Module):
    """Media to features of one joint space.

    A subclass sets `dim` (D) and `modalities` (the `Part.modality` names it reads) and writes `forward`. All vectors
    have one scale, which the encoder's page names: the mean square over T and D is about 1 for encoders trained here
    (norm sqrt(D)), 1/D for ImageBind (norm 1). The same parts always give the same features.
    """

    dim: int
    modalities: tuple[str, ...]
    in_half: bool = False  # whether it may run in half precision

    def forward(self, parts: Sequence[Part], count: int | None = None) -> Features:
        """Encode `parts`, at least one and all of one modality of `modalities`, in their order.

        `count` is how many features are wanted of each, the joint vector first: T by default, K for what is regressed.
        """
        raise NotImplementedError

    def read(self, parts: Sequence[Part]) -> Any:
        """What `forward` does on the CPU before its networks, for a process that prepares batches: B parts as
        `forward_read` takes them. An encoder that does not divide its work gives the parts.
        """
        return parts

    def forward_read(self, modality: str, read: Any, count: int | None = None) -> Features:
        """`forward` of parts of `modality`, from what `read` gave."""
        features: Features = self(read, count)
        return features

    def within(self, values: Tensor, modality: str) -> Tensor:
        """What joint vectors [B, D] say in the space of `modality`: all, where all modalities share one space; zeros,
        where none is shared."""
        return values

    def agree(self, modality: str, maps: Tensor, features: Tensor, share: float) -> Tensor:
        """What was drawn of features [B, K, D], as a codec gives it [B, C, H, W], moved by `share` of the way to what
        they say of its appearance; as it is, where no feature does.
        """
        return maps
