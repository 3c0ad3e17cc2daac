"""Projections, and what a prediction points at."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch.nn import functional as F

from codi2.config import DEBUG
from codi2.heads.projection import Leave, Memory, Projection
from codi2.prompt.layout import MODALITIES

D, W = DEBUG.heads.feature_dim, 32
IMAGE, AUDIO, VIDEO, PHRASE, *_ = range(len(MODALITIES))


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


def make_leave(copies: int = 2) -> tuple[Leave, Memory]:
    config = replace(DEBUG.heads, copies=copies, copy_dim=4)
    features = torch.randn(4, 3, D)
    features[3, 1:] = 0  # a phrase has one feature
    return Leave(config, W), Memory(torch.eye(W)[:4], features, torch.zeros(4, dtype=torch.long))


def test_each_head_starts_at_its_place_from_the_end():
    leave, memory = make_leave()
    visible = torch.ones(2, 4, dtype=torch.bool)
    visible[1, 2:] = False  # the second prediction came earlier
    pointed = leave.pointed(torch.randn(2, W), memory, visible)
    assert pointed.shape == (2, 2, 3, D)
    for p, heads in enumerate([(3, 2), (1, 0)]):
        for head, item in enumerate(heads):
            assert (pointed[p, head] - memory.features[item]).norm() < 0.1 * memory.features.norm()


def test_a_state_can_point_elsewhere():
    """Queries and keys set by hand: the first head looks for the item whose state is like its own."""
    leave, memory = make_leave()
    with torch.no_grad():
        for linear in (leave.query, leave.key):
            linear.weight.zero_()
            linear.bias.zero_()
            linear.weight[:4, :4] = 10 * torch.eye(4)
    states = leave._normal(memory.hidden)
    pointed = leave.pointed(states, memory, torch.ones(4, 4, dtype=torch.bool))
    torch.testing.assert_close(pointed[:, 0], memory.features, atol=1e-3, rtol=0)


def test_a_share_of_what_is_pointed_at_goes_straight_to_the_same_slot():
    leave, memory = make_leave()
    with torch.no_grad():
        for parameter in leave.projection.parameters():
            parameter.zero_()
    hidden, modality = torch.randn(3, W), torch.full((3,), IMAGE)
    number, visible = torch.tensor([0, 1, 2]), torch.ones(3, 4, dtype=torch.bool)
    pointed = leave.pointed(leave._normal(hidden), memory, visible)
    expected = 0.3 * pointed[torch.arange(3), :, number].sum(1)
    torch.testing.assert_close(leave(hidden, modality, number, memory, visible), expected)


def test_works_without_items_and_without_the_path():
    for copies in (2, 0):
        leave, memory = make_leave(copies)
        empty = Memory(memory.hidden[:0], memory.features[:0], memory.sample[:0])
        hidden, image = torch.randn(1, W), torch.tensor([IMAGE])
        out = leave(hidden, image, torch.tensor([1]), empty, torch.ones(1, 0, dtype=torch.bool))
        seen = torch.cat([F.layer_norm(hidden, (W,)), torch.zeros(1, copies * 3 * D)], dim=1)
        torch.testing.assert_close(out, leave.projection(seen, image))


def test_items_of_other_conversations_are_not_seen():
    leave, memory = make_leave()
    hidden, image, number = torch.randn(1, W), torch.tensor([IMAGE]), torch.tensor([0])
    visible = torch.tensor([[True, True, False, False]])
    others = Memory(memory.hidden, memory.features.clone(), memory.sample)
    others.features[2:] += 1
    torch.testing.assert_close(
        leave(hidden, image, number, memory, visible), leave(hidden, image, number, others, visible)
    )
