"""Weight files of tensors in half precision and in bytes."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from codi2.tensors import in_bytes, in_half, read_tensors


def test_bytes_are_a_half_of_half_precision_and_nearly_as_good(tmp_path: Path) -> None:
    wide = torch.randn(3, 40, 50) * torch.logspace(-3, 2, 40)[:, None]  # rows of very different sizes
    wide[0, 0] = 0
    filters = torch.randn(40, 5, 3, 3) * torch.logspace(-3, 2, 40)[:, None, None, None]
    tensors = {"maps": wide, "bias": torch.randn(7), "norm.scale": torch.arange(4), "count": torch.tensor(3)}
    save_file(in_half(tensors), tmp_path / "heads.safetensors")
    assert not in_bytes(tmp_path / "heads.safetensors")
    tensors["filters"] = filters
    stored = in_half(tensors, ["maps", "filters"])
    assert stored["filters.scale"].numel() == 40  # a scale for every three numbers would be half of the file
    save_file(stored, tmp_path / "heads.safetensors")
    assert load_file(tmp_path / "heads.safetensors")["maps"].dtype == torch.int8
    assert in_bytes(tmp_path / "heads.safetensors") and not in_bytes(tmp_path / "nothing.safetensors")
    loaded = read_tensors(tmp_path / "heads.safetensors")
    assert loaded.keys() == tensors.keys()
    assert loaded["maps"].dtype == torch.float32 and loaded["bias"].dtype == torch.float16
    error = (loaded["maps"] - wide).abs().amax(-1)
    assert (error <= wide.abs().amax(-1) / 127 * 0.51).all()
    error = (loaded["filters"] - filters).abs().flatten(1).amax(1)
    assert (error <= filters.abs().flatten(1).amax(1) / 127 * 0.51).all()
    torch.testing.assert_close(loaded["bias"].float(), tensors["bias"], rtol=1e-3, atol=1e-3)
    assert torch.equal(loaded["norm.scale"], torch.arange(4).half())  # a tensor whose name ends so is its own
