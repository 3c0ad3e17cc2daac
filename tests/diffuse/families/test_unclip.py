"""The image decoder of `paper` beside diffusers' own pipelines, on equal random weights, latents and noise."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from codi2.config import DecoderConfig
from codi2.diffuse.decoder import Decoder
from codi2.diffuse.families import load_pipeline
from codi2.diffuse.families.unclip import unclip_decoder
from codi2.diffuse.load import has_head, trained_state
from codi2.diffuse.sampling import SampleOptions, seeded_noise
from codi2.errors import ConfigError, WeightsError
from codi2.prompt.parts import Image

from .published import unclip_pipeline

DIM, STEPS, SCALE, LEVEL, SEEDS = 16, 4, 7.5, 499, [3, 4]
CONFIG = DecoderConfig("pipeline", num_inference_steps=STEPS, guidance_scale=SCALE, noise_level=LEVEL)
NEGATIVE = "worst quality, sketch"
PARTS = ("unet", "vae", "image_normalizer", "image_noising_scheduler", "scheduler", "tokenizer", "text_encoder")


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return unclip_pipeline(tmp_path_factory.mktemp("unclip"), DIM)


@pytest.fixture
def decoder(pipeline: Any) -> Decoder:
    parts = {name: copy.deepcopy(getattr(pipeline, name)) for name in PARTS}
    return unclip_decoder(parts, CONFIG)


def features() -> Tensor:
    return torch.randn(2, 1, DIM, generator=torch.Generator().manual_seed(1))


def relative(latents: Tensor, expected: Tensor) -> float:
    return float((latents - expected).norm() / expected.norm())


def pipeline_latents(pipeline: Any, monkeypatch: pytest.MonkeyPatch, **arguments: Any) -> Tensor:
    """Latents of the pipeline, with the noise of embeddings and latents that our decoder draws."""
    like = torch.device("cpu"), torch.float32
    noise = seeded_noise((4, 8, 8), SEEDS, *like)
    embedding_noise = seeded_noise((1, DIM), [seed + 1 for seed in SEEDS], *like)[:, 0]
    noise_image_embeddings = type(pipeline).noise_image_embeddings
    monkeypatch.setattr(
        pipeline,
        "noise_image_embeddings",
        lambda **a: noise_image_embeddings(pipeline, a["image_embeds"], LEVEL, noise=embedding_noise),
    )
    out = pipeline(
        image_embeds=features()[:, 0], latents=noise, noise_level=LEVEL, num_inference_steps=STEPS,
        guidance_scale=SCALE, output_type="latent", **arguments,
    )  # fmt: skip
    return out.images


def decoder_latents(decoder: Decoder, negative: str = "", sources: Any = None) -> Tensor:
    words = decoder.conditioner.read_words(negative) if negative else None
    words = None if words is None else words.expand(2, -1, -1)
    return decoder.generate_latents(
        features(), SEEDS, SampleOptions(sources=sources, negative=words, guidance_scale=SCALE)
    )


def test_latents_are_those_of_the_published_pipeline(
    pipeline: Any, decoder: Decoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = pipeline_latents(pipeline, monkeypatch, prompt=["", ""])
    assert relative(decoder_latents(decoder), expected) < 1e-5


@pytest.mark.parametrize("both", [False, True])
def test_a_negative_prompt_acts_as_in_the_published_pipeline(
    pipeline: Any, decoder: Decoder, monkeypatch: pytest.MonkeyPatch, both: bool
) -> None:
    prompt = [NEGATIVE if both else ""] * 2
    expected = pipeline_latents(pipeline, monkeypatch, prompt=prompt, negative_prompt=[NEGATIVE] * 2)
    decoder.config = replace(CONFIG, negative_in_both=both)
    assert relative(decoder_latents(decoder, NEGATIVE), expected) < 1e-5
    assert relative(decoder_latents(decoder), expected) > 1e-3


def test_the_fidelity_path_has_the_arithmetic_of_instruct_pix2pix(pipeline: Any, decoder: Decoder) -> None:
    """Three branches over (noisy latent, unscaled source latent), combined by hand as its pipeline does."""
    from PIL import Image as PILImage

    with torch.no_grad():
        decoder.unet.conv_in.weight[:, 4:].normal_(generator=torch.Generator().manual_seed(5)).mul_(0.1)
    picture = PILImage.effect_mandelbrot((16, 16), (-2, -1, 1, 1), 20).convert("RGB")
    latents = decoder_latents(decoder, sources=[Image(picture), Image(picture)])

    unet, scheduler = decoder.unet, copy.deepcopy(pipeline.scheduler)
    source = pipeline.vae.encode(pipeline.image_processor.preprocess(picture, 16, 16)).latent_dist.mode()
    source, like = source.expand(2, -1, -1, -1), (torch.device("cpu"), torch.float32)
    blur = seeded_noise((1, DIM), [seed + 1 for seed in SEEDS], *like)[:, 0]
    label = pipeline.noise_image_embeddings(features()[:, 0], LEVEL, noise=blur)
    text = pipeline.encode_prompt(["", ""], "cpu", 1, False)[0]
    x = seeded_noise((4, 8, 8), SEEDS, *like)
    scheduler.set_timesteps(STEPS)
    for t in scheduler.timesteps:
        with torch.no_grad():
            branches = unet(
                torch.cat([x.repeat(3, 1, 1, 1), torch.cat([source, source, torch.zeros_like(source)])], dim=1),
                t,
                encoder_hidden_states=text.repeat(3, 1, 1),
                class_labels=torch.cat([label, torch.zeros_like(label), torch.zeros_like(label)]),
            ).sample
        conditioned, image, unconditional = branches.chunk(3)
        x = scheduler.step(
            unconditional + SCALE * (conditioned - image) + 1.5 * (image - unconditional), t, x
        ).prev_sample
    assert relative(latents, x) < 1e-5


def test_a_widened_network_keeps_its_weights_and_has_zeros_for_the_source(pipeline: Any, decoder: Decoder) -> None:
    assert decoder.unet.conv_in.in_channels == 8
    assert torch.equal(decoder.unet.conv_in.weight[:, :4], pipeline.unet.conv_in.weight)
    assert torch.equal(decoder.unet.conv_in.bias, pipeline.unet.conv_in.bias)
    assert not decoder.unet.conv_in.weight[:, 4:].any()


def test_the_loss_is_that_of_the_velocity_and_reaches_the_feature(decoder: Decoder) -> None:
    feature = features().requires_grad_(True)
    latents, noise = torch.randn(2, 2, 4, 8, 8, generator=torch.Generator().manual_seed(2)).unbind(0)
    level, t = torch.full((2,), LEVEL), torch.tensor([100, 900])
    noised = decoder.conditioner.noised(feature, torch.randn(2, 1, DIM), level)
    loss = decoder.loss(latents, noise, t, noised, level, torch.zeros_like(latents))
    velocity = decoder.process.diffusion.get_velocity(latents, noise, t)
    prediction = decoder.denoise(
        decoder.process.diffusion.add_noise(latents, noise, t), t, noised, level, torch.zeros_like(latents), None
    )
    assert torch.allclose(loss, (prediction - velocity).square().mean((1, 2, 3)), rtol=1e-5)
    loss.sum().backward()
    assert feature.grad is not None and feature.grad.abs().sum() > 0


def test_the_expected_norm_is_that_of_the_normaliser(pipeline: Any, decoder: Decoder) -> None:
    normalizer = pipeline.image_normalizer
    embeddings = (normalizer.mean + normalizer.std * torch.randn(20_000, DIM)).detach()
    expected = decoder.conditioner.expected_norm()
    assert expected == pytest.approx(float(embeddings.square().sum(1).mean().sqrt()), rel=0.02)
    decoder.config = DecoderConfig(kind="pipeline", feature_norm=None)
    assert torch.allclose(decoder.rescaled(features()).norm(dim=-1), torch.full((2, 1), expected))


def test_parts_load_from_a_folder_or_are_refused(pipeline: Any, decoder: Decoder, tmp_path: Path) -> None:
    for name in PARTS:
        getattr(pipeline, name).save_pretrained(tmp_path / name)
    (tmp_path / "model_index.json").write_text('{"_class_name": "StableUnCLIPImg2ImgPipeline"}')

    def load(folder: Path, modality: str = "image", dim: int = DIM) -> Decoder:
        return load_pipeline(modality, replace(decoder.config, id=str(folder)), dim)

    loaded = load(tmp_path)
    assert relative(decoder_latents(loaded), decoder_latents(decoder)) < 1e-6

    from safetensors.torch import load_file, save_file

    file = tmp_path / "unet" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(file)
    name = "mid_block.resnets.0.conv1.weight"
    save_file({k if k != name else "renamed": v for k, v in tensors.items()}, file)
    with pytest.raises(WeightsError, match=r"unet of .*tensors are missing.*mid_block"):
        load(tmp_path)
    with pytest.raises(WeightsError, match="nowhere"):
        load(tmp_path / "nowhere")
    with pytest.raises(ConfigError, match="makes image"):
        load(tmp_path, "audio")
    save_file(tensors, file)
    narrow = load(tmp_path, dim=8)
    assert narrow.conditioner.embedding_width(8) == DIM and has_head(narrow) and not has_head(load(tmp_path))


def test_the_states_of_few_prompts_are_kept(decoder: Decoder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("codi2.diffuse.words.MOST_CACHED", 2)
    text = decoder.conditioner.text
    expected = text("ugly")
    for prompt in ("", "blurry", "dark", "ugly"):
        text(prompt)
    assert list(text._cache) == ["", "ugly"] and torch.equal(text("ugly"), expected)


def test_features_of_another_width_are_mapped_to_embeddings_by_a_trained_head(pipeline: Any, tmp_path: Path) -> None:
    parts = {name: copy.deepcopy(getattr(pipeline, name)) for name in PARTS}
    torch.manual_seed(0)
    decoder = unclip_decoder(parts, CONFIG, 6)
    inputs = torch.randn(2, 1, 6, generator=torch.Generator().manual_seed(1))
    embeddings = decoder.rescaled(torch.cat([inputs, torch.zeros(1, 1, 6)]))
    expected = decoder.conditioner.expected_norm()
    assert embeddings[:2].norm(dim=-1).flatten().tolist() == pytest.approx([expected] * 2, rel=1e-5)
    assert not embeddings[2].any()
    together, alone = decoder.generate_latents(inputs, SEEDS), decoder.generate_latents(inputs[1:], SEEDS[1:])
    assert relative(together[1:], alone) < 1e-4 and relative(together[:1], together[1:]) > 1e-2

    # a decoder for features of the embeddings' width gives the same latents for these embeddings
    without_head = unclip_decoder({name: copy.deepcopy(getattr(pipeline, name)) for name in PARTS}, decoder.config)
    assert relative(without_head.generate_latents(embeddings[:2], SEEDS), together) < 1e-5

    state = trained_state(decoder)
    assert state["conditioner.head.weight"].shape == (DIM, 6)
    decoder.conditioner.head.requires_grad_(True)
    level, clean = torch.full((2,), LEVEL), torch.randn(2, *decoder.latent_shape)
    noised = decoder.conditioner.noised(decoder.rescaled(inputs), torch.randn(2, 1, DIM), level)
    decoder.loss(clean, torch.randn_like(clean), torch.tensor([100, 900]), noised, level, clean * 0).sum().backward()
    assert decoder.conditioner.head.weight.grad.abs().sum() > 0
