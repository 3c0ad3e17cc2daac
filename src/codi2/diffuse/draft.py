"""The draft: what source and feature say about a sample before the network has drawn anything.

A network that normalises its maps forgets how bright its source is and takes long to hand it through, and a vector
that only modulates it takes long to become a picture. So a small decoder predicts a sample as its network's output plus
a draft, a sum of four parts: the source under a map of its channels (to grey it or to lay night over it is one small
matrix), less what the appearance token could paint of it, and in its place what the wished token paints, and a share
of the noisy latent. So the finer traits of a source stay where only its look is to change. How much of each, feature
and timestep choose, and how far the wished token is from the source's: far, and the source is of little use. The
network sees the draft, and what is left to it is to correct it. The language model's head has a path of the same kind
(`heads.projection`).

Letters: B batch, c channels, h w latent size, D feature width, L width of the class labels.
"""

from __future__ import annotations

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from diffusers.models.embeddings import get_timestep_embedding
from torch import Tensor, nn


class Draft(ModelMixin, ConfigMixin):
    """A copy of the source at the start of training.

    Args:
        latent_shape: [c, h, w].
        dim: D.
        label_dim: L.
        width: of the one hidden layer that chooses the gains.
    """

    @register_to_config
    def __init__(self, latent_shape: tuple[int, int, int], dim: int, label_dim: int, width: int = 128) -> None:
        super().__init__()
        channels, height, breadth = latent_shape
        self.choose = nn.Linear(label_dim + width, width)
        self.gains = nn.Linear(width, channels * (channels + 2))
        self.paint = nn.Linear(dim, channels * height * breadth, bias=False)
        self.see = nn.Linear(dim, dim)
        self.compare = nn.Linear(2 * dim + 1, width, bias=False)
        self.erase = nn.Linear(width, channels)
        zero = (self.gains.weight, self.gains.bias, self.paint.weight)
        for parameter in (*zero, self.compare.weight, self.erase.weight, self.erase.bias):
            nn.init.zeros_(parameter)
        nn.init.ones_(self.gains.bias[:channels].data)  # of the paint: a product of two zeros would never learn
        self.gains.bias.data[2 * channels :] = torch.eye(channels).flatten()  # what an edit does not change stays

    def seen(self, source: Tensor) -> Tensor:
        """The appearance token [B, D] that sources [B, c, h, w] seem to have: the paint, read backwards."""
        token: Tensor = self.see(source.flatten(1) @ self.paint.weight)
        return token

    def forward(self, latents: Tensor, source: Tensor, t: Tensor, class_labels: Tensor, appearance: Tensor) -> Tensor:
        """
        Args:
            latents, source: noisy latents and the source's [B, c, h, w], or of clips [B, c, F, h, w]: each frame has a
                draft of its own, with what the clip is told.
            t: timesteps [B] or [].
            class_labels: [B, L].
            appearance: [B, D], zeros where it is absent.
        """
        if latents.ndim == 5:
            frames = latents.shape[2]
            told = [x.repeat_interleave(frames, 0) for x in (t.expand(len(latents)), class_labels, appearance)]
            drawn = self(*(x.transpose(1, 2).flatten(0, 1) for x in (latents, source)), *told)
            return drawn.unflatten(0, (-1, frames)).transpose(1, 2)
        shape, width = self.config["latent_shape"], self.config["width"]
        sinusoid = get_timestep_embedding(t.expand(len(latents)), width, flip_sin_to_cos=True, downscale_freq_shift=0)
        given = source.flatten(1).any(1, keepdim=True)
        seen = self.seen(source) * given
        change = (appearance - seen) * (given & appearance.any(1, keepdim=True))
        size = change.square().mean(1, keepdim=True)
        hidden = self.choose(torch.cat([class_labels, sinusoid.to(class_labels)], dim=-1))
        hidden = nn.functional.silu(hidden + self.compare(torch.cat([change, change.abs(), size], dim=-1)))
        painted, kept, mixing = self.gains(hidden)[..., None, None].split([shape[0], shape[0], shape[0] ** 2], dim=1)
        source = torch.einsum("bij,bjhw->bihw", mixing.view(-1, shape[0], shape[0]), source)
        erased = self.erase(hidden)[..., None, None] * self.paint(seen).view(-1, *shape)
        return source + kept * latents + painted * self.paint(appearance).view(-1, *shape) - erased
