"""Weight files in half precision, and weights that must fit exactly."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from codi2.errors import WeightsError
from codi2.tensors import OnDemand, load_exactly, loaded, read_tensors, to_float16


def test_tensors_come_back_in_half_precision(tmp_path: Path) -> None:
    tensors = {"weight": torch.randn(3, 4).T, "count": torch.tensor(3)}
    save_file(to_float16(tensors), tmp_path / "weights.safetensors")
    stored = read_tensors(tmp_path / "weights.safetensors")
    assert {name: value.dtype for name, value in stored.items()} == dict.fromkeys(tensors, torch.float16)
    torch.testing.assert_close(stored["weight"].float(), tensors["weight"], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"weight": None}, "weight is missing"),
        ({"scale": torch.ones(1)}, "scale is unknown"),
        ({"bias": torch.ones(3)}, r"bias is \(3,\) where \(2,\) is expected"),
    ],
)
def test_weights_that_do_not_fit_are_refused(changes: dict[str, torch.Tensor | None], fault: str) -> None:
    state = nn.Linear(4, 2).state_dict() | changes
    with pytest.raises(WeightsError, match=f"the head does not fit: {fault}"):
        load_exactly(nn.Linear(4, 2), {name: value for name, value in state.items() if value is not None}, "the head")


def test_a_part_is_the_same_whether_it_is_on_demand_or_not() -> None:
    part = nn.Linear(2, 2)
    on_demand = OnDemand(["part"], lambda name: part)
    assert loaded(part) is part and not on_demand.loaded
    assert loaded(on_demand) is part and list(on_demand.loaded) == ["part"]
