"""Features as prompt embeddings: the condition of decoders that read a text encoder's states.

Letters: B batch, K slots, D feature width, L states, W their width, P pooled width.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from codi2.diffuse.conditioner import BaseConditioner


class PromptConditioner(BaseConditioner):
    """A trained head maps a joint vector to states [B, L, W] and, if the network reads one, a pooled state [B, P].

    Without a feature the states are zeros. Words and media share one space, so a negative prompt is a joint vector too:
    the same head maps it in the unconditional branch, and no text encoder is needed.

    Args:
        dim: D.
        length, width: L and W.
        pooled: P; 0: none.
    """

    def __init__(self, dim: int, length: int, width: int, pooled: int = 0) -> None:
        super().__init__()
        self.length, self.width = length, width
        self.head = nn.Sequential(
            nn.Linear(dim, width), nn.GELU(), nn.LayerNorm(width), nn.Linear(width, length * width)
        )
        self.pooled = nn.Linear(dim, pooled) if pooled else None

    def states(self, features: Tensor, text: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """[B, L, W] and [B, P]."""
        joint = features[:, 0]
        if text is not None:
            joint = torch.where(_present(joint), joint, text.to(joint))
        present = _present(joint)
        states = self.head(joint).unflatten(1, (self.length, self.width)) * present[:, None]
        return states, None if self.pooled is None else self.pooled(joint) * present

    def forward(self, features: Tensor, noise_level: Tensor, text: Tensor | None = None) -> dict[str, Any]:
        return {"encoder_hidden_states": self.states(features, text)[0]}


def _present(vectors: Tensor) -> Tensor:
    """bool [B, 1]: whether a vector is not all zeros."""
    return vectors.abs().amax(1, keepdim=True) > 0
