"""Clips: what moves, from words or a still picture, and with its sound. Each function draws one record of a row."""

from __future__ import annotations

import numpy as np

from codi2.data.drafts import Draft
from codi2.data.motions import hopping, loudness, onsets, struck
from codi2.data.tables.factors import words
from codi2.data.tables.studio import Studio, draft, moving, pick, picture, sound
from codi2.data.templates import write_prompt


def animated(studio: Studio, draw: np.random.Generator) -> Draft:
    """A still picture, one of a clip's own frames in any light → the clip that begins there."""
    (item,) = studio.items("video", draw, 1)
    look = studio.changes.look("video", draw, int(draw.random() < 0.4), without=frozenset({"time"}))
    clip = studio.medium(item, look)
    still = picture(studio.frames(item, look)[0])
    return draft("animate", write_prompt("animate", draw, {"media": [still]}), [clip], [item], still, look=look)


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


def in_time(studio: Studio, draw: np.random.Generator) -> Draft:
    """A thing by its name → a clip in which it hops whenever it is heard, and what is heard."""
    name = pick(draw, studio.sounding)
    cut_out = [item for item in studio.world.by["concept"][name] if not item.background]
    seen, heard = pick(draw, cut_out or studio.world.by["concept"][name]), pick(draw, studio.world.sounds_of[name])
    hits = onsets(draw)
    clip = struck(studio.clip(heard), hits)
    prompt = write_prompt("clip_with_sound", draw, {"caption": f"{seen.caption} that hops whenever it is heard"})
    answer = [moving(hopping(studio.pixels(seen), loudness(clip))), sound(clip)]
    return draft("clip_in_time", prompt, answer, [seen, heard], hits=hits.round(2).tolist())
