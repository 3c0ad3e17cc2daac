"""Captions: a medium → words, words → a medium."""

from __future__ import annotations

import numpy as np

from codi2.data.tasks.sampler import Task, TaskExample, TaskSampler, encoded, one_round
from codi2.data.templates import write_prompt
from codi2.data.world import STYLES
from codi2.prompt.parts import Text

STYLED = 0.4  # share of the pictures from words whose words name the style
EDITED = 0.25  # share of the media from words that are edited, as the words describe


def described(modality: str) -> Task:
    """A medium → its caption."""

    def task(sampler: TaskSampler, draw: np.random.Generator) -> TaskExample:
        (item,) = sampler.items(modality, draw, 1)
        prompt = write_prompt(f"caption_{modality}", draw, {"media": [encoded(sampler.array(item))]})
        return one_round(f"caption_{modality}", prompt, [Text(item.caption)], [item])

    return task


def from_words(modality: str) -> Task:
    """A caption → a medium. The style and the individual, which the words leave open, differ from draw to draw."""

    def task(sampler: TaskSampler, draw: np.random.Generator) -> TaskExample:
        (item,) = sampler.items(modality, draw, 1)
        words, media = [item.caption], sampler.array(item)
        if item.style in STYLES and draw.random() < STYLED:
            words.append(STYLES[item.style])
        if draw.random() < EDITED:
            edit, (media,) = sampler.change(modality, [media], draw)
            words.append(edit.words)
        prompt = write_prompt(f"{modality}_from_caption", draw, {"caption": ", ".join(words)})
        return one_round(f"{modality}_from_caption", prompt, [encoded(media)], [item])

    return task


TASKS: dict[str, Task] = {
    "caption_image": described("image"),
    "caption_audio": described("audio"),
    "image_from_words": from_words("image"),
    "audio_from_words": from_words("audio"),
}
