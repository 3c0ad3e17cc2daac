"""EfficientNet-Lite (Tan & Le 2019, the "lite" variants): ReLU6, no squeeze-and-excitation.

Lite0 is the frozen trunk of `tiny`'s image encoder. Lite2 is the *judge* of the evaluations, so that figures do not
depend on the model's own encoder. transformers' EfficientNet always has squeeze-and-excitation and can load neither.

Shapes: B batch, H W pixels, C channels.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from codi2.errors import WeightsError
from codi2.tensors import undrawn_weights

# kernel, stride, expansion, channels out, repeats: the seven stages of B0
STAGES = (
    (3, 1, 1, 16, 1),
    (3, 2, 6, 24, 2),
    (5, 2, 6, 40, 2),
    (3, 2, 6, 80, 3),
    (5, 1, 6, 112, 3),
    (5, 2, 6, 192, 4),
    (3, 1, 6, 320, 1),
)
# width and depth multipliers of each variant
VARIANTS = {"lite0": (1.0, 1.0), "lite2": (1.1, 1.2)}


def _same_pad(x: Tensor, kernel: int, stride: int) -> Tensor:
    """TensorFlow's SAME padding: an odd remainder goes to the right and the bottom."""
    pads: list[int] = []
    for size in (x.shape[-1], x.shape[-2]):
        total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
        pads += [total // 2, total - total // 2]
    return F.pad(x, pads)


def _norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=1e-3)


class InvertedResidual(nn.Module):
    """Inverted residual: expand 1×1 → depthwise k×k → project 1×1. Names are those of the published state dict."""

    def __init__(self, channels_in: int, channels_out: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        width = channels_in * expansion
        self.kernel, self.stride = kernel, stride
        self.skip = stride == 1 and channels_in == channels_out
        self.expand = expansion != 1
        if self.expand:
            self._expand_conv = nn.Conv2d(channels_in, width, 1, bias=False)
            self._bn0 = _norm(width)
        self._depthwise_conv = nn.Conv2d(width, width, kernel, stride, groups=width, bias=False)
        self._bn1 = _norm(width)
        self._project_conv = nn.Conv2d(width, channels_out, 1, bias=False)
        self._bn2 = _norm(channels_out)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu6(self._bn0(self._expand_conv(x))) if self.expand else x
        y = F.relu6(self._bn1(self._depthwise_conv(_same_pad(y, self.kernel, self.stride))))
        y = self._bn2(self._project_conv(y))
        return x + y if self.skip else y


class EfficientNetLite(nn.Module):
    """Pictures in [0, 1], [B, 3, H, W] → feature maps [B, 1280, ⌈H/32⌉, ⌈W/32⌉]."""

    channels = 1280

    def __init__(self, variant: str = "lite0") -> None:
        super().__init__()
        width, depth = VARIANTS[variant]
        self._conv_stem = nn.Conv2d(3, 32, 3, 2, bias=False)
        self._bn0 = _norm(32)
        blocks: list[InvertedResidual] = []
        channels_in = 32
        for i, (kernel, stride, expansion, channels, repeats) in enumerate(STAGES):
            channels_out = _round_channels(channels * width)
            # the lite variants do not scale the first and the last stage in depth
            count = repeats if i in (0, len(STAGES) - 1) else int(-(-repeats * depth // 1))
            for n in range(count):
                blocks.append(InvertedResidual(channels_in, channels_out, kernel, stride if n == 0 else 1, expansion))
                channels_in = channels_out
        self._blocks = nn.ModuleList(blocks)
        self._conv_head = nn.Conv2d(channels_in, self.channels, 1, bias=False)
        self._bn1 = _norm(self.channels)

    def forward(self, pixels: Tensor) -> Tensor:
        return self.stages(pixels)[0]

    def stages(self, pixels: Tensor, taps: Sequence[int] = (), whole: bool = True) -> list[Tensor]:
        """The maps after the blocks `taps` (-1: after the stem), in order, and, if `whole`, the last maps."""
        x = (pixels * 255 - 127) / 128
        x = F.relu6(self._bn0(self._conv_stem(_same_pad(x, 3, 2))))
        maps = [x] if -1 in taps else []
        for i, block in enumerate(self._blocks):
            x = block(x)
            if i in taps:
                maps.append(x)
                if not whole and len(maps) == len(taps):
                    return maps
        return [*maps, F.relu6(self._bn1(self._conv_head(x)))]


def _round_channels(channels: float, divisor: int = 8) -> int:
    rounded = max(divisor, int(channels + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * channels else rounded


def load_efficientnet(path: Path, variant: str) -> EfficientNetLite:
    """The trunk with the published ImageNet weights at `path` (a `.pth` state dict), frozen, in eval mode.

    Raises:
        WeightsError: the tensors of the file are not those of this variant.
    """
    with undrawn_weights():
        net = EfficientNetLite(variant)
    state = torch.load(path, map_location="cpu", weights_only=True)
    state = {name: tensor for name, tensor in state.items() if not name.startswith("_fc.")}
    try:
        net.load_state_dict(state, strict=True)
    except RuntimeError as error:
        raise WeightsError(
            f"{path} is not an EfficientNet-{variant} state dict; reinstall the package that holds it"
        ) from error
    net.eval().requires_grad_(False)
    _fuse(net)
    return net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def _fuse(module: nn.Module) -> None:
    """Merges each batch norm into the convolution before it: the same output in two thirds of the time."""
    for conv, norm in (
        ("_conv_stem", "_bn0"),
        ("_expand_conv", "_bn0"),
        ("_depthwise_conv", "_bn1"),
        ("_project_conv", "_bn2"),
        ("_conv_head", "_bn1"),
    ):
        if hasattr(module, conv):
            setattr(module, conv, fuse_conv_bn_eval(getattr(module, conv), getattr(module, norm)))
            setattr(module, norm, nn.Identity())
    for child in module.children():
        _fuse(child)
