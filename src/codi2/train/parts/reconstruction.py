"""How far a picture or a log-mel spectrogram is from the one it should be, for the codecs and for tuned decoders.

Letters: B batch, C channels, H W size.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from codi2.encode.efficientnet import EfficientNetLite

Terms = dict[str, Tensor]


def reconstruction_terms(ours: Tensor, target: Tensor) -> Terms:
    """Mean absolute errors of maps [B, C, H, W]: of the numbers, of neighbours' differences, and of 4×4 averages.

    Blur is what a plain mean absolute error forgives first, and colour over a few pixels is what the fine terms hardly
    feel.
    """
    return {
        "l1": F.l1_loss(ours, target),
        "edges": F.l1_loss(ours.diff(dim=-1), target.diff(dim=-1)) + F.l1_loss(ours.diff(dim=-2), target.diff(dim=-2)),
        "tone": F.l1_loss(F.avg_pool2d(ours, 4), F.avg_pool2d(target, 4)),
    }


def total(terms: Terms) -> Tensor:
    """The terms as one loss."""
    return terms["l1"] + 0.5 * terms["edges"] + terms["tone"]


class Perception(nn.Module):
    """Distance of pictures as a frozen classifier sees them, in the manner of LPIPS (arXiv:1801.03924).

    A network that must say how a thing is drawn without knowing it blurs, since the mean of all it might be has the
    smallest error in pixels. The distance is that of the encoder's trunk, never of the network that judges pictures.

    Args:
        net: the trunk.
        size: pictures are enlarged to this side.
    """

    TAPS = (1, 3, 5, 11)  # blocks after which maps are compared, beside the stem
    LAST = 1.0  # weight of the last maps' means, where what the picture shows counts and not where it stands

    def __init__(self, net: EfficientNetLite, size: int = 112) -> None:
        super().__init__()
        self.net, self.size = net, size

    def forward(self, ours: Tensor, target: Tensor, shift: tuple[int, int] = (0, 0), mirrored: bool = False) -> Tensor:
        """Pictures [B, 3, H, W] in [-1, 1] → mean distance []; the gradient flows through `ours`.

        Both are moved by `shift` pixels and mirrored first: drawn anew for each step, this keeps a decoder from
        learning what only one place under the network's strides can see.
        """
        ours, target = (_moved(pictures, shift, mirrored) for pictures in (ours, target))
        with torch.no_grad():
            theirs = self._maps(target)
        near = [((a - b) ** 2).sum(1).mean() for a, b in zip(self._maps(ours), theirs, strict=True)]
        return torch.stack(near[:-1]).mean() + self.LAST * near[-1]

    def _maps(self, pictures: Tensor) -> list[Tensor]:
        """Maps [B, C, h, w] at the taps, and the last one's mean [B, C, 1, 1], each of unit length in its channels."""
        x = F.interpolate(pictures / 2 + 0.5, size=(self.size, self.size), mode="bilinear")
        maps = self.net.stages(x.contiguous(memory_format=torch.channels_last), (-1, *self.TAPS))
        return [F.normalize(m, dim=1) for m in (*maps[:-1], maps[-1].mean((2, 3), keepdim=True))]


def _moved(pictures: Tensor, shift: tuple[int, int], mirrored: bool) -> Tensor:
    """[B, C, H, W] moved down and right by `shift` pixels, either may be negative; white comes in."""
    down, right = shift
    moved = F.pad(pictures, (right, -right, down, -down), value=1.0)
    return moved.flip(-1) if mirrored else moved
