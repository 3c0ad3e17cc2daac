"""`pictures` and `sounds`: media from words. Do they show the concept, do seeds differ, are they like real media?

Letters: n captions, S seeds, C channels of the judge.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any

import numpy as np
import torch
from torch import Tensor

from codi2.evaluate.case import Case
from codi2.evaluate.closeness import SHARP, sharpness
from codi2.evaluate.context import EvalContext
from codi2.evaluate.copied import copied
from codi2.evaluate.figure import Example, Figure, Findings, group_means, known, mean
from codi2.evaluate.frechet import distance, projected
from codi2.evaluate.judge import ranks, similarity
from codi2.evaluate.suites import answers
from codi2.evaluate.suites.edit_figures import level_figures
from codi2.metrics.audio import fd
from codi2.prompt.parts import Part, Text

TOP = 5  # a concept is recognised where its own held-out medium is among the first 5
NUMBER, SEEDS, EXAMPLES = 100, 4, 6
EACH = 0.5  # the share of the pictures of each seed, of known concepts
MOST = 10_000  # held-out media of a split
UNLIKE = 0.85  # the most that pictures of two seeds are alike
HALVES = "held-out media, one half against the other"


@dataclass(frozen=True)
class Kind:
    """How media of one modality are requested and judged."""

    ask: str
    groups: Mapping[str, tuple[str, float]]
    """Split → what its media are of, and the least share of answers with the concept."""
    candidates: int
    """Held-out media of different concepts among which the answer's own is looked for."""
    judge: str
    likeness: str
    centre: Callable[[EvalContext], Tensor]


KINDS = {
    "image": Kind(
        "Draw {}.",
        {"test_rendering": ("known concepts", 0.6), "test_family": ("unseen concepts", 0.25)},
        100,
        "Lite2",
        "EffNet-sim",
        lambda context: context.centre,
    ),
    "audio": Kind(
        "Make the sound of {}.",
        {"test_rendering": ("known concepts", 0.5)},
        60,
        "aiSFX",
        "aiSFX-sim",
        lambda context: torch.from_numpy(context.sound_centre).float(),
    ),
}


def cases(modality: str) -> Callable[[EvalContext], list[Case]]:
    """Captions of held-out media, each with several seeds."""

    def make(context: EvalContext) -> list[Case]:
        groups = list(KINDS[modality].groups)
        splits = groups[:1] if context.validation else groups  # the validation split has known concepts alone
        number = context.count(NUMBER)
        return [case for split in splits for case in captions(context, split, number, SEEDS, modality)]

    return make


def captions(context: EvalContext, split: str, number: int, seeds: int, modality: str = "image") -> list[Case]:
    """The first captions of a split."""
    media = gallery(context, split, modality)[:number]
    return [
        Case(
            f"{split}-{i:03d}-{seed}",
            (Text(KINDS[modality].ask.format(medium.name)),),
            modality,
            {"target": medium},
            split,
            {"seed": 1000 * seed + i, "row": i, "of_seed": seed, "words": medium.name},
        )
        for i, medium in enumerate(media)
        for seed in range(seeds)
    ]


def gallery(context: EvalContext, split: str, modality: str = "image") -> list[Any]:
    """All held-out media of different concepts of a split, in seeded order."""

    def make() -> list[Any]:
        return [context.part(item) for item in context.draw(modality, split, MOST)]

    return context.cached(("gallery", modality, split), make)


def regression(context: EvalContext, cases: Sequence[Case]) -> list[Part]:
    """Decoded from the features that the language model regresses. Raises WeightsError: the model has no prior."""
    with context.without_prior():
        return answers.ours(context, cases)


SYSTEMS = {"ours": answers.ours, "regression": regression}


def score(context: EvalContext, cases: Sequence[Case], outputs: Mapping[str, Sequence[Part]]) -> Findings:
    """By split: the concept, the seeds, likeness to real media as a set, sharpness or level, and the likeness of
    pictures to training pictures.
    """
    figures: list[Figure] = []
    for split in dict.fromkeys(case.group for case in cases):
        rows = [i for i, case in enumerate(cases) if case.group == split]
        members = [cases[i] for i in rows]
        parts = {name: [outputs[name][i] for i in rows] for name in outputs}
        figures += [*_concept_figures(context, split, members, parts), *_set_figures(context, split, members, parts)]
        if cases[0].want == "image":
            first = [i for i, case in enumerate(members) if case.about["of_seed"] == 0]
            pairs = [(next(iter(parts.values()))[i], members[i].target) for i in first]
            pictures, real = zip(*pairs, strict=True)
            figures.append(copied(context, KINDS["image"].groups[split][0], pictures, real))
    return Findings(figures, _examples(cases, outputs))


