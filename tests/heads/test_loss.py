"""The loss of section 3.2 in both forms."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from codi2.config import DEBUG
from codi2.heads.loss import codi2_loss

D, V = DEBUG.heads.feature_dim, 10


@pytest.mark.parametrize("form", ["paper", "released"])
def test_the_loss_is_the_stated_sum(form):
    config = replace(DEBUG.heads, loss=form, alpha=3.0)
    prediction, target, logits = torch.randn(4, D), torch.randn(4, D), torch.randn(5, V)
    labels, diffusion = torch.randint(V, (5,)), torch.rand(2)
    parts = codi2_loss(config, prediction, target, logits, labels, diffusion)
    text = -logits.log_softmax(-1)[torch.arange(5), labels].mean()
    if form == "paper":
        expected = 3.0 * (prediction - target).pow(2).mean() + diffusion.mean() + text
    else:
        cosine = (prediction * target).sum(-1) / prediction.norm(dim=-1) / target.norm(dim=-1)
        expected = -0.1 * cosine.mean() + diffusion.mean() + text
    torch.testing.assert_close(parts["loss"], expected)


@pytest.mark.parametrize("form", ["paper", "released"])
@pytest.mark.parametrize(("slots", "tokens"), [(0, 3), (2, 0), (0, 0)])
def test_a_batch_may_lack_features_or_text(form, slots, tokens):
    prediction = torch.randn(slots, D, requires_grad=True)
    logits = torch.randn(tokens, V, requires_grad=True)
    parts = codi2_loss(
        replace(DEBUG.heads, loss=form),
        prediction,
        torch.randn(slots, D),
        logits,
        torch.zeros(tokens, dtype=torch.long),
        torch.zeros(0),
    )
    assert all(torch.isfinite(value) for value in parts.values())
    assert (parts["feature"] == 0) == (slots == 0)
    assert (parts["text"] == 0) == (tokens == 0)
    parts["loss"].backward()
    assert torch.isfinite(prediction.grad).all() and torch.isfinite(logits.grad).all()
