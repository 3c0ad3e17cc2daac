"""What L_DM brings to the language model: one config with and without it, equal steps, three seeds.

    python benchmarks/diffusion_loss.py configs/tiny/11_llm.toml RUNS OUT [STEPS]

RUNS holds the exports that the config names. The figures are those of the held-out records: cosines of regressed
features to the true ones, and nats a token of true captions. A run that was stopped continues.
"""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np

from codi2.train.config import TrainConfig, load_config
from codi2.train.loop import train
from codi2.train.parts.llm import LLMRecipe
from codi2.train.recipe import resolved

SEEDS = (0, 1, 2)
SHARE = 0.2  # last part of a run that has L_DM, where the config has none


def pair(config: TrainConfig, seed: int, out: Path) -> tuple[dict[str, float], dict[str, float]]:
    """The figures of a seed with L_DM and without."""
    shares = {"with": config.options.get("diffusion_share") or SHARE, "without": 0.0}
    figures = {}
    for name, share in shares.items():
        run = replace(config, seed=seed, options={**config.options, "diffusion_share": share})
        path = out / f"{seed}-{name}" / "figures.json"
        if not path.is_file():
            path.write_text(json.dumps(train(LLMRecipe(run), run, path.parent)))
        figures[name] = json.loads(path.read_text())
    return figures["with"], figures["without"]


def main(path: Path, runs: Path, out: Path, steps: int | None = None) -> None:
    config = resolved(load_config(path, steps=steps), runs)
    pairs = [pair(config, seed, out) for seed in SEEDS]
    for name in pairs[0][0]:
        with_it, without = (np.array([figures[side][name] for figures in pairs]) for side in (0, 1))
        gain = with_it - without
        means = f"{with_it.mean():.3f} with, {without.mean():.3f} without"
        print(f"{name}: {means}, {gain.mean():+.3f} ± {gain.std(ddof=1):.3f}")


if __name__ == "__main__":
    config_path, runs_folder, out_folder = map(Path, sys.argv[1:4])
    main(config_path, runs_folder, out_folder, int(sys.argv[4]) if len(sys.argv) > 4 else None)
