"""Shared by the image families with rectified flow: the codec, the schedule and the condition."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from torch import Tensor

from codi2.diffuse.families.prompt import PromptConditioner
from codi2.diffuse.families.unclip import UnclipCodec

NUM_STATES = 16
"""Fewer than the 77 to 512 of the pipelines: the networks attend to any number of states, and the head has NUM_STATES ·
width² weights, 270 M at their width of 4096."""


class FlowConditioner(PromptConditioner):
    """States and a pooled state, under the names of both transformers' arguments."""

    def forward(self, features: Tensor, noise_level: Tensor, text: Tensor | None = None) -> dict[str, Any]:
        states, pooled = self.states(features, text)
        return {"encoder_hidden_states": states, "pooled_projections": pooled}


class FlowCodec(UnclipCodec):
    """Pictures as latents of zero mean and unit variance."""

    def encode(self, tensor: Tensor) -> Tensor:
        mode: Tensor = self.vae.encode(tensor).latent_dist.mode()
        return (mode - self._shift) * self.vae.config.scaling_factor

    def encode_source(self, tensor: Tensor) -> Tensor:
        return self.encode(tensor)

    def decode(self, latents: Tensor) -> Tensor:
        maps: Tensor = self.vae.decode(latents / self.vae.config.scaling_factor + self._shift).sample
        return maps

    @property
    def _shift(self) -> float:
        return float(self.vae.config.shift_factor or 0.0)


class FlowMatchBySize(FlowMatchEulerDiscreteScheduler):
    """The schedule as the pipelines set it: larger pictures have more steps at high noise.

    `tokens` is the number of tokens of a picture; `even`: the steps are even in sigma from 1 to 1/steps (Flux).
    """

    tokens: int = 0
    even: bool = False

    def set_timesteps(self, num_inference_steps: int, device: str | torch.device | None = None) -> None:
        sigmas = np.linspace(1.0, 1 / num_inference_steps, num_inference_steps) if self.even else None
        super().set_timesteps(num_inference_steps, device, sigmas=sigmas, mu=self._mu())

    def _mu(self) -> float | None:
        """The shift for this size: linear between those of the smallest and the largest size."""
        c = self.config
        if not c.use_dynamic_shifting:
            return None
        slope = (c.max_shift - c.base_shift) / (c.max_image_seq_len - c.base_image_seq_len)
        return float(c.base_shift + slope * (self.tokens - c.base_image_seq_len))


def by_size(scheduler: Any, tokens: int, even: bool) -> FlowMatchBySize:
    """A pipeline's scheduler for pictures of one size."""
    sized: FlowMatchBySize = FlowMatchBySize.from_config(scheduler.config)
    sized.tokens, sized.even = tokens, even
    return sized
