"""Wan 2.1 (arXiv:2503.20314) by prompt embeddings.

Letters: B batch, D feature width, c f h w latent sizes.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from codi2.config import DecoderConfig
from codi2.diffuse.clip import ClipCodec
from codi2.diffuse.decoder import Decoder
from codi2.diffuse.families.prompt import PromptConditioner
from codi2.diffuse.load import load_parts

NUM_STATES = 77  # fewer than the 512 that the pipeline pads to; the network attends to any number
FPS = 16.0


class WanNetwork(nn.Module):
    """The transformer with the common signature of networks."""

    def __init__(self, transformer: Any) -> None:
        super().__init__()
        self.transformer = transformer
        self.config = transformer.config

    def forward(self, x: Tensor, t: Tensor, encoder_hidden_states: Tensor) -> Any:
        """x [B, c, f, h, w], t [B] or []."""
        return self.transformer(hidden_states=x, timestep=t.expand(len(x)), encoder_hidden_states=encoder_hidden_states)


class WanCodec(ClipCodec):
    """Clips [B, 3, F, H, W] ↔ latents [B, c, f, h, w] of unit variance; four frames become one latent frame."""

    def encode(self, tensor: Tensor) -> Tensor:
        mean, std = self._statistics(tensor)
        return (self.vae.encode(tensor).latent_dist.mode() - mean) / std

    def encode_source(self, tensor: Tensor) -> Tensor:
        return self.encode(tensor)

    def decode(self, latents: Tensor) -> Tensor:
        mean, std = self._statistics(latents)
        return self.vae.decode(latents * std + mean).sample

    def _statistics(self, like: Tensor) -> tuple[Tensor, Tensor]:
        config = self.vae.config
        mean, std = (torch.tensor(v).view(1, -1, 1, 1, 1).to(like) for v in (config.latents_mean, config.latents_std))
        return mean, std


def wan_decoder(parts: dict[str, Any], dim: int, config: DecoderConfig) -> Decoder:
    """A decoder of the parts of a `WanPipeline`, by their names there.

    `config.length`, of frames, is one more than a multiple of four.
    """
    transformer, vae = parts["transformer"], parts["vae"]
    weight = next(transformer.parameters())
    condition = PromptConditioner(dim, NUM_STATES, transformer.config.text_dim).to(weight.device, weight.dtype)
    frames, height, width = config.length, config.height or config.size, config.size
    in_time, in_space = 2 ** sum(vae.temperal_downsample), 2 ** len(vae.temperal_downsample)
    shape = (transformer.config.in_channels, (frames - 1) // in_time + 1, height // in_space, width // in_space)
    codec = WanCodec(vae, frames, height, width, FPS)
    decoder = Decoder(WanNetwork(transformer), condition, codec, parts["scheduler"], config, latent_shape=shape)
    return decoder.eval().requires_grad_(False)


def load(source: str | Path, config: DecoderConfig, dim: int, dtype: torch.dtype) -> Decoder:
    """The decoder in a folder or repo in the layout of `WanPipeline`, with an untrained head."""
    from diffusers import AutoencoderKLWan, UniPCMultistepScheduler, WanTransformer3DModel

    classes = {"transformer": WanTransformer3DModel, "vae": AutoencoderKLWan, "scheduler": UniPCMultistepScheduler}
    return wan_decoder(load_parts(source, classes, dtype), dim, config)
