"""The similarity of a prior's samples to the true features, compared with regression, feature arithmetic and a copy.

Letters: n answers, K slots, D joint width, M items.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations

import torch

from codi2.heads.prior import Prior, baseline_features, cosine
from codi2.prompt.layout import MODALITIES
from codi2.train.answers import Rows, context_of_rows

SEEDS = 4
CALL = 64  # answers sampled at once


def figures(prior: Prior, rows: Rows, tasks: Sequence[str], num_slots: Mapping[str, int]) -> dict[str, float]:
    """By task: mean cosine to the true features of `sampled` and `regressed` features and of `baseline_features`; the
    cosine of samples `between_seeds`; their `energy`, the mean square over that of the true features.

    A mean of all features that fit has the highest cosine, but less energy than true features, and no spread. Samples
    of the right distribution have an energy of 1, and are as alike between seeds as they are like the true features.
    """
    by_task: dict[str, list[dict[str, float]]] = {}
    for i, cosines in enumerate(compared(prior, rows, tasks, num_slots)):
        by_task.setdefault(tasks[i], []).append(cosines)
    means: dict[str, float] = {}
    for task, values in sorted(by_task.items()):
        for name in dict.fromkeys(name for value in values for name in value):
            known = [value[name] for value in values if name in value]
            means[f"{task}/{name}"] = sum(known) / len(known)
    return means


@torch.no_grad()
def compared(
    prior: Prior, rows: Rows, tasks: Sequence[str], num_slots: Mapping[str, int], steps: int = 8
) -> list[dict[str, float]]:
    """The cosines of each answer [n]."""
    cosines: list[dict[str, float]] = [{} for _ in tasks]
    for kind in rows["modality"].unique().tolist():
        slots = num_slots[MODALITIES[int(kind)]]
        answers = (rows["modality"] == kind).nonzero()[:, 0]
        for places in answers.split(CALL):
            context, truth = context_of_rows(rows, places, slots), rows["target"][places, :slots].float()
            draws = torch.stack([
                prior.sample(context, [seed + 1000 * int(i) for i in places], steps) for seed in range(SEEDS)
            ])  # fmt: skip
            between = torch.stack([cosine(a, b) for a, b in combinations(draws, 2)]).mean(0)
            regressed = cosine(rows["regressed"][places, :slots].float(), truth)
            sampled = torch.stack([cosine(draw, truth) for draw in draws]).mean(0)
            for n, place in enumerate(places.tolist()):
                values = {"sampled": sampled[n], "regressed": regressed[n], "between_seeds": between[n]}
                values["energy"] = draws[:, n].square().mean() / truth[n].square().mean()
                for name, features in baseline_features(context, n, "analogy" in tasks[place], prior.group_of).items():
                    values[name] = cosine(features[None], truth[n : n + 1])[0]
                cosines[place] = {name: float(value) for name, value in values.items()}
    return cosines
