"""A training step of a part in bfloat16 (autocast) and in float32, in processor time.

    OMP_NUM_THREADS=1 python benchmarks/precision.py RUNS CONFIG [CONFIG …]

Worth a run before long trainings on a CPU: bfloat16 is faster where the processor multiplies it (AVX512_BF16, AMX) and
many times slower elsewhere. RUNS holds the exports that the configs name.
"""

from __future__ import annotations

import sys
import time
from importlib import import_module
from pathlib import Path
from statistics import median
from typing import Any

import torch

from codi2.train import PARTS
from codi2.train.config import load_config
from codi2.train.place import place, placement_of
from codi2.train.recipe import resolved
from codi2.train.shares import WHOLE

STEPS = 5  # of each precision, taken in turns, after one that is not counted


def seconds(recipe: Any, batch: Any, low: bool) -> float:
    """Processor time of forward and backward."""
    began = time.process_time()
    with torch.autocast("cpu", torch.bfloat16, enabled=low):
        losses = recipe.losses(recipe.model, batch)
    losses["loss"].backward()
    recipe.model.zero_grad()
    return time.process_time() - began


def main(runs: Path, configs: list[Path]) -> None:
    for path in configs:
        config = resolved(load_config(path), runs, path.parent)
        recipe = import_module(f"codi2.train.parts.{PARTS[config.part]}").build(config)
        place(recipe, torch.device("cpu"), placement_of(config))
        if hasattr(recipe, "begin"):
            recipe.begin(range(1), WHOLE)
        batch = getattr(recipe, "finish", lambda one: one)(recipe.batch(0))
        rounds = [[seconds(recipe, batch, low) for low in (False, True)] for _ in range(1 + STEPS)][1:]
        plain, low = (median(times) for times in zip(*rounds, strict=True))
        print(f"{path.stem}: {low / plain:.2f} of the processor time ({plain:.2f} s in float32)", flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), [Path(name) for name in sys.argv[2:]])
