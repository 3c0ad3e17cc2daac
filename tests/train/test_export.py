"""Weights that a run starts from."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from codi2.diffuse.conditioner import Conditioner
from codi2.errors import WeightsError
from codi2.weight_files import export_module, restore_module


def test_exported_weights_are_restored_and_those_of_another_size_refused(tmp_path: Path) -> None:
    trained, other = Conditioner(16, 3, 8), Conditioner(16, 3, 8)
    export_module(trained, tmp_path, {})
    restore_module(other, tmp_path)
    for name, value in trained.state_dict().items():
        torch.testing.assert_close(other.state_dict()[name], value, rtol=1e-3, atol=1e-3)  # fp16
    with pytest.raises(WeightsError, match="of another size than the config asks for"):
        restore_module(Conditioner(16, 3, 12), tmp_path)
