"""What L_DM brings to the language model: one config with and without it, equal steps, three seeds.

    python benchmarks/diffusion_loss.py configs/tiny/11_llm.toml RUNS OUT [STEPS]

RUNS holds the exports that the config names. Judged on held-out records: cosines of regressed features to the true
ones, nats a token of true captions, and L_DM of the decoders on what is regressed. A run that was stopped continues.
"""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
from ablations import judge

from codi2.train.config import TrainConfig, load_config
from codi2.train.loop import train
from codi2.train.parts.llm import LLMRecipe
from codi2.train.recipe import resolved

SEEDS = (0, 1, 2)
SHARE = 0.2  # last part of a run that has L_DM, where the config has none


def pair(config: TrainConfig, seed: int, out: Path) -> tuple[dict[str, float], dict[str, float]]:
    """The figures of a seed with L_DM and without."""
    shares = {"with": config.options.get("diffusion_share") or SHARE, "without": 0.0}
    found = {}
    for name, share in shares.items():
        one = replace(config, seed=seed, options={**config.options, "diffusion_share": share})
        kept = out / f"{seed}-{name}" / "figures.json"
        if not kept.is_file():
            recipe = LLMRecipe(one)
            if not recipe.decoders:  # the one without L_DM is judged by the same decoders
                recipe.decoders = recipe._decoders(recipe.folder)
            figures = train(recipe, one, kept.parent) | judge(recipe)
            kept.write_text(json.dumps(figures))
        found[name] = json.loads(kept.read_text())
    return found["with"], found["without"]


def main(config: Path, runs: Path, out: Path, steps: int | None = None) -> None:
    made = resolved(load_config(config, steps=steps), runs)
    pairs = [pair(made, seed, out) for seed in SEEDS]
    for name in pairs[0][0]:
        ours, theirs = (np.array([one[side][name] for one in pairs]) for side in (0, 1))
        gain = ours - theirs
        means = f"{ours.mean():.3f} with, {theirs.mean():.3f} without"
        print(f"{name}: {means}, {gain.mean():+.3f} ± {gain.std(ddof=1):.3f}")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:4]), *map(int, sys.argv[4:5]))
