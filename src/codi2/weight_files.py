"""A trained part as files: a module in diffusers' own layout, or tensors by name; fp16 safetensors and, beside it,
`training.json`, which says where it comes from.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch

from codi2.errors import WeightsError
from codi2.hub import atomic_path, is_ours, write_atomic
from codi2.sizes import check_numbers, check_size
from codi2.tensors import channels_last, in_bytes, in_half, load_exactly, read_tensors, undrawn_weights
from codi2.untrusted import one_sentence

WEIGHTS = "diffusion_pytorch_model.safetensors"
WIDE = 4096  # numbers from which a tensor is worth a scale of its own


def load_part(part_class: Any, folder: Path) -> Any:
    """One diffusers module, frozen, fp32, in eval mode.

    Raises:
        WeightsError: the folder is missing, or its tensors are not those of its config.
    """
    if not (folder / "config.json").is_file():
        raise WeightsError(
            f"there are no weights of {part_class.__name__} in {folder}; train them or name another model"
        )
    what = f"the checkpoint {folder}"
    with one_sentence(what):
        if not is_ours(folder):
            check_numbers(part_class.load_config(folder), what)
            check_size(lambda: part_class.from_config(part_class.load_config(folder)), [folder / WEIGHTS], what)
        if in_bytes(folder / WEIGHTS):
            with undrawn_weights():
                module = part_class.from_config(part_class.load_config(folder))
            load_exactly(module, read_tensors(folder / WEIGHTS), what)
            return channels_last(module.float().eval().requires_grad_(False))
        module, info = part_class.from_pretrained(
            folder, torch_dtype=torch.float32, output_loading_info=True, use_safetensors=True
        )
    check_loaded(what, info)
    return channels_last(module.eval().requires_grad_(False))


def check_loaded(where: str, info: dict[str, Any]) -> None:
    """Raises WeightsError where a checkpoint did not hold exactly the tensors of its module."""
    for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        if wrong := info.get(kind):
            first = sorted(map(str, wrong))[0]
            raise WeightsError(f"{where} does not fit its config: {len(wrong)} {kind.replace('_', ' ')}, first {first}")


def export_module(module: Any, folder: Path, provenance: dict[str, Any], in_bytes: bool = False) -> None:
    """A diffusers module → `folder` in diffusers' own layout (config.json + one safetensors), fp16.

    Args:
        provenance: config, steps, measured figures, for `training.json`.
        in_bytes: its matrices and convolutions as `tensors.in_half` has them; `load_part` reads both.
    """
    from safetensors.torch import save

    from codi2 import __version__

    half = torch.nn.Module.to(copy.deepcopy(module), torch.float16)  # diffusers' own warns of what does not concern it
    half.save_pretrained(folder, safe_serialization=True)
    config = json.loads((folder / "config.json").read_text())
    config.pop("_name_or_path", None)  # where this machine keeps the weights that it started from
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    if in_bytes:
        state = module.state_dict()
        write_atomic(folder / WEIGHTS, save(in_half(state, wide(state))))
    (folder / "training.json").write_text(json.dumps({"codi2": __version__, **provenance}, indent=1) + "\n")


def wide(tensors: Mapping[str, torch.Tensor]) -> list[str]:
    """The matrices and convolutions that are worth keeping in bytes."""
    return [name for name, value in tensors.items() if value.ndim > 1 and value.numel() >= WIDE]


def restore_module(module: Any, folder: Path, partly: bool = False) -> None:
    """The weights of a diffusers module in `folder` → `module`. `partly`: tensors of another shape stay as they are,
    and the module may be of another class: a network of clips goes on from one of pictures.

    Raises WeightsError when they do not fit.
    """
    if partly:
        found = {n: v.float() for n, v in read_tensors(folder / WEIGHTS).items()}
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

    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as aside:
        save_file(in_half(tensors, in_bytes), aside)
    (path.parent / "training.json").write_text(json.dumps({"codi2": __version__, **provenance}, indent=1) + "\n")
