"""The draft: what source and feature say about a sample before the network has drawn anything.

A network that normalises its maps forgets how bright its source is and takes long to hand it through, and a vector
that only modulates it takes long to become a picture. So a small decoder predicts a sample as its network's output plus
a draft that is linear: the source under a map of its channels that feature and timestep choose (to keep it, to grey it
or to lay night over it is one small matrix), a share of the noisy latent, and what the appearance token paints. The
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
    """Nothing at the start of training, linear in latents, source and appearance always.

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
        for parameter in (self.gains.weight, self.gains.bias, self.paint.weight):
            nn.init.zeros_(parameter)
        nn.init.ones_(self.gains.bias[:channels].data)  # of the paint: a product of two zeros would never learn

    def forward(self, latents: Tensor, source: Tensor, t: Tensor, class_labels: Tensor, appearance: Tensor) -> Tensor:
        """
        Args:
            latents, source: noisy latents and the source's [B, c, h, w].
            t: timesteps [B] or [].
            class_labels: [B, L].
            appearance: [B, D], zeros where it is absent.
        """
        shape, width = self.config["latent_shape"], self.config["width"]
        sinusoid = get_timestep_embedding(t.expand(len(latents)), width, flip_sin_to_cos=True, downscale_freq_shift=0)
        hidden = nn.functional.silu(self.choose(torch.cat([class_labels, sinusoid.to(class_labels)], dim=-1)))
        painted, kept, mixing = self.gains(hidden)[..., None, None].split([shape[0], shape[0], shape[0] ** 2], dim=1)
        source = torch.einsum("bij,bjhw->bihw", mixing.view(-1, shape[0], shape[0]), source)
        return source + kept * latents + painted * self.paint(appearance).view(-1, *shape)
