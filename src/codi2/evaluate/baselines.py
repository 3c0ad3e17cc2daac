"""What the model is held against: ways to an answer without a language model, or without any model.

Letters: n items, K slots, D joint width.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image as PILImage
from torch import Tensor

from codi2.diffuse.decoder import Decoder
from codi2.diffuse.sampling import guide, seeded_noise
from codi2.prompt.parts import Audio, Image, Part


def nearest(queries: Tensor, gallery: Tensor) -> list[int]:
    """Row of `gallery` [m, D] with the highest cosine to each of `queries` [n, D]."""
    return (F.normalize(queries, dim=-1) @ F.normalize(gallery, dim=-1).T).argmax(1).tolist()


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


@torch.no_grad()
def sdedit(
    decoder: Decoder,
    words: Tensor,
    sources: Sequence[Part],
    seeds: Sequence[int],
    strength: float = 0.5,
    num_inference_steps: int = 20,
    guidance_scale: float = 1.0,
) -> list[Part]:
    """SDEdit (Meng et al. 2022, arXiv:2108.01073): noise the source part of the way, denoise it towards a caption.

    Args:
        words: text features [n, D] of captions of the wished results; they stand in for the joint vector and fill the
            text slot, as in training.
        strength: share of the noise schedule that the source goes up.
        num_inference_steps: of the whole schedule; the baseline has its own, as a decoder that draws in few has no half
            way to start from.
    """
    num_slots = decoder.conditioner.config["num_slots"]
    features = decoder.rescaled(F.pad(words[:, None], (0, 0, 0, num_slots - 1)))  # [n, K, D]: absent slots are zeros
    noise = seeded_noise(decoder.latent_shape, list(seeds), words.device, words.dtype)
    source = decoder.codec.encode(decoder.codec.to_tensor(sources)).to(noise)
    scheduler, sampling = decoder.scheduler, decoder.sampling
    scheduler.set_timesteps(num_inference_steps, device=words.device)
    start = round(len(scheduler.timesteps) * (1 - strength))
    scheduler.set_begin_index(start)
    timesteps = scheduler.timesteps[start:]
    latents = decoder.diffusion.add_noise(source, noise, timesteps[:1].expand(len(source)))
    both = torch.cat([torch.zeros_like(features), features])
    text = torch.cat([torch.zeros_like(words), words])
    level = torch.full((len(both),), sampling.noise_level, device=words.device)
    no_source = torch.zeros_like(source).repeat(2, 1, 1, 1)
    for t in timesteps:
        scaled = scheduler.scale_model_input(latents, t).repeat(2, 1, 1, 1)
        branches = decoder.denoise(scaled, t, both, level, no_source, text)
        latents = scheduler.step(guide(branches, guidance_scale, 1.0, copies=2), t, latents).prev_sample
    return decoder.codec.to_parts(decoder.codec.decode(latents))
