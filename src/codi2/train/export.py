"""Writing a trained part as it is shipped: fp16 safetensors and, beside it, where it comes from."""

from __future__ import annotations

import copy
import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch

WIDE = 4096  # numbers from which a tensor is worth a scale of its own


def export_module(module: Any, folder: Path, provenance: dict[str, Any], in_bytes: bool = False) -> None:
    """A diffusers module → `folder` in diffusers' own layout (config.json + one safetensors), fp16.

    Args:
        provenance: config, steps, measured figures, for `training.json`.
        in_bytes: its matrices and convolutions as `tensors.in_half` has them; `load_part` reads both.
    """
    from safetensors.torch import save

    from codi2 import __version__
    from codi2.hub import write_atomic
    from codi2.tensors import in_half

    half = torch.nn.Module.to(copy.deepcopy(module), torch.float16)  # diffusers' own warns of what does not concern it
    half.save_pretrained(folder, safe_serialization=True)
    config = json.loads((folder / "config.json").read_text())
    config.pop("_name_or_path", None)  # where this machine keeps the weights that it started from
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    if in_bytes:
        state = module.state_dict()
        write_atomic(folder / "diffusion_pytorch_model.safetensors", save(in_half(state, wide(state))))
    (folder / "training.json").write_text(json.dumps({"codi2": __version__, **provenance}, indent=1) + "\n")


def wide(tensors: Mapping[str, torch.Tensor]) -> list[str]:
    """The matrices and convolutions that are worth keeping in bytes."""
    return [name for name, value in tensors.items() if value.ndim > 1 and value.numel() >= WIDE]


def restore_module(module: Any, folder: Path, partly: bool = False) -> None:
    """The weights of a diffusers module in `folder` → `module`. `partly`: tensors of another shape stay as they are,
    and the module may be of another class: a network of clips goes on from one of pictures.

    Raises WeightsError when they do not fit.
    """
    from codi2.diffuse.load import load_part
    from codi2.errors import WeightsError
    from codi2.tensors import read_tensors

    if partly:
        found = {n: v.float() for n, v in read_tensors(folder / "diffusion_pytorch_model.safetensors").items()}
        weights = {n: found[n] if _fits(found, n, value) else value for n, value in module.state_dict().items()}
    else:
        weights = load_part(type(module), folder).state_dict()
    try:
        module.load_state_dict(weights)
    except RuntimeError as error:
        raise WeightsError(f"the weights in {folder} are of another size than the config asks for: {error}") from error


def _fits(weights: dict[str, torch.Tensor], name: str, value: torch.Tensor) -> bool:
    return name in weights and weights[name].shape == value.shape


def export_tensors(
    tensors: dict[str, torch.Tensor], path: Path, provenance: dict[str, Any], in_bytes: Collection[str] = ()
) -> None:
    """Plain tensors → one fp16 safetensors file, written atomically, with `training.json` beside it. Those of
    `in_bytes` as `tensors.in_half` has it.
    """
    from safetensors.torch import save_file

    from codi2 import __version__
    from codi2.hub import atomic_path
    from codi2.tensors import in_half

    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as aside:
        save_file(in_half(tensors, in_bytes), aside)
    (path.parent / "training.json").write_text(json.dumps({"codi2": __version__, **provenance}, indent=1) + "\n")
