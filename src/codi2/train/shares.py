"""How a step's batch is divided: among processes, and among the passes in which each works through its part."""

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
    """Which of the equal parts of a step's batch: the `index`-th of `count`."""

    index: int = 0
    count: int = 1

    def rows(self, size: int) -> list[int]:
        """Its places in a batch of `size`. Raises ConfigError: the parts would not be equal."""
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
    passes: Sequence[Any], device: torch.device, processes: int = 1, total: Callable[[Tensor], Any] | None = None
) -> None:
    """Gives the batches of a process's passes their weights `held` [K] on the device, where they have `counts` [K].

    A pass that holds more than others counts for more: the mean of all passes' losses, over all processes, is then
    that of the whole batch.

    Args:
        total: sums a tensor over the processes.
    """
    if not hasattr(passes[0], "counts"):
        return
    counts = moved(torch.stack([batch.counts for batch in passes]), device)
    whole = counts.sum(0) if total is None or processes == 1 else total(counts.sum(0))
    for batch, held in zip(passes, counts * (len(passes) * processes) / whole.clamp(min=1), strict=True):
        batch.held = held
