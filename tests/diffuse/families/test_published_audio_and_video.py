"""The audio and video decoders of `paper` beside diffusers' own pipelines, on equal random weights and latents."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image as PILImage
from torch import Tensor

from codi2.config import DecoderConfig
from codi2.diffuse.decoder import Decoder
from codi2.diffuse.families.audioldm2 import audioldm2_decoder
from codi2.diffuse.families.text_to_video import text_to_video_decoder
from codi2.diffuse.sampling import SampleOptions, seeded_noise
from codi2.prompt.parts import Audio, Video

from .published import audioldm2_pipeline, video_pipeline

DIM, STEPS, SCALE, SEEDS, NEGATIVE = 16, 3, 5.0, [3, 4], "muffled, echo"
CONFIG = DecoderConfig("pipeline", num_inference_steps=STEPS, guidance_scale=SCALE)
FRAMES = 32  # of a spectrogram, 0.32 s
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def sounds() -> Any:
    return audioldm2_pipeline()


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return video_pipeline(tmp_path_factory.mktemp("zeroscope"))


@pytest.fixture
def audio(sounds: Any) -> Decoder:
    names = ("unet", "vae", "vocoder", "scheduler", "tokenizer_2", "text_encoder_2")
    parts = {name: copy.deepcopy(getattr(sounds, name)) for name in names}
    torch.manual_seed(1)
    return audioldm2_decoder(parts, DIM, replace(CONFIG, length=FRAMES))


@pytest.fixture
def video(clips: Any) -> Decoder:
    parts = {n: copy.deepcopy(getattr(clips, n)) for n in ("unet", "vae", "scheduler", "tokenizer", "text_encoder")}
    torch.manual_seed(1)
    return text_to_video_decoder(parts, DIM, replace(CONFIG, length=3, height=16, size=24))


def features() -> Tensor:
    return torch.randn(2, 1, DIM, generator=torch.Generator().manual_seed(1))


def latents(decoder: Decoder, negative: str, sources: Any = None) -> Tensor:
    words = decoder.conditioner.read_words(negative).expand(2, -1, -1) if negative else None
    return decoder.generate_latents(
        features(), SEEDS, SampleOptions(sources=sources, negative=words, guidance_scale=SCALE)
    )


def relative(latents: Tensor, expected: Tensor) -> float:
    return float((latents - expected).norm() / expected.norm())


@pytest.mark.parametrize("negative", ["", NEGATIVE])
def test_sounds_are_those_of_the_published_pipeline(sounds: Any, audio: Decoder, negative: str) -> None:
    blank, words, none = torch.zeros(2, 1, DIM), audio.conditioner.read_words(negative), audio.conditioner.no_words
    none = torch.nn.functional.pad(none, (0, 0, 0, words.shape[1] - none.shape[1]))  # shorter, so padded and masked
    states = [audio.conditioner(f, torch.zeros(2))["encoder_hidden_states"] for f in (features(), blank)]
    out = sounds(
        prompt_embeds=none.expand(2, -1, -1),
        attention_mask=(none.abs().amax(-1) > 0).long().expand(2, -1),
        generated_prompt_embeds=states[0],
        negative_prompt_embeds=words.expand(2, -1, -1),
        negative_attention_mask=torch.ones(2, words.shape[1], dtype=torch.long),
        negative_generated_prompt_embeds=states[1],
        latents=seeded_noise(audio.latent_shape, SEEDS, CPU, torch.float32),
        num_inference_steps=STEPS, guidance_scale=SCALE, audio_length_in_s=FRAMES / 100, output_type="np",
    )  # fmt: skip
    waves = [part.samples for part in audio.codec.to_parts(audio.codec.decode(latents(audio, negative)))]
    assert np.stack(waves).shape == (2, FRAMES * 160)
    assert np.abs(np.stack(waves) - out.audios).max() < 1e-5 * np.abs(out.audios).max()


def test_clips_are_those_of_the_published_pipeline(clips: Any, video: Decoder) -> None:
    condition = video.conditioner(features(), torch.zeros(2), video.conditioner.no_words.expand(2, -1, -1))
    out = clips(
        prompt_embeds=condition["encoder_hidden_states"],
        negative_prompt_embeds=video.conditioner.read_words(NEGATIVE).expand(2, -1, -1),
        latents=seeded_noise(video.latent_shape, SEEDS, CPU, torch.float32),
        num_frames=3, height=16, width=24, num_inference_steps=STEPS, guidance_scale=SCALE, output_type="pt",
    )  # fmt: skip
    expected = out.frames.permute(0, 2, 1, 3, 4) * 2 - 1  # [B, 3, F, H, W]
    frames = video.codec.decode(latents(video, NEGATIVE)).clamp(-1, 1)
    assert relative(frames, expected) < 1e-5
    parts = video.codec.to_parts(frames)
    assert [len(part.frames) for part in parts] == [3, 3] and parts[0].frames[0].size == (24, 16)


@pytest.mark.parametrize("kind", ["audio", "video"])
def test_a_source_changes_the_sample(request: pytest.FixtureRequest, kind: str) -> None:
    decoder: Decoder = request.getfixturevalue(kind)
    with torch.no_grad():
        decoder.unet.conv_in.weight[:, 4:].normal_()
    if kind == "audio":
        source = Audio(np.sin(np.arange(16_000) * 0.3).astype(np.float32), 16_000)
    else:
        source = Video(tuple(PILImage.new("RGB", (40, 20), (80 * i, 20, 200)) for i in range(5)), 8)
    plain, edited = latents(decoder, ""), latents(decoder, "", [source, None])
    assert edited.shape == (2, *decoder.latent_shape)
    assert relative(edited[:1], plain[:1]) > 1e-3


@pytest.mark.parametrize("kind", ["audio", "video"])
def test_the_loss_reaches_the_feature_and_the_head(request: pytest.FixtureRequest, kind: str) -> None:
    decoder: Decoder = request.getfixturevalue(kind)
    feature = features().requires_grad_(True)
    clean = torch.randn(2, *decoder.latent_shape)
    t, level = torch.tensor([100, 900]), torch.zeros(2)
    decoder.conditioner.head.requires_grad_(True)
    loss = decoder.loss(clean, torch.randn_like(clean), t, feature, level, torch.zeros_like(clean))
    assert loss.shape == (2,)
    loss.sum().backward()
    assert feature.grad is not None and feature.grad.abs().sum() > 0
    assert decoder.conditioner.head.weight.grad.abs().sum() > 0
