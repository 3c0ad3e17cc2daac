"""`pictures`: pictures from words. Is the concept seen, do seeds differ, and are they like real pictures?

Letters: n captions, S seeds, C channels of the judge.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations

import numpy as np
from torch import Tensor

from codi2.evaluate.bench import Bench
from codi2.evaluate.case import Case
from codi2.evaluate.copied import copied
from codi2.evaluate.figure import Example, Figure, Findings, known, mean
from codi2.evaluate.judge import ranks, similarity
from codi2.evaluate.suites import answers
from codi2.evaluate.suites.drawn import sharpness
from codi2.metrics.audio import fd
from codi2.prompt.parts import Image, Part, Text

CANDIDATES, TOP = 100, 5  # a concept is seen where its own held-out picture is among the first 5 of 100
NUMBER, QUICK, SEEDS, EXAMPLES = 60, 3, 4, 6
GROUPS = {"test_rendering": ("known concepts", 0.6), "test_family": ("unseen concepts", 0.25)}
"""Split → what its pictures are of, and the share of pictures in which the concept should be seen."""
EACH = 0.5  # the share of each seed, of known concepts
UNLIKE = 0.85  # the most that pictures of two seeds are alike
SHARP = (0.85, 1.15)  # times as sharp as the held-out pictures of the same captions
HALVES = "held-out pictures, one half against the other"


def cases(bench: Bench, quick: bool) -> list[Case]:
    """Captions of held-out pictures, each with several seeds."""
    splits = list(GROUPS)[:1] if bench.validation else list(GROUPS)  # the validation split has known concepts alone
    number = bench.items or (QUICK if quick else NUMBER)
    return [case for split in splits for case in captions(bench, split, number, SEEDS)]


def captions(bench: Bench, split: str, number: int, seeds: int) -> list[Case]:
    """The first captions of a split."""
    return [
        Case(
            f"{split}-{i:03d}-{seed}",
            (Text(f"Draw {picture.name}."),),
            "image",
            {"target": picture},
            split,
            {"seed": 1000 * seed + i, "row": i, "of_seed": seed, "words": picture.name},
        )
        for i, picture in enumerate(gallery(bench, split)[:number])
        for seed in range(seeds)
    ]


def gallery(bench: Bench, split: str) -> list[Image]:
    """Held-out pictures of different concepts."""

    def make() -> list[Image]:
        return [bench.part(item) for item in bench.draw("image", split, CANDIDATES)]  # type: ignore[misc]

    return bench.once(("gallery", split), make)


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
        if nearness:
            first = [i for i, case in enumerate(some) if case.about["of_seed"] == 0]
            pairs = [(next(iter(made.values()))[i], some[i].target) for i in first]
            ours, real = zip(*pairs, strict=True)
            figures.append(copied(bench, GROUPS[split][0], ours, real))
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
    """Whether the concept is seen, of all seeds and of each, and how alike the seeds are."""
    main = next(iter(outputs))
    (title, least), truth = GROUPS[split], bench.see(gallery(bench, split))
    looks = {name: _by_seed(bench, asked, parts) for name, parts in outputs.items()}
    found = {name: np.stack([ranks(one, truth) < TOP for one in some]) for name, some in looks.items()}
    top = _figure(bench, f"{title}: top-{TOP} among {len(truth)}", {name: hits.mean(0) for name, hits in found.items()})
    top = top.beside(chance=known("chance", min(1.0, TOP / len(truth)))).judged(f"≥ {least:g}", top.value >= least)
    near = {
        name: np.mean([similarity(one, truth[: len(one)], bench.centre) for one in some], axis=0)
        for name, some in looks.items()
    }
    figures = [top, _figure(bench, f"{title}: EffNet-sim to the held-out picture", near)]
    if len(looks[main]) == 1:
        return figures
    for seed, hits in enumerate(found[main]):
        each = mean(f"{title}: top-{TOP}, seed {seed}", hits, seed=bench.seed)
        figures.append(each.judged(f"≥ {EACH:g}", each.value >= EACH) if split == "test_rendering" else each)
    alike = {
        name: np.mean([similarity(a, b, bench.centre) for a, b in combinations(some, 2)], axis=0)
        for name, some in looks.items()
    }
    figure = _figure(bench, f"{title}: EffNet-sim between seeds", alike)
    return [*figures, figure.judged(f"≤ {UNLIKE:g}", figure.value <= UNLIKE)]


def _set_figures(
    bench: Bench, split: str, asked: Sequence[Case], outputs: Mapping[str, Sequence[Part]]
) -> list[Figure]:
    """Likeness to held-out pictures as a set, and sharpness beside the true ones."""
    main, *others = outputs
    title, truth = GROUPS[split][0], bench.see(gallery(bench, split)).numpy()
    apart = {name: fd(bench.see(parts).numpy(), truth) for name, parts in outputs.items()}
    of_set = known(f"{title}: Lite2-FD", apart[main], len(asked))
    of_set = of_set.beside(**{name: known(name, apart[name], len(asked)) for name in others})
    if len(truth) >= 4:
        of_set = of_set.beside(**{HALVES: known(HALVES, fd(truth[::2], truth[1::2]), len(truth) // 2)})
    true = sharpness([case.target for case in asked]).mean()
    crisp = _figure(bench, f"{title}: sharpness", {name: sharpness(parts) / true for name, parts in outputs.items()})
    return [of_set, crisp.judged("{:g} to {:g}".format(*SHARP), SHARP[0] <= crisp.value <= SHARP[1])]


def _by_seed(bench: Bench, asked: Sequence[Case], parts: Sequence[Part]) -> list[Tensor]:
    """The judge's features [n, C] of each seed."""
    seen, seeds = bench.see(parts), sorted({case.about["of_seed"] for case in asked})
    return [seen[[i for i, case in enumerate(asked) if case.about["of_seed"] == seed]] for seed in seeds]


def _figure(bench: Bench, title: str, values: Mapping[str, np.ndarray]) -> Figure:
    """The mean of the first system's values beside the others'."""
    (_, ours), *others = values.items()
    return mean(title, ours, dict(others), seed=bench.seed)
