"""`rounds`: five edits in one conversation. Does each keep what it should not change?

In every round a held-out picture is edited once more by instruction. The target of round r has all r edits. The answers
of a system that drifts become less and less similar to it; a copy of the first picture is a baseline.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

import numpy as np

from codi2.data import edits
from codi2.data.tasks.sampler import TRIES, TaskSampler, encoded, is_visible
from codi2.errors import DataError
from codi2.evaluate.baselines import round_trip
from codi2.evaluate.case import Case, System
from codi2.evaluate.closeness import closeness
from codi2.evaluate.context import BATCH, EvalContext
from codi2.evaluate.figure import Example, Findings, mean
from codi2.evaluate.suites.answers import copy, seeds_of
from codi2.model import Options
from codi2.prompt.layout import Message
from codi2.prompt.parts import Part, Text
from codi2.prompt.references import resolve_conversation
from codi2.prompt.sources import LAST, NONE

ROUNDS, NUMBER, EXAMPLES = 5, 40, 4
LAST_ROUND = 0.45  # EffNet-sim to the target that the last round should keep


def cases(context: EvalContext) -> list[Case]:
    """One for each round of each picture. Systems that play a conversation use the prompt of the first round only."""
    sampler, cases = TaskSampler(context.corpus, context.splits("test_family")), []
    for i in range(context.count(NUMBER)):
        draw = np.random.default_rng((context.seed, 13, i))
        (item,) = sampler.things(draw, 1)
        steps = edited(sampler.array(item), draw)
        first = encoded(sampler.array(item)).decode()
        for n, (edit, pixels) in enumerate(steps):
            prompt = (Text("Take "), first, Text(f" and {edit.ask}."))
            about = {"round": n + 1, "ask": edit.ask, "seed": ROUNDS * i + n}
            truth = {"target": encoded(pixels).decode(), "source": first}
            cases.append(Case(f"{i:03d}-{n + 1}", prompt, "image", truth, f"round {n + 1}", about, thread=f"{i:03d}"))
    return cases


def edited(pixels: np.ndarray, draw: np.random.Generator) -> list[tuple[edits.Edit, np.ndarray]]:
    """`ROUNDS` edits of different kinds, each of the picture before it, and what they give.

    Raises DataError: nothing changes the picture.
    """
    steps: list[tuple[edits.Edit, np.ndarray]] = []
    for _ in range(TRIES * ROUNDS):
        edit, before = edits.draw("image", draw), steps[-1][1] if steps else pixels
        after = edit(before)
        if edit.kind not in {step.kind for step, _ in steps} and is_visible(before, after):
            steps.append((edit, after))
        if len(steps) == ROUNDS:
            return steps
    raise DataError(f"no {ROUNDS} edits in a row change this picture; the corpus holds blank pictures")


def ours(context: EvalContext, cases: Sequence[Case], source: str = LAST) -> list[Part]:
    """Each picture's edits as rounds of one conversation with the model's own replies, as `Chat` plays it."""
    threads: dict[str, list[Case]] = {}
    for case in cases:
        threads.setdefault(case.thread, []).append(case)
    ordered = [sorted(rounds, key=lambda case: case.about["round"]) for rounds in threads.values()]
    answers: dict[str, Part] = {}
    for start in range(0, len(ordered), BATCH):
        batch = ordered[start : start + BATCH]
        messages: list[list[Message]] = [[] for _ in batch]
        for n in range(max(map(len, batch))):
            rows = [b for b, rounds in enumerate(batch) if n < len(rounds)]
            for b in rows:
                case = batch[b][n]
                messages[b].append(Message("user", (Text(f"Now {case.about['ask']}."),) if n else case.prompt))
            seeds = seeds_of(context, [batch[b][n] for b in rows])
            options = [Options(want="image", seed=seed, source=source) for seed in seeds]
            replies = context.model.answer([resolve_conversation(messages[b]) for b in rows], options)
            for b, reply in zip(rows, replies, strict=True):
                messages[b].append(Message("assistant", reply.parts))
                answers[batch[b][n].id] = reply.images[0]
    return [answers[case.id] for case in cases]


def exact(context: EvalContext, cases: Sequence[Case]) -> list[Part]:
    """The edits done exactly, but once through the codec in every round: what five rounds of coding alone lose."""
    outputs: list[Part] = []
    for case in cases:
        part = case.target
        for _ in range(case.about["round"]):
            (part,) = round_trip(context.decoder("image"), [part])
        outputs.append(part)
    return outputs


SYSTEMS: dict[str, System] = {
    "ours": ours,
    "ours, --source none": partial(ours, source=NONE),
    "exact edits through the codec": exact,
    "copy of the first picture": copy,
}


def score(context: EvalContext, cases: Sequence[Case], outputs: Mapping[str, Sequence[Part]]) -> Findings:
    """EffNet-sim to the target by round."""
    main, *others = outputs
    likeness = {name: closeness(context, [case.target for case in cases], parts) for name, parts in outputs.items()}
    figures = []
    for group in dict.fromkeys(case.group for case in cases):
        rows = [i for i, case in enumerate(cases) if case.group == group]
        beside = {name: likeness[name][rows] for name in others}
        figures.append(mean(f"{group}: EffNet-sim", likeness[main][rows], beside, seed=context.seed))
    figures[-1] = figures[-1].judged(f"≥ {LAST_ROUND:g}", figures[-1].value >= LAST_ROUND)
    examples = [
        Example(case.id, case.prompt, {"target": case.target, **{name: parts[i] for name, parts in outputs.items()}})
        for i, case in enumerate(cases[: EXAMPLES * ROUNDS])
    ]
    return Findings(figures, examples)
