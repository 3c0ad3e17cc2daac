"""What tests of models from elsewhere share: damage to their folders, and code that must not run."""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

BIG = 10**9
F32 = {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}


class Code:
    """What a pickle runs when it is loaded."""

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, (f"touch {os.environ['CODI2_RAN']}",)


def changed(path: Path, *keys: str | int, to: object) -> None:
    """One value of a JSON file."""
    value = json.loads(path.read_text())
    at = value
    for key in keys[:-1]:
        at = at[key]
    at[keys[-1]] = to
    path.write_text(json.dumps(value))


def config(*keys: str | int, to: object) -> Callable[[Path], None]:
    return lambda folder: changed(folder / "config.json", *keys, to=to)


def content(name: str, data: bytes) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_bytes(data)


def header(about: object, data: bytes = b"") -> bytes:
    text = about if isinstance(about, bytes) else json.dumps(about).encode()
    return struct.pack("<Q", len(text)) + text + data


def linked(name: str, target: str) -> Callable[[Path], None]:
    def link(folder: Path) -> None:
        (folder / name).unlink(missing_ok=True)
        (folder / name).symlink_to(target)

    return link


def piped(name: str) -> Callable[[Path], None]:
    def pipe(folder: Path) -> None:
        (folder / name).unlink()
        os.mkfifo(folder / name)

    return pipe


def pickled(name: str, other: str) -> Callable[[Path], None]:
    """A pickle in place of a safetensors file, under the name that libraries fall back to."""

    def put(folder: Path) -> None:
        (folder / name).unlink()
        torch.save(Code(), folder / other)

    return put


def hole(name: str) -> Callable[[Path], None]:
    def dig(folder: Path) -> None:
        with open(folder / name, "wb") as file:
            file.truncate(1 << 40)

    return dig
