"""Published pipelines that generate from a text with their own text encoders."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from codi2.diffuse.families import pipeline_name
from codi2.errors import ConfigError
from codi2.hub import hub_errors
from codi2.untrusted import check_folder

TEXT_PIPELINES = {"AudioLDM2Pipeline": "audio", "TextToVideoSDPipeline": "video"}
"""Class of the pipeline → modality of its outputs."""


def load_text_pipeline(modality: str, source: str, device: torch.device, dtype: torch.dtype) -> Any:
    """A published pipeline with its own text encoders.

    Raises:
        ConfigError: it is none of TEXT_PIPELINES, or makes another modality.
        WeightsError: the folder or repo is missing or damaged.
    """
    import diffusers
    from transformers import GPT2LMHeadModel

    name = pipeline_name(source)
    if TEXT_PIPELINES.get(name) != modality:
        known = next(known for known, makes in TEXT_PIPELINES.items() if makes == modality)
        raise ConfigError(f"the text pipeline {source!r} is a {name}; for {modality}, name a {known}")
    with hub_errors(f"the text pipeline {source!r}"):
        if Path(source).is_dir():
            check_folder(Path(source))
        parts = {}
        if modality == "audio":
            # published without a head; the pipeline calls `generate`, which only GPT2LMHeadModel has
            parts["language_model"] = GPT2LMHeadModel.from_pretrained(source, subfolder="language_model", dtype=dtype)
        pipeline = getattr(diffusers, name).from_pretrained(source, dtype=dtype, **parts).to(device)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline
