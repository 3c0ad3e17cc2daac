"""LoRA on the denoising network of a published decoder (arXiv:2106.09685): for pairs on few GPUs.

Its export is the network with the updates added to its weights, so that nothing that loads a decoder knows of LoRA.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

TARGETS = ("to_q", "to_k", "to_v", "to_out.0")
"""The linear maps of a network's attention layers."""


def add_lora(unet: nn.Module, rank: int) -> nn.ModuleList:
    """Puts LoRA layers into a network, in place; returns them: all that is trained of it."""
    from peft import LoraConfig, inject_adapter_in_model

    inject_adapter_in_model(LoraConfig(r=rank, lora_alpha=rank, target_modules=list(TARGETS)), unet)
    maps = [x for layer in _layers(unet) for x in (layer.lora_A, layer.lora_B)]
    return nn.ModuleList(maps)


@contextmanager
def merged(unet: nn.Module) -> Iterator[None]:
    """Within the block the updates are part of the weights; a network without LoRA is as it is."""
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
