"""Whether the loop keeps a GPU busy: a step of the language model's run with a device step that is a sleep of 50 ms.

All else is real: records are read and laid out, media of L_DM decoded at the sizes of `paper`, batches collated in
worker processes, handed over and logged. One process draws its share of the batch of
`configs/paper/llm_8x80gb.toml`. Printed is the median time of a step over that of the sleep.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

from codi2.data.build import Settings, build
from codi2.hub import home
from codi2.train.config import TrainConfig
from codi2.train.full_size import published_decoders
from codi2.train.loop import WHOLE, Share, train
from codi2.train.parts.language_batch import Drawn
from codi2.train.parts.llm import LLMRecipe

SLEEP = 0.05  # seconds
STEPS, FIRST = 120, 40  # steps; those in which the workers get ahead
SIZE, RANKS, ITEMS = 64, 8, 16


class Sleeping(LLMRecipe):
    """One of RANKS processes, on a device that sleeps."""

    def __init__(self, config: TrainConfig) -> None:
        super().__init__(config)
        self.decoders = published_decoders(self.codi2_config.heads.feature_dim)  # for what they read
        self.in_turn = {modality: nn.Module() for modality in self.decoders}
        self.model = nn.ModuleDict({"one": nn.Linear(1, 1)})
        self.began: list[float] = []

    def batch(self, step: int, share: Share = WHOLE) -> Drawn:
        return super().batch(step, Share(0, RANKS))

    def losses(self, model: nn.Module, drawn: Drawn) -> dict[str, Tensor]:
        self.began.append(time.perf_counter())
        time.sleep(SLEEP)
        return {"loss": self.model["one"](torch.ones(1, 1)).sum()}

    def validate(self) -> dict[str, float]:
        return {}

    def export(self, folder: Path, provenance: dict[str, Any]) -> None: ...


def main(workers: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        build(Settings("tables", str(home() / "data" / "tiny"), f"{folder}/set", options={"records": 2000}))
        data = {f"{folder}/set": 1.0}
        options = {"model": "debug", "data": data, "held_out": data, "lookahead": 16, "diffusion_share": 1.0}
        options |= {"diffusion_items": ITEMS, "phases": {"text": 0.25, "image": 0.4, "audio": 0.25, "video": 0.1}}
        made = TrainConfig(
            "llm", STEPS, SIZE, 1e-3, log_every=10, save_every=10**6, validate_every=10**6, options=options,
            num_workers=workers,
        )  # fmt: skip
        recipe = Sleeping(made)
        train(recipe, made, Path(folder) / "run")
    gaps = [after - before for before, after in zip(recipe.began[FIRST:-1], recipe.began[FIRST + 1 :], strict=True)]
    mean = sum(gaps) / len(gaps)
    ratios = f"{median(gaps) / SLEEP:.3f} × the device's (median), {mean / SLEEP:.3f} × (mean)"
    print(f"{workers} workers: a step takes {ratios}")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 2)
