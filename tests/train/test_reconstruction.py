"""Distances that decoders learn by, of pictures as a network sees them and sounds as one hears them."""

from __future__ import annotations

import torch

from codi2.diffuse.vocoder import ISTFTVocoder
from codi2.encode.aisfx import AiSFX
from codi2.encode.efficientnet import EfficientNetLite
from codi2.media.mel import MelSpectrogram
from codi2.train.parts.reconstruction import Hearing, Perception


def test_perception_is_a_distance_that_a_blur_does_not_lower() -> None:
    torch.manual_seed(0)
    perception = Perception(EfficientNetLite("lite0").eval().requires_grad_(False), size=64)
    target = torch.rand(2, 3, 64, 64).round() * 2 - 1
    assert float(perception(target, target, shift=(5, -3), mirrored=True)) < 1e-8
    near = (target + 0.1 * torch.randn_like(target)).requires_grad_(True)
    blurred = torch.nn.functional.avg_pool2d(target, 5, 1, 2)
    assert float(perception(target, target)) < 1e-8
    assert float(perception(near, target)) < float(perception(blurred, target))
    perception(near, target).backward()  # type: ignore[no-untyped-call]
    assert near.grad is not None and torch.isfinite(near.grad).all()


def test_perception_tells_a_copy_of_the_source_from_an_edit() -> None:
    torch.manual_seed(0)
    net = EfficientNetLite("lite0").eval().requires_grad_(False)
    plain, directed = Perception(net, size=64), Perception(net, size=64, direction=1.0)
    source = torch.rand(2, 3, 64, 64).round() * 2 - 1
    target = torch.nn.functional.avg_pool2d(source, 9, 1, 4)  # the same with other lines
    edits = torch.tensor([True, False])

    def way(ours: torch.Tensor) -> float:
        return float(directed(ours, target, source, edits) - plain(ours, target))

    other = 1 - source  # other lines, but not these
    assert way(target) < 1e-5
    assert way(target + 0.05 * torch.randn_like(target)) < way(other)
    assert way(source) > 0.9
    assert way(torch.stack([target[0], other[1]])) < 1e-5  # the second has no source to go from


def test_hearing_is_a_distance_that_a_blur_does_not_lower() -> None:
    """A chord, with a little noise, and smeared over time and bands."""
    torch.manual_seed(0)
    hearing = Hearing(ISTFTVocoder(channels=16, blocks=1), AiSFX())
    at = torch.arange(16_384) / 16_000
    wave = sum((hz * at * 2 * torch.pi).sin() for hz in (220.0, 554.0, 1318.0)) * (at % 0.25 < 0.1)
    target = MelSpectrogram()(0.2 * torch.stack([torch.as_tensor(wave), torch.as_tensor(wave).flip(0)]))
    assert float(hearing(target, target)) < 1e-6
    near = (target + 0.01 * torch.randn_like(target)).requires_grad_(True)
    blurred = torch.nn.functional.avg_pool2d(target, 9, 1, 4)
    assert float(hearing(near, target)) < float(hearing(blurred, target))
    hearing(near, target).backward()  # type: ignore[no-untyped-call]
    assert near.grad is not None and torch.isfinite(near.grad).all() and near.grad.any()
    assert all(weight.grad is None for weight in hearing.parameters())
