"""Decoders from and to folders in diffusers' own layout.

```
image/ unet/ vae/ conditioner/ draft/ scheduler/
audio/ unet/ vae/ conditioner/ draft/ scheduler/ vocoder/
```
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from codi2.diffuse.codec import AudioCodec, Codec, ImageCodec
from codi2.diffuse.condition import Conditioner
from codi2.diffuse.decoder import Decoder, Sampling
from codi2.diffuse.draft import Draft
from codi2.errors import WeightsError


def load_codec(modality: str, folder: Path) -> Codec:
    """The codec of a decoder folder, frozen, fp32. A missing vocoder is an error only once a waveform is asked for."""
    from diffusers import AutoencoderKL

    vae = load_part(AutoencoderKL, folder / "vae")
    if modality == "image":
        return ImageCodec(vae)
    from codi2.diffuse.mel import MelSpectrogram
    from codi2.diffuse.vocoder import ISTFTVocoder

    vocoder = load_part(ISTFTVocoder, folder / "vocoder") if (folder / "vocoder").is_dir() else None
    return AudioCodec(vae, MelSpectrogram(), vocoder)


def load_decoder(modality: str, folder: Path, sampling: Sampling | None = None, codec: Codec | None = None) -> Decoder:
    """The decoder in `folder`, frozen, fp32; `codec` replaces the folder's own.

    Raises:
        WeightsError: a part is missing or does not fit its config.
    """
    from diffusers import AudioLDM2UNet2DConditionModel, DPMSolverMultistepScheduler, UNet2DConditionModel

    unet = load_part(UNet2DConditionModel if modality == "image" else AudioLDM2UNet2DConditionModel, folder / "unet")
    conditioner = load_part(Conditioner, folder / "conditioner")
    draft = load_part(Draft, folder / "draft")
    scheduler = DPMSolverMultistepScheduler.from_pretrained(folder / "scheduler")
    codec = codec or load_codec(modality, folder)
    return Decoder(unet, conditioner, codec, scheduler, sampling or Sampling(), draft)


def load_part(part_class: Any, folder: Path) -> Any:
    """One diffusers module, frozen, fp32, in eval mode.

    Raises:
        WeightsError: the folder is missing, or its tensors are not those of its config.
    """
    if not (folder / "config.json").is_file():
        raise WeightsError(
            f"there are no weights of {part_class.__name__} in {folder}; train them or name another model"
        )
    try:
        module, info = part_class.from_pretrained(folder, torch_dtype=torch.float32, output_loading_info=True)
    except (OSError, ValueError, RuntimeError, json.JSONDecodeError) as error:
        raise WeightsError(f"the weights in {folder} cannot be loaded: {error}") from error
    wrong = [*info["missing_keys"], *info["unexpected_keys"], *info["mismatched_keys"]]
    if wrong:
        raise WeightsError(
            f"the weights in {folder} do not fit their config: {len(wrong)} tensors differ, first {wrong[0]}"
        )
    return module.eval().requires_grad_(False).to(memory_format=torch.channels_last)


def save_decoder(decoder: Decoder, folder: Path) -> None:
    """Writes a decoder as `load_decoder` reads it, fp16."""
    import copy

    parts = {"unet": decoder.unet, "conditioner": decoder.conditioner, "draft": decoder.draft, "vae": decoder.codec.vae}
    if isinstance(decoder.codec, AudioCodec):
        parts["vocoder"] = decoder.codec.vocoder
    for name, part in parts.items():
        copy.deepcopy(part).to(torch.float16).save_pretrained(folder / name)
    decoder.scheduler.save_pretrained(folder / "scheduler")
