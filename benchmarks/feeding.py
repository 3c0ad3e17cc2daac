"""Whether the loop keeps a GPU busy: a step of the language model's run with a device step that is a sleep of 50 ms.

All else is real: records are read and laid out, media of L_DM decoded at the sizes of `paper`, batches collated in
worker processes, moved and logged. One process draws its share of the batch of
`configs/paper/7_everything.toml`. Features of all media are known, as after a first epoch: the encoder runs on the
device, which is not here. Printed are the time of a step over that of the sleep, which should be at most 1.05 on cores
that nothing else uses, and what a step takes of a processor in the workers and in the process that trains: so many
cores a GPU are busy, whatever else runs here. Pictures of the records are 64 × 64; larger ones take longer to decode.
"""

from __future__ import annotations

import argparse
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
from codi2.train.examples import ExampleSet
from codi2.train.full_size import published_decoders
from codi2.train.loop import train
from codi2.train.parts.language_batch import LanguageBatch
from codi2.train.parts.llm import LLMRecipe
from codi2.train.rehearsal import as_worker
from codi2.train.shares import WHOLE, Share

SLEEP = 0.05  # seconds
RECORDS = 2000
STEPS, FIRST = 160, 40  # steps; those in which the workers get ahead
RANKS, ITEMS = 8, 16
MEASURED = 32  # steps, two blocks, whose work is measured in one process


class Sleeping(LLMRecipe):
    """One of RANKS processes, on a device that sleeps."""

    def __init__(self, config: TrainConfig) -> None:
        super().__init__(config)
        self.decoders = published_decoders(self.codi2_config.heads.feature_dim)  # for what they read
        self.swapped_modules = {modality: nn.Module() for modality in self.decoders}
        self.model = nn.ModuleDict({"one": nn.Linear(1, 1)})
        self.began: list[float] = []
        self.worked: list[float] = []  # seconds of a processor that this process has had

    def batch(self, step: int, share: Share = WHOLE) -> LanguageBatch:
        return super().batch(step, Share(0, RANKS))

    def losses(self, model: nn.Module, drawn: LanguageBatch) -> dict[str, Tensor]:
        self.began.append(time.perf_counter())
        self.worked.append(time.process_time())
        time.sleep(SLEEP)
        return {"loss": self.model["one"](torch.ones(1, 1)).sum()}

    def validate(self) -> dict[str, float]:
        return {}

    def export(self, folder: Path, provenance: dict[str, Any]) -> None: ...


def seconds_of_drawing(recipe: Sleeping) -> float:
    """Of a processor, a step, in a worker."""
    with as_worker():
        began = time.process_time()
        for step in range(MEASURED):
            recipe.batch(step)
    return (time.process_time() - began) / MEASURED


def main(workers: int, size: int) -> None:
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        build(Settings("tasks", str(home() / "data" / "tiny"), f"{folder}/set", options={"records": RECORDS}))
        data = {f"{folder}/set": 1.0}
        options = {
            "model": "debug", "data": data, "held_out": data, "lookahead": 16, "diffusion_share": 1.0,
            "diffusion_items": min(ITEMS, size),
            "phases": {"text": 0.25, "image": 0.4, "audio": 0.25, "video": 0.1},
        }  # fmt: skip
        config = TrainConfig(
            "llm", STEPS, size, 1e-3, log_every=10, save_every=10**6, validate_every=10**6, options=options,
            num_workers=workers,
        )  # fmt: skip
        recipe = Sleeping(config)
        assert isinstance(recipe.examples, ExampleSet)
        recipe.examples.encodings.of([piece for example in recipe.examples.every() for piece in example.pieces])
        recipe.batch(0)  # what is done once
        drawing = seconds_of_drawing(recipe)
        del recipe.drawing
        train(recipe, config, Path(folder) / "run")
    gaps = [after - before for before, after in zip(recipe.began[FIRST:-1], recipe.began[FIRST + 1 :], strict=True)]
    own = (recipe.worked[-1] - recipe.worked[FIRST]) / len(gaps)
    print(
        f"batch of {size} over {RANKS} processes, {workers} workers: a step takes {median(gaps) / SLEEP:.3f} × the "
        f"device's (median of {len(gaps)}), {sum(gaps) / len(gaps) / SLEEP:.3f} × (mean); processor time a step: "
        f"{drawing * 1000:.1f} ms of the workers, {own * 1000:.1f} ms of the process that trains, "
        f"{(drawing + own) / SLEEP:.2f} cores"
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("workers", type=int, nargs="?", default=2)
    parser.add_argument("--batch", type=int, default=64, help="samples a step, over 8 processes")
    arguments = parser.parse_args()
    main(arguments.workers, arguments.batch)
