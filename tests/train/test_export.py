"""Weights that a run starts from."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from codi2.diffuse.draft import Draft
from codi2.errors import WeightsError
from codi2.train.export import export_module, restore_module


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
    restore_module(after, tmp_path, partly=True)
    assert (after.choose.weight == 0.5).all() and torch.equal(after.gains.weight, fresh)
