"""Published decoders, one file for each family: a diffusers pipeline drops in by naming its repo or folder.

`model_index.json` says which pipeline a folder holds, and that says which file here knows how a regressed feature
conditions it: as an image embedding (`unclip`), or as prompt embeddings that a trained head makes of it (all others).
A new family is a new file and a line below.
"""

from __future__ import annotations

import json
from importlib import import_module

import torch

from codi2.config import DecoderConfig
from codi2.diffuse.decoder import Decoder, Sampling
from codi2.errors import ConfigError, WeightsError

FAMILIES = {
    "StableUnCLIPImg2ImgPipeline": ("image", "unclip"),
    "StableUnCLIPPipeline": ("image", "unclip"),
    "StableDiffusionXLPipeline": ("image", "sdxl"),
    "StableDiffusion3Pipeline": ("image", "sd3"),
    "FluxPipeline": ("image", "flux"),
    "AudioLDM2Pipeline": ("audio", "audioldm2"),
    "StableAudioPipeline": ("audio", "stable_audio"),
    "TextToVideoSDPipeline": ("video", "text_to_video"),
    "WanPipeline": ("video", "wan"),
}


def load_pipeline(
    modality: str, config: DecoderConfig, dim: int, sampling: Sampling, dtype: torch.dtype = torch.float32
) -> Decoder:
    """The decoder that `config.id` names, for features of width `dim`; its head is fresh.

    Raises:
        WeightsError: the folder or repo, or a part of it, is missing or does not fit.
        ConfigError: it is a pipeline of another modality, or of a family that is not known.
    """
    module = family_of(modality, config.id)
    decoder: Decoder = import_module(f"{__name__}.{module}").load(config.id, config, dim, sampling, dtype)
    return decoder


def family_of(modality: str, source: str, shown: str = "") -> str:
    """Which file here knows the pipeline of a folder or repo, which errors call `shown`. Raises as `load_pipeline`."""
    name, shown = pipeline_name(source), shown or source
    if name not in FAMILIES:
        raise ConfigError(f"{shown!r} is a {name}; features can condition {', '.join(FAMILIES)}")
    makes, module = FAMILIES[name]
    if makes != modality:
        raise ConfigError(f"decoders[{modality!r}].id is {shown!r}, a {name}, which makes {makes}")
    return module


def pipeline_name(source: str) -> str:
    """The class of diffusers that a folder or repo is made for. Raises WeightsError."""
    from codi2.hub import weight_file

    path = weight_file(source, ("model_index.json",))
    try:
        return str(json.loads(path.read_text())["_class_name"])
    except (ValueError, KeyError, OSError) as error:
        raise WeightsError(f"{path} does not say which pipeline it is of; fetch {source!r} again") from error
