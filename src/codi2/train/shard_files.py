"""Shards of tensors: safetensors files that are written whole or not at all, and refused where they are not whole."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from codi2.errors import DataError
from codi2.hub import atomic_path


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Raises OutputError: the folder cannot be written, or the disk is full."""
    from safetensors.torch import save_file

    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as aside:
        save_file({name: value.cpu().contiguous() for name, value in tensors.items()}, aside)


def open_tensors(path: Path, remedy: str) -> Any:
    """An open safetensors file, of which single rows can be read.

    Args:
        remedy: what makes the file again, for the error.

    Raises:
        DataError: the file is missing, or not whole.
    """
    from safetensors import SafetensorError, safe_open

    try:
        return safe_open(path, "pt")
    except FileNotFoundError as error:
        raise DataError(f"the shard {path} is missing; {remedy}") from error
    except (SafetensorError, OSError, ValueError) as error:
        raise DataError(f"the shard {path} is damaged or half written ({error}); {remedy}") from error


def read_all(path: Path, remedy: str) -> dict[str, Tensor]:
    """All tensors of a file. Raises DataError: as `open_tensors`."""
    file = open_tensors(path, remedy)
    return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118, it is no mapping
