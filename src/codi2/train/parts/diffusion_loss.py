"""L_DM: the loss of a frozen decoder, whose gradient reaches the language model through the regressed feature."""

from __future__ import annotations

import copy
from contextlib import nullcontext

import torch
from torch import Tensor, nn

from codi2.diffuse.codec import AudioCodec
from codi2.diffuse.decoder import Decoder
from codi2.diffuse.recompute import checkpoint_gradients
from codi2.train.parts.language_batch import DiffusionBatch

Latents = tuple[Tensor, Tensor]
"""Of answers and of their sources, in one shape [n, …]; zeros: no source."""


@torch.no_grad()
def encode(decoder: Decoder, denoised: DiffusionBatch) -> Latents:
    codec = decoder.codec
    latents = codec.encode(codec.prepare(denoised.media))
    source = torch.zeros_like(latents)
    if len(denoised.edited):
        source = source.index_put((denoised.edited,), codec.encode_source(codec.prepare(denoised.sources)).to(source))
    return latents, source


def diffusion_loss(
    decoder: Decoder, denoised: DiffusionBatch, prediction: Tensor, dtype: torch.dtype, latents: Latents | None = None
) -> Tensor:
    """L_DM of a few answers [n], in `dtype`; `prediction` [P, D] are the features of all slots.

    The inputs of the network are those of `Decoder.sampler_state`: features with the decoder's norm and noise level,
    and the source's latents from `encode_source`.

    Args:
        latents: the output of `encode`, where it has been computed before.
    """
    target, source = latents or encode(decoder, denoised)
    features, level = decoder.at_noise_level(decoder.rescaled(prediction[denoised.slots]), denoised.feature_noise)
    features = features.masked_fill(denoised.unconditional[:, None, None], 0)
    # the trained parameters of a decoder are float32, the others `dtype`
    mixed = nullcontext() if dtype is torch.float32 else torch.autocast(target.device.type, dtype)
    with mixed:
        return decoder.loss(target, denoised.noise, denoised.t, features, level, source)


def save_memory(decoder: Decoder) -> Decoder:
    """The decoder with gradient checkpointing and slicing: less memory, more work."""
    checkpoint_gradients(decoder.unet)
    if hasattr(decoder.codec.vae, "enable_slicing"):
        decoder.codec.vae.enable_slicing()  # encodes the frames of a clip one by one
    return decoder


def for_training(decoder: Decoder) -> nn.Module:
    """The modules of a decoder that L_DM needs, without text encoders, whose states are cached, and VAE decoders."""
    _ = decoder.conditioner.no_words  # fills the cache
    if decoder.config.feature_norm is None:
        _ = decoder.conditioner.expected_norm()  # fills the cache
    codec = decoder.codec
    parts = [decoder.unet, _without(decoder.conditioner, "text"), _without(codec.vae, "decoder", "post_quant_conv")]
    return nn.ModuleList([*parts, codec.mel] if isinstance(codec, AudioCodec) else parts)


def _without(module: nn.Module, *names: str) -> nn.Module:
    """A shallow copy of a module without some of its children."""
    other = copy.copy(module)
    other._modules = {name: child for name, child in module._modules.items() if name not in names}
    return other
