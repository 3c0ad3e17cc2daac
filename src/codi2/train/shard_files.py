"""Shards of tensors: safetensors files, written atomically and refused if damaged."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from codi2.errors import DataError
from codi2.hub import atomic_path


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Writes a file. Raises OutputError: the folder cannot be written, or the disk is full."""
    from safetensors.torch import save_file

    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as aside:
        save_file({name: value.cpu().contiguous() for name, value in tensors.items()}, aside)


def open_tensors(path: Path, remedy: str) -> Any:
    """An open safetensors file, from which single rows can be read.

    Args:
        remedy: how to make the file again, for the error.

    Raises:
        DataError: the file is missing or damaged.
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
    return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118, it is not a mapping
