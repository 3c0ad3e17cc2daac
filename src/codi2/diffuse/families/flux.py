"""Flux.1 by prompt embeddings.

Letters: B batch, D feature width, c h w latent sizes.
"""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from einops import rearrange
from torch import Tensor, nn

from codi2.config import DecoderConfig
from codi2.diffuse.decoder import Decoder
from codi2.diffuse.families.flow import NUM_STATES, FlowCodec, FlowConditioner, by_size
from codi2.diffuse.load import load_parts
from codi2.errors import ConfigError

PATCH = 2
EMBEDDED_GUIDANCE = 3.5  # input of a distilled network; guidance by two branches is applied in addition


class FluxNetwork(nn.Module):
    """The transformer with the common signature of networks; it reads patches of latents with their positions."""

    def __init__(self, transformer: Any) -> None:
        super().__init__()
        self.transformer = transformer
        channels = transformer.config.in_channels // PATCH**2
        self.config = SimpleNamespace(in_channels=channels, out_channels=channels)

    def forward(self, x: Tensor, t: Tensor, encoder_hidden_states: Tensor, pooled_projections: Tensor) -> Any:
        """x [B, c, h, w], t [B] or [], 0 … 1000."""
        h, w = x.shape[2] // PATCH, x.shape[3] // PATCH
        positions = torch.zeros(h, w, 3)
        positions[..., 1], positions[..., 2] = torch.arange(h)[:, None], torch.arange(w)
        guidance = x.new_full((len(x),), EMBEDDED_GUIDANCE) if self.transformer.config.guidance_embeds else None
        (patches,) = self.transformer(
            hidden_states=rearrange(x, "b c (h p) (w q) -> b (h w) (c p q)", p=PATCH, q=PATCH),
            timestep=t.expand(len(x)).to(x.dtype) / 1000,
            guidance=guidance,
            encoder_hidden_states=encoder_hidden_states,
            pooled_projections=pooled_projections,
            txt_ids=x.new_zeros(encoder_hidden_states.shape[1], 3),
            img_ids=positions.flatten(0, 1).to(x),
            return_dict=False,
        )
        sample = rearrange(patches, "b (h w) (c p q) -> b c (h p) (w q)", h=h, w=w, p=PATCH, q=PATCH)
        return SimpleNamespace(sample=sample)


def flux_decoder(parts: dict[str, Any], dim: int, config: DecoderConfig) -> Decoder:
    """A decoder of the parts of a `FluxPipeline`, by their names there, for features of width `dim`.

    Raises ConfigError: `config.size` is not a multiple of a patch of latents.
    """
    transformer, vae = parts["transformer"], parts["vae"]
    size, sizes = config.size, transformer.config
    weight, factor = next(transformer.parameters()), 2 ** (len(vae.config.block_out_channels) - 1)
    if size % (factor * PATCH) or not size:
        raise ConfigError(f"decoders.image.size is {size}; Flux needs a multiple of {factor * PATCH} pixels")
    side = size // factor
    condition = FlowConditioner(dim, NUM_STATES, sizes.joint_attention_dim, sizes.pooled_projection_dim)
    decoder = Decoder(
        FluxNetwork(transformer),
        condition.to(weight.device, weight.dtype),
        FlowCodec(vae, size),
        by_size(parts["scheduler"], (side // PATCH) ** 2, even=True),
        config,
        latent_shape=(sizes.in_channels // PATCH**2, side, side),
    )
    return decoder.eval().requires_grad_(False)


def load(source: str | Path, config: DecoderConfig, dim: int, dtype: torch.dtype) -> Decoder:
    """The decoder in a folder or repo in the layout of `FluxPipeline`, with an untrained head."""
    from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, FluxTransformer2DModel

    classes = {
        "transformer": FluxTransformer2DModel,
        "vae": AutoencoderKL,
        "scheduler": FlowMatchEulerDiscreteScheduler,
    }
    return flux_decoder(load_parts(source, classes, dtype), dim, config)
