"""Sampling, guidance and the conditioner, checked against diffusers' own pipelines and by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler
from PIL import Image as PILImage

from codi2.config import DecoderConfig
from codi2.diffuse.build import debug_decoder
from codi2.diffuse.conditioner import Conditioner, label_dim
from codi2.diffuse.decoder import Decoder
from codi2.diffuse.process import Discrete
from codi2.diffuse.sampling import SampleOptions, SamplerState, guide, sample, seeded_noise
from codi2.prompt.parts import Audio, Image

DIM, SLOTS = 16, 3


@pytest.fixture(scope="module", params=["image", "audio"])
def decoder(request: pytest.FixtureRequest) -> Decoder:
    return debug_decoder(
        request.param, DIM, SLOTS, DecoderConfig(kind="debug", num_inference_steps=2, feature_norm=4.0)
    )


def test_a_perfect_denoiser_gives_the_latents_back() -> None:
    latents = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    scheduler = DDIMScheduler(1000, beta_schedule="squaredcos_cap_v2", prediction_type="sample", clip_sample=False)
    calls: list[tuple[int, int]] = []
    state = SamplerState(lambda x, t: latents, scheduler, torch.randn_like(latents), 5)
    out = sample(state, lambda i, n: calls.append((i, n)))
    assert torch.allclose(out, latents, atol=1e-4)
    assert calls == [(i, 5) for i in range(1, 6)]


def test_guidance_of_two_and_three_branches() -> None:
    u, s, f = torch.tensor([[1.0]]), torch.tensor([[3.0]]), torch.tensor([[7.0]])
    assert guide(torch.cat([u, f]), 2.0, 9.0, copies=2).item() == 1 + 2 * 6
    # InstructPix2Pix, equation 3
    assert guide(torch.cat([u, s, f]), 2.0, 1.5, copies=3).item() == 1 + 1.5 * 2 + 2 * 4
    # without a source its branch equals the unconditional one, and both rules agree
    assert guide(torch.cat([u, u, f]), 2.0, 1.5, copies=3).item() == guide(torch.cat([u, f]), 2.0, 1.5, copies=2).item()


def test_noise_belongs_to_the_seed_not_to_the_batch() -> None:
    together = seeded_noise((4, 2, 2), [5, 6], torch.device("cpu"), torch.float32)
    alone = seeded_noise((4, 2, 2), [6], torch.device("cpu"), torch.float32)
    assert torch.equal(together[1], alone[0])


def test_conditioner_ignores_absent_slots() -> None:
    conditioner = Conditioner(DIM, SLOTS, 8)
    features = torch.randn(2, SLOTS, DIM)
    features[1] = 0
    condition = conditioner(features, torch.zeros(2, dtype=torch.long))
    labels, states = condition["class_labels"], condition["encoder_hidden_states"]
    assert labels.shape == (2, label_dim(DIM, SLOTS)) == (2, (SLOTS + 1) * DIM)
    assert states.shape == (2, SLOTS + 1, 8)
    assert not labels[1].any()
    assert not states[1].any()
    assert states[0, :SLOTS].any(-1).all()
    assert not states[0, -1].any()  # no text


def test_noise_level_zero_leaves_the_feature_alone() -> None:
    conditioner = Conditioner(DIM, SLOTS, 8)
    features, noise = torch.randn(2, SLOTS, DIM), torch.randn(2, SLOTS, DIM)
    noised = conditioner.noised(features, noise, torch.tensor([0, 900]))
    assert torch.equal(noised[0], features[0])
    assert torch.cosine_similarity(noised[1].flatten(), noise[1].flatten(), dim=0) > 0.9


def test_loss_is_per_sample_and_reaches_the_feature(decoder: Decoder) -> None:
    latents = torch.randn(3, *decoder.latent_shape)
    features = torch.randn(3, SLOTS, DIM, requires_grad=True)
    t = torch.tensor([10, 500, 990])
    loss = decoder.loss(latents, torch.randn_like(latents), t, features, torch.zeros_like(t), torch.zeros_like(latents))
    assert loss.shape == (3,)
    loss[1].backward()
    assert features.grad is not None
    assert features.grad[1].abs().sum() > 0
    assert features.grad[0].abs().sum() == 0


def test_regressed_joint_vector_gets_its_norm_back(decoder: Decoder) -> None:
    features = torch.randn(2, SLOTS, DIM) * 0.1
    rescaled = decoder.rescaled(features)
    assert torch.allclose(rescaled[:, 0].norm(dim=-1), torch.full((2,), 4.0), atol=1e-4)
    assert torch.equal(rescaled[:, 1:], features[:, 1:])


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample"])
def test_the_loss_is_that_of_the_predicted_kind(decoder: Decoder, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A network with an error of 0.1 in its prediction; a predicted sample has the weight of the velocity's error."""
    latents, noise = torch.randn(2, 2, *decoder.latent_shape, generator=torch.Generator().manual_seed(0)).unbind(1)
    t = torch.tensor([0, 500])
    alpha = decoder.process.diffusion.alphas_cumprod[t].sqrt().view(-1, 1, 1, 1)
    sigma = (1 - alpha**2).sqrt()
    target = {"epsilon": noise, "v_prediction": alpha * noise - sigma * latents, "sample": latents}[kind]
    schedule = type(decoder.process.diffusion).from_config(decoder.process.diffusion.config)
    schedule.register_to_config(prediction_type=kind)
    monkeypatch.setattr(decoder, "process", Discrete(schedule))
    monkeypatch.setattr(decoder, "denoise", lambda *args: target + 0.1)
    loss = decoder.loss(latents, noise, t, torch.zeros(2, SLOTS, DIM), torch.zeros(2), torch.zeros_like(latents))
    weight = torch.tensor([5.0, 1 / float(sigma[1]) ** 2]) if kind == "sample" else torch.ones(2)
    assert torch.allclose(loss, 0.01 * weight, rtol=1e-4)


