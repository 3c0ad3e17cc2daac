"""The tasks that the language model and the prior are trained on, drawn on the fly from the `tiny` corpus.

    sampler = TaskSampler(load_corpus(), ("train",))
    record = draw_record(sampler, seed=0, number=17)

A record is a function of (corpus, splits, seed, number). Training draws only items of the split `train`, and no
held-out kinds of edits, values of edits or phrasings.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from codi2.data.record import Medium, Record, number_of
from codi2.data.tasks import captions, clips, edits, pictures, rounds, sounds, texts
from codi2.data.tasks.sampler import Task, TaskExample, TaskSampler
from codi2.errors import ConfigError, DataError

__all__ = ["FAMILIES", "WEIGHTS", "TaskSampler", "draw_record"]

FAMILIES: dict[str, dict[str, Task]] = {
    "captions": captions.TASKS,
    "instructions": edits.INSTRUCTED,
    "examples": edits.SHOWN,
    "pictures": pictures.TASKS,
    "sounds": sounds.TASKS,
    "clips": clips.TASKS,
    "texts": texts.TASKS,
    "rounds": rounds.TASKS,
}
"""Family → its tasks, which are drawn equally often."""

WEIGHTS: dict[str, float] = {
    "captions": 5, "instructions": 4, "examples": 3, "pictures": 3, "sounds": 4, "clips": 3, "texts": 2, "rounds": 4,
}  # fmt: skip
"""Family → its share of the records, unless a config sets another."""


TRIES = 200  # draws until a record answers with a medium


def draw_record(
    sampler: TaskSampler, seed: int, number: int, weights: Mapping[str, float] = WEIGHTS, media: bool = False
) -> Record:
    """One record.

    Args:
        weights: family → share.
        media: whether the last answer must hold a medium; a record without one is drawn again.
    Raises:
        ConfigError: a family is unknown, or no weight is positive.
        DataError: the training split holds too little for a task; other splits go without that task.
    """
    check_weights(weights)
    draw = np.random.default_rng((seed, number))
    names = list(weights)
    shares = np.array([weights[name] for name in names], dtype=np.float64)
    for _ in range(TRIES):
        family = FAMILIES[names[int(draw.choice(len(names), p=shares / shares.sum()))]]
        task = list(family.values())[int(draw.integers(len(family)))]
        try:
            record = to_record(task(sampler, draw), str(number))
        except DataError:
            if sampler.trains:
                raise
            continue  # the small splits lack what some tasks need
        if not media or any(isinstance(piece, Medium) for piece in record.turns[-1][1]):
            return record
    raise ConfigError(
        f"none of {TRIES} draws gave a record that answers with a medium; give a weight to families that do, "
        f"the weights are {dict(weights)}"
    )


def check_weights(weights: Mapping[str, float]) -> None:
    """Raises ConfigError: a family is unknown, a weight is negative, or all are zero."""
    if unknown := sorted(set(weights) - set(FAMILIES)):
        raise ConfigError(f"there is no family of tasks {unknown[0]!r}; the families are {', '.join(FAMILIES)}")
    if any(weight < 0 for weight in weights.values()) or not any(weights.values()):
        raise ConfigError(f"the weights of the tasks are {dict(weights)}; expected numbers of 0 or more, one above 0")


def to_record(example: TaskExample, key: str) -> Record:
    """An example with its key, its origin `tasks/KEY`, its licences and its items."""
    licence = "; ".join(sorted({item.licence for item in example.items})) or "Apache-2.0"  # the base model's own words
    meta: dict[str, Any] = {"items": [item.id for item in example.items], **example.about}
    edited = None if example.edits is None else number_of(example.edits, example.turns)
    return Record(key, example.task, example.turns, f"tasks/{key}", licence, meta, edited)
