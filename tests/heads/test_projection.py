"""Projections between the joint space and the language model."""

from __future__ import annotations

import torch

from codi2.heads.projection import Projection
from codi2.prompt.layout import MODALITIES

IMAGE, AUDIO, VIDEO, PHRASE, *_ = range(len(MODALITIES))
GROUPS = {"image": "image", "audio": "audio", "video": "image", "phrase": "phrase"}


def test_each_group_has_its_own_map_in_any_order() -> None:
    projection, x = Projection(GROUPS, 16, 8, 32), torch.randn(5, 16)
    out = projection(x, torch.tensor([AUDIO, IMAGE, PHRASE, VIDEO, AUDIO]))
    names = ["audio", "image", "phrase", "image", "audio"]
    torch.testing.assert_close(out, torch.stack([projection.maps[n](v) for n, v in zip(names, x, strict=True)]))


def test_outputs_start_at_the_given_scale() -> None:
    out = Projection({"image": "image"}, 64, 128, 256, rms=0.05)(torch.randn(50, 64), torch.full((50,), IMAGE))
    assert 0.04 < out.square().mean().sqrt() < 0.06


def test_outputs_are_in_single_precision_whatever_the_inputs_and_autocast() -> None:
    projection, x = Projection(GROUPS, 16, 8, 32), torch.randn(3, 16).bfloat16()
    modality = torch.full((3,), AUDIO)
    with torch.autocast("cpu", torch.bfloat16):
        out = projection(x, modality)
    assert out.dtype == torch.float32 and torch.equal(out, projection(x.float(), modality))


def test_every_map_gets_a_gradient_which_is_zero_for_other_groups() -> None:
    projection = Projection(GROUPS, 16, 8, 32)
    projection(torch.randn(4, 16), torch.full((4,), VIDEO)).square().sum().backward()
    reached = {name: sum(float(p.grad.abs().sum()) for p in mlp.parameters()) for name, mlp in projection.maps.items()}
    assert {name for name, gradient in reached.items() if gradient} == {"image"}


def test_no_rows_give_no_rows() -> None:
    out = Projection(GROUPS, 16, 8, 32)(torch.zeros(0, 16), torch.zeros(0, dtype=torch.long))
    assert out.shape == (0, 32)
