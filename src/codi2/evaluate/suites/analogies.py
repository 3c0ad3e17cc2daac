"""Analogies of pictures: held-out emoji have true targets in four renderings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from codi2.data.items import Item
from codi2.errors import DataError
from codi2.evaluate import baselines
from codi2.evaluate.bench import EMOJI, Bench
from codi2.evaluate.figure import Example, Findings, known, mean
from codi2.evaluate.judge import similarity
from codi2.prompt.parts import Image, Prompt, Text

EXAMPLES = 12


@dataclass(frozen=True)
class Case:
    """One analogy: (before, after) of another concept, the picture to change, and what should come of it.

    `other` and `other_target` belong to the same query with another change shown.
    """

    before: Item
    after: Item
    given: Item
    target: Item
    other: Item
    other_target: Item

    def prompt(self, bench: Bench, after: Item) -> Prompt:
        before, shown, given = bench.part(self.before), bench.part(after), bench.part(self.given)
        words = ("Given the transformation between ", " and ", ", apply the same editing to ", ".")
        return (Text(words[0]), before, Text(words[1]), shown, Text(words[2]), given, Text(words[3]))


@dataclass(frozen=True)
class Analogies:
    """Analogies asked, with the features regressed and the pictures drawn."""

    cases: Sequence[Case]
    prompts: Sequence[Prompt]
    features: Tensor  # [n, K, D]
    pictures: Sequence[Image]


def cases(bench: Bench, n: int) -> list[Case]:
    """`n` analogies between held-out emoji that exist in all renderings, no concept twice as the one to change."""
    groups: dict[str, dict[str, Item]] = {}
    for item in bench.corpus.select(modality="image", split="test_family"):
        if item.style in EMOJI:
            groups.setdefault(item.group, {})[item.style] = item
    complete = bench.shuffled([styles for styles in groups.values() if len(styles) == len(EMOJI)])
    if len(complete) < 2:
        raise DataError("analogies need two held-out emoji in all renderings: run `codi2 data build tiny` again")
    draw = np.random.default_rng(bench.seed)
    made = []
    for i in range(min(n, len(complete))):
        shown, asked = complete[i - 1], complete[i]
        a, b, c = (str(style) for style in draw.choice(EMOJI, 3, replace=False))
        made.append(Case(shown[a], shown[b], asked[a], asked[b], shown[c], asked[c]))
    return made


def analogies_of(bench: Bench, n: int) -> Analogies:
    """Made once."""

    def make() -> Analogies:
        asked = cases(bench, bench.count(n))
        prompts = [case.prompt(bench, case.after) for case in asked]
        features = bench.think(prompts, "image")
        return Analogies(asked, prompts, features, bench.decode(features, prompts, "image"))

    return bench.once(("analogies", n), make)


def analogies(bench: Bench, n: int) -> Findings:
    """How near an analogy's output is to its true target, and whether the examples decide it."""
    bench.decoder("image")
    asked = analogies_of(bench, n)
    swapped_prompts = [case.prompt(bench, case.other) for case in asked.cases]
    swapped = bench.decode(bench.think(swapped_prompts, "image"), swapped_prompts, "image")
    zeroed = bench.decode(torch.zeros_like(asked.features), asked.prompts, "image")
    before, after, given = (
        bench.encode([bench.part(getattr(case, name)) for case in asked.cases])[:, : bench.num_slots("image")]
        for name in ("before", "after", "given")
    )
    summed = bench.decode(baselines.arithmetic(before, after, given), asked.prompts, "image")

    means = {style: _mean_of_style(bench, style) for style in {case.target.style for case in asked.cases}}
    targets: list[Image] = [bench.part(case.target) for case in asked.cases]  # type: ignore[misc]
    others: list[Image] = [bench.part(case.other_target) for case in asked.cases]  # type: ignore[misc]
    rivals: dict[str, Sequence[Image]] = {
        "copy of the last picture": [bench.part(case.given) for case in asked.cases],  # type: ignore[misc]
        "mean of the target's rendering": [means[case.target.style] for case in asked.cases],
        "feature arithmetic": summed,
        "feature zeroed": zeroed,
    }
    truth, ours = bench.judge(targets), bench.judge(asked.pictures)
    near = similarity(ours, truth, bench.centre)
    far = {name: similarity(bench.judge(pictures), truth, bench.centre) for name, pictures in rivals.items()}
    zero = far.pop("feature zeroed")

    closeness = mean("EffNet-sim to the true target", near, far, seed=bench.seed)
    closeness = closeness.judged(
        "above each baseline", all(closeness.value > other.value for other in closeness.baselines.values())
    )
    loss = mean("EffNet-sim lost by zeroing the feature", near - zero, seed=bench.seed)
    loss = loss.judged("interval above 0", loss.low > 0)
    elsewhere, judged_swap = bench.judge(others), bench.judge(swapped)
    moved = similarity(judged_swap, elsewhere, bench.centre) > similarity(ours, elsewhere, bench.centre)
    moves = mean("other examples move the output to their target", moved, seed=bench.seed)
    moves = moves.judged("≥ 0.8", moves.value >= 0.8).beside(chance=known("chance", 0.5))

    shown = {"target": targets, "ours": asked.pictures, **rivals, "ours, other examples": swapped, "its target": others}
    examples = [
        Example(
            f"{case.given.caption}: {case.before.style} → {case.after.style}",
            prompt,
            {name: pictures[i] for name, pictures in shown.items()},
        )
        for i, (case, prompt) in enumerate(zip(asked.cases, asked.prompts, strict=True))
    ]
    return Findings([closeness, loss, moves], examples[:EXAMPLES])


def _mean_of_style(bench: Bench, style: str) -> Image:
    rows = [item.row for item in bench.corpus.select(modality="image", split="train", style=style)]
    if not rows:
        raise DataError(f"the corpus holds no training pictures of the style {style}")
    return baselines.mean_picture(bench.corpus.images[rows])
