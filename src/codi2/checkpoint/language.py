"""Reads and writes the trained part of the language model: adapter and projections."""

from __future__ import annotations

from pathlib import Path

from codi2.errors import WeightsError
from codi2.llm.mllm import MLLM
from codi2.tensors import read_tensors
from codi2.weight_files import export_tensors

PROJECTIONS = ("input_projection", "output_projection")


def load_language(mllm: MLLM, folder: Path) -> None:
    """Loads adapter and projections from a checkpoint folder.

    Raises:
        WeightsError: a file is missing or holds other tensors.
    """
    mllm.backbone.load_adapter(folder / "adapter")
    state = {name: value.float() for name, value in read_tensors(folder / "heads.safetensors").items()}
    expected = {
        f"{part}.{name}": value for part in PROJECTIONS for name, value in getattr(mllm, part).state_dict().items()
    }
    differing = sorted(state.keys() ^ expected.keys()) or [n for n in state if state[n].shape != expected[n].shape]
    if differing:
        raise WeightsError(
            f"{folder / 'heads.safetensors'} does not fit the config: the tensor {differing[0]} is missing, unknown or "
            "of another shape; name the config that it was trained with"
        )
    for part in PROJECTIONS:
        tensors = {name.removeprefix(f"{part}."): value for name, value in state.items() if name.startswith(f"{part}.")}
        getattr(mllm, part).load_state_dict(tensors)


def save_language(mllm: MLLM, folder: Path) -> None:
    """Writes adapter and projections as `load_language` reads them, fp16."""
    mllm.backbone.save_adapter(folder / "adapter")
    state = {f"{part}.{n}": v for part in PROJECTIONS for n, v in getattr(mllm, part).state_dict().items()}
    export_tensors(state, folder / "heads.safetensors")
    adapter = folder / "adapter" / "adapter_model.safetensors"
    export_tensors(read_tensors(adapter), adapter)
