"""Checkpoints of a training run: atomic, and enough to continue bit for bit.

A batch, its noise and its timesteps are functions of (seed, step), so the step stands for the data position and the
random state. What is left to keep are the weights, their average, the optimizer and the schedule.
"""

from __future__ import annotations

import json
import math
import os
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from codi2.errors import OutputError, WeightsError


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
    aside = folder / f".{final.name}.{os.getpid()}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir()
        for stem, values in tensors.items():
            save_file({k: v.detach().cpu().contiguous() for k, v in values.items()}, aside / f"{stem}.safetensors")
        torch.save(optimizer, aside / "optimizer.pt")
        (aside / "state.json").write_text(json.dumps(state, indent=1))
        for file in aside.iterdir():
            _fsync(file)
        _fsync(aside)
        shutil.rmtree(final, ignore_errors=True)
        aside.rename(final)
        _fsync(folder)
    except (OSError, RuntimeError) as error:  # safetensors and torch raise RuntimeError on a full disk
        shutil.rmtree(aside, ignore_errors=True)
        raise OutputError(f"the checkpoint {final} cannot be written ({error}); earlier ones are intact") from error
    there = list_checkpoints(folder)
    best = max(there, key=_score)
    for old in there[: -keep - 1]:
        if old != best or _score(best) == -math.inf:
            shutil.rmtree(old, ignore_errors=True)
    return final


def _score(checkpoint: Path) -> float:
    score = json.loads((checkpoint / "state.json").read_text()).get("score")
    return -math.inf if score is None else float(score)


def sweep(folder: Path) -> None:
    """Removes what a kill left half written."""
    for aside in folder.glob(".step-*"):
        shutil.rmtree(aside, ignore_errors=True)


def list_checkpoints(folder: Path) -> list[Path]:
    """Finished checkpoints, oldest first."""
    return sorted(p for p in folder.glob("step-*") if (p / "state.json").is_file()) if folder.is_dir() else []


def load_checkpoint(path: Path) -> tuple[dict[str, dict[str, Tensor]], dict[str, Any], dict[str, Any]]:
    """(tensors, optimizer, state), as they were given to `save_checkpoint`."""
    try:
        tensors = {file.stem: load_file(file) for file in path.glob("*.safetensors")}
        optimizer = torch.load(path / "optimizer.pt", map_location="cpu", weights_only=True)
        state = json.loads((path / "state.json").read_text())
    except Exception as error:
        raise WeightsError(
            f"the checkpoint {path} is damaged ({error}); delete that folder to use the one before"
        ) from error
    return tensors, optimizer, state


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
