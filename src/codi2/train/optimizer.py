"""The optimizer, its schedule, and the average of the weights."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from codi2.errors import ConfigError
from codi2.train.config import TrainConfig
from codi2.train.sharded import local, reshard


def optimizer_of(trained: dict[str, nn.Parameter], config: TrainConfig, device: torch.device) -> torch.optim.AdamW:
    """AdamW, fused where the device has it: only so can a device leave out a step by itself (`found_inf`).

    Raises ConfigError: `rates` names a part that no trained parameter is of.
    """
    parts = {part for name in trained for part in name.split(".")}
    if unknown := sorted(set(config.rates) - parts):
        known = sorted({part for name in trained for part in name.split(".")[:2]})
        raise ConfigError(
            f"rates has {unknown[0]!r}; expected a component of a parameter's name, as {', '.join(known)}"
        )
    return torch.optim.AdamW(_groups(trained, config), betas=(0.9, 0.99), fused=device.type in ("cuda", "cpu", "mps"))


def _groups(trained: dict[str, nn.Parameter], config: TrainConfig) -> list[dict[str, Any]]:
    """The parameters by learning rate; matrices, which have weight decay, separate from vectors, which have none."""
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in trained.items():
        rate = config.learning_rate * next(
            (config.rates[part] for part in name.split(".") if part in config.rates), 1.0
        )
        groups.setdefault((rate, config.weight_decay * (parameter.ndim > 1)), []).append(parameter)
    return [{"params": params, "lr": rate, "weight_decay": decay} for (rate, decay), params in groups.items()]


def rate_at(step: int, config: TrainConfig) -> float:
    """Warm-up, plateau, linear decay. With a plateau a run can be prolonged, and its average exported at any time."""
    warm = min(1.0, (step + 1) / max(1, config.warmup_steps))
    decay_steps = max(1.0, config.steps * config.decay_fraction)
    left = (config.steps - step) / decay_steps
    return warm * max(0.05, min(1.0, left))


@torch.no_grad()
def update_average(average: dict[str, Tensor], trained: dict[str, nn.Parameter], decay: float, step: int) -> None:
    if not average:
        return
    # a smaller decay at the start, or the average would contain the random weights for thousands of steps
    decay = min(decay, (1 + step) / (10 + step))
    averages, weights = ([local(tensor) for tensor in tensors.values()] for tensors in (average, trained))
    torch._foreach_lerp_(averages, weights, 1 - decay)


@torch.no_grad()
def copy_into(target: dict[str, Any], values: Mapping[str, Tensor], source: Path | None = None) -> None:
    """Copies values into the tensors of `target`. Raises ConfigError: the values of `source` have other sizes."""
    differing = sorted(target.keys() ^ values.keys()) or [n for n in values if values[n].shape != target[n].shape]
    if differing and source:
        raise ConfigError(f"the checkpoint {source} is of another model: {differing[0]} differs; choose another --out")
    for name, value in values.items():
        if name in target:
            target[name].copy_(reshard(value, target[name]))


class averaged:
    """In this context the trained parameters hold their average."""

    def __init__(self, trained: dict[str, nn.Parameter], average: dict[str, Tensor]) -> None:
        self.trained, self.average = trained, average

    def __enter__(self) -> None:
        self.kept = {name: self.trained[name].detach().clone() for name in self.average}
        copy_into(self.trained, self.average)

    def __exit__(self, *_: object) -> None:
        copy_into(self.trained, self.kept)
