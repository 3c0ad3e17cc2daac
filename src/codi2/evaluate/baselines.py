"""What the model is held against: ways to an answer without a language model, or without any model.

Letters: n items, K slots, D joint width.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image as PILImage
from torch import Tensor

from codi2.diffuse.decoder import Decoder
from codi2.diffuse.families import pipeline_name
from codi2.diffuse.families.audioldm2 import NUM_STATES
from codi2.diffuse.sampling import SampleOptions
from codi2.errors import ConfigError
from codi2.hub import hub_errors
from codi2.prompt.parts import Audio, Image, Part, Video
from codi2.untrusted import check_folder

TEXT_PIPELINES = {"AudioLDM2Pipeline": "audio", "TextToVideoSDPipeline": "video"}
"""Pipelines of diffusers that answer words by themselves, by the modality that they make."""


def mean_picture(pictures: Iterable[np.ndarray]) -> Image:
    """The mean, pixel by pixel, of uint8 pictures [H, W, 3]."""
    mean: np.ndarray = np.stack(list(pictures)).mean(0)
    return Image(PILImage.fromarray(np.round(mean).astype(np.uint8)))


def arithmetic(before: Tensor, after: Tensor, given: Tensor) -> Tensor:
    """The analogy as a sum of features [n, K, D]: given + after − before."""
    return given + after - before


def silence(like: Audio) -> Audio:
    """Nothing, of the same length."""
    return Audio(np.zeros_like(like.samples), like.rate)


@torch.no_grad()
def round_trip(decoder: Decoder, parts: Sequence[Part]) -> list[Part]:
    """Media through the decoder's codec and back: the least that any output of the decoder loses."""
    codec = decoder.codec
    return codec.to_parts(codec.decode(codec.encode(codec.to_tensor(parts))))


def sdedit(
    decoder: Decoder,
    joint: Tensor,
    words: Tensor,
    sources: Sequence[Part],
    seeds: Sequence[int],
    strength: float = 0.5,
    num_inference_steps: int = 20,
    guidance_scale: float | None = None,
) -> list[Part]:
    """SDEdit (Meng et al. 2022, arXiv:2108.01073): noise the source part of the way, denoise it towards a caption.

    Args:
        joint: vectors [n, D] of captions of the wished results; they stand in for what is regressed.
        words: the captions as the decoder reads words, [n, …].
        strength: share of the noise schedule that the source goes up.
        num_inference_steps: of the whole schedule; the baseline has its own, as a decoder that draws in few has no half
            way to start from.
    """
    options = SampleOptions(
        words=words,
        start=sources,
        strength=strength,
        num_inference_steps=num_inference_steps,
        guidance_scale=guidance_scale,
    )
    return decoder.generate(joint[:, None], seeds, options)


def instructed(
    decoder: Decoder, joint: Tensor, words: Tensor, sources: Sequence[Part], seeds: Sequence[int]
) -> list[Part]:
    """Editing by an instruction without a language model: AUDIT's way (arXiv:2304.00830), and InstructPix2Pix's.

    Args:
        decoder: one that was trained to be told instructions.
        joint, words: of the instructions, as for `sdedit`.
    """
    return decoder.generate(joint[:, None], seeds, SampleOptions(sources=sources, words=words))


def load_text_pipeline(modality: str, source: str, device: torch.device, dtype: torch.dtype) -> Any:
    """A published pipeline with its own text encoders.

    Raises:
        ConfigError: it is none of TEXT_PIPELINES, or makes another modality.
        WeightsError: the folder or repo is missing or damaged.
    """
    import diffusers
    from transformers import GPT2LMHeadModel

    name = pipeline_name(source)
    if TEXT_PIPELINES.get(name) != modality:
        known = next(known for known, makes in TEXT_PIPELINES.items() if makes == modality)
        raise ConfigError(f"the text pipeline {source!r} is a {name}; for {modality}, name a {known}")
    with hub_errors(f"the text pipeline {source!r}"):
        if Path(source).is_dir():
            check_folder(Path(source))
        parts = {}
        if modality == "audio":
            # published without a head, for which transformers no longer has what the pipeline calls
            parts["language_model"] = GPT2LMHeadModel.from_pretrained(source, subfolder="language_model", dtype=dtype)
        pipeline = getattr(diffusers, name).from_pretrained(source, dtype=dtype, **parts).to(device)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@torch.no_grad()
def from_words(pipeline: Any, texts: Sequence[str], like: Sequence[Part], seeds: Sequence[int]) -> list[Part]:
    """What a published pipeline makes of captions with its own settings: it sees no medium, so it edits nothing.

    Args:
        pipeline: of `load_text_pipeline`.
        like: media whose length, and frame rate, the results have.
    """
    made: list[Part] = []
    for text, part, seed in zip(texts, like, seeds, strict=True):
        generator = torch.Generator("cpu").manual_seed(seed)
        if isinstance(part, Video):
            frames = pipeline(text, num_frames=len(part.frames), generator=generator, output_type="pil").frames[0]
            made.append(Video(tuple(frames), part.fps))
        else:
            assert isinstance(part, Audio)
            # the number of states stands in a part of GPT-2's config that transformers no longer reads
            settings = {"audio_length_in_s": part.seconds, "max_new_tokens": NUM_STATES}
            wave = pipeline(text, generator=generator, **settings).audios[0]
            made.append(Audio(np.asarray(wave, np.float32).clip(-1, 1), pipeline.vocoder.config.sampling_rate))
    return made
