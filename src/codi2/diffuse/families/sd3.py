"""Stable Diffusion 3 and 3.5 (arXiv:2403.03206) by prompt embeddings.

Letters: B batch, D feature width, c h w latent sizes, L states, W their width, P pooled width.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor, nn

from codi2.config import DecoderConfig
from codi2.diffuse.decoder import Decoder
from codi2.diffuse.families.flow import NUM_STATES, FlowCodec, FlowConditioner, by_size
from codi2.diffuse.load import load_parts


class SD3Network(nn.Module):
    """The transformer with the common signature of networks."""

    def __init__(self, transformer: Any) -> None:
        super().__init__()
        self.transformer = transformer
        self.config = transformer.config

    def forward(self, x: Tensor, t: Tensor, **condition: Tensor) -> Any:
        """x [B, c, h, w], t [B] or []; states [B, L, W], pooled [B, P]."""
        return self.transformer(hidden_states=x, timestep=t.expand(len(x)), **condition)


def sd3_decoder(parts: dict[str, Any], dim: int, config: DecoderConfig) -> Decoder:
    """A decoder of the parts of a `StableDiffusion3Pipeline`, by their names there."""
    transformer, vae = parts["transformer"], parts["vae"]
    weight, sizes = next(transformer.parameters()), transformer.config
    condition = FlowConditioner(dim, NUM_STATES, sizes.joint_attention_dim, sizes.pooled_projection_dim)
    codec = FlowCodec(vae, sizes.sample_size * 2 ** (len(vae.config.block_out_channels) - 1))
    scheduler = by_size(parts["scheduler"], (sizes.sample_size // sizes.patch_size) ** 2, even=False)
    decoder = Decoder(SD3Network(transformer), condition.to(weight.device, weight.dtype), codec, scheduler, config)
    return decoder.eval().requires_grad_(False)


def load(source: str | Path, config: DecoderConfig, dim: int, dtype: Any) -> Decoder:
    """The decoder in a folder or repo in the layout of `StableDiffusion3Pipeline`, with an untrained head."""
    from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel

    classes = {"transformer": SD3Transformer2DModel, "vae": AutoencoderKL, "scheduler": FlowMatchEulerDiscreteScheduler}
    return sd3_decoder(load_parts(source, classes, dtype), dim, config)
