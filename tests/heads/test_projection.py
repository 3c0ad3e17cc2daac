"""Projections and the residual copy path."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch.nn import functional as F

from codi2.config import DEBUG
from codi2.heads.projection import Leave, Memory, Projection
from codi2.prompt.layout import MODALITIES

D, W = DEBUG.heads.feature_dim, 32
IMAGE, AUDIO, VIDEO, PHRASE = range(len(MODALITIES))


def test_each_group_has_its_own_map_in_any_order():
    groups = {"image": "image", "audio": "audio", "video": "image", "phrase": "phrase"}
    projection = Projection(groups, D, 8, W)
    x = torch.randn(5, D)
    modality = torch.tensor([AUDIO, IMAGE, PHRASE, VIDEO, AUDIO])
    out = projection(x, modality)
    names = ["audio", "image", "phrase", "image", "audio"]
    torch.testing.assert_close(out, torch.stack([projection.maps[n](v) for n, v in zip(names, x, strict=True)]))


def test_starts_at_the_scale_of_the_embedding_rows():
    out = Projection({"image": "image"}, 64, 128, 256, rms=0.05)(torch.randn(50, 64), torch.full((50,), IMAGE))
    assert 0.04 < out.square().mean().sqrt() < 0.06


def make_leave(copies: int = 1) -> tuple[Leave, Memory]:
    config = replace(DEBUG.heads, copies=copies, copy_dim=4)
    features = torch.randn(4, 3, D)
    features[3, 1:] = 0  # a phrase has one feature
    return Leave(config, W), Memory(torch.eye(W)[:4], features, torch.zeros(4, dtype=torch.long))


def read_units(leave: Leave) -> None:
    """Makes the key of item m, whose state is the unit vector m, the unit vector m behind the normalisation too."""
    low, high = F.layer_norm(torch.eye(W)[0], (W,)).sort().values[[0, -1]]
    leave.key.weight.div_(high - low)
    leave.key.bias.fill_(-low / (high - low))


def test_copying_starts_switched_off():
    leave, memory = make_leave()
    hidden, modality, number = torch.randn(2, W), torch.tensor([IMAGE, AUDIO]), torch.tensor([0, 2])
    visible = torch.ones(2, 4, dtype=torch.bool)
    nothing = torch.zeros(2, D)
    alone = leave.projection(torch.cat([F.layer_norm(hidden, (W,)), nothing], dim=1), modality)
    torch.testing.assert_close(leave(hidden, modality, number, memory, visible), alone, rtol=0, atol=0)


def test_copying_expresses_an_analogy():
    """Weights set by hand: c2 + c1 - c0, in every slot, of visible items only, a phrase in slot 1 only."""
    leave, memory = make_leave()
    with torch.no_grad():
        leave.key.weight.copy_(torch.eye(4, W))
        read_units(leave)
        leave.query.bias.copy_(torch.tensor([-1.0, 1.0, 1.0, 0.5]).div(2).atanh() * 4)
        for parameter in leave.projection.parameters():
            parameter.zero_()
    hidden, modality = torch.randn(4, W), torch.full((4,), IMAGE)
    number = torch.tensor([0, 1, 2, 0])
    visible = torch.ones(4, 4, dtype=torch.bool)
    visible[3, 1:] = False
    out = leave(hidden, modality, number, memory, visible)
    c0, c1, c2, phrase = memory.features
    torch.testing.assert_close(out[:3], (c2 + c1 - c0) + 0.5 * phrase)
    assert (phrase[1:] == 0).all()
    torch.testing.assert_close(out[3], -c0[0])


def test_works_without_items_and_without_the_path():
    for copies in (2, 0):
        leave, memory = make_leave(copies)
        empty = Memory(memory.hidden[:0], memory.features[:0], memory.sample[:0])
        hidden, image = torch.randn(1, W), torch.tensor([IMAGE])
        out = leave(hidden, image, torch.tensor([1]), empty, torch.ones(1, 0, dtype=torch.bool))
        seen = torch.cat([F.layer_norm(hidden, (W,)), torch.zeros(1, copies * D)], dim=1)
        torch.testing.assert_close(out, leave.projection(seen, image))


def test_the_projection_sees_each_sum():
    """Head 1 copies the first item, head 2 the second; the map takes them apart, which no weighted sum could."""
    leave, memory = make_leave(copies=2)
    with torch.no_grad():
        leave.key.weight.copy_(torch.cat([torch.eye(4, W), torch.eye(4, W)]))
        read_units(leave)
        leave.query.bias.copy_(torch.tensor([1.0, 0, 0, 0, 0, 1.0, 0, 0]).div(2).atanh() * 4)
    hidden, image = torch.zeros(1, W), torch.tensor([IMAGE])
    first, second = memory.features[:2, 0]
    out = leave(hidden, image, torch.tensor([0]), memory, torch.ones(1, 4, dtype=torch.bool))
    seen = torch.cat([hidden[0], first, second])[None]
    torch.testing.assert_close(out, leave.projection(seen, image) + first + second)
