"""Clips: described, from words, edited; from a still picture, in a named motion, with their sound, timed to it."""

from __future__ import annotations

import numpy as np

from codi2.data import motions
from codi2.data.tasks.captions import described, from_words
from codi2.data.tasks.edits import instructed, shown
from codi2.data.tasks.sampler import Task, TaskExample, TaskSampler, applied, encoded, one_round, pick
from codi2.data.templates import write_prompt

EDITED = 0.4  # share of the stills that are edited, the clip alike
DRAWN = 0.5  # share of the stills that are a picture of the corpus in a drawn motion, not a clip's own


def animated(sampler: TaskSampler, draw: np.random.Generator) -> TaskExample:
    """A still picture → the clip that it begins."""
    if draw.random() < DRAWN:
        (item,) = sampler.things(draw, 1)
        frames = motions.draw(sampler.array(item), draw)
    else:
        (item,) = sampler.items("video", draw, 1)
        frames = sampler.array(item)
    if draw.random() < EDITED:
        frames = applied(sampler.edit("video", draw), frames)
    still = encoded(frames[0])
    prompt = write_prompt("animate", draw, {"media": [still]})
    return one_round("animate", prompt, [encoded(frames)], [item], still)


def moving(sampler: TaskSampler, draw: np.random.Generator) -> TaskExample:
    """A thing and how it moves, in words → a clip of it."""
    (item,) = sampler.things(draw, 1)
    motion = str(draw.choice(list(motions.WORDS)))
    frames = motions.draw(sampler.array(item), draw, motion)
    prompt = write_prompt("video_from_caption", draw, {"caption": f"{item.caption} {motions.WORDS[motion]}"})
    return one_round("moving_from_words", prompt, [encoded(frames)], [item], motion=motion)


def with_sound(sampler: TaskSampler, draw: np.random.Generator) -> TaskExample:
    """A thing by its name → a clip of it and its sound."""
    clip = pick(draw, [item for item in sampler.clips if item.concept in sampler.world.sounds_of])
    sound = pick(draw, sampler.world.sounds_of[clip.concept])
    prompt = write_prompt("clip_with_sound", draw, {"caption": clip.caption})
    answer = [encoded(sampler.array(clip)), encoded(sampler.array(sound))]
    return one_round("clip_with_sound", prompt, answer, [clip, sound])


def in_time(sampler: TaskSampler, draw: np.random.Generator) -> TaskExample:
    """A thing by its name → a clip in which it hops at each onset of its sound, and the sound."""
    name = pick(draw, sampler.sounding)
    pictures = sampler.world.by["concept"][name]
    picture = pick(draw, [item for item in pictures if not item.background] or pictures)
    sound = pick(draw, sampler.world.sounds_of[name])
    frames, wave = motions.timed(sampler.array(picture), sampler.array(sound), draw)
    caption = f"{picture.caption} that hops whenever it is heard"
    prompt = write_prompt("clip_with_sound", draw, {"caption": caption})
    return one_round("clip_in_time", prompt, [encoded(frames), encoded(wave)], [picture, sound])


TASKS: dict[str, Task] = {
    "caption_video": described("video"),
    "video_from_words": from_words("video"),
    "edit_video": instructed("video"),
    "analogy_video": shown("video"),
    "animate": animated,
    "moving_from_words": moving,
    "clip_with_sound": with_sound,
    "clip_in_time": in_time,
}
