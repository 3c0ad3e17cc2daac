"""Joint attention: denoisers of several modalities cross-attend while they draw one reply.

CoDi, on which the paper builds, generates several modalities together (arXiv:2305.11846, section 3.4): an environment
encoder reads each noisy latent, and the networks of the others attend to its tokens. Here the denoisers are unchanged,
and layers after their inner blocks add the attention's output; before training they add zero.

Attention is local in time: tokens and positions of a map have a time, as a share of the whole length, and attention
falls with the distance in time. A picture has no time.

Letters: B batch, c channels, F frames, h w latent size, N tokens, T moments of a map, P positions of a moment, W width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from diffusers.models.embeddings import get_timestep_embedding
from torch import Tensor, nn

from codi2.diffuse.decoder import Decoder
from codi2.diffuse.sampling import Progress, SamplerState
from codi2.errors import ConfigError

POSITIONS = 32  # width of the encoding of a time
PIECES = 8  # least number of pieces of a sound, each with a token; more where its rows are not divisible by it


class JointAttention(ModelMixin, ConfigMixin):
    """The layers through which several denoisers attend to each other.

    Args:
        latent_channels: modality → c.
        time: modality → the codec's `time`, the axis of time of a latent.
        block_out_channels: modality → channels of its network's levels.
        width: W of the tokens.
        heads: of the attention.
    """

    @register_to_config
    def __init__(
        self,
        latent_channels: dict[str, int],
        time: dict[str, str],
        block_out_channels: dict[str, list[int]],
        width: int = 64,
        heads: int = 4,
    ) -> None:
        super().__init__()
        self.environment_encoders = nn.ModuleDict(
            {m: EnvironmentEncoder(time[m], c, width, heads) for m, c in latent_channels.items()}
        )
        self.attention_layers = nn.ModuleDict(
            {
                modality: nn.ModuleDict(
                    {
                        _key(block): JointAttentionLayer(time[modality], c, width, heads)
                        for block, c in inner_blocks(channels)
                    }
                )
                for modality, channels in block_out_channels.items()
            }
        )

    @contextmanager
    def attached(
        self, latents: Mapping[str, Tensor], t: Mapping[str, Tensor], unets: Mapping[str, Any]
    ) -> Iterator[None]:
        """In this context each network attends to the others' noisy latents [B, c, …] at timesteps [B] or []."""
        environments = {m: self.environment_encoders[m] for m in latents}
        tokens_of = {m: environments[m](x.to(self.dtype), t[m].expand(len(x))) for m, x in latents.items()}
        with ExitStack() as stack:
            for modality in latents:
                others = [tokens_of[m] for m in latents if m != modality]
                tokens = torch.cat([values for values, _ in others], dim=1)
                times = torch.cat([token_times for _, token_times in others])
                frames = latents[modality].shape[2] if latents[modality].ndim == 5 else 1
                attend = self.attention_layers[modality]
                assert isinstance(attend, nn.ModuleDict)
                for block, layer in attend.items():
                    module = unets[modality].get_submodule(_name(block))
                    stack.enter_context(_appended(module, partial(layer, tokens=tokens, times=times, frames=frames)))
            yield


def joint_attention(decoders: Mapping[str, Decoder]) -> JointAttention:
    """Untrained layers for these decoders. Raises ConfigError: a decoder is a transformer, which lacks such blocks."""
    for modality, decoder in decoders.items():
        if not hasattr(decoder.unet, "up_blocks"):
            raise ConfigError(
                f"joint.modalities has {modality!r}, whose {type(decoder.unet).__name__} has no middle and upward "
                "blocks, which joint attention needs; remove it from joint.modalities"
            )
    channels = {m: list(decoder.unet.config.block_out_channels) for m, decoder in decoders.items()}
    latent_channels = {m: decoder.latent_shape[0] for m, decoder in decoders.items()}
    return JointAttention(latent_channels, {m: decoder.codec.time for m, decoder in decoders.items()}, channels)


@torch.no_grad()
def sample_together(
    joint: JointAttention,
    decoders: Mapping[str, Decoder],
    states: Mapping[str, SamplerState],
    progress: Progress,
    lead: Mapping[str, int] | None = None,
) -> dict[str, Tensor]:
    """As `sample`, synchronised for several modalities: latents [B, c, …] of each.

    Args:
        lead: modality → steps by which it is ahead of those without an entry, which then attend to cleaner latents.
    """
    unets = {m: decoder.unet for m, decoder in decoders.items()}
    lead_steps = {m: (lead or {}).get(m, 0) for m in states}
    first_step = {m: max(lead_steps.values()) - steps for m, steps in lead_steps.items()}
    count = max(first_step[m] + len(state) for m, state in states.items())
    for i in range(count):
        latents = {m: state.latents for m, state in states.items()}
        timesteps = {m: state.timestep(i - first_step[m]) for m, state in states.items()}
        with joint.attached(latents, timesteps, unets):
            for m, state in states.items():
                if 0 <= i - first_step[m] < len(state):
                    state.step(i - first_step[m])
        progress(i + 1, count)
    return {m: state.latents for m, state in states.items()}


