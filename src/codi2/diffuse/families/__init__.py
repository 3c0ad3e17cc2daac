"""Published decoders, one file for each family: a config names the repo or folder of a diffusers pipeline.

`model_index.json` names the class of the pipeline, and `FAMILIES` the file here for that class. A regressed feature
conditions the network as an image embedding (`unclip`), or as prompt embeddings from a trained head (all others). A new
family is a new file and a line below.
"""

from __future__ import annotations

import json
from importlib import import_module

import torch

from codi2.config import DecoderConfig
from codi2.diffuse.decoder import Decoder
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


def load_pipeline(modality: str, config: DecoderConfig, dim: int, dtype: torch.dtype = torch.float32) -> Decoder:
    """The decoder that `config.id` names, for features of width `dim`; its head is untrained.

    Raises:
        WeightsError: the folder or repo, or a part of it, is missing or does not fit.
        ConfigError: it is a pipeline of another modality, or of a family that is not known.
    """
    module = family_of(modality, config.id)
    decoder: Decoder = import_module(f"{__name__}.{module}").load(config.id, config, dim, dtype)
    return decoder


def family_of(modality: str, source: str, shown: str = "") -> str:
    """The file here for the pipeline of a folder or repo; errors call it `shown`. Raises as `load_pipeline`."""
    name, shown = pipeline_name(source), shown or source
    if name not in FAMILIES:
        raise ConfigError(f"{shown!r} is a {name}, which is not supported; choose one of {', '.join(FAMILIES)}")
    output_modality, module = FAMILIES[name]
    if output_modality != modality:
        raise ConfigError(
            f"decoders[{modality!r}].id is {shown!r}, a {name}, which makes {output_modality}; name a pipeline that "
            f"makes {modality}"
        )
    return module


def pipeline_name(source: str) -> str:
    """The pipeline class of diffusers that a folder or repo names. Raises WeightsError."""
    from codi2.hub import weight_file

    path = weight_file(source, ("model_index.json",))
    try:
        return str(json.loads(path.read_text())["_class_name"])
    except (ValueError, KeyError, OSError) as error:
        raise WeightsError(f"{path} does not name the class of its pipeline; fetch {source!r} again") from error
