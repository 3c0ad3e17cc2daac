"""Baselines: ways to an answer without a language model, or without any model.

Letters: n items, K slots, D joint width.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from codi2.diffuse.decoder import Decoder
from codi2.diffuse.families.audioldm2 import NUM_STATES
from codi2.diffuse.sampling import SampleOptions
from codi2.prompt.parts import Audio, Part, Video


def arithmetic(before: Tensor, after: Tensor, source: Tensor) -> Tensor:
    """The analogy as a sum of features [n, K, D]: given + after − before."""
    return source + after - before


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
    words: Tensor | None,
    sources: Sequence[Part],
    seeds: Sequence[int],
    strength: float = 0.5,
    num_inference_steps: int = 20,
    guidance_scale: float | None = None,
) -> list[Part]:
    """SDEdit (Meng et al. 2022, arXiv:2108.01073): noise the source part of the way, denoise it towards a caption.

    Args:
        joint: vectors [n, D] of captions of the wished results; they stand in for what is regressed.
        words: the captions as the decoder's own text encoder reads them, [n, …]; None: it has none.
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
    decoder: Decoder, joint: Tensor, words: Tensor | None, sources: Sequence[Part], seeds: Sequence[int]
) -> list[Part]:
    """Editing by an instruction without a language model: AUDIT's way (arXiv:2304.00830), and InstructPix2Pix's.

    Args:
        decoder: one that was trained on instructions alone.
        joint, words: of the instructions, as for `sdedit`.
    """
    return decoder.generate(joint[:, None], seeds, SampleOptions(sources=sources, words=words))


@torch.no_grad()
def from_words(pipeline: Any, texts: Sequence[str], like: Sequence[Part], seeds: Sequence[int]) -> list[Part]:
    """The outputs of a published pipeline for captions, with its own settings: it reads no medium, so it edits nothing.

    Args:
        pipeline: of `load_text_pipeline`.
        like: media whose length, and frame rate, the results have.
    """
    outputs: list[Part] = []
    for text, part, seed in zip(texts, like, seeds, strict=True):
        generator = torch.Generator("cpu").manual_seed(seed)
        if isinstance(part, Video):
            frames = pipeline(text, num_frames=len(part.frames), generator=generator, output_type="pil").frames[0]
            outputs.append(Video(tuple(frames), part.fps))
        else:
            assert isinstance(part, Audio)
            # the number of states stands in a part of GPT-2's config that transformers no longer reads
            settings = {"audio_length_in_s": part.seconds, "max_new_tokens": NUM_STATES}
            wave = pipeline(text, generator=generator, **settings).audios[0]
            outputs.append(Audio(np.asarray(wave, np.float32).clip(-1, 1), pipeline.vocoder.config.sampling_rate))
    return outputs
