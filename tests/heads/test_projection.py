"""Projections, and what a prediction points at."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch.nn import functional as F

from codi2.config import DEBUG
from codi2.heads.projection import Memory, OutputProjection, Projection
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


def make_leave(copies: int = 2) -> tuple[OutputProjection, Memory]:
    config = replace(DEBUG.heads, copies=copies, copy_dim=4)
    features = torch.randn(4, 3, D)
    features[3, 1:] = 0  # a phrase has one feature
    kinds = torch.tensor([IMAGE, AUDIO, IMAGE, PHRASE])
    return OutputProjection(config, W), Memory(torch.eye(W)[:4], features, torch.zeros(4, dtype=torch.long), kinds)


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
        empty = memory.first(0)
        hidden, image = torch.randn(1, W), torch.tensor([IMAGE])
        out = leave(hidden, image, torch.tensor([1]), empty, torch.ones(1, 0, dtype=torch.bool))
        seen = torch.cat([F.layer_norm(hidden, (W,)), torch.zeros(1, copies * 3 * D)], dim=1)
        torch.testing.assert_close(out, leave.projection(seen, image))


def test_items_of_other_conversations_are_not_seen():
    leave, memory = make_leave()
    hidden, image, number = torch.randn(1, W), torch.tensor([IMAGE]), torch.tensor([0])
    visible = torch.tensor([[True, True, False, False]])
    others = replace(memory, features=memory.features.clone())
    others.features[2:] += 1
    torch.testing.assert_close(
        leave(hidden, image, number, memory, visible), leave(hidden, image, number, others, visible)
    )


def test_two_edits_of_full_rank_are_learned_side_by_side():
    """The state says which of two rotations of what was given is asked for; two linear maps hold both."""
    torch.manual_seed(0)
    leave = OutputProjection(replace(DEBUG.heads, copies=1, copy_dim=4, maps=2), W)
    turns = [torch.linalg.qr(torch.randn(D, D))[0] for _ in range(2)]
    asked, last = torch.eye(W)[:2] * 8, torch.zeros(1, dtype=torch.long)
    assert leave.edits is not None
    optimizer = torch.optim.Adam(leave.edits.parameters(), 0.03)

    def error(items: int) -> torch.Tensor:
        off = []
        for hidden, turn in zip(asked, turns, strict=True):
            given = torch.randn(items, 3, D)
            memory = Memory(torch.zeros(items, W), given, last.expand(items), last.expand(items))
            found = leave(
                hidden.expand(items, -1), torch.full((items,), AUDIO), last.expand(items), memory, torch.eye(items) > 0
            )
            off.append((found - given[:, 0] @ turn).square().mean())
        return torch.stack(off).mean()

    before = error(64).item()
    for _ in range(200):
        optimizer.zero_grad()
        error(32).backward()
        optimizer.step()
    assert error(64).item() < 0.05 * before


def test_fresh_maps_change_nothing():
    torch.manual_seed(3)
    leave, memory = make_leave()
    mapped = OutputProjection(replace(DEBUG.heads, copies=2, copy_dim=4, maps=3), W)
    mapped.load_state_dict(leave.state_dict(), strict=False)
    given = (torch.randn(2, W), torch.tensor([IMAGE, AUDIO]), torch.tensor([0, 1]), memory, torch.ones(2, 4) > 0)
    torch.testing.assert_close(mapped(*given), leave(*given))
    assert {"edits.maps", "query.weight", "projection.maps.image.0.weight"} < set(mapped.wide) - {"edits.favour"}
    assert leave.wide == []