def test_without_guidance_one_branch_runs_and_a_negative_prompt_raises_the_guidance(
    decoder: Decoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    generator = torch.Generator().manual_seed(0)
    features, negative = torch.randn(1, SLOTS, DIM, generator=generator), torch.randn(1, DIM, generator=generator)
    sizes: list[int] = []
    denoise = decoder.denoise
    monkeypatch.setattr(
        decoder, "denoise", lambda latents, *rest: (sizes.append(len(latents)), denoise(latents, *rest))[1]
    )
    monkeypatch.setattr(
        decoder, "config", DecoderConfig(kind="debug", num_inference_steps=1, guidance_scale=1, source_guidance_scale=1)
    )

    def draw(negative: torch.Tensor | None = None, scale: float | None = None) -> torch.Tensor:
        return decoder.generate_latents(features, [0], SampleOptions(negative=negative, guidance_scale=scale))

    plain, almost_plain, with_negative = draw(), draw(scale=1.000001), draw(negative)
    assert sizes == [1, 2, 2]
    assert torch.allclose(plain, almost_plain, atol=1e-4)
    assert not torch.allclose(plain, with_negative, atol=1e-4)
    assert torch.allclose(draw(negative, scale=1.0), plain)  # an explicit scale is not raised


def test_a_source_that_is_not_guided_needs_no_branch_without_it(
    decoder: Decoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    sound = Audio(np.sin(np.arange(40_960) / 9).astype(np.float32), 16_000)
    source = sound if decoder.modality == "audio" else Image(PILImage.new("RGB", (64, 64), "red"))
    sizes: list[int] = []
    denoise = decoder.denoise
    monkeypatch.setattr(
        decoder, "denoise", lambda latents, *rest: (sizes.append(len(latents)), denoise(latents, *rest))[1]
    )
    features = torch.randn(1, SLOTS, DIM, generator=torch.Generator().manual_seed(0))

    def draw(source_scale: float) -> torch.Tensor:
        options = SampleOptions([source], num_inference_steps=1, guidance_scale=2.0, source_guidance_scale=source_scale)
        return decoder.generate_latents(features, [0], options)

    two, three = draw(1.0), draw(1.000001)
    assert sizes == [2, 3] and torch.allclose(two, three, atol=1e-4)
