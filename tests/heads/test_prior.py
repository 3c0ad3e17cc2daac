"""The prior: seeds, batches, absent items, and learning from an example in the context."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from codi2.heads.prior import Context, Prior, baseline_features, cosine, sample_noise_levels
from codi2.weight_files import export_module, load_part

D, W, K, T = 8, 12, 2, 3


def prior(**sizes: Any) -> Prior:
    torch.manual_seed(0)
    network = Prior(D, W, num_slots=T, num_items=4, **{"width": 32, "layers": 2, "heads": 2, **sizes})
    with torch.no_grad():  # at initialisation the output heads are zero
        for parameter in (network.copy_weights.weight, network.skip_weights.weight, network.output.weight):
            parameter.normal_(std=0.2)
    return network.eval()


def context(size: int = 3, items: int = 3, seed: int = 0) -> Context:
    draw = torch.Generator().manual_seed(seed)
    return Context(
        torch.randn(size, K, W, generator=draw),
        torch.zeros(size, dtype=torch.long),
        torch.randn(size, items, T, D, generator=draw),
        torch.zeros(size, items, dtype=torch.long),
    )


def test_seeds_differ_and_one_seed_is_one_sample_in_any_batch() -> None:
    network, three = prior(), context(3)
    samples = network.sample(three, [5, 6, 5])
    assert samples.shape == (3, K, D)
    one = Context(*(getattr(three, name)[1:2] for name in ("states", "modality", "items", "item_modality")))
    assert torch.allclose(network.sample(one, [6])[0], samples[1], atol=1e-5)
    assert not torch.allclose(network.sample(one, [7])[0], samples[1], atol=1e-2)
    assert torch.allclose(network.sample(one, [6], guidance_scale=1.0), samples[1:2], atol=1e-5)
    assert not torch.allclose(network.sample(one, [6], guidance_scale=3.0), samples[1:2], atol=1e-3)


def test_absent_items_and_items_of_other_modalities_have_no_weight() -> None:
    network, unpadded = prior(), context(2, items=2)
    padded = Context(
        unpadded.states,
        unpadded.modality,
        torch.cat([unpadded.items, torch.zeros(2, 1, T, D)], 1),
        torch.zeros(2, 3, dtype=torch.long),
    )
    assert torch.allclose(network.sample(unpadded, [1, 2]), network.sample(padded, [1, 2]), atol=1e-5)
    with torch.no_grad():
        for rest in (network.output, network.skip_weights):  # the weighted items remain
            rest.weight.zero_()
    other = Context(unpadded.states, unpadded.modality, unpadded.items, torch.ones(2, 2, dtype=torch.long))
    assert network(torch.randn(2, K, D), torch.ones(2), other).eq(0).all()


def test_a_clip_can_copy_the_features_of_a_picture(tmp_path: Path) -> None:
    """Modalities of one group share features, also after export."""
    export_module(prior(groups=(0, 1, 0, 3, 4, 5, 6)), tmp_path, {})
    network: Prior = load_part(Prior, tmp_path)
    with torch.no_grad():
        for rest in (network.output, network.skip_weights):  # the weighted items remain
            rest.weight.zero_()
    picture = context(1, items=1)
    noisy, sigma = torch.randn(1, K, D), torch.ones(1)
    for modality, copies in ((0, True), (1, False), (2, True)):
        condition = replace(picture, modality=torch.tensor([modality]))
        assert bool(network(noisy, sigma, condition).any()) == copies
        assert bool(baseline_features(condition, 0, False, network.group_of)) == copies


def test_samples_have_the_spread_of_the_data() -> None:
    """Targets that the context says nothing of: the mean is zero, and a sample must not be."""
    torch.manual_seed(0)
    network, draw = (
        Prior(32, W, num_slots=1, num_items=1, width=32, layers=1, heads=2),
        torch.Generator().manual_seed(0),
    )
    adam = torch.optim.AdamW(network.parameters(), 3e-3)
    nothing = Context(
        torch.zeros(128, 1, W),
        torch.zeros(128, dtype=torch.long),
        torch.zeros(128, 0, 1, 32),
        torch.zeros(128, 0, dtype=torch.long),
    )
    for _ in range(300):
        target, noise = torch.randn(2, 128, 1, 32, generator=draw)
        loss = network.loss(target, noise, sample_noise_levels(128, draw), nothing).mean()
        adam.zero_grad()
        loss.backward()
        adam.step()
    energy = float(network.eval().sample(nothing, range(128), steps=16).square().mean())
    assert 0.7 < energy < 1.3


def test_no_items_and_no_states_still_sample() -> None:
    network, none = prior(), context(2, items=0)
    assert torch.isfinite(network.sample(none, [0, 1])).all()
    assert torch.isfinite(network.sample(none.without_states(), [0, 1])).all()


def test_noise_shares_are_within_bounds() -> None:
    levels = sample_noise_levels(1000, torch.Generator().manual_seed(0))
    assert levels.min() > 0 and levels.max() < 1 and 0.75 < levels.mean() < 0.85


def test_the_prior_learns_to_apply_the_change_that_an_example_shows() -> None:
    """Items are (source, after, before), the latest first; the answer is source + after - before, new in each batch."""
    torch.manual_seed(0)
    network = Prior(D, W, num_slots=1, num_items=3, width=32, layers=2, heads=2)
    adam = torch.optim.AdamW(network.parameters(), 3e-3)

    def batch(size: int, seed: int) -> tuple[Context, torch.Tensor]:
        draw = torch.Generator().manual_seed(seed)
        source, before, rule = torch.randn(3, size, 1, D, generator=draw)
        items = torch.stack([source, before + rule, before], dim=1)
        kinds = torch.zeros(size, 3, dtype=torch.long)
        return Context(torch.zeros(size, 1, W), kinds[:, 0], items, kinds), source + rule

    for step in range(300):
        condition, target = batch(64, step)
        draw = torch.Generator().manual_seed(10**6 + step)  # other numbers than the batch has
        loss = network.loss(
            target, torch.randn(target.shape, generator=draw), sample_noise_levels(64, draw), condition
        ).mean()
        adam.zero_grad()
        loss.backward()
        adam.step()
    condition, target = batch(64, 10_000)
    samples = network.eval().sample(condition, range(64))
    error = (samples - target).square().mean()
    copy = (condition.items[:, 0] - target).square().mean()
    assert error < 0.3 * copy


def test_baselines_are_a_copy_and_arithmetic() -> None:
    before, after, source = torch.randn(3, 2, 4)
    words = torch.cat([torch.ones(1, 4), torch.zeros(1, 4)])
    kinds, items = torch.tensor([[3, 0, 0, 0]]), torch.stack([words, source, after, before])[None]
    condition = Context(torch.zeros(1, 2, W), torch.tensor([0]), items, kinds)
    baselines = baseline_features(condition, 0, pairs=True)
    assert torch.equal(baselines["copy"], source) and torch.allclose(baselines["arithmetic"], source + after - before)
    assert set(baseline_features(condition, 0, pairs=False)) == {"copy"}
    none = Context(condition.states, torch.tensor([1]), items, kinds)
    assert not baseline_features(none, 0, pairs=True)
    assert torch.allclose(cosine(source[None], 2 * source[None]), torch.ones(1))
