"""Moves a model to its device and precision."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from codi2.errors import ConfigError
from codi2.placement import Placement, full, out_of_memory
from codi2.tensors import OnDemand

if TYPE_CHECKING:
    from codi2.model import CoDi2


def place(model: CoDi2, placement: Placement) -> None:
    """Moves a model to the device of `placement`. With `offload` its large parts stay in main memory until used.

    Raises:
        DeviceMemoryError: the memory of the device is full. ConfigError: the device cannot hold this model.
    """
    try:
        _move(model, placement)
    except (RuntimeError, AssertionError, AttributeError) as error:
        if out_of_memory(error):
            advice = "load it with --dtype bfloat16, --bits 4 or --offload, or end what else uses the device"
            raise full(error, placement.device, f"{model.config.name} was loaded", advice) from None
        reason = str(error).splitlines()[0]
        raise ConfigError(
            f"the model cannot run on device {placement.device!r} with dtype {placement.dtype!r} ({reason}); choose "
            "another device or dtype"
        ) from error


def _move(model: CoDi2, placement: Placement) -> None:
    device, dtype = torch.device(placement.device), getattr(torch, placement.dtype)
    model.offload = placement.offload
    if not isinstance(model.decoders, OnDemand):  # which places the parts that it loads
        for decoder in model.decoders.values():
            place_decoder(decoder, placement)
    if model.joint is not None and not isinstance(model.joint, OnDemand):
        place_joint(model.joint, placement)
    if model.encoder.supports_half:
        model.encoder.to(dtype)
    model.mllm.input_projection.to(device)
    model.mllm.output_projection.to(device)
    if model.prior is not None and not isinstance(model.prior, OnDemand):
        torch.nn.Module.to(model.prior, device)  # in float32, as the projections are
    if not placement.offload:
        model.encoder.to(device)
    if not placement.bits and not placement.device_map:  # otherwise the loader has placed the language model
        model.mllm.backbone.to("cpu" if placement.offload else device)


def place_decoder(decoder: torch.nn.Module, placement: Placement) -> None:
    """Moves a decoder."""
    torch.nn.Module.to(decoder, getattr(torch, placement.dtype))  # diffusers' `to` warns about fp16 on a CPU
    if not placement.offload:
        torch.nn.Module.to(decoder, torch.device(placement.device))
    unet = getattr(decoder, "unet", None)
    if placement.compile and isinstance(unet, torch.nn.Module):
        unet.compile()


def place_joint(joint: torch.nn.Module, placement: Placement) -> None:
    """Moves the layers between decoders, which are small."""
    torch.nn.Module.to(joint, torch.device(placement.device), getattr(torch, placement.dtype))
