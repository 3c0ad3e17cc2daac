"""`pictures` and `sounds`: media from words. Is the concept seen or heard, do seeds differ, are they like real media?

Letters: n captions, S seeds, C channels of the judge.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
import torch
from torch import Tensor

from codi2.evaluate.bench import Bench
from codi2.evaluate.case import Case
from codi2.evaluate.copied import copied
from codi2.evaluate.figure import Example, Figure, Findings, known, mean
from codi2.evaluate.judge import ranks, similarity
from codi2.evaluate.suites import answers
from codi2.evaluate.suites.drawn import sharpness
from codi2.evaluate.suites.edit_figures import level_figure
from codi2.metrics.audio import fd
from codi2.prompt.parts import Part, Text

TOP = 5  # a concept is seen where its own held-out medium is among the first 5
NUMBER, QUICK, SEEDS, EXAMPLES = 60, 3, 4, 6
EACH = 0.5  # the share of the pictures of each seed, of known concepts
UNLIKE = 0.85  # the most that pictures of two seeds are alike
SHARP = (0.85, 1.15)  # times as sharp as the held-out pictures of the same captions
HALVES = "held-out media, one half against the other"


@dataclass(frozen=True)
class Kind:
    """How media of one modality are asked for and judged."""

    ask: str
    groups: Mapping[str, tuple[str, float]]
    """Split → what its media are of, and the share of answers in which the concept should be found."""
    candidates: int
    """Held-out media of different concepts that an answer is told from, its own among them."""
    judge: str
    likeness: str
    look: Callable[[Bench, Sequence[Part]], Tensor]
    """Media → the judge's features [n, C]."""
    centre: Callable[[Bench], Tensor]


KINDS = {
    "image": Kind(
        "Draw {}.",
        {"test_rendering": ("known concepts", 0.6), "test_family": ("unseen concepts", 0.25)},
        100,
        "Lite2",
        "EffNet-sim",
        lambda bench, parts: bench.see(parts),
        lambda bench: bench.centre,
    ),
    "audio": Kind(
        "Make the sound of {}.",
        {"test_rendering": ("known concepts", 0.5)},
        60,
        "aiSFX",
        "aiSFX-sim",
        lambda bench, parts: torch.from_numpy(bench.hear(parts)[0]).float(),
        lambda bench: torch.from_numpy(bench.sound_centre).float(),
    ),
}


def cases(modality: str) -> Callable[[Bench, bool], list[Case]]:
    """Captions of held-out media, each with several seeds."""

    def make(bench: Bench, quick: bool) -> list[Case]:
        groups = list(KINDS[modality].groups)
        splits = groups[:1] if bench.validation else groups  # the validation split has known concepts alone
        number = bench.items or (QUICK if quick else NUMBER)
        return [case for split in splits for case in captions(bench, split, number, SEEDS, modality)]

    return make


def captions(bench: Bench, split: str, number: int, seeds: int, modality: str = "image") -> list[Case]:
    """The first captions of a split."""
    media = gallery(bench, split, modality)[:number]
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


def gallery(bench: Bench, split: str, modality: str = "image") -> list[Any]:
    """Held-out media of different concepts."""

    def make() -> list[Any]:
        return [bench.part(item) for item in bench.draw(modality, split, KINDS[modality].candidates)]

    return bench.once(("gallery", modality, split), make)


def regression(bench: Bench, some: Sequence[Case]) -> list[Part]:
    """Drawn from the features that the language model regresses. Raises WeightsError: the model has no prior."""
    with bench.without_prior():
        return answers.ours(bench, some)


SYSTEMS = {"ours": answers.ours, "regression": regression}


def findings(bench: Bench, split: str, number: int, seeds: int, prior: bool = False) -> Findings:
    """The figures of one split, of the model's own pictures.

    Args:
        prior: whether those without the prior stand beside them. Raises WeightsError: the model has none.
    """
    bench.decoder("image")
    asked = captions(bench, split, bench.count(number), seeds)
    made = {name: SYSTEMS[name](bench, asked) for name in (SYSTEMS if prior else ["ours"])}
    return score(bench, asked, made, nearness=False)


def score(
    bench: Bench, asked: Sequence[Case], outputs: Mapping[str, Sequence[Part]], nearness: bool = True
) -> Findings:
    """By split: the concept, the seeds, likeness to real pictures as a set, sharpness, and what training shows.

    Args:
        nearness: whether pictures are held against training pictures, which takes the judge minutes.
    """
    figures: list[Figure] = []
    for split in dict.fromkeys(case.group for case in asked):
        rows = [i for i, case in enumerate(asked) if case.group == split]
        some = [asked[i] for i in rows]
        made = {name: [parts[i] for i in rows] for name, parts in outputs.items()}
        figures += [*_concept_figures(bench, split, some, made), *_set_figures(bench, split, some, made)]
        if nearness and asked[0].want == "image":
            first = [i for i, case in enumerate(some) if case.about["of_seed"] == 0]
            pairs = [(next(iter(made.values()))[i], some[i].target) for i in first]
            ours, real = zip(*pairs, strict=True)
            figures.append(copied(bench, KINDS["image"].groups[split][0], ours, real))
    return Findings(figures, _examples(asked, outputs))


