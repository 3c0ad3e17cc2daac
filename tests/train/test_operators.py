"""Fitting operators to known changes of training items."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from codi2.config import TINY
from codi2.data import cache
from codi2.data.tables.steps import changes
from codi2.encode.tiny import build_heads
from codi2.train.parts.operators import _Token, fit_operators, known_changes, ridge


@pytest.mark.parametrize("modality", ["image", "audio"])
def test_every_change_changes_something(rich_home: Path, modality: str) -> None:
    items = cache.corpus().select(modality, "train")
    media = [cache.corpus().media(item) for item in items[:4]]
    for name, change in changes(modality).items():
        pairs = [change(medium, np.random.default_rng(i)) for i, medium in enumerate(media)]
        for before, after in pairs:
            assert before.dtype == after.dtype == media[0].dtype and before.shape == after.shape, name
        assert any((before != after).any() for before, after in pairs), name


def test_an_affine_change_is_found() -> None:
    torch.manual_seed(0)
    before, turn, shift = torch.randn(400, 6), torch.randn(6, 6), torch.randn(6)
    found = ridge(before, before @ turn + shift)
    new = torch.randn(5, 6)
    after = new + nn.functional.pad(new, (0, 1), value=1.0) @ found
    torch.testing.assert_close(after, new @ turn + shift, atol=0.1, rtol=0.05)


def test_operators_do_what_the_changes_do(rich_home: Path) -> None:
    """Of the few items of these tests, which a map of 257 numbers can hold whole."""
    encoder, dim = build_heads(TINY.heads.feature_dim), TINY.heads.feature_dim
    known = {group: (kind, dict(list(some.items())[:2])) for group, (kind, some) in known_changes(TINY.heads).items()}
    zeros = {group: nn.Parameter(torch.zeros(2, dim + 1, dim), requires_grad=False) for group in known}
    maps = nn.ParameterDict(zeros)
    fit_operators(maps, known, encoder)
    for group, (kind, some) in known.items():
        media = [cache.corpus().media(item) for item in cache.corpus().select(kind, "train")]
        token, draw = _Token(encoder, kind), np.random.default_rng(0)
        for table, change in zip(maps[group], some.values(), strict=True):
            before, after = (token(list(side)) for side in zip(*(change(m, draw) for m in media), strict=True))
            left = after - before - nn.functional.pad(before, (0, 1), value=1.0) @ table
            assert left.square().mean() < 0.5 * (after - before).square().mean()
    first = {group: table.clone() for group, table in maps.items()}
    fit_operators(maps, known, encoder)
    assert all(torch.equal(maps[group], first[group]) for group in known)