def _examples(cases: Sequence[Case], outputs: Mapping[str, Sequence[Part]]) -> list[Example]:
    """The first captions of each split, with the pictures of every seed."""
    main, parts = next(iter(outputs.items()))
    examples = []
    for split in dict.fromkeys(case.group for case in cases):
        for row in range(EXAMPLES):
            members = [i for i, case in enumerate(cases) if (case.group, case.about["row"]) == (split, row)]
            if members:
                case = cases[members[0]]
                media = {f"{main}, seed {cases[i].about['of_seed']}": parts[i] for i in members}
                examples.append(Example(case.about["words"], case.prompt, {"target": case.target, **media}))
    return examples


def _concept_figures(
    context: EvalContext, split: str, cases: Sequence[Case], outputs: Mapping[str, Sequence[Part]]
) -> list[Figure]:
    """Whether the concept is recognised, of all seeds and of each, and how alike the seeds are."""
    kind, main = KINDS[cases[0].want], next(iter(outputs))
    (title, least), centre = kind.groups[split], kind.centre(context)
    truth = _embeddings(context, cases[0].want, gallery(context, split, cases[0].want))
    among = min(kind.candidates, len(truth))
    embeddings = {name: _by_seed(_embeddings(context, cases[0].want, parts), cases) for name, parts in outputs.items()}
    hits = {
        name: np.stack([ranks(rows, truth, among) < TOP for rows in by_seed]) for name, by_seed in embeddings.items()
    }
    top = _figure(context, f"{title}: top-{TOP} among {among}", {name: x.mean(0) for name, x in hits.items()})
    top = top.beside(chance=known("chance", min(1.0, TOP / among))).judged(f"≥ {least:g}", top.value >= least)
    likeness = {
        name: np.mean([similarity(rows, truth[: len(rows)], centre) for rows in by_seed], axis=0)
        for name, by_seed in embeddings.items()
    }
    figures = [top, _figure(context, f"{title}: {kind.likeness} to the true one", likeness)]
    of_pictures = cases[0].want == "image"
    for seed, of_seed in enumerate(hits[main]):
        each = mean(f"{title}: top-{TOP}, seed {seed}", of_seed, seed=context.seed)
        bar = of_pictures and split == "test_rendering"
        figures.append(each.judged(f"≥ {EACH:g}", each.value >= EACH) if bar else each)
    alike = {
        name: np.mean([similarity(a, b, centre) for a, b in combinations(by_seed, 2)], axis=0)
        for name, by_seed in embeddings.items()
    }
    figure = _figure(context, f"{title}: {kind.likeness} between seeds", alike)
    return [*figures, figure.judged(f"≤ {UNLIKE:g}", figure.value <= UNLIKE) if of_pictures else figure]


def _set_figures(
    context: EvalContext, split: str, cases: Sequence[Case], outputs: Mapping[str, Sequence[Part]]
) -> list[Figure]:
    """Likeness to held-out media as a set; sharpness of pictures, level of sounds."""
    modality, main = cases[0].want, next(iter(outputs))
    kind, captions_of = KINDS[modality], [case.about["row"] for case in cases]
    title = kind.groups[split][0]

    def in_components(parts: Sequence[Part]) -> np.ndarray:
        return projected(context, modality, context.embeddings(modality, parts))

    truth = in_components(gallery(context, split, modality))
    apart = {
        name: distance(name, in_components(parts), truth, captions_of, context.seed) for name, parts in outputs.items()
    }
    of_set = replace(apart.pop(main), name=f"{title}: {kind.judge}-FD").beside(**apart)
    if len(truth) >= 4:
        of_set = of_set.beside(**{HALVES: known(HALVES, fd(truth[::2], truth[1::2]), len(truth) // 2)})
    targets = [case.target for case in cases]
    if modality == "audio":
        rivals = {name: parts for name, parts in outputs.items() if name != main}
        return [of_set, *level_figures(context, title, targets, outputs[main], rivals, captions_of)]
    like = sharpness(targets).mean()
    sharp = {name: group_means(sharpness(parts) / like, captions_of) for name, parts in outputs.items()}
    crisp = _figure(context, f"{title}: sharpness", sharp)
    return [of_set, crisp.within(*SHARP)]


def _embeddings(context: EvalContext, modality: str, parts: Sequence[Part]) -> Tensor:
    return torch.from_numpy(context.embeddings(modality, parts)).float()


def _by_seed(embeddings: Tensor, cases: Sequence[Case]) -> list[Tensor]:
    """The judge's embeddings [n, C] of each seed."""
    seeds = sorted({case.about["of_seed"] for case in cases})
    return [embeddings[[i for i, case in enumerate(cases) if case.about["of_seed"] == seed]] for seed in seeds]


def _figure(context: EvalContext, title: str, values: Mapping[str, np.ndarray]) -> Figure:
    """The mean of the first system's values beside the others'."""
    (_, main), *others = values.items()
    return mean(title, main, dict(others), seed=context.seed)
