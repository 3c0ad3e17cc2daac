"""The training loop: one plain loop for every part of the model, over accelerate.

A *recipe* (one file per part in `codi2.train.parts`) says what is trained, on which batch and with which loss. The loop
adds what every part needs: the optimizer, its schedule, the average of the weights, checkpoints, curves, progress.
"""

from __future__ import annotations

import math
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from codi2.errors import DataError
from codi2.train.checkpoint import list_checkpoints, load_checkpoint, save_checkpoint
from codi2.train.config import TrainConfig


class Recipe(Protocol):
    """One part of the model under training."""

    model: nn.Module
    """Holds every trained parameter (those with `requires_grad`)."""

    def batch(self, step: int) -> Any:
        """The batch of this optimizer step: a pure function of the config's seed and `step`."""

    def losses(self, model: nn.Module, batch: Any) -> dict[str, Tensor]:
        """Scalars to plot; `loss` is minimized."""

    def validate(self) -> dict[str, float]:
        """Figures on held-out data, with the averaged weights in `model`."""

    def export(self, folder: Path, provenance: dict[str, Any]) -> None:
        """Writes the part as the model loads it, fp16, with the averaged weights in `model`."""

    def restore(self, folder: Path) -> None:
        """Takes the weights that `export` wrote. Raises WeightsError when they do not fit."""


def train(
    recipe: Recipe, config: TrainConfig, out: Path, snapshot: bool = False, first_step: int = 0
) -> dict[str, float]:
    """Runs or resumes a training run in `out`; returns the last validation's figures.

    Args:
        snapshot: only export what the newest checkpoint holds, with the steps it has had so far.
        first_step: where a run without checkpoints begins: its `start` has had these steps of the recipe already.
    Raises:
        OutputError: a checkpoint cannot be written (the previous one is intact).
        WeightsError: the checkpoint to resume from is damaged.
    """
    from accelerate import Accelerator

    from codi2.train.progress import progress_bar

    # a recipe draws the whole batch and all its noise from (seed, step): nothing depends on global random state
    accelerator = Accelerator(log_with="tensorboard", project_dir=str(out))
    accelerator.init_trackers("curves")
    checkpoints = list_checkpoints(out / "checkpoints")
    if config.start and not checkpoints:
        recipe.restore(Path(config.start))
    trained = {name: p for name, p in recipe.model.named_parameters() if p.requires_grad}
    optimizer = torch.optim.AdamW(_groups(trained, config), betas=(0.9, 0.99))
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate(step, config))
    average = {name: p.detach().clone() for name, p in trained.items()} if config.ema_decay else {}

    step, figures = first_step, {}
    if checkpoints:
        tensors, states, state = load_checkpoint(checkpoints[-1])
        step, figures = state["step"], state["figures"]
        _copy_into(trained, tensors["model"])
        _copy_into(average, tensors.get("average", {}))
        optimizer.load_state_dict(states["optimizer"])
        schedule.load_state_dict(states["schedule"])
    if snapshot and not checkpoints:
        raise DataError(f"there is no checkpoint in {out} to export; train first")
    model, optimizer, schedule = accelerator.prepare(recipe.model, optimizer, schedule)

    def save() -> None:
        if accelerator.is_main_process:
            tensors: dict[str, dict[str, Any]] = {"model": trained, **({"average": average} if average else {})}
            states = {"optimizer": optimizer.state_dict(), "schedule": schedule.state_dict()}
            save_checkpoint(
                out / "checkpoints", step, tensors, states, {"step": step, "figures": figures, "config": asdict(config)}
            )

    started = time.monotonic()
    with progress_bar(f"training {config.part}", config.steps, step) as progress:
        while step < config.steps and not snapshot:
            model.train()
            losses = recipe.losses(model, recipe.batch(step))
            accelerator.backward(losses["loss"])
            norm = accelerator.clip_grad_norm_(model.parameters(), config.max_grad_norm)
            if math.isfinite(float(norm)):
                optimizer.step()
            schedule.step()
            optimizer.zero_grad(set_to_none=True)
            step += 1
            _update_average(average, trained, config.ema_decay, step)
            if step % config.log_every == 0 or step == config.steps:
                scalars = {f"train/{name}": _number(value) for name, value in losses.items()}
                scalars |= {"train/grad_norm": float(norm), "train/rate": schedule.get_last_lr()[0]}
                accelerator.log(scalars, step=step)
                progress(step, _number(losses["loss"]))
            done = step == config.steps
            if step % config.validate_every == 0 or done:
                with _averaged(trained, average):
                    recipe.model.eval()
                    figures = recipe.validate()
                accelerator.log({f"validate/{name}": value for name, value in figures.items()}, step=step)
                progress(step, _number(losses["loss"]), figures)
            if step % config.save_every == 0 or done:
                save()
    accelerator.end_training()
    if accelerator.is_main_process:
        with _averaged(trained, average):
            recipe.model.eval()
            provenance = {"config": asdict(config), "steps": step, "figures": figures}
            provenance["seconds_this_run"] = round(time.monotonic() - started)
            recipe.export(out / "export", provenance)
    return figures


def _groups(trained: dict[str, nn.Parameter], config: TrainConfig) -> list[dict[str, Any]]:
    """The parameters by learning rate, matrices (which decay) apart from vectors (which do not)."""
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in trained.items():
        rate = config.learning_rate * config.rates.get(name.split(".")[0], 1.0)
        groups.setdefault((rate, config.weight_decay * (parameter.ndim > 1)), []).append(parameter)
    return [{"params": params, "lr": rate, "weight_decay": decay} for (rate, decay), params in groups.items()]


def _number(value: Tensor | float) -> float:
    return float(value.detach() if isinstance(value, Tensor) else value)


def _rate(step: int, config: TrainConfig) -> float:
    """Warm-up, plateau, linear decay: a plateau lets a run be prolonged or its average be shipped at any time."""
    warm = min(1.0, (step + 1) / max(1, config.warmup_steps))
    decay_steps = max(1.0, config.steps * config.decay_fraction)
    left = (config.steps - step) / decay_steps
    return warm * max(0.05, min(1.0, left))


@torch.no_grad()
def _update_average(average: dict[str, Tensor], trained: dict[str, nn.Parameter], decay: float, step: int) -> None:
    if not average:
        return
    # early on the average follows quickly, or it would remember the random start for thousands of steps
    decay = min(decay, (1 + step) / (10 + step))
    torch._foreach_lerp_(list(average.values()), list(trained.values()), 1 - decay)


@torch.no_grad()
def _copy_into(target: dict[str, Any], values: dict[str, Tensor]) -> None:
    for name, value in values.items():
        target[name].copy_(value)


class _averaged:
    """Within the block the trained parameters hold their average."""

    def __init__(self, trained: dict[str, nn.Parameter], average: dict[str, Tensor]) -> None:
        self.trained, self.average = trained, average

    def __enter__(self) -> None:
        self.kept = {name: self.trained[name].detach().clone() for name in self.average}
        _copy_into(self.trained, self.average)

    def __exit__(self, *_: object) -> None:
        _copy_into(self.trained, self.kept)
