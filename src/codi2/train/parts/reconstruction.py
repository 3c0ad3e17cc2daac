"""Distances of reconstructions from their targets, for autoencoders: of pictures, log-mel spectrograms and clips.

Letters: B batch, C channels, H W size.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from codi2.encode.efficientnet import EfficientNetLite
from codi2.tensors import full_precision

Terms = dict[str, Tensor]


def reconstruction_terms(output: Tensor, target: Tensor) -> Terms:
    """Mean absolute errors of maps [B, C, H, W]: of the values, of differences of neighbours, and of 4×4 averages.

    The error of the values has a small penalty for blur, which that of the differences corrects; the error of averages
    penalises wrong colours.
    """
    output = output.float()
    return {
        "l1": F.l1_loss(output, target),
        "edges": (
            F.l1_loss(output.diff(dim=-1), target.diff(dim=-1)) + F.l1_loss(output.diff(dim=-2), target.diff(dim=-2))
        ),
        "tone": F.l1_loss(F.avg_pool2d(output, 4), F.avg_pool2d(target, 4)),
    }


def change_terms(output: Tensor, target: Tensor) -> Terms:
    """Mean squared errors of differences of frames [B, C, H, W]: of the values, and of 4×4 averages.

    Most differences are zero, so with absolute errors networks learn to predict zero everywhere.
    """
    return {
        "square": F.mse_loss(output.float(), target),
        "tone": F.mse_loss(F.avg_pool2d(output.float(), 4), F.avg_pool2d(target, 4)),
    }


def total(terms: Terms) -> Tensor:
    """The weighted sum of the terms."""
    return terms["l1"] + 0.5 * terms["edges"] + terms["tone"]


class Perception(nn.Module):
    """Distance of pictures in the features of a frozen classifier, similar to LPIPS (arXiv:1801.03924).

    The mean of all possible pictures has the smallest pixel error, so a network with a pixel loss blurs. The classifier
    is the encoder's trunk, never the network that judges pictures in evaluations.

    Args:
        net: the trunk.
        size: pictures are enlarged to this side.
    """

    TAPS = (1, 3, 5, 11)  # blocks after which maps are compared position by position, in addition to the stem

    def __init__(self, net: EfficientNetLite, size: int) -> None:
        super().__init__()
        self.net, self.size = net, size

    def forward(self, output: Tensor, target: Tensor) -> Tensor:
        """Pictures [B, 3, H, W] in [-1, 1] → mean distance []; the gradient flows through `output`.

        The last maps are compared by their means, which describe content without position.
        """
        with torch.no_grad():
            *target_maps, target_last = self._maps(target)
        *output_maps, output_last = self._maps(output)
        pairs = zip(output_maps, target_maps, strict=True)
        content = _distance(output_last.mean((2, 3)), target_last.mean((2, 3)))
        return content + torch.stack([_distance(a, b) for a, b in pairs]).mean()

    def _maps(self, pictures: Tensor) -> list[Tensor]:
        """Maps [B, C, h, w] at the taps, and the last ones."""
        x = F.interpolate(pictures.float() / 2 + 0.5, size=(self.size, self.size), mode="bilinear")
        x = x.to(next(self.net.parameters()).dtype).contiguous(memory_format=torch.channels_last)
        with full_precision(x):  # its depthwise convolutions are several times slower in bfloat16 on a CPU
            return [maps.float() for maps in self.net.stages(x, (-1, *self.TAPS))]


def _distance(output: Tensor, target: Tensor) -> Tensor:
    """Mean squared distance of maps [B, C, …] with channels of unit length."""
    difference = F.normalize(output, dim=1) - F.normalize(target, dim=1)
    return difference.square().sum(1).mean()
