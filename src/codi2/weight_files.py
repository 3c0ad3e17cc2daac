"""Trained parts as files: a module in diffusers' layout, or tensors by name, as fp16 safetensors; `training.json`
beside them holds their provenance.
"""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import torch

from codi2.errors import WeightsError
from codi2.hub import atomic_path, is_ours, write_atomic
from codi2.sizes import check_numbers, check_size
from codi2.tensors import channels_last, to_float16
from codi2.untrusted import one_sentence

WEIGHTS = "diffusion_pytorch_model.safetensors"


def load_part(part_class: Any, folder: Path) -> Any:
    """A diffusers module, frozen, fp32, in eval mode.

    Raises:
        WeightsError: the folder is missing, or its tensors are not exactly those of its config.
    """
    if not (folder / "config.json").is_file():
        raise WeightsError(
            f"there are no weights of {part_class.__name__} in {folder}; train them or name another model"
        )
    description = f"the checkpoint {folder}"
    with one_sentence(description):
        if not is_ours(folder):
            check_numbers(part_class.load_config(folder), description)
            check_size(lambda: part_class.from_config(part_class.load_config(folder)), [folder / WEIGHTS], description)
        module, info = part_class.from_pretrained(
            folder, torch_dtype=torch.float32, output_loading_info=True, use_safetensors=True
        )
    check_loaded(description, info)
    return channels_last(module.eval().requires_grad_(False))


def check_loaded(description: str, info: dict[str, Any], exactly: bool = True) -> None:
    """Raises WeightsError: a checkpoint lacks tensors of its module, or, if `exactly`, has others.

    Args:
        info: as `from_pretrained` of transformers and diffusers returns it, which fill missing tensors with random
            numbers and only log it.
    """
    for kind in ("missing", "mismatched", *(("unexpected",) if exactly else ())):
        if names := sorted(map(str, info.get(f"{kind}_keys", ()))):
            raise WeightsError(
                f"{description} does not fit its config: {len(names)} tensors are {kind}, first {names[0]}; download "
                "it again, or name a complete model"
            )


def export_module(module: Any, folder: Path, provenance: dict[str, Any] | None = None) -> None:
    """Writes a diffusers module to `folder` in diffusers' layout (config.json and one safetensors file), fp16.

    Args:
        provenance: config, steps and measured figures, for `training.json`; None: it is not written.
    """
    half = torch.nn.Module.to(copy.deepcopy(module), torch.float16)  # diffusers' `to` warns about fp16 on a CPU
    half.save_pretrained(folder, safe_serialization=True)
    config = json.loads((folder / "config.json").read_text())
    config.pop("_name_or_path", None)  # a path on this machine
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    if provenance is not None:
        write_provenance(folder, provenance)


def write_provenance(folder: Path, provenance: dict[str, Any]) -> None:
    """Writes `training.json`: the version of this package, then config, steps and measured figures of a run."""
    from codi2 import __version__

    write_atomic(folder / "training.json", (json.dumps({"codi2": __version__, **provenance}, indent=1) + "\n").encode())


def restore_module(module: Any, folder: Path) -> None:
    """Loads the weights of a diffusers module in `folder` into `module`.

    Raises:
        WeightsError: the weights do not fit.
    """
    try:
        module.load_state_dict(load_part(type(module), folder).state_dict())
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:200]
        raise WeightsError(
            f"the weights in {folder} are of another size than the config asks for ({reason}); change it or name "
            "other weights"
        ) from error


def export_tensors(tensors: dict[str, torch.Tensor], path: Path, provenance: dict[str, Any] | None = None) -> None:
    """Writes tensors as one fp16 safetensors file, atomically; with `provenance`, `training.json` beside it."""
    from safetensors.torch import save_file

    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as aside:
        save_file(to_float16(tensors), aside)
    if provenance is not None:
        write_provenance(path.parent, provenance)
