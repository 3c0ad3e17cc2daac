"""Batches as one piece of shared memory."""

from __future__ import annotations

import os
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from codi2.train.packing import pack


@dataclass(frozen=True)
class Values:
    by_name: dict[str, Tensor]
    rows: tuple[Tensor, ...]
    about: str


def test_a_packed_batch_is_the_same_batch() -> None:
    numbers = torch.randn(3, 5)
    kinds = {
        "bf16": numbers.bfloat16(),
        "bool": numbers > 0,
        "int64": torch.arange(7),
        "one": torch.tensor(2.5),
        "none": torch.zeros(0, 4),
        "columns": numbers.T,  # not contiguous
        "byte": torch.tensor([1, 2, 3], dtype=torch.uint8),
    }
    packed = pack(Values(kinds, (numbers[0], numbers[1:]), "text"))
    got = packed.unpack()
    assert packed.numbers.is_shared() and got.about == "text"
    for ours, theirs in zip(
        (*got.by_name.values(), *got.rows), (*kinds.values(), *(numbers[0], numbers[1:])), strict=True
    ):
        assert ours.dtype == theirs.dtype and torch.equal(ours, theirs)
        assert ours.untyped_storage().data_ptr() == packed.numbers.untyped_storage().data_ptr()
    got.by_name["int64"][0] = 9  # tensors do not overlap
    assert torch.equal(got.by_name["one"], torch.tensor(2.5)) and torch.equal(got.rows[0], numbers[0])


def test_a_batch_without_tensors() -> None:
    assert pack({"step": 3}).unpack() == {"step": 3}


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="open files are not listed here")
def test_a_batch_takes_one_open_file() -> None:
    before = len(os.listdir("/proc/self/fd"))
    packed = [pack([torch.ones(2) for _ in range(40)]) for _ in range(5)]
    assert len(os.listdir("/proc/self/fd")) - before <= len(packed)
