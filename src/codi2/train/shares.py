"""Divides a step's batch among processes, and among the passes of each process."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor

from codi2.errors import ConfigError
from codi2.train.place import moved

T = TypeVar("T")


@dataclass(frozen=True)
class Share:
    """One of the equal parts of a step's batch: the `index`-th of `count`."""

    index: int = 0
    count: int = 1

    def rows(self, size: int) -> list[int]:
        """Its rows in a batch of `size`. Raises ConfigError: the parts would not be equal."""
        if size % self.count:
            raise ConfigError(
                f"a batch of {size} cannot be divided into {self.count} equal parts (processes × accumulate); "
                "change batch_size"
            )
        return list(range(self.index, size, self.count))

    def of(self, values: Sequence[T]) -> list[T]:
        return [values[i] for i in self.rows(len(values))]


WHOLE = Share()


def weigh(
    passes: Sequence[Any], device: torch.device, processes: int = 1, total: Callable[[Tensor], Tensor] | None = None
) -> None:
    """Sets the weights `held` [K], on the device, of the batches of a process's passes that have `counts` [K].

    A pass with more terms has a larger weight, so that the mean of the losses of all passes, over all processes, is the
    loss of the whole batch.

    Args:
        total: sums a tensor over the processes; None: there is one process.
    """
    parts = len(passes) * processes
    if parts == 1 or not hasattr(passes[0], "counts"):
        return
    counts = moved(torch.stack([batch.counts for batch in passes]), device)
    whole = counts.sum(0) if total is None else total(counts.sum(0))
    for batch, held in zip(passes, counts * parts / whole.clamp(min=1), strict=True):
        batch.held = held


def seed_all(seed: int, device: torch.device) -> None:
    """Seeds torch's generators. On a CPU it avoids `torch.manual_seed`, which takes a millisecond to defer CUDA."""
    if device.type == "cpu":
        torch.default_generator.manual_seed(seed)
    else:
        torch.manual_seed(seed)
