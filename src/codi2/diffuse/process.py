"""Forward processes: the shares of signal and noise of a noisy latent, for each kind of scheduler.

Every process mixes `signal · x + sigma · noise`. Letters: B batch.
"""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from torch import Tensor

Kind = Literal["epsilon", "v_prediction", "sample", "flow"]


class Process:
    """The forward process that a network was trained to invert.

    `kind` is the network's prediction: the noise, the velocity signal · noise - sigma · x, the sample x, or the flow
    noise - x.
    """

    kind: Kind

    def levels(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """signal and sigma [B] at the network's own timesteps [B]."""
        raise NotImplementedError

    def times(self, count: int, generator: torch.Generator) -> Tensor:
        """Timesteps [count] for training."""
        raise NotImplementedError


class Discrete(Process):
    """Diffusion over integer timesteps (arXiv:2006.11239): DDIM, DPM-Solver and similar schedulers."""

    def __init__(self, diffusion: Any) -> None:
        self.diffusion = diffusion

    @property
    def kind(self) -> Kind:  # type: ignore[override]
        kind: Kind = self.diffusion.config.prediction_type
        return kind

    def levels(self, t: Tensor) -> tuple[Tensor, Tensor]:
        alpha_bar = self.diffusion.alphas_cumprod.to(t.device)[t]
        return alpha_bar.sqrt(), (1 - alpha_bar).sqrt()

    def times(self, count: int, generator: torch.Generator) -> Tensor:
        return torch.randint(self.diffusion.config.num_train_timesteps, (count,), generator=generator)


class Flow(Process):
    """Rectified flow (arXiv:2209.03003): a straight path from a medium to noise; timesteps are sigma × 1000."""

    kind = "flow"

    def __init__(self, num_train_timesteps: int = 1000) -> None:
        self.steps = num_train_timesteps

    def levels(self, t: Tensor) -> tuple[Tensor, Tensor]:
        sigma = t.float() / self.steps
        return 1 - sigma, sigma

    def times(self, count: int, generator: torch.Generator) -> Tensor:
        """Logit-normal: more timesteps in the middle, which are harder to learn (arXiv:2403.03206)."""
        return torch.randn(count, generator=generator).sigmoid() * self.steps


class Cosine(Process):
    """Velocity along a quarter of a circle, timesteps from 0 to 1: Stable Audio's."""

    kind = "v_prediction"

    def levels(self, t: Tensor) -> tuple[Tensor, Tensor]:
        angle = t.float() * math.pi / 2
        return angle.cos(), angle.sin()

    def times(self, count: int, generator: torch.Generator) -> Tensor:
        return torch.rand(count, generator=generator)


def process_of(scheduler: Any) -> Process:
    """The forward process of a scheduler of diffusers."""
    from diffusers import DDPMScheduler

    name = type(scheduler).__name__
    if name.startswith("FlowMatch") or getattr(scheduler.config, "prediction_type", "") == "flow_prediction":
        return Flow(scheduler.config.num_train_timesteps)
    # schedulers such as DPM-Solver lack the attributes of the schedule that training needs
    return Cosine() if name.startswith("Cosine") else Discrete(DDPMScheduler.from_config(scheduler.config))
