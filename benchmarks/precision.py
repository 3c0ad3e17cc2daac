"""A training step of a part on a CPU, in processor time: bfloat16 (autocast) and float32, plain and fused attention.

    OMP_NUM_THREADS=1 python benchmarks/precision.py RUNS CONFIG [CONFIG …]

Worth a run before long trainings on a CPU: bfloat16 is faster where the processor multiplies it (AVX512_BF16, AMX) and
many times slower elsewhere. Training uses plain attention except for language models (`train.place.attention`); the
last ratio is with PyTorch's fused kernel in its place. RUNS holds the exports that the configs name.
"""

from __future__ import annotations

import sys
import time
from contextlib import AbstractContextManager
from importlib import import_module
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from codi2.train import PARTS
from codi2.train.config import load_config
from codi2.train.place import attention, place, placement_of
from codi2.train.recipe import resolved
from codi2.train.shares import WHOLE

STEPS = 5  # of each precision, taken in turns, after one that is not counted


def seconds(recipe: Any, batch: Any, low: bool, attention: AbstractContextManager[Any]) -> float:
    """Processor time of forward and backward."""
    began = time.process_time()
    with torch.autocast("cpu", torch.bfloat16, enabled=low), attention:
        losses = recipe.losses(recipe.model, batch)
    losses["loss"].backward()
    recipe.model.zero_grad()
    return time.process_time() - began


def main(runs: Path, configs: list[Path]) -> None:
    for path in configs:
        config = resolved(load_config(path, steps=1), runs, path.parent)
        recipe = import_module(f"codi2.train.parts.{PARTS[config.part]}").build(config)
        device = torch.device("cpu")
        place(recipe, device, placement_of(config))
        if hasattr(recipe, "begin"):
            recipe.begin(range(1), WHOLE)
        batch = getattr(recipe, "finish", lambda one: one)(recipe.batch(0))
        rounds = []
        for _ in range(1 + STEPS):
            ways = [(False, attention(config.part, device)), (True, attention(config.part, device))]
            ways.append((True, sdpa_kernel(SDPBackend.FLASH_ATTENTION)))
            rounds.append([seconds(recipe, batch, low, kernel) for low, kernel in ways])
        full, low, fused = (median(times) for times in zip(*rounds[1:], strict=True))
        print(
            f"{path.stem}: bfloat16 {low / full:.2f} of float32's processor time ({full:.2f} s); "
            f"fused attention {fused / low:.2f} of that in bfloat16",
            flush=True,
        )


if __name__ == "__main__":
    main(Path(sys.argv[1]), [Path(name) for name in sys.argv[2:]])
