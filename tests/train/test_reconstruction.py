"""The distance of pictures in the features of the encoder's trunk."""

from __future__ import annotations

import torch

from codi2.encode.efficientnet import EfficientNetLite
from codi2.train.parts.reconstruction import Perception


def test_a_blurred_picture_is_farther_from_the_target_than_a_noisy_one() -> None:
    torch.manual_seed(0)
    perception = Perception(EfficientNetLite("lite0").eval().requires_grad_(False), size=64)
    target = torch.rand(2, 3, 64, 64).round() * 2 - 1
    noisy = (target + 0.1 * torch.randn_like(target)).requires_grad_(True)
    blurred = torch.nn.functional.avg_pool2d(target, 5, 1, 2)
    assert float(perception(target, target)) < 1e-8
    distance = perception(noisy, target)
    assert float(distance.detach()) < float(perception(blurred, target))
    distance.backward()  # type: ignore[no-untyped-call]
    assert noisy.grad is not None and torch.isfinite(noisy.grad).all() and noisy.grad.any()
