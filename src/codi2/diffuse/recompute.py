"""Gradient checkpointing for a frozen denoising network: activations within its layers are computed again."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

LAYERS = ("resnets", "temp_convs", "attentions", "temp_attentions")


def checkpoint_gradients(unet: Any) -> None:
    """Each layer of a U-Net keeps its inputs only; a transformer uses the method of diffusers.

    diffusers' method for U-Nets does not support the network of clips, and mixes up the masks of AudioLDM2's.
    """
    if not hasattr(unet, "down_blocks"):
        unet.enable_gradient_checkpointing()
        return
    for block in (*unet.down_blocks, unet.mid_block, *unet.up_blocks):
        for name in LAYERS:
            for layer in getattr(block, name, None) or ():
                _keep_inputs(layer)


def _keep_inputs(layer: nn.Module) -> None:
    original = layer.forward

    def forward(*args: Any, **kwargs: Any) -> Any:
        if not torch.is_grad_enabled():
            return original(*args, **kwargs)
        return checkpoint(original, *args, use_reentrant=False, **kwargs)

    layer.forward = forward