def _examples(asked: Sequence[Case], outputs: Mapping[str, Sequence[Part]]) -> list[Example]:
    """The first captions of each split, with the pictures of every seed."""
    main, parts = next(iter(outputs.items()))
    examples = []
    for split in dict.fromkeys(case.group for case in asked):
        for row in range(EXAMPLES):
            mine = [i for i, case in enumerate(asked) if (case.group, case.about["row"]) == (split, row)]
            if mine:
                case = asked[mine[0]]
                shown = {f"{main}, seed {asked[i].about['of_seed']}": parts[i] for i in mine}
                examples.append(Example(case.about["words"], case.prompt, {"target": case.target, **shown}))
    return examples


def _concept_figures(
    bench: Bench, split: str, asked: Sequence[Case], outputs: Mapping[str, Sequence[Part]]
) -> list[Figure]:
    """Whether the concept is found, of all seeds and of each, and how alike the seeds are."""
    kind, main = KINDS[asked[0].want], next(iter(outputs))
    (title, least), centre = kind.groups[split], kind.centre(bench)
    truth = kind.look(bench, gallery(bench, split, asked[0].want))
    looks = {name: _by_seed(kind.look(bench, parts), asked) for name, parts in outputs.items()}
    found = {name: np.stack([ranks(one, truth) < TOP for one in some]) for name, some in looks.items()}
    top = _figure(bench, f"{title}: top-{TOP} among {len(truth)}", {name: hits.mean(0) for name, hits in found.items()})
    top = top.beside(chance=known("chance", min(1.0, TOP / len(truth)))).judged(f"≥ {least:g}", top.value >= least)
    near = {
        name: np.mean([similarity(one, truth[: len(one)], centre) for one in some], axis=0)
        for name, some in looks.items()
    }
    figures = [top, _figure(bench, f"{title}: {kind.likeness} to the true one", near)]
    if len(looks[main]) == 1:
        return figures
    pictured = asked[0].want == "image"
    for seed, hits in enumerate(found[main]):
        each = mean(f"{title}: top-{TOP}, seed {seed}", hits, seed=bench.seed)
        bar = pictured and split == "test_rendering"
        figures.append(each.judged(f"≥ {EACH:g}", each.value >= EACH) if bar else each)
    alike = {
        name: np.mean([similarity(a, b, centre) for a, b in combinations(some, 2)], axis=0)
        for name, some in looks.items()
    }
    figure = _figure(bench, f"{title}: {kind.likeness} between seeds", alike)
    return [*figures, figure.judged(f"≤ {UNLIKE:g}", figure.value <= UNLIKE) if pictured else figure]


def _set_figures(
    bench: Bench, split: str, asked: Sequence[Case], outputs: Mapping[str, Sequence[Part]]
) -> list[Figure]:
    """Likeness to held-out media as a set; pictures are as sharp as the true ones, sounds as loud."""
    kind, main = KINDS[asked[0].want], next(iter(outputs))
    title, truth = kind.groups[split][0], kind.look(bench, gallery(bench, split, asked[0].want)).numpy()
    apart = {name: fd(kind.look(bench, parts).numpy(), truth) for name, parts in outputs.items()}
    others = {name: known(name, value, len(asked)) for name, value in apart.items() if name != main}
    if len(truth) >= 4:
        others[HALVES] = known(HALVES, fd(truth[::2], truth[1::2]), len(truth) // 2)
    of_set = known(f"{title}: {kind.judge}-FD", apart[main], len(asked)).beside(**others)
    targets = [case.target for case in asked]
    if asked[0].want == "audio":
        rivals = {name: parts for name, parts in outputs.items() if name != main}
        return [of_set, level_figure(bench, title, targets, outputs[main], rivals)]
    like = sharpness(targets).mean()
    crisp = _figure(bench, f"{title}: sharpness", {name: sharpness(parts) / like for name, parts in outputs.items()})
    return [of_set, crisp.judged("{:g} to {:g}".format(*SHARP), SHARP[0] <= crisp.value <= SHARP[1])]


def _by_seed(looks: Tensor, asked: Sequence[Case]) -> list[Tensor]:
    """The judge's features [n, C] of each seed."""
    seeds = sorted({case.about["of_seed"] for case in asked})
    return [looks[[i for i, case in enumerate(asked) if case.about["of_seed"] == seed]] for seed in seeds]


def _figure(bench: Bench, title: str, values: Mapping[str, np.ndarray]) -> Figure:
    """The mean of the first system's values beside the others'."""
    (_, ours), *others = values.items()
    return mean(title, ours, dict(others), seed=bench.seed)
