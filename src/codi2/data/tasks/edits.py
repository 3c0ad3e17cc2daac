"""Edits: by instruction, by one to four examples, by both."""

from __future__ import annotations

import numpy as np

from codi2.data.tasks.sampler import Task, TaskExample, TaskSampler, encoded, one_round
from codi2.data.templates import listing, write_prompt
from codi2.prompt.parts import Text

SHOTS = 4  # examples at most
NAMED = 0.25  # share of the examples beside which the instruction stands


def instructed(modality: str) -> Task:
    """A medium and an instruction → the medium edited."""

    def task(sampler: TaskSampler, draw: np.random.Generator) -> TaskExample:
        (item,) = sampler.items(modality, draw, 1)
        before = sampler.source(item, draw)
        edit, (after,) = sampler.change(modality, [before], draw)
        source = encoded(before)
        prompt = write_prompt("edit", draw, {"media": [source], "ask": edit.ask})
        return one_round(f"edit_{modality}", prompt, [encoded(after)], [item], source, change=edit.to_json())

    return task


def shown(modality: str, examples: int = 0) -> Task:
    """Pairs of media before and after an edit, and a medium → that medium edited alike.

    Args:
        examples: how many pairs; 0: a number is drawn, and at times the instruction stands beside them.
    """

    def task(sampler: TaskSampler, draw: np.random.Generator) -> TaskExample:
        shots = examples or 1 + int(draw.integers(SHOTS))
        items = sampler.items(modality, draw, shots + 1)
        befores = [sampler.source(item, draw) for item in items]
        edit, afters = sampler.change(modality, befores, draw)
        pairs = [[encoded(b), encoded(a)] for b, a in zip(befores[1:], afters[1:], strict=True)]
        source = encoded(befores[0])
        prompt = write_prompt("analogy", draw, {"pairs": listing(pairs, between=", "), "media": [source]})
        if not examples and draw.random() < NAMED:
            prompt = (*prompt, Text(f" In words: {edit.ask}."))
        about = {"change": edit.to_json(), "shots": shots}
        return one_round(f"analogy_{modality}", prompt, [encoded(afters[0])], items, source, **about)

    return task


INSTRUCTED: dict[str, Task] = {f"edit_{m}": instructed(m) for m in ("image", "audio")}
SHOWN: dict[str, Task] = {f"analogy_{m}": shown(m) for m in ("image", "audio")}
