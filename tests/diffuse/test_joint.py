"""Denoisers that attend to each other, on the networks of `debug`."""

from __future__ import annotations

from itertools import combinations

import pytest
import torch

from codi2.config import DecoderConfig
from codi2.diffuse.build import debug_decoder
from codi2.diffuse.decoder import Decoder
from codi2.diffuse.joint import JointAttention, joint_attention, sample_together
from codi2.diffuse.sampling import SampleOptions
from codi2.errors import ConfigError

DIM, SLOTS, STEPS = 16, 3, 2
PAIRS = [*combinations(("image", "audio", "video"), 2), ("image", "audio", "video")]


@pytest.fixture(scope="module")
def decoders() -> dict[str, Decoder]:
    config = DecoderConfig(kind="debug", num_inference_steps=STEPS)
    return {modality: debug_decoder(modality, DIM, SLOTS, config) for modality in ("image", "audio", "video")}


@pytest.fixture
def joint(decoders: dict[str, Decoder]) -> JointAttention:
    torch.manual_seed(0)
    layers = joint_attention(decoders).eval().requires_grad_(False)
    for attend in layers.attention_layers.values():
        for layer in attend.values():
            torch.nn.init.normal_(layer.out.weight)
    return layers


def sample_all(joint: JointAttention, decoders: dict[str, Decoder], seeds: dict[str, int]) -> dict[str, torch.Tensor]:
    """One sample of each modality in `seeds`, from the same features at each call."""
    generator = torch.Generator().manual_seed(7)
    features = torch.randn(1, SLOTS, DIM, generator=generator)
    states = {m: decoders[m].sampler_state(features, [seed]) for m, seed in seeds.items()}
    return sample_together(joint, decoders, states, lambda done, of: None)


@pytest.mark.parametrize("together", PAIRS)
def test_untrained_layers_change_nothing(together: tuple[str, ...], decoders: dict[str, Decoder]) -> None:
    samples = sample_all(joint_attention(decoders), decoders, dict.fromkeys(together, 3))
    features = torch.randn(1, SLOTS, DIM, generator=torch.Generator().manual_seed(7))
    for modality, latents in samples.items():
        assert torch.allclose(latents, decoders[modality].generate_latents(features, [3]), atol=1e-5)


@pytest.mark.parametrize("together", PAIRS)
def test_each_modality_depends_on_the_others(
    together: tuple[str, ...], joint: JointAttention, decoders: dict[str, Decoder]
) -> None:
    once = sample_all(joint, decoders, dict.fromkeys(together, 3))
    for changed in together:
        other = sample_all(joint, decoders, dict.fromkeys(together, 3) | {changed: 4})
        for modality in together:
            assert not torch.allclose(once[modality], other[modality], atol=1e-5)


def test_a_modality_may_be_ahead(joint: JointAttention, decoders: dict[str, Decoder]) -> None:
    """A sound that is a step ahead attends to a noisier clip, and the clip to a cleaner sound."""
    features, ticks = torch.randn(1, SLOTS, DIM, generator=torch.Generator().manual_seed(7)), []

    def together(layers: JointAttention, lead: dict[str, int]) -> dict[str, torch.Tensor]:
        states = {m: decoders[m].sampler_state(features, [3]) for m in ("audio", "video")}
        return sample_together(layers, decoders, states, lambda done, of: ticks.append((done, of)), lead)

    synchronised, ahead = together(joint, {}), together(joint, {"audio": 1})
    assert ticks == [(1, 2), (2, 2), (1, 3), (2, 3), (3, 3)]
    assert all(not torch.allclose(synchronised[m], ahead[m], atol=1e-5) for m in synchronised)
    untrained = together(joint_attention(decoders), {"audio": 1})
    assert all(torch.allclose(untrained[m], decoders[m].generate_latents(features, [3]), atol=1e-5) for m in untrained)


def test_the_branches_of_guidance_attend_to_the_same_tokens(
    joint: JointAttention, decoders: dict[str, Decoder]
) -> None:
    """With an equal condition in both branches of a sample, guidance changes nothing."""
    features = torch.zeros(1, SLOTS, DIM)
    both = {m: decoders[m].sampler_state(features, [1], SampleOptions(guidance_scale=4.0)) for m in ("audio", "video")}
    alone = {m: decoders[m].sampler_state(features, [1], SampleOptions(guidance_scale=1.0)) for m in ("audio", "video")}
    guided, plain = (sample_together(joint, decoders, states, lambda done, of: None) for states in (both, alone))
    assert all(torch.allclose(guided[m], plain[m], atol=1e-3) for m in guided)


def test_attention_falls_with_the_distance_in_time(joint: JointAttention, decoders: dict[str, Decoder]) -> None:
    """A change in the first piece of a sound changes the map of a clip's first frame most."""
    layer = joint.attention_layers["video"]["mid_block"]
    clip = torch.randn(8, decoders["video"].unet.config.block_out_channels[-1], 4, 4)
    tokens = torch.randn(1, 8, joint.config["width"])
    other = tokens.clone()
    other[:, 0] = torch.randn(joint.config["width"])
    times = (torch.arange(8) + 0.5) / 8
    change = (layer(clip, tokens, times, 8) - layer(clip, other, times, 8)).flatten(1).norm(dim=1)
    assert change.argmax() == 0
    assert change[0] > 5 * change[4:].max()


def test_a_network_without_blocks_is_refused(decoders: dict[str, Decoder], monkeypatch: pytest.MonkeyPatch) -> None:
    unet = decoders["image"].unet
    monkeypatch.delitem(unet._modules, "up_blocks")
    with pytest.raises(ConfigError, match="'image', whose UNet2DConditionModel has no middle"):
        joint_attention({"image": decoders["image"]})
