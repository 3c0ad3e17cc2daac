"""From regressed features to the condition of a denoising network: the decoder-side head of appendix B.2.

`tiny` uses both of the paper's conditions at once. *Embedding guidance* is a class embedding of the noised joint
vector, a sinusoid of its noise level, as in unCLIP, and the other slots. *Cross-attention* reads all K feature slots
and one text slot, so that a negative prompt has an effect.

Letters: B batch, K slots, D feature width, C cross-attention width, L width of the class labels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import ConfigMixin, DDPMScheduler, ModelMixin
from diffusers.configuration_utils import register_to_config
from diffusers.models.embeddings import get_timestep_embedding
from torch import Tensor, nn


class BaseConditioner(nn.Module):
    """The interface of every decoder's conditioner. Only the conditioner knows the condition of its network."""

    config: Any  # its sizes, in the form of diffusers

    def read_words(self, prompt: str) -> Tensor | None:
        """The network's condition for a prompt's words [1, …]; all-zero rows are absent. None: the network takes the
        words' vector in the joint space."""
        return None

    @property
    def no_words(self) -> Tensor | None:
        """The condition without a prompt; None: zeros."""
        return None

    def expected_norm(self) -> float | None:
        """The norm of the joint vectors that the network was trained on; None: unknown."""
        return None

    def embedding_width(self, dim: int) -> int:
        """The width of `mapped`, in which features of width `dim` are noised."""
        return dim

    def mapped(self, features: Tensor) -> Tensor:
        """Features [B, K, D] as the network's embeddings, which may have another width."""
        return features

    def noised(self, features: Tensor, noise: Tensor, noise_level: Tensor) -> Tensor:
        """Features [B, K, D] mixed with standard normal noise at `noise_level` [B].

        Unchanged for networks without noise levels of features.
        """
        return features

    def maps(self, features: Tensor, latents: Tensor) -> Tensor | None:
        """Channels [B, M, …] beside the latents [B, c, …]; None: the network has none for features [B, K, D]."""
        return None

    def forward(self, features: Tensor, noise_level: Tensor, text: Tensor | None = None) -> dict[str, Any]:
        """Keyword arguments of the denoising network. A sample whose features are all zero is unconditional."""
        raise NotImplementedError


def label_dim(dim: int, num_slots: int) -> int:
    """L: the slots and the sinusoid."""
    return dim * (num_slots + 1)


class Conditioner(BaseConditioner, ModelMixin, ConfigMixin):
    """Features [B, K, D] and a text feature [B, D] → class labels [B, L] and cross-attention states [B, K+1, C].

    Slots that are absent are zeros: a decoder trained with slots dropped also works on the joint vector alone.

    Args:
        dim: D, width of the joint space.
        num_slots: K, the most slots a modality has.
        cross_attention_dim: C.
        num_noise_levels: levels of the feature's noise augmentation (unCLIP uses 1000).
        map_shape: [M, h, w] of the compact features as a map (`encode.compact`). Enlarged, it is input channels of the
            network beside the latents and gives the layout (DiffuseVAE, arXiv:2201.00308). (): no map.
    """

    @register_to_config
    def __init__(
        self,
        dim: int,
        num_slots: int,
        cross_attention_dim: int,
        num_noise_levels: int = 1000,
        map_shape: tuple[int, ...] = (),
    ) -> None:
        super().__init__()
        self.slots = nn.Linear(dim, cross_attention_dim)
        self.words = nn.Linear(dim, cross_attention_dim)
        # tells the slots apart; the last row is the text's
        self.place = nn.Parameter(torch.randn(num_slots + 1, cross_attention_dim) * 0.02)
        self.levels = DDPMScheduler(num_noise_levels, beta_schedule="squaredcos_cap_v2")

    def expected_norm(self) -> float:
        """Joint vectors of encoders that are trained here have a mean square of 1."""
        return float(self.config["dim"]) ** 0.5

    def noised(self, features: Tensor, noise: Tensor, noise_level: Tensor) -> Tensor:
        """As `BaseConditioner.noised`; features and noise both have a mean square of about 1."""
        mixed = self.levels.add_noise(features, noise, noise_level)
        return torch.where((noise_level > 0)[:, None, None], mixed, features)

    def maps(self, features: Tensor, latents: Tensor) -> Tensor | None:
        """The compact features [B, 1:1+S, D] as a map of the latents' size; all frames of a clip have the same map."""
        shape: Sequence[int] = self.config["map_shape"]
        if not shape:
            return None
        count = math.prod(shape) // self.config["dim"]
        compact = F.pad(features, (0, 0, 0, max(0, 1 + count - features.shape[1])))[:, 1 : 1 + count]
        enlarged = F.interpolate(compact.reshape(-1, *shape), size=latents.shape[-2:])
        return enlarged if latents.ndim == 4 else enlarged[:, :, None].expand(-1, -1, latents.shape[2], -1, -1)

    def forward(self, features: Tensor, noise_level: Tensor, text: Tensor | None = None) -> dict[str, Any]:
        """Class labels and cross-attention states.

        Args:
            features: [B, up to K, D], already noised at `noise_level` [B]. An all-zero row is an absent slot;
                all slots absent is the unconditional branch.
            text: [B, D] feature of a caption or negative prompt; zero rows are absent.
        """
        dim = self.config["dim"]
        # always K slots: their number affects the attention that each gets
        features = F.pad(features, (0, 0, 0, self.config["num_slots"] - features.shape[1]))
        present = features.abs().amax(-1, keepdim=True) > 0  # [B, K, 1]
        sinusoid = get_timestep_embedding(noise_level, dim, flip_sin_to_cos=True, downscale_freq_shift=0)
        sinusoid = sinusoid.to(features.dtype) * present[:, 0]
        class_labels = torch.cat([features[:, 0], sinusoid, features[:, 1:].flatten(1)], dim=-1)

        states = (self.slots(features) + self.place[:-1]) * present
        if text is None:
            text = torch.zeros_like(features[:, 0])
        words = (self.words(text) + self.place[-1]) * (text.abs().amax(-1, keepdim=True) > 0)
        return {"class_labels": class_labels, "encoder_hidden_states": torch.cat([states, words[:, None]], dim=1)}
