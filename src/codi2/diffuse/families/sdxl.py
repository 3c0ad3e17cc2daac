"""Stable Diffusion XL (arXiv:2307.01952) by prompt embeddings, with the fidelity path.

Letters: B batch, D feature width.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from codi2.config import DecoderConfig
from codi2.diffuse.decoder import Decoder
from codi2.diffuse.families.prompt import PromptConditioner
from codi2.diffuse.families.unclip import UnclipCodec
from codi2.diffuse.load import load_parts, widened

NUM_STATES = 77
NUM_SIZES = 6  # original size, crop, target size


class SDXLConditioner(PromptConditioner):
    """States of both text encoders, the pooled state of the second, and the picture's size, uncropped.

    Args:
        dim: D.
        unet: its config names the widths.
        size: pixels of a side.
    """

    def __init__(self, dim: int, unet: Any, size: int) -> None:
        sizes = unet.config.addition_time_embed_dim * NUM_SIZES
        pooled = unet.config.projection_class_embeddings_input_dim - sizes
        super().__init__(dim, NUM_STATES, unet.config.cross_attention_dim, pooled)
        self.size = size

    def forward(self, features: Tensor, noise_level: Tensor, text: Tensor | None = None) -> dict[str, Any]:
        states, pooled = self.states(features, text)
        sizes = torch.tensor([[self.size, self.size, 0, 0, self.size, self.size]]).to(states).expand(len(states), -1)
        return {"encoder_hidden_states": states, "added_cond_kwargs": {"text_embeds": pooled, "time_ids": sizes}}


def sdxl_decoder(parts: dict[str, Any], dim: int, config: DecoderConfig) -> Decoder:
    """A decoder of the parts of a `StableDiffusionXLPipeline`, by their names there."""
    unet, vae = parts["unet"], parts["vae"]
    weight = unet.conv_in.weight
    size = unet.config.sample_size * 2 ** (len(vae.config.block_out_channels) - 1)
    condition = SDXLConditioner(dim, unet, size).to(weight.device, weight.dtype)
    decoder = Decoder(widened(unet), condition, UnclipCodec(vae, size), parts["scheduler"], config)
    return decoder.eval().requires_grad_(False)


def load(source: str | Path, config: DecoderConfig, dim: int, dtype: torch.dtype) -> Decoder:
    """The decoder in a folder or repo in the layout of `StableDiffusionXLPipeline`, with an untrained head."""
    from diffusers import AutoencoderKL, EulerDiscreteScheduler, UNet2DConditionModel

    classes = {"unet": UNet2DConditionModel, "vae": AutoencoderKL, "scheduler": EulerDiscreteScheduler}
    return sdxl_decoder(load_parts(source, classes, dtype), dim, config)
