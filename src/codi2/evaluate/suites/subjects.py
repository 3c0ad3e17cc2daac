"""`subject` and `compose` on the tiny corpus (Table 4 left): likeness to what was given, nearness to the truth."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from codi2.data.record import decode_pieces
from codi2.data.tasks import pictures
from codi2.data.tasks.sampler import Task, TaskSampler
from codi2.evaluate.case import Case
from codi2.evaluate.closeness import closeness
from codi2.evaluate.context import EvalContext
from codi2.evaluate.figure import Example, Findings, mean
from codi2.evaluate.suites.answers import copy, ours, without_source
from codi2.prompt.parts import Image, Part, Phrase, Prompt, Text

NUMBER, EXAMPLES = 40, 12
SPLITS = {"subject": ("test_subject",), "compose": ("test_family",)}
TASKS: dict[str, Task] = {"subject": pictures.subject, "compose": pictures.composed}


def cases(name: str) -> Callable[[EvalContext], list[Case]]:
    """Examples of the task, drawn from held-out individuals or families."""

    def make(context: EvalContext) -> list[Case]:
        sampler = TaskSampler(context.corpus, context.splits(*SPLITS[name]))
        if name == "compose":  # scenes are few, and the things on them are what is new
            sampler.scenes += [item for item in context.corpus.select("image", "train") if item.background]
        cases = []
        for i in range(context.count(NUMBER)):
            example = TASKS[name](sampler, np.random.default_rng((context.seed, 5, i)))
            prompt, (target,) = (decode_pieces(pieces) for _, pieces in example.turns)
            pictures_given = [part for part in prompt if isinstance(part, Image)]
            items = example.items if name == "compose" else example.items[:1]
            words = " on ".join(item.caption for item in items)
            about: dict[str, Any] = {"words": words, "given": pictures_given, "seed": i}
            cases.append(
                Case(
                    f"{example.task}-{i:03d}",
                    prompt,
                    "image",
                    {"target": target, "source": pictures_given[0]},
                    name,
                    about,
                )
            )
        return cases

    return make


def text_only(context: EvalContext, cases: Sequence[Case]) -> list[Part]:
    """The decoder alone, from the words' own feature: what can be drawn without having seen the subject."""
    features = context.encode([Phrase(case.about["words"]) for case in cases])
    slots = context.num_slots("image")
    padded = features.new_zeros(len(cases), slots, features.shape[-1])
    padded[:, : features.shape[1]] = features[:, :slots]
    blank: list[Prompt] = [(Text(case.about["words"]),) for case in cases]
    return context.decode(padded, blank, "image")


SYSTEMS = {
    "ours": ours,
    "ours, --source none": without_source,
    "decoder from words alone": text_only,
    "copy of the first picture": copy,
}


def score(context: EvalContext, cases: Sequence[Case], outputs: Mapping[str, Sequence[Part]]) -> Findings:
    """Likeness to the pictures given (the mean over them), and nearness to the true answer."""
    main, *others = outputs
    likeness = {name: _likeness(context, cases, parts) for name, parts in outputs.items()}
    nearness = {name: closeness(context, [case.target for case in cases], parts) for name, parts in outputs.items()}
    figures = []
    for title, values in (("likeness to what was given", likeness), ("nearness to the true picture", nearness)):
        figures.append(mean(f"{title}: EffNet-sim", values[main], {n: values[n] for n in others}, seed=context.seed))
    examples = [
        Example(case.id, case.prompt, {"target": case.target, **{name: parts[i] for name, parts in outputs.items()}})
        for i, case in enumerate(cases[:EXAMPLES])
    ]
    return Findings(figures, examples)


def _likeness(context: EvalContext, cases: Sequence[Case], outputs: Sequence[Part]) -> np.ndarray:
    """[n]: the mean closeness of an output to each picture of its prompt."""
    pairs = [(picture, i) for i, case in enumerate(cases) for picture in case.about["given"]]
    likeness = closeness(context, [picture for picture, _ in pairs], [outputs[i] for _, i in pairs])
    rows = np.array([i for _, i in pairs])
    return np.array([likeness[rows == i].mean() for i in range(len(cases))])