class EnvironmentEncoder(nn.Module):
    """Noisy latents → the tokens that the others attend to: one for each frame, piece of a sound, or picture."""

    def __init__(self, time: str, channels: int, width: int, heads: int, hidden: int = 32, side: int = 4) -> None:
        super().__init__()
        self.time = time
        self.maps = nn.Sequential(
            nn.Conv2d(channels, hidden, 3, 2, 1),
            nn.SiLU(),
            nn.Conv2d(hidden, hidden, 3, 2, 1),
            nn.SiLU(),
            nn.AdaptiveAvgPool2d(side),
            nn.Flatten(),
            nn.Linear(hidden * side**2, width),
        )
        self.noise_level, self.time_embedding = nn.Linear(width, width), nn.Linear(POSITIONS, width)
        self.token_mixer = nn.TransformerEncoderLayer(width, heads, 2 * width, 0.0, batch_first=True, norm_first=True)

    def forward(self, latents: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """[B, c, h, w] or [B, c, F, h, w], timesteps [B] → tokens [B, N, W] and their times [N]."""
        pieces = _pieces(self.time, latents)  # [B, N, c, h, w]
        times = time_centres(self.time, pieces.shape[1], latents.device)
        tokens = self.maps(pieces.flatten(0, 1)).unflatten(0, pieces.shape[:2])
        level = get_timestep_embedding(t, tokens.shape[-1], flip_sin_to_cos=True, downscale_freq_shift=0)
        tokens = (
            tokens
            + self.noise_level(level.to(tokens.dtype))[:, None]
            + self.time_embedding(positions(times).to(tokens.dtype))
        )
        return self.token_mixer(tokens), times


class JointAttentionLayer(nn.Module):
    """Adds to a map of one network its attention to the tokens of the others."""

    def __init__(self, time: str, channels: int, width: int, heads: int) -> None:
        super().__init__()
        self.time, self.heads = time, heads
        self.norm, self.norm_tokens = nn.LayerNorm(channels), nn.LayerNorm(width)
        self.time_embedding = nn.Linear(POSITIONS, channels)
        self.query = nn.Linear(channels, width)
        self.key, self.value = nn.Linear(width, width), nn.Linear(width, width)
        self.out = nn.Linear(width, channels)
        self.distance_slope = nn.Parameter(
            torch.full((heads,), 16.0)
        )  # slope by which scores fall with the distance in time
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, hidden: Tensor, tokens: Tensor, times: Tensor, frames: int = 1) -> Tensor:
        """[n · B (· F), C, h, w], where n branches of guidance are stacked, with tokens [B, N, W] of times [N]."""
        maps = _timeline(self.time, hidden, frames)  # [n · B, T, P, C]
        map_times = time_centres(self.time, maps.shape[1], hidden.device)
        query = self.query(self.norm(maps) + self.time_embedding(positions(map_times).to(maps.dtype))[:, None]).flatten(
            1, 2
        )
        copies = len(maps) // len(tokens)
        tokens = self.norm_tokens(tokens).repeat(copies, 1, 1)
        projected = (query, self.key(tokens), self.value(tokens))
        q, k, v = (x.unflatten(-1, (self.heads, -1)).transpose(1, 2) for x in projected)
        distance = (map_times[:, None] - times).abs().nan_to_num(0.0)  # 0 where a picture is involved
        bias = -self.distance_slope[:, None, None] * distance.repeat_interleave(maps.shape[2], 0)
        attended = F.scaled_dot_product_attention(q, k, v, attn_mask=bias.to(q))
        added = self.out(attended.transpose(1, 2).flatten(2)).view_as(maps)
        return hidden + _map(self.time, added, hidden)


def inner_blocks(block_out_channels: Sequence[int]) -> list[tuple[str, int]]:
    """The blocks that attend, with the channels of their maps: middle and upward blocks except the finest level."""
    upwards = list(reversed(block_out_channels))
    return [("mid_block", upwards[0]), *((f"up_blocks.{i}", c) for i, c in enumerate(upwards[:-1]))]


def time_centres(time: str, count: int, device: torch.device) -> Tensor:
    """Times [count] of the centres of equal pieces, 0 … 1 of the whole length; not a number for pictures."""
    if not time:
        return torch.full((count,), torch.nan, device=device)
    return (torch.arange(count, device=device) + 0.5) / count


def positions(times: Tensor) -> Tensor:
    """Times [N] → sinusoidal encodings [N, POSITIONS]; zeros where the time is not a number."""
    waves = get_timestep_embedding(
        times.nan_to_num(0.0) * 1000, POSITIONS, flip_sin_to_cos=True, downscale_freq_shift=0
    )
    return waves * ~times.isnan()[:, None]


def _pieces(time: str, latents: Tensor) -> Tensor:
    """Latents as pieces in time [B, N, c, h, w]: a clip's frames, equal shares of a sound's rows, a picture whole."""
    if time == "frames":
        return latents.transpose(1, 2)
    if not time:
        return latents[:, None]
    rows = latents.shape[2]
    count = next((n for n in range(PIECES, rows) if rows % n == 0), rows)
    return latents.unflatten(2, (count, -1)).transpose(1, 2)


def _timeline(time: str, hidden: Tensor, frames: int) -> Tensor:
    """A map of a network as moments and positions [n · B, T, P, C]."""
    if time == "rows":
        return hidden.permute(0, 2, 3, 1)
    return hidden.flatten(2).transpose(1, 2).unflatten(0, (-1, frames))


def _map(time: str, timeline: Tensor, like: Tensor) -> Tensor:
    """The inverse of `_timeline`."""
    if time == "rows":
        return timeline.permute(0, 3, 1, 2)
    return timeline.flatten(0, 1).transpose(1, 2).view_as(like)


def _key(block: str) -> str:
    return block.replace(".", "-")


def _name(key: str) -> str:
    return key.replace("-", ".")


@contextmanager
def _appended(module: nn.Module, layer: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """In this context `layer` is applied to the output of `module`."""
    handle = module.register_forward_hook(lambda _module, _inputs, hidden: layer(hidden))
    try:
        yield
    finally:
        handle.remove()
