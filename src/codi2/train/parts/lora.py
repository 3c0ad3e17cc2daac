"""LoRA on the denoising network of a published decoder (arXiv:2106.09685), for training on few GPUs.

Its export is the network with the updates added to its weights, so that decoders are loaded without LoRA.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

TARGETS = ("to_q", "to_k", "to_v", "to_out.0")
"""The linear maps of a network's attention layers."""


def add_lora(unet: nn.Module, rank: int) -> nn.ModuleList:
    """Adds LoRA layers to a network, in place; returns their modules, which are the trained ones."""
    from peft import LoraConfig, inject_adapter_in_model

    inject_adapter_in_model(LoraConfig(r=rank, lora_alpha=rank, target_modules=list(TARGETS)), unet)
    maps = [x for layer in _layers(unet) for x in (layer.lora_A, layer.lora_B)]
    return nn.ModuleList(maps)


@contextmanager
def merged(unet: nn.Module) -> Iterator[None]:
    """In this context the updates are added to the weights; a network without LoRA is unchanged."""
    layers = _layers(unet)
    for layer in layers:
        layer.merge()
    try:
        yield
    finally:
        for layer in layers:
            layer.unmerge()


def _layers(unet: nn.Module) -> list[Any]:
    from peft.tuners.lora import LoraLayer

    return [module for module in unet.modules() if isinstance(module, LoraLayer)]
