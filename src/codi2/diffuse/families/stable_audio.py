"""Stable Audio Open (arXiv:2407.14358) by prompt embeddings.

Letters: B batch, D feature width, C audio channels, N samples, c l latent sizes.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from codi2.config import DecoderConfig
from codi2.diffuse.codec import Codec
from codi2.diffuse.decoder import Decoder
from codi2.diffuse.families.prompt import PromptConditioner
from codi2.diffuse.load import load_parts
from codi2.prompt.parts import Audio, Part

NUM_STATES = 128  # the length that the pipeline pads prompts to


class StableAudioConditioner(PromptConditioner):
    """States of the words, then of the start and end of the sound in seconds, which are a global condition too.

    Args:
        dim: D.
        projection: `StableAudioProjectionModel`.
        seconds: of a sound.
    """

    def __init__(self, dim: int, projection: Any, seconds: float) -> None:
        super().__init__(dim, NUM_STATES, projection.config.conditioning_dim)
        self.projection, self.seconds = projection, seconds

    def forward(self, features: Tensor, noise_level: Tensor, text: Tensor | None = None) -> dict[str, Any]:
        """Without a feature all states are zeros, as in the pipeline; the global condition keeps the length."""
        states, _ = self.states(features, text)
        zeros = torch.full((len(states),), 0.0, device=states.device)
        times = self.projection(start_seconds=zeros, end_seconds=zeros + self.seconds)
        start, end = times.seconds_start_hidden_states.to(states), times.seconds_end_hidden_states.to(states)
        absent = states.abs().amax((1, 2))[:, None, None] == 0
        return {
            "encoder_hidden_states": torch.cat([states, start, end], dim=1).masked_fill(absent, 0),
            "global_hidden_states": torch.cat([start, end], dim=2),
        }


class StableAudioNetwork(nn.Module):
    """The transformer with the common signature of networks."""

    def __init__(self, transformer: Any) -> None:
        super().__init__()
        self.transformer = transformer
        self.config = transformer.config

    def forward(self, x: Tensor, t: Tensor, encoder_hidden_states: Tensor, global_hidden_states: Tensor) -> Any:
        """x [B, c, l], t [B] or []."""
        from diffusers.models.embeddings import get_1d_rotary_pos_embed

        rotary = get_1d_rotary_pos_embed(
            self.config.attention_head_dim // 2,
            x.shape[2] + global_hidden_states.shape[1],
            use_real=True,
            repeat_interleave_real=False,
        )
        return self.transformer(
            x,
            t.expand(len(x)).to(x.dtype),
            encoder_hidden_states=encoder_hidden_states,
            global_hidden_states=global_hidden_states,
            rotary_embedding=rotary,
        )


class OobleckCodec(Codec):
    """Waveforms [B, C, N] ↔ latents [B, c, l]; mono is encoded in both channels and decoded as their mean."""

    modality = "audio"

    def __init__(self, vae: Any, samples: int) -> None:
        super().__init__(vae)
        self.samples: int = samples
        self.rate: int = vae.config.sampling_rate

    def read(self, parts: Sequence[Part]) -> Tensor:
        """float32 waveforms [B, N]."""
        from codi2.media import to_clip

        clips = [to_clip(part, self.rate, self.samples) for part in parts if isinstance(part, Audio)]
        return torch.from_numpy(np.stack(clips))

    def prepare(self, numbers: Tensor) -> Tensor:
        return numbers[:, None].to(self.vae.dtype).expand(-1, self.vae.config.audio_channels, -1)

    def to_parts(self, tensor: Tensor) -> list[Part]:
        waves = tensor.float().mean(1)[:, : self.samples].clamp(-1, 1).cpu().numpy()
        return [Audio(wave, self.rate) for wave in waves]

    def encode(self, tensor: Tensor) -> Tensor:
        return self.vae.encode(tensor).latent_dist.mode()

    def decode(self, latents: Tensor) -> Tensor:
        return self.vae.decode(latents).sample


def stable_audio_decoder(parts: dict[str, Any], dim: int, config: DecoderConfig) -> Decoder:
    """A decoder of the parts of a `StableAudioPipeline`, by their names there."""
    transformer, vae = parts["transformer"], parts["vae"]
    weight = next(transformer.parameters())
    length = transformer.config.sample_size
    samples = length * vae.hop_length
    condition = StableAudioConditioner(dim, parts["projection_model"], samples / vae.config.sampling_rate)
    network, shape = StableAudioNetwork(transformer), (transformer.config.in_channels, length)
    codec = OobleckCodec(vae, samples)
    decoder = Decoder(
        network, condition.to(weight.device, weight.dtype), codec, parts["scheduler"], config, latent_shape=shape
    )
    return decoder.eval().requires_grad_(False)


def load(source: str | Path, config: DecoderConfig, dim: int, dtype: torch.dtype) -> Decoder:
    """The decoder in a folder or repo in the layout of `StableAudioPipeline`, with an untrained head."""
    from diffusers import AutoencoderOobleck, CosineDPMSolverMultistepScheduler, StableAudioDiTModel
    from diffusers.pipelines.stable_audio import StableAudioProjectionModel

    classes = {
        "transformer": StableAudioDiTModel,
        "vae": AutoencoderOobleck,
        "projection_model": StableAudioProjectionModel,
        "scheduler": CosineDPMSolverMultistepScheduler,
    }
    return stable_audio_decoder(load_parts(source, classes, dtype), dim, config)
