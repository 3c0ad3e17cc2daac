"""Checkpoints of a training run: atomic, and enough to continue bit for bit.

    step-0000250/  model.safetensors  average.safetensors  optimizer.pt  state.json  SHA256SUMS

A batch, its noise and its timesteps are functions of (seed, step), so the step stands for the data position and the
random state. What is left to keep are the weights, their average, the optimizer and the schedule. `SHA256SUMS`, as
`sha256sum -c` reads it, is written last: a flipped bit or a missing file is found before it is used.
"""

from __future__ import annotations

import json
import math
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from codi2.errors import OutputError, WeightsError
from codi2.folders import atomic_folder
from codi2.hub import sha256_of

SUMS = "SHA256SUMS"
FORMAT = 2  # in state.json; before it there were no sums
CheckpointState = tuple[dict[str, dict[str, Tensor]], dict[str, Any], dict[str, Any]]
"""Tensors, optimizer and state, as `save_checkpoint` takes them."""


def save_checkpoint(
    folder: Path,
    step: int,
    tensors: dict[str, dict[str, Tensor]],
    optimizer: dict[str, Any],
    state: dict[str, Any],
    keep: int = 2,
) -> Path:
    """Writes `folder/step-N/` aside and renames it into place: a kill leaves the previous checkpoint or the new one.

    Args:
        tensors: file stem → state dict, each one safetensors file.
        optimizer: state dicts of optimizer and schedule (`torch.save`, read with `weights_only=True`).
        state: JSON values: step, config, figures; `score`: the higher the better, None where it has none.
        keep: checkpoints that stay beside this one and the one of the highest score.
    Raises:
        OutputError: the disk is full or the folder is not writable; earlier checkpoints stay as they are.
    """
    final = folder / f"step-{step:07d}"
    try:
        with atomic_folder(final) as aside:
            for stem, values in tensors.items():
                save_file({k: v.detach().cpu().contiguous() for k, v in values.items()}, aside / f"{stem}.safetensors")
            torch.save(optimizer, aside / "optimizer.pt")
            (aside / "state.json").write_text(json.dumps({"format": FORMAT, **state}, indent=1))
            sums = [f"{sha256_of(file)}  {file.name}\n" for file in sorted(aside.iterdir())]
            (aside / SUMS).write_text("".join(sums))
    except OutputError as error:
        raise OutputError(f"{error}; earlier checkpoints are intact") from error
    there = list_checkpoints(folder)
    best = max(there, key=_score)
    for old in there[: -keep - 1]:
        if old != best or _score(best) == -math.inf:
            shutil.rmtree(old, ignore_errors=True)
    return final


def _score(checkpoint: Path) -> float:
    try:
        score = json.loads((checkpoint / "state.json").read_text()).get("score")
        return -math.inf if score is None else float(score)
    except (OSError, ValueError, TypeError, AttributeError):
        return -math.inf  # it is damaged


def sweep(folder: Path) -> None:
    """Removes what a kill left half written."""
    for aside in folder.glob(".step-*"):
        shutil.rmtree(aside, ignore_errors=True)


def list_checkpoints(folder: Path) -> list[Path]:
    """Checkpoints, oldest first; damaged ones are among them."""
    return sorted(p for p in folder.glob("step-*") if p.is_dir()) if folder.is_dir() else []


def load_newest(checkpoints: Sequence[Path], says: bool = True) -> tuple[Path, CheckpointState]:
    """The newest checkpoint that is whole, with what it holds.

    Args:
        says: whether those that are not are named on stderr.
    Raises:
        WeightsError: all of them are damaged.
    """
    fault = ""
    for number, path in enumerate(reversed(checkpoints), 1):
        try:
            return path, load_checkpoint(path)
        except WeightsError as error:
            fault = fault or str(error)
            if says and number < len(checkpoints):
                before = checkpoints[-number - 1].name
                print(f"codi2: {error}; the run continues from {before}", file=sys.stderr, flush=True)
    raise WeightsError(f"{fault}, and no earlier one is whole; delete {checkpoints[0].parent} to start again")


def load_checkpoint(path: Path) -> CheckpointState:
    """(tensors, optimizer, state), as they were given to `save_checkpoint`. Raises WeightsError: a file is damaged."""
    file = path / SUMS
    try:
        summed = _check_sums(path)
        file = path / "state.json"
        state = json.loads(file.read_text())
        _ = state["step"] + 0, state["figures"]
        if not summed and state.get("format", 1) >= FORMAT:
            file = path / SUMS
            raise FileNotFoundError(f"{SUMS} is missing")
        tensors: dict[str, dict[str, Tensor]] = {}
        for file in sorted({path / "model.safetensors", *path.glob("*.safetensors")}):
            tensors[file.stem] = load_file(file)
        file = path / "optimizer.pt"
        optimizer = torch.load(file, map_location="cpu", weights_only=True)
        _ = optimizer["optimizer"], optimizer["schedule"]
    except Exception as error:  # of the readers of three formats
        reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
        named = reason if file.name == SUMS else f"{file.name}: {reason}"
        raise WeightsError(f"the checkpoint {path} is damaged: {named}") from error
    return tensors, optimizer, state


def _check_sums(path: Path) -> bool:
    """Whether the checkpoint has sums; they are those of its files. Raises ValueError naming the file that differs."""
    if not (path / SUMS).is_file():
        return False
    lines = (path / SUMS).read_text(errors="replace").splitlines()
    sums = {name: expected for expected, _, name in (line.partition("  ") for line in lines)}
    if not {"model.safetensors", "optimizer.pt", "state.json"} <= sums.keys():
        raise ValueError(f"{SUMS} lacks a file")
    for name, expected in sums.items():
        file = path / name
        if not file.is_file():
            raise ValueError(f"{name} is missing")
        if sha256_of(file) != expected:
            raise ValueError(f"{name} does not have the hash that {SUMS} says")
    return True
