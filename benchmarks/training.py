"""Training the language model of `tiny`: beside a bare loop, beside the machine's peak, and how much of it is padding.

Prints ratios of medians over alternating steps on the same sequences. The bare loop is transformers and peft alone:
embedded tokens, the model's own loss over the vocabulary, backward, AdamW.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from codi2.data.build import Settings, build
from codi2.hub import home
from codi2.train.config import TrainConfig
from codi2.train.parts import llm

RECORDS, STEPS, SIZE, SIDE = 800, 6, 16, 2048
PADDED_STEPS = 160


def recipe_on(folder: Path) -> llm.LLMRecipe:
    """The recipe of the language model on records that are drawn into a folder."""
    build(Settings("tasks", str(home() / "data" / "tiny"), str(folder), options={"records": RECORDS}))
    options = {
        "data": {str(folder): 1.0},
        "diffusion_share": 0.0,
        "phases": {"text": 0.15, "image": 0.5, "audio": 0.35},
    }
    return llm.build(TrainConfig("llm", STEPS, SIZE, 1e-4, options=options))


def peak() -> float:
    """Floating-point operations a second of a large matrix product in single precision."""
    a, b = torch.randn(2, SIDE, SIDE).unbind(0)
    _ = a @ b
    seconds = []
    for _ in range(5):
        began = time.perf_counter()
        _ = a @ b
        seconds.append(time.perf_counter() - began)
    return 2 * SIDE**3 / statistics.median(seconds)


def ours(recipe: Any, optimizer: Any, step: int) -> float:
    """Seconds of a step, its batch being drawn included."""
    began = time.perf_counter()
    recipe.losses(recipe.model, recipe.batch(step))["loss"].backward()
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return time.perf_counter() - began


def bare(model: Any, optimizer: Any, ids: torch.Tensor, mask: torch.Tensor) -> float:
    began = time.perf_counter()
    model(input_ids=ids, attention_mask=mask, labels=ids.masked_fill(mask == 0, -100)).loss.backward()
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return time.perf_counter() - began


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        recipe = recipe_on(Path(folder) / "tasks")
        recipe.model.train()
        backbone = recipe.mllm.backbone
        trained = [p for p in recipe.model.parameters() if p.requires_grad]
        optimizers = [torch.optim.AdamW(trained, 1e-4) for _ in range(2)]
        rates: dict[str, list[float]] = {"ours": [], "bare": [], "inside": []}
        matrices = sum(p.numel() for n, p in backbone.model.named_parameters() if p.ndim == 2 and "embed" not in n)
        reached = peak()
        for step in range(STEPS):
            batch = recipe.batch(step).batch
            tokens, ids = int(batch.mask.sum()), batch.ids.clamp(max=backbone.first_new - 1)
            spent = ours(recipe, optimizers[0], step)
            rates["ours"].append(tokens / spent)
            rates["bare"].append(tokens / bare(backbone.peft, optimizers[1], ids, batch.mask.long()))
            rows = backbone.embed(batch.ids).detach().requires_grad_(True)
            began = time.perf_counter()
            backbone(rows, batch.mask).square().mean().backward()
            # weights are frozen: a product forward and one for the gradient of its input, over padding too
            rates["inside"].append(4 * matrices * batch.ids.numel() / (time.perf_counter() - began))
        medians = {name: statistics.median(values[1:]) for name, values in rates.items()}
        print(f"tokens a second: {medians['ours'] / medians['bare']:.2f} × a bare loop of transformers and peft")
        print(f"inside the language model: {medians['inside'] / reached:.2f} of the peak of a product in fp32")
        real = padded = 0
        for step in range(PADDED_STEPS):
            mask = recipe.batch(step).batch.mask
            real, padded = real + int(mask.sum()), padded + mask.numel()
        print(f"padding: {1 - real / padded:.1%} of the positions")


if __name__ == "__main__":
    main()
