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
    kept = in_half(tensors, ["maps", "filters"])
    assert kept["filters.scale"].numel() == 40  # a scale for every three numbers would be half of the file
    save_file(kept, tmp_path / "heads.safetensors")
    assert load_file(tmp_path / "heads.safetensors")["maps"].dtype == torch.int8
    assert in_bytes(tmp_path / "heads.safetensors") and not in_bytes(tmp_path / "nothing.safetensors")
    found = read_tensors(tmp_path / "heads.safetensors")
    assert found.keys() == tensors.keys()
    assert found["maps"].dtype == torch.float32 and found["bias"].dtype == torch.float16
    error = (found["maps"] - wide).abs().amax(-1)
    assert (error <= wide.abs().amax(-1) / 127 * 0.51).all()
    error = (found["filters"] - filters).abs().flatten(1).amax(1)
    assert (error <= filters.abs().flatten(1).amax(1) / 127 * 0.51).all()
    torch.testing.assert_close(found["bias"].float(), tensors["bias"], rtol=1e-3, atol=1e-3)
    assert torch.equal(found["norm.scale"], torch.arange(4).half())  # a tensor whose name ends so is its own
