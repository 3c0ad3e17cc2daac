"""Checkpoints of a training run: written atomically, and sufficient to continue bit for bit.

    step-0000250/  model.safetensors  average.safetensors  optimizer.pt  state.json  SHA256SUMS

A batch, its noise and its timesteps are functions of (seed, step), so the step replaces the data position and the
random state. A checkpoint holds the weights, their average, the optimizer and the schedule. `SHA256SUMS`, in the form
of `sha256sum -c`, is written last, so that damaged and missing files are detected when a checkpoint is loaded.
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
FORMAT = 2  # in state.json; checkpoints of format 1 have no sums
CheckpointState = tuple[dict[str, dict[str, Tensor]], dict[str, Any], dict[str, Any]]
"""Tensors, optimizer and state: the arguments of `save_checkpoint`."""


def save_checkpoint(
    folder: Path,
    step: int,
    tensors: dict[str, dict[str, Tensor]],
    optimizer: dict[str, Any],
    state: dict[str, Any],
    keep: int = 2,
) -> Path:
    """Writes a temporary folder and renames it to `folder/step-N/`, so that a kill leaves no partial checkpoint.

    Args:
        tensors: file stem → state dict, each one safetensors file.
        optimizer: state dicts of optimizer and schedule (`torch.save`, read with `weights_only=True`).
        state: JSON values: step, config, figures of the validations; `score`: higher is better; None: no score.
        keep: number of checkpoints kept in addition to this one and the one with the highest score.
    Raises:
        OutputError: the disk is full or the folder is not writable; earlier checkpoints are unchanged.
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
    checkpoints = list_checkpoints(folder)
    best = max(checkpoints, key=_score)
    for old in checkpoints[: -keep - 1]:
        if old != best or _score(best) == -math.inf:
            shutil.rmtree(old, ignore_errors=True)
    return final


def _score(checkpoint: Path) -> float:
    try:
        score = json.loads((checkpoint / "state.json").read_text()).get("score")
        return -math.inf if score is None or math.isnan(score) else float(score)
    except (OSError, ValueError, TypeError, AttributeError):
        return -math.inf  # the checkpoint is damaged


def sweep(folder: Path) -> None:
    """Removes the partial checkpoints of killed runs."""
    for aside in folder.glob(".step-*"):
        shutil.rmtree(aside, ignore_errors=True)


def list_checkpoints(folder: Path) -> list[Path]:
    """Checkpoints, oldest first, including damaged ones."""
    return sorted(p for p in folder.glob("step-*") if p.is_dir()) if folder.is_dir() else []


def load_newest(checkpoints: Sequence[Path], warn: bool = True) -> tuple[Path, CheckpointState]:
    """The newest undamaged checkpoint and its contents.

    Args:
        warn: whether damaged ones are reported on stderr.
    Raises:
        WeightsError: all checkpoints are damaged.
    """
    fault = ""
    for number, path in enumerate(reversed(checkpoints), 1):
        try:
            return path, load_checkpoint(path)
        except WeightsError as error:
            fault = fault or str(error)
            if warn and number < len(checkpoints):
                before = checkpoints[-number - 1].name
                print(f"codi2: {error}; the run continues from {before}", file=sys.stderr, flush=True)
    raise WeightsError(f"{fault}, and no earlier one is whole; delete {checkpoints[0].parent} to start again")


def load_checkpoint(path: Path) -> CheckpointState:
    """The tensors, optimizer and state that `save_checkpoint` wrote. Raises WeightsError: a file is damaged."""
    file = path / SUMS
    try:
        has_sums = _check_sums(path)
        file = path / "state.json"
        state = json.loads(file.read_text())
        _ = state["step"] + 0
        if not has_sums and state.get("format", 1) >= FORMAT:
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
        detail = reason if file.name == SUMS else f"{file.name}: {reason}"
        raise WeightsError(f"the checkpoint {path} is damaged: {detail}") from error
    return tensors, optimizer, state


def _check_sums(path: Path) -> bool:
    """Checks the hashes of the files; returns whether there are any. Raises ValueError: a file differs."""
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
            raise ValueError(f"{name} does not have the hash in {SUMS}")
    return True
