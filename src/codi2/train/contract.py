"""What a part of the model defines for its training. The loop adds the rest."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from codi2.prompt.parts import Part
from codi2.train.shares import WHOLE, Share


class Recipe(ABC):
    """One part of the model under training: the trained module, the batches and the loss."""

    model: nn.Module  # holds every trained parameter (those with `requires_grad`)
    divides: bool = False  # whether its batches can be divided among processes and passes
    frozen: nn.Module | None = None  # frozen modules of `losses`: the loop moves them, in the dtype of the placement
    swapped_modules: Mapping[str, nn.Module] = {}  # frozen modules that are moved only for batches that need them
    divisible_counts: Mapping[str, int] = {}  # option → number that must be divisible by the number of processes
    needs_values: bool = False  # whether `finish` cannot run on virtual tensors; for a plan it runs on the CPU before

    @property
    def block(self) -> int:
        """Number of steps that are drawn together, by one process."""
        return 1

    @abstractmethod
    def batch(self, step: int, share: Share = WHOLE) -> Any:
        """A share of the batch of this optimizer step, on the CPU: a pure function of the config's seed and `step`.

        It may be called in a worker process; `finish` is not. A batch may have `needs`, names in `swapped_modules`. A
        batch with `counts`, the numbers of terms of its losses, gets their weights as `share_weights`: see `weigh`.
        """

    def finish(self, batch: Any) -> Any:
        """Work on a batch that needs the accelerator, before the batch is moved; in the training process."""
        return batch

    def begin(self, steps: range, share: Share) -> None:  # noqa: B027  (optional)
        """Called before the first of `steps`, with all modules placed."""

    @abstractmethod
    def losses(self, model: nn.Module, batch: Any) -> dict[str, Tensor]:
        """Scalars to plot; `loss` is minimized. Their mean over the shares of a batch is that of the whole batch."""

    @abstractmethod
    def validate(self) -> dict[str, float]:
        """Figures on held-out data, with the averaged weights in `model`."""

    def samples(self) -> dict[str, Part]:
        """Media to look at beside the curves, by name."""
        return {}

    def sources(self, step: int) -> list[str]:
        """The records of a step's batch, for reports."""
        return []

    def provenance(self) -> dict[str, Any]:
        """Hashes of the data and weights that the part depends on, for `training.json`."""
        return {}

    @abstractmethod
    def export(self, folder: Path, provenance: dict[str, Any]) -> None:
        """Writes the part in the form that a model loads, fp16, with the averaged weights in `model`."""

    @abstractmethod
    def restore(self, folder: Path) -> None:
        """Loads the weights of `export`. Raises WeightsError: they do not fit."""
