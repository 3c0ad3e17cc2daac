"""Clips: what moves, from words or a still picture, and with its sound. Each function draws one record of a row."""

from __future__ import annotations

import numpy as np

from codi2.data.drafts import Draft
from codi2.data.prepare import FPS, FRAMES
from codi2.data.sound_transforms import RATE
from codi2.data.tables.factors import scaled, words
from codi2.data.tables.studio import Studio, draft, moving, pick, picture, sound
from codi2.data.templates import write_prompt

SIZE, LEAP = 0.65, 18  # of a thing that hops; the pixels that it leaps at its loudest
HIT_SECONDS = 0.3  # of a sound, once: shorter than a frame lasts


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


def onsets(draw: np.random.Generator) -> np.ndarray:
    """How loud a sound begins at each frame [FRAMES], 0 … 1: one to three times, at least two frames apart."""
    hits = np.zeros(FRAMES)
    count = 1 + int(draw.integers(3))
    hits[2 * draw.choice(FRAMES // 2, count, replace=False) + int(draw.integers(2))] = draw.uniform(0.6, 1, count)
    return hits


def struck(clip: np.ndarray, hits: np.ndarray) -> np.ndarray:
    """The loudest moment of a sound int16 [N], at each frame's beginning as loud as `hits` [FRAMES] says, 0 … 1."""
    frame, length = round(RATE / FPS), round(RATE * HIT_SECONDS)
    energy = np.concatenate([[0.0], np.cumsum(clip.astype(np.float64) ** 2)])
    at = int((energy[length:] - energy[:-length]).argmax())
    moment = clip[at : at + length].astype(np.float64)
    moment *= np.minimum(1, np.minimum(np.arange(length) / 80, np.arange(length)[::-1] / 1600))
    moment *= 0.7 * 32767 / max(1.0, float(np.abs(moment).max()))
    out = np.zeros(len(clip))
    for i in np.flatnonzero(hits):
        out[i * frame : i * frame + length] += hits[i] * moment
    return out.astype(np.int16)


def loudness(clip: np.ndarray) -> np.ndarray:
    """The envelope of a sound [N] over a clip's frames [FRAMES]: root mean squares, the loudest 1."""
    pieces = np.array_split(clip.astype(np.float64), FRAMES)
    heard = np.array([np.sqrt(np.mean(piece**2)) for piece in pieces])
    loud: np.ndarray = heard / max(float(heard.max()), 1e-9)
    return loud


def hopping(pixels: np.ndarray, height: np.ndarray) -> np.ndarray:
    """A picture uint8 [64, 64, 3] → frames [FRAMES, 64, 64, 3], smaller and as far up as `height` [FRAMES] says."""
    low = scaled(SIZE, dy=LEAP / 2 / len(pixels))(pixels)
    frames = np.full((FRAMES, *low.shape), 255, np.uint8)
    for frame, up in zip(frames, np.round(LEAP * height).astype(int), strict=True):
        frame[: len(low) - up] = low[up:]
    return frames
