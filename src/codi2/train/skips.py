"""Skipped steps: the device decides, and the loop records the decision a step later."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor

from codi2.errors import DataError

REMEMBERED = 100  # last gradient norms, which define a spike
PATIENCE = 20  # most steps that may be skipped in a row


class SkipWatch:
    """Steps are skipped if the loss or the gradient is not finite, or if the gradient is a spike.

    A spike is a norm above `limit`: `factor` × the median of the last REMEMBERED norms, once there are as many; factor
    0: no limit. The device skips the update of such a step, and its values are recorded here a step later; the schedule
    continues.
    """

    def __init__(self, factor: float, norms: Sequence[float] = (), skipped: int = 0) -> None:
        self.factor, self.norms, self.skipped, self._row = factor, list(norms), skipped, 0

    @property
    def limit(self) -> float:
        """The largest gradient norm that is not a spike."""
        return self.factor * median(self.norms) if self.factor and len(self.norms) == REMEMBERED else math.inf

    def record(self, loss: float, norm: float, skipped: bool) -> str:
        """Records a step; returns why it was skipped, or "". Raises DataError: more than PATIENCE were skipped in a
        row."""
        reason = ""
        if skipped:
            finite = math.isfinite(loss) and math.isfinite(norm)
            reason = f"a spike: above {self.factor:g} × the median of the norms before it" if finite else "not finite"
        if math.isfinite(norm):
            self.norms = [*self.norms, norm][-REMEMBERED:]
        self.skipped, self._row = self.skipped + skipped, (self._row + 1) * skipped
        if self._row > PATIENCE:
            raise DataError(f"{self._row} steps in a row were skipped, the last is {reason}; lower learning_rate")
        return reason


def skips_step(loss: Tensor, norm: Tensor, limit: float) -> Tensor:
    """1.0 if a step is to be skipped, else 0.0 [], on the device of its loss and gradient norm []."""
    return (~(torch.isfinite(loss) & torch.isfinite(norm) & (norm <= limit))).float()


class PendingValues:
    """Values of a step that are copied from the device without waiting for it."""

    def __init__(self, step: int, values: Tensor) -> None:
        self.step, self._arrived = step, None
        if values.is_cuda:
            self._values = torch.empty(values.shape, pin_memory=True)
            self._values.copy_(values, non_blocking=True)
            self._arrived = torch.cuda.Event()
            self._arrived.record()
        else:
            self._values = values

    def read(self) -> list[float]:
        if self._arrived is not None:
            self._arrived.synchronize()
        return self._values.tolist()


def note_skipped(out: Path, about: Mapping[str, Any], is_main_process: bool) -> None:
    """Prints a skipped step and appends it to `out`/skipped.jsonl, in the main process."""
    if is_main_process:
        print(f"step {about['step']} is skipped: {about['reason']} (loss {about['loss']})", file=sys.stderr, flush=True)
        out.mkdir(parents=True, exist_ok=True)
        with open(out / "skipped.jsonl", "a", encoding="utf-8") as file:
            file.write(json.dumps(about) + "\n")
