"""Inception-v3 as FID knows it (Heusel et al. 2017): the network of 2015 with TensorFlow's pooling, 2048 numbers.

Names are those of the published file `pt_inception-2015-12-05-6726825d.pth`; pictures are prepared as pytorch-fid does.

Letters: B pictures, C channels, H W size.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from codi2.prompt.parts import Image

SIDE = 299  # pixels of the network's input
BATCH = 16

# border pixels are averaged over what is there
_average = partial(F.avg_pool2d, kernel_size=3, stride=1, padding=1, count_include_pad=False)
_maximum = partial(F.max_pool2d, kernel_size=3, stride=1, padding=1)
_halved = partial(F.max_pool2d, kernel_size=3, stride=2)


class Conv(nn.Module):
    """Convolution, normalisation, ReLU."""

    def __init__(
        self,
        channels: int,
        out: int,
        kernel: int | tuple[int, int] = 1,
        stride: int = 1,
        padding: int | tuple[int, int] = 0,
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, out, kernel, stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(out, eps=0.001)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(self.conv(x)))


def _wide(channels: int, out: int) -> Conv:
    return Conv(channels, out, (1, 7), padding=(0, 3))


def _tall(channels: int, out: int) -> Conv:
    return Conv(channels, out, (7, 1), padding=(3, 0))


class BlockA(nn.Module):
    def __init__(self, channels: int, pooled: int) -> None:
        super().__init__()
        self.branch1x1 = Conv(channels, 64)
        self.branch5x5_1, self.branch5x5_2 = Conv(channels, 48), Conv(48, 64, 5, padding=2)
        self.branch3x3dbl_1, self.branch3x3dbl_2 = Conv(channels, 64), Conv(64, 96, 3, padding=1)
        self.branch3x3dbl_3 = Conv(96, 96, 3, padding=1)
        self.branch_pool = Conv(channels, pooled)

    def forward(self, x: Tensor) -> Tensor:
        deep = self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x)))
        branches = [self.branch1x1(x), self.branch5x5_2(self.branch5x5_1(x)), deep, self.branch_pool(_average(x))]
        return torch.cat(branches, 1)


class BlockB(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.branch3x3 = Conv(channels, 384, 3, stride=2)
        self.branch3x3dbl_1, self.branch3x3dbl_2 = Conv(channels, 64), Conv(64, 96, 3, padding=1)
        self.branch3x3dbl_3 = Conv(96, 96, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        deep = self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x)))
        return torch.cat([self.branch3x3(x), deep, _halved(x)], 1)


class BlockC(nn.Module):
    def __init__(self, channels: int, inner: int) -> None:
        super().__init__()
        self.branch1x1 = Conv(channels, 192)
        self.branch7x7_1, self.branch7x7_2, self.branch7x7_3 = (
            Conv(channels, inner),
            _wide(inner, inner),
            _tall(inner, 192),
        )
        self.branch7x7dbl_1, self.branch7x7dbl_2 = Conv(channels, inner), _tall(inner, inner)
        self.branch7x7dbl_3, self.branch7x7dbl_4 = _wide(inner, inner), _tall(inner, inner)
        self.branch7x7dbl_5 = _wide(inner, 192)
        self.branch_pool = Conv(channels, 192)

    def forward(self, x: Tensor) -> Tensor:
        once = self.branch7x7_3(self.branch7x7_2(self.branch7x7_1(x)))
        twice = self.branch7x7dbl_3(self.branch7x7dbl_2(self.branch7x7dbl_1(x)))
        twice = self.branch7x7dbl_5(self.branch7x7dbl_4(twice))
        return torch.cat([self.branch1x1(x), once, twice, self.branch_pool(_average(x))], 1)


class BlockD(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.branch3x3_1, self.branch3x3_2 = Conv(channels, 192), Conv(192, 320, 3, stride=2)
        self.branch7x7x3_1, self.branch7x7x3_2 = Conv(channels, 192), _wide(192, 192)
        self.branch7x7x3_3, self.branch7x7x3_4 = _tall(192, 192), Conv(192, 192, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        long = self.branch7x7x3_4(self.branch7x7x3_3(self.branch7x7x3_2(self.branch7x7x3_1(x))))
        return torch.cat([self.branch3x3_2(self.branch3x3_1(x)), long, _halved(x)], 1)


class BlockE(nn.Module):
    """With `maximum`, as in the last block: it looks like a slip of the network of 2015, and is what FID means."""

    def __init__(self, channels: int, maximum: bool) -> None:
        super().__init__()
        self.pool = _maximum if maximum else _average
        self.branch1x1 = Conv(channels, 320)
        self.branch3x3_1 = Conv(channels, 384)
        self.branch3x3_2a = Conv(384, 384, (1, 3), padding=(0, 1))
        self.branch3x3_2b = Conv(384, 384, (3, 1), padding=(1, 0))
        self.branch3x3dbl_1, self.branch3x3dbl_2 = Conv(channels, 448), Conv(448, 384, 3, padding=1)
        self.branch3x3dbl_3a = Conv(384, 384, (1, 3), padding=(0, 1))
        self.branch3x3dbl_3b = Conv(384, 384, (3, 1), padding=(1, 0))
        self.branch_pool = Conv(channels, 192)

    def forward(self, x: Tensor) -> Tensor:
        one, two = self.branch3x3_1(x), self.branch3x3dbl_2(self.branch3x3dbl_1(x))
        split = [self.branch3x3_2a(one), self.branch3x3_2b(one), self.branch3x3dbl_3a(two), self.branch3x3dbl_3b(two)]
        return torch.cat([self.branch1x1(x), *split, self.branch_pool(self.pool(x))], 1)


class Inception(nn.Module):
    """Pictures [B, 3, 299, 299] in [-1, 1] → [B, 2048]."""

    def __init__(self) -> None:
        super().__init__()
        self.Conv2d_1a_3x3 = Conv(3, 32, 3, stride=2)
        self.Conv2d_2a_3x3, self.Conv2d_2b_3x3 = Conv(32, 32, 3), Conv(32, 64, 3, padding=1)
        self.Conv2d_3b_1x1, self.Conv2d_4a_3x3 = Conv(64, 80), Conv(80, 192, 3)
        self.Mixed_5b, self.Mixed_5c, self.Mixed_5d = BlockA(192, 32), BlockA(256, 64), BlockA(288, 64)
        self.Mixed_6a = BlockB(288)
        self.Mixed_6b, self.Mixed_6c = BlockC(768, 128), BlockC(768, 160)
        self.Mixed_6d, self.Mixed_6e = BlockC(768, 160), BlockC(768, 192)
        self.Mixed_7a = BlockD(768)
        self.Mixed_7b, self.Mixed_7c = BlockE(1280, maximum=False), BlockE(2048, maximum=True)

    def forward(self, x: Tensor) -> Tensor:
        x = _halved(self.Conv2d_2b_3x3(self.Conv2d_2a_3x3(self.Conv2d_1a_3x3(x))))
        x = _halved(self.Conv2d_4a_3x3(self.Conv2d_3b_1x1(x)))
        x = self.Mixed_6a(self.Mixed_5d(self.Mixed_5c(self.Mixed_5b(x))))
        x = self.Mixed_6e(self.Mixed_6d(self.Mixed_6c(self.Mixed_6b(x))))
        return self.Mixed_7c(self.Mixed_7b(self.Mixed_7a(x))).mean((2, 3))

    @torch.inference_mode()
    def pictures(self, pictures: Sequence[Image]) -> np.ndarray:
        """float32 [n, 2048]; each picture is brought to 299 × 299, whatever its shape, as pytorch-fid does."""
        embeddings, device = [], next(self.parameters()).device
        for picture in pictures:
            x = torch.from_numpy(np.array(picture.pixels.convert("RGB"))).permute(2, 0, 1)[None].float() / 255
            embeddings.append(F.interpolate(x, size=(SIDE, SIDE), mode="bilinear", align_corners=False) * 2 - 1)
        batches = (torch.cat(embeddings[i : i + BATCH]).to(device) for i in range(0, len(embeddings), BATCH))
        return np.concatenate([self(batch).cpu().numpy() for batch in batches])


def load_inception(path: Path) -> Inception:
    """With the published weights. Raises WeightsError: there are none, or they are of another network."""
    from codi2.tensors import load_published

    return load_published(Inception(), path, "Inception-v3 for FID", skip=("fc.",))
