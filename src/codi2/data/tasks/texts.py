"""Answers in words alone: facts and plain conversation, what changed between two media, several captions in a row."""

from __future__ import annotations

import numpy as np

from codi2.data.drafts import exchange
from codi2.data.record import Turn
from codi2.data.tasks.sampler import Task, TaskExample, TaskSampler, encoded, one_round, pick
from codi2.data.templates import write_prompt
from codi2.prompt.parts import Text

CAPTIONS = 4  # in a row, at most


def chat(sampler: TaskSampler, draw: np.random.Generator) -> TaskExample:
    """A question → the base model's own answer, so that the adapters do not unlearn conversation in words."""
    question, answer = pick(draw, sampler.chats)
    return one_round("chat", [Text(question)], [Text(answer)], [])


def difference(modality: str) -> Task:
    """A medium before and after an edit → what changed, in words."""

    def task(sampler: TaskSampler, draw: np.random.Generator) -> TaskExample:
        (item,) = sampler.items(modality, draw, 1)
        before = sampler.source(item, draw)
        edit, (after,) = sampler.change(modality, [before], draw)
        fields = {"first": [encoded(before)], "second": [encoded(after)]}
        answer = f"{item.caption[:1].upper()}{item.caption[1:]}, now {edit.words}."
        prompt = write_prompt("difference", draw, fields)
        return one_round(f"difference_{modality}", prompt, [Text(answer)], [item], change=edit.to_json())

    return task


def described(modality: str) -> Task:
    """Several media, each described before the next is given."""

    def task(sampler: TaskSampler, draw: np.random.Generator) -> TaskExample:
        items = sampler.items(modality, draw, 2 + int(draw.integers(CAPTIONS - 1)))
        turns: list[Turn] = []
        for item in items:
            prompt = write_prompt(f"caption_{modality}", draw, {"media": [encoded(sampler.array(item))]})
            turns += exchange(prompt, [Text(item.caption)])
        return TaskExample(f"described_{modality}", tuple(turns), items)

    return task


TASKS: dict[str, Task] = {
    "chat": chat,
    "difference_image": difference("image"),
    "difference_audio": difference("audio"),
    "described_image": described("image"),
    "described_audio": described("audio"),
}
