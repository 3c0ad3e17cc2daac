"""Clips: what moves, from words or a still picture, and with its sound. Each function draws one record of a row."""

from __future__ import annotations

import numpy as np

from codi2.data.builders.contract import Draft
from codi2.data.tables.factors import words
from codi2.data.tables.studio import Studio, draft, pick, picture
from codi2.data.templates import write_prompt


def animated(studio: Studio, draw: np.random.Generator) -> Draft:
    """A still picture, one of a clip's own frames in any light → the clip that begins there."""
    (item,) = studio.items("video", draw, 1)
    look = studio.changes.look("video", draw, int(draw.random() < 0.4), without=frozenset({"time"}))
    clip = studio.medium(item, look)
    still = picture(studio.frames(item, look)[0])
    return draft("animate", write_prompt("animate", draw, {"media": [still]}), [clip], [item], look=look)


def from_words(studio: Studio, draw: np.random.Generator) -> Draft:
    """A caption, with what is seen of its look → a clip."""
    (item,) = studio.items("video", draw, 1)
    look = studio.changes.look("video", draw, int(draw.random() < 0.4))
    caption = ", ".join(part for part in (item.caption, words("video", look)) if part)
    prompt = write_prompt("video_from_caption", draw, {"caption": caption})
    return draft("video_from_caption", prompt, [studio.medium(item, look)], [item], look=look)


def with_sound(studio: Studio, draw: np.random.Generator) -> Draft:
    """A thing by its name → a clip of it and its sound."""
    heard_of = [item for item in studio.clips if item.concept in studio.world.sounds_of]
    seen = pick(draw, heard_of)
    heard = pick(draw, studio.world.sounds_of[seen.concept])
    prompt = write_prompt("clip_with_sound", draw, {"caption": seen.caption})
    return draft("clip_with_sound", prompt, [studio.medium(seen), studio.medium(heard)], [seen, heard])
