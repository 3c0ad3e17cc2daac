"""Clips: from a still picture, with their sound, in time with it."""

from __future__ import annotations

import numpy as np

from codi2.data.tables import clips as rows
from codi2.data.tasks.sampler import Example, Task, TaskSampler, applied, encoded, of_row, one_round
from codi2.data.templates import write_prompt

EDITED = 0.4  # share of the stills that are edited, the clip alike


def animated(sampler: TaskSampler, draw: np.random.Generator) -> Example:
    """A still picture → the clip that it begins."""
    (item,) = sampler.items("video", draw, 1)
    frames = sampler.array(item)
    if draw.random() < EDITED:
        frames = applied(sampler.edit("video", draw), frames)
    still = encoded(frames[0])
    prompt = write_prompt("animate", draw, {"media": [still]})
    return one_round("animate", prompt, [encoded(frames)], [item], still)


TASKS: dict[str, Task] = {
    "animate": animated,
    "clip_with_sound": of_row(rows.with_sound),
    "clip_in_time": of_row(rows.in_time),
}
