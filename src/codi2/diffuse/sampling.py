"""Sampling as plain functions: a denoiser, a scheduler of diffusers and guidance.

Letters: B batch, c channels, h w latent size.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from codi2.cancellation import check_cancelled
from codi2.prompt.parts import Part

Denoise = Callable[[Tensor, Tensor], Tensor]
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class SampleOptions:
    """How B media are sampled; None: as in the decoder's config."""

    sources: Sequence[Part | None] | None = None  # the item that each medium edits, or None (the fidelity path)
    negative: Tensor | None = None
    """The negative prompt's words [B, …] as the conditioner takes them, for the unconditional branch (appendix B.1), or
    for both."""
    words: Tensor | None = None
    """A prompt's words, for the feature's branch: the condition of decoders without a language model."""
    start: Sequence[Part] | None = None  # media to start from
    strength: float = 1.0  # of the noise on `start`, a share of the schedule (see `SamplerState`)
    num_inference_steps: int | None = None
    guidance_scale: float | None = None  # 1 runs the feature's branch alone, in half or a third of the time
    source_guidance_scale: float | None = None


DEFAULTS = SampleOptions()


class SamplerState:
    """The state of sampling latents [B, c, h, w] from noise, step by step, with any scheduler of diffusers.

    Args:
        denoise: (latents as the scheduler scales them, timestep []) → the model's (guided) prediction.
        scheduler: of diffusers; it is copied, since it counts its steps.
        noise: standard normal; it is scaled by the scheduler's `init_noise_sigma`.
        start: latents to start from, with the noise of `strength`, a share of the schedule (SDEdit, arXiv:2108.01073);
            None: start from noise.
    """

    def __init__(
        self,
        denoise: Denoise,
        scheduler: Any,
        noise: Tensor,
        num_inference_steps: int,
        start: Tensor | None = None,
        strength: float = 1.0,
    ) -> None:
        scheduler = copy.deepcopy(scheduler)
        scheduler.set_timesteps(num_inference_steps, device=noise.device)
        self.denoise, self.scheduler, self.timesteps = denoise, scheduler, scheduler.timesteps
        if start is None:
            self.latents = noise * getattr(scheduler, "init_noise_sigma", 1.0)  # flows start from plain noise
        else:
            first = min(len(self.timesteps) - 1, round(len(self.timesteps) * (1 - strength)))
            self.timesteps = self.timesteps[first:]
            if hasattr(scheduler, "set_begin_index"):
                scheduler.set_begin_index(first)
            begin = self.timesteps[:1].expand(len(noise))
            flows = not hasattr(scheduler, "add_noise")
            self.latents = (
                scheduler.scale_noise(start, begin, noise) if flows else scheduler.add_noise(start, noise, begin)
            )

    def __len__(self) -> int:
        return len(self.timesteps)

    def timestep(self, i: int) -> Tensor:
        """Timestep [] of the latents before step i; for negative i that of the noise, after the last step zero."""
        ended = i >= len(self)
        return torch.zeros_like(self.timesteps[0]) if ended else self.timesteps[max(i, 0)]

    def step(self, i: int) -> None:
        """Updates `latents` by step i. Raises Cancelled (`codi2.cancellation`)."""
        check_cancelled()
        t, scheduler = self.timesteps[i], self.scheduler
        scales = hasattr(scheduler, "scale_model_input")
        scaled = scheduler.scale_model_input(self.latents, t) if scales else self.latents
        self.latents = scheduler.step(self.denoise(scaled, t), t, self.latents).prev_sample


def sample(state: SamplerState, progress: Progress | None = None) -> Tensor:
    """Noise → latents [B, c, h, w]. `progress` is called with (steps done, steps in all) after each step."""
    for i in range(len(state)):
        state.step(i)
        if progress is not None:
            progress(i + 1, len(state))
    return state.latents


def guide(branches: Tensor, guidance_scale: float, source_guidance_scale: float, copies: int) -> Tensor:
    """Classifier-free guidance over `copies` stacked branches [copies · B, …] → [B, …].

    One branch is the feature's and is returned unchanged. Two are (unconditional, feature). Three are (unconditional,
    source, source + feature), combined as in InstructPix2Pix (its equation 3): first towards the source, then towards
    the feature.
    """
    if copies == 1:
        return branches
    if copies == 2:
        unconditional, full = branches.chunk(2)
        return unconditional + guidance_scale * (full - unconditional)
    unconditional, source, full = branches.chunk(3)
    return unconditional + source_guidance_scale * (source - unconditional) + guidance_scale * (full - source)


def seeded_noise(shape: tuple[int, ...], seeds: list[int], device: torch.device, dtype: torch.dtype) -> Tensor:
    """Standard normal noise [B, *shape], each sample from its own seed, so that a batch equals single runs."""
    rows = [torch.randn(shape, generator=torch.Generator("cpu").manual_seed(seed)) for seed in seeds]
    return torch.stack(rows).to(device, dtype)
