"""Weights that a run starts from."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from codi2.diffuse.draft import Draft
from codi2.errors import WeightsError
from codi2.tensors import in_bytes
from codi2.weight_files import export_module, load_part, restore_module


def test_what_fits_is_taken_and_what_does_not_begins_anew(tmp_path: Path):
    before = Draft((4, 4, 4), 8, 16)
    with torch.no_grad():
        for parameter in before.parameters():
            parameter.fill_(0.5)
    export_module(before, tmp_path, {})
    after = Draft((6, 4, 4), 8, 16)
    fresh = after.gains.weight.clone()
    with pytest.raises(WeightsError, match="of another size than the config asks for"):
        restore_module(after, tmp_path)
    export_module(before, tmp_path / "bytes", {}, in_bytes=True)
    files = [path / "diffusion_pytorch_model.safetensors" for path in (tmp_path, tmp_path / "bytes")]
    assert [in_bytes(file) for file in files] == [False, True]
    again = load_part(Draft, tmp_path / "bytes")
    for name, value in before.state_dict().items():
        torch.testing.assert_close(again.state_dict()[name], value, rtol=4e-3, atol=0)
    restore_module(after, tmp_path, partly=True)
    assert (after.choose.weight == 0.5).all() and torch.equal(after.gains.weight, fresh)
