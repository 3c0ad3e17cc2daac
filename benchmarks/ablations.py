"""What each part of the language model's recipe is worth, at one small budget: real runs from fresh adapters.

Every run sees the same captions and media of the corpus, both ways, in the same order, for the same steps, and is
judged on held-out ones: cosines of regressed features to the true ones (each slot fed with the model's own before it),
nats a token of true captions, and L_DM of the shipped decoders on what it regresses.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from codi2.data.build import Settings, build
from codi2.hub import home, shipped
from codi2.prompt.layout import MODALITIES
from codi2.train.config import TrainConfig
from codi2.train.loop import train
from codi2.train.parts.llm import LLMRecipe

STEPS, SIZE, SEED = 80, 16, 5
PHASES = {"text": 0.3, "image": 0.4, "audio": 0.3}
HELD = "test_rendering,test_family"
JUDGED = 48  # held-out items on which L_DM is taken


class WithoutWords(LLMRecipe):
    """The user's words as features are blank."""

    def __init__(self, config: TrainConfig) -> None:
        super().__init__(config)
        plain = self.mllm.forward

        def blank(batch: Any, features: Tensor, fed: Tensor | None = None) -> Any:
            kept = (batch.item_modality != MODALITIES.index("phrase"))[:, None, None]
            return plain(batch, features * kept, None if fed is None else fed * kept)

        self.mllm.forward = blank  # type: ignore[method-assign]


class WithoutFeedback(LLMRecipe):
    """The slots of answers are fed nothing: neither the true features before them nor, in generation, their own."""

    def __init__(self, config: TrainConfig) -> None:
        super().__init__(config)
        plain = self.mllm.forward

        def blank(batch: Any, features: Tensor, fed: Tensor | None = None) -> Any:
            fed = (features if fed is None else fed).clone()
            fed[batch.slot_item[batch.slot_predicted]] = 0
            return plain(batch, features, fed)

        self.mllm.forward = blank  # type: ignore[method-assign]


def fewer_slots(folder: Path, count: int) -> str:
    """The shipped model with fewer features regressed for a medium."""
    shutil.copytree(shipped("tiny"), folder)
    about = json.loads((folder / "config.json").read_text())
    about["heads"]["num_slots"] = dict.fromkeys(about["heads"]["num_slots"], count)
    (folder / "config.json").write_text(json.dumps(about))
    return str(folder)


def judge(recipe: LLMRecipe) -> dict[str, float]:
    """L_DM of the decoders on the features that are regressed for held-out captions; the same noise for every run."""
    from codi2.train.parts.predicted import own_predictions

    figures = {}
    for modality, decoder in recipe.decoders.items():
        lessons = recipe.held_out.get(f"{modality}_from_caption", [])[:JUDGED]
        batch, features = recipe._collate(lessons)
        with torch.no_grad():
            _, predicted = own_predictions(recipe.mllm, batch, features)
            target = [lesson.medium(lesson.answer(modality)).decode() for lesson in lessons]
            latents = decoder.codec.encode(decoder.codec.to_tensor(target))
            generator = torch.Generator().manual_seed(0)
            t = torch.linspace(100, 999, len(lessons)).long()
            noise = torch.randn(latents.shape, generator=generator)
            blank = torch.zeros_like(latents)
            level = torch.zeros(len(lessons), dtype=torch.long)
            loss = decoder.loss(latents, noise, t, decoder.rescaled(predicted), level, blank)
        figures[f"L_DM {modality}"] = float(loss.mean())
    return figures


def run(kind: type[LLMRecipe], config: TrainConfig, out: Path) -> dict[str, float]:
    recipe = kind(config)
    return train(recipe, config, out) | judge(recipe)


def main(names: Sequence[str]) -> None:
    corpus, sets = str(home() / "data" / "tiny"), home() / "data"
    held = sets / "tiny-pairs-val"
    build(Settings("tiny", corpus, str(held), options={"splits": HELD}))
    options: dict[str, Any] = {
        "data": {str(sets / "tiny-pairs"): 1.0},
        "held_out": {str(held): 1.0},
        "phases": PHASES,
        "alpha": 2.0,
        "diffusion_share": 1.0,
    }
    base = TrainConfig(
        "llm", STEPS, SIZE, 5e-4, rates={"enter": 2, "leave": 2}, seed=SEED, warmup_steps=10, decay_fraction=0.3,
        log_every=20, save_every=STEPS, validate_every=STEPS, trackers=[], options=options,
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:

        def changed(**some: Any) -> TrainConfig:
            return replace(base, options={**options, **some})

        runs: dict[str, tuple[type[LLMRecipe], TrainConfig]] = {
            "whole": (LLMRecipe, base),
            "without L_DM": (LLMRecipe, changed(diffusion_share=0.0)),
            "without MSE": (LLMRecipe, changed(alpha=0.0)),
            "released loss": (LLMRecipe, changed(loss="released")),
            "without words as features": (WithoutWords, base),
            "without feedback": (WithoutFeedback, base),
            "one slot": (LLMRecipe, changed(model=fewer_slots(Path(folder) / "one", 1))),
            "two slots": (LLMRecipe, changed(model=fewer_slots(Path(folder) / "two", 2))),
        }
        for name, (kind, config) in runs.items():
            if names and name not in names:
                continue
            figures = run(kind, config, Path(folder) / name.replace(" ", "-"))
            line = ", ".join(f"{key} {value:.3f}" for key, value in sorted(figures.items()) if np.isfinite(value))
            print(f"{name}: {line}", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
