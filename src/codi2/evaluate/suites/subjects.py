"""`subject` and `compose` on the tiny corpus (Table 4 left): likeness to what was given, nearness to the truth."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from codi2.data.record import decode_pieces
from codi2.data.tasks import pictures
from codi2.data.tasks.sampler import Task, TaskSampler
from codi2.evaluate.bench import Bench
from codi2.evaluate.case import Case
from codi2.evaluate.closeness import closeness
from codi2.evaluate.figure import Example, Findings, mean
from codi2.evaluate.suites.answers import copy, ours, without_source
from codi2.prompt.parts import Image, Part, Phrase, Prompt, Text

NUMBER, QUICK, EXAMPLES = 40, 4, 12
SPLITS = {"subject": ("test_subject",), "compose": ("test_family", "val")}
TASKS: dict[str, Task] = {"subject": pictures.subject, "compose": pictures.composed}


def cases(name: str) -> Callable[[Bench, bool], list[Case]]:
    """Examples of the task, drawn from held-out individuals or families."""

    def make(bench: Bench, quick: bool) -> list[Case]:
        sampler = TaskSampler(bench.corpus, bench.splits(*SPLITS[name]))
        if name == "compose":  # scenes are few, and the things on them are what is new
            sampler.scenes += [item for item in bench.corpus.select("image", "train") if item.background]
        made = []
        for i in range(QUICK if quick else NUMBER):
            example = TASKS[name](sampler, np.random.default_rng((bench.seed, 5, i)))
            prompt, (target,) = (decode_pieces(pieces) for _, pieces in example.turns)
            given = [part for part in prompt if isinstance(part, Image)]
            shown = example.items if name == "compose" else example.items[:1]
            about: dict[str, Any] = {"words": " on ".join(item.caption for item in shown), "given": given}
            made.append(
                Case(f"{example.task}-{i:03d}", prompt, "image", {"target": target, "source": given[0]}, name, about)
            )
        return made

    return make


def text_only(bench: Bench, some: Sequence[Case]) -> list[Part]:
    """The decoder alone, from the words' own feature: what can be drawn without having seen the subject."""
    features = bench.encode([Phrase(case.about["words"]) for case in some])
    slots = bench.num_slots("image")
    padded = features.new_zeros(len(some), slots, features.shape[-1])
    padded[:, : features.shape[1]] = features[:, :slots]
    blank: list[Prompt] = [(Text(case.about["words"]),) for case in some]
    return bench.decode(padded, blank, "image")


SYSTEMS = {
    "ours": ours,
    "ours, --source none": without_source,
    "decoder from words alone": text_only,
    "copy of the first picture": copy,
}


def score(bench: Bench, asked: Sequence[Case], outputs: Mapping[str, Sequence[Part]]) -> Findings:
    """Likeness to the pictures given (the mean over them), and nearness to the true answer."""
    main, *others = outputs
    likeness = {name: _likeness(bench, asked, parts) for name, parts in outputs.items()}
    near = {name: closeness(bench, [case.target for case in asked], parts) for name, parts in outputs.items()}
    figures = []
    for title, values in (("likeness to what was given", likeness), ("nearness to the true picture", near)):
        figures.append(mean(f"{title}: EffNet-sim", values[main], {n: values[n] for n in others}, seed=bench.seed))
    examples = [
        Example(case.id, case.prompt, {"target": case.target, **{name: parts[i] for name, parts in outputs.items()}})
        for i, case in enumerate(asked[:EXAMPLES])
    ]
    return Findings(figures, examples)


def _likeness(bench: Bench, asked: Sequence[Case], outputs: Sequence[Part]) -> np.ndarray:
    """[n]: the mean closeness of an output to each picture of its prompt."""
    pairs = [(picture, i) for i, case in enumerate(asked) for picture in case.about["given"]]
    near = closeness(bench, [picture for picture, _ in pairs], [outputs[i] for _, i in pairs])
    rows = np.array([i for _, i in pairs])
    return np.array([near[rows == i].mean() for i in range(len(asked))])
