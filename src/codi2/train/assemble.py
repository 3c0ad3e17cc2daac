"""Assembles the exports of parts to a model folder, in the layout of `codi2.checkpoint`."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from codi2.config import TINY, CoDi2Config
from codi2.errors import ConfigError, WeightsError
from codi2.folders import atomic_folder
from codi2.hub import home, sha256_of, write_atomic
from codi2.train.bank import key_of

MODELS = {"tiny": TINY}
"""Models whose parts a config can list."""


REPORTS = shutil.ignore_patterns("training.json")
"""Not copied: a model folder has its own report."""


def located_parts(model: str, parts: Mapping[str, str]) -> tuple[CoDi2Config, Path]:
    """The config of `model` and a folder with its trained parts, assembled under `$CODI2_HOME/cache`.

    Args:
        parts: subfolder, such as `image/vae` → the export that goes there.
    Raises:
        ConfigError: the model is unknown. WeightsError: an export is missing.
    """
    if model not in MODELS:
        raise ConfigError(f"options.model is {model!r}, which has no options.parts; expected {', '.join(MODELS)}")
    config = without_missing(MODELS[model], parts)
    for place, export in parts.items():
        if not Path(export).is_dir():
            raise WeightsError(f"options.parts[{place!r}] is {export}, which is missing; train that part first")
    weights = {p: sha256_of(p) for export in parts.values() for p in sorted(Path(export).rglob("*.safetensors"))}
    key = key_of({"config": config.to_json(), "parts": dict(parts), "weights": sorted(weights.values())})
    folder = home() / "cache" / f"assembled-{key}"
    if not (folder / "config.json").is_file():
        assemble(config, parts, folder)
    return config, folder


def without_missing(config: CoDi2Config, parts: Mapping[str, str]) -> CoDi2Config:
    """The config without the decoders that `parts` does not hold."""
    decoders = {name: decoder for name, decoder in config.decoders.items() if name in parts}
    joint = config.joint if config.joint and set(config.joint.modalities) <= set(decoders) else None
    return replace(config, decoders=decoders, joint=joint)


def assemble(config: CoDi2Config, parts: Mapping[str, str], folder: Path) -> None:
    """Writes the folder atomically."""
    with atomic_folder(folder) as aside:
        for place, export in parts.items():
            shutil.copytree(export, aside / place, dirs_exist_ok=True, ignore=REPORTS)
        write_atomic(aside / "config.json", config.to_json().encode())
