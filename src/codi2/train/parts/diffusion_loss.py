"""L_DM: the loss of a frozen decoder, whose gradient reaches the language model through the regressed feature."""

from __future__ import annotations

import copy
from contextlib import nullcontext

import torch
from torch import Tensor, nn

from codi2.diffuse.decoder import Decoder
from codi2.diffuse.recompute import checkpoint_gradients
from codi2.train.parts.language_batch import Denoised


def diffusion_loss(decoder: Decoder, denoised: Denoised, prediction: Tensor, dtype: torch.dtype) -> Tensor:
    """L_DM of a few answers [n], in `dtype`; `prediction` [P, D] are the features of all slots.

    The network is given what `Decoder.sampler_state` gives it: features of the decoder's norm at its noise level, and
    the source's latents as the codec encodes sources.
    """
    codec = decoder.codec
    with torch.no_grad():
        latents = codec.encode(codec.prepare(denoised.media))
        source = torch.zeros_like(latents)
        if len(denoised.given):
            source = source.index_put(
                (denoised.given,), codec.encode_source(codec.prepare(denoised.sources)).to(source)
            )
    features, level = decoder.at_noise_level(decoder.rescaled(prediction[denoised.slots]), denoised.blur)
    features = features.masked_fill(denoised.unconditional[:, None, None], 0)
    # what of a decoder is trained is in float32, the rest in `dtype`
    mixed = nullcontext() if dtype is torch.float32 else torch.autocast(latents.device.type, dtype)
    with mixed:
        return decoder.loss(latents, denoised.noise, denoised.t, features, level, source)


def save_memory(decoder: Decoder) -> Decoder:
    """The decoder, through which a gradient now passes with less memory and more work."""
    checkpoint_gradients(decoder.unet)
    if hasattr(decoder.codec.vae, "enable_slicing"):
        decoder.codec.vae.enable_slicing()  # it encodes the pictures of a clip one by one
    return decoder


def for_training(decoder: Decoder) -> nn.Module:
    """What of a decoder L_DM runs through: neither text encoders, whose states are kept, nor what makes media."""
    _ = decoder.conditioner.no_words  # read by a text encoder, once
    if decoder.sampling.feature_norm is None:
        _ = decoder.conditioner.expected_norm()  # read from its statistics, once
    codec = decoder.codec
    parts = [decoder.unet, _without(decoder.conditioner, "text"), _without(codec.vae, "decoder", "post_quant_conv")]
    return nn.ModuleList([*parts, *(x for x in (getattr(codec, "mel", None), decoder.draft) if x is not None)])


def _without(module: nn.Module, *names: str) -> nn.Module:
    """The same module as it looks without some of its children."""
    other = copy.copy(module)
    other._modules = {name: child for name, child in module._modules.items() if name not in names}
    return other
