"""Sounds: add, remove, replace and fuse, by words and by examples; sounds of pictures and pictures of sounds."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from codi2.data import edits
from codi2.data.edits import Edit
from codi2.data.items import Item
from codi2.data.mixes import LEVELS_DB, overlay
from codi2.data.record import Medium
from codi2.data.tasks import sequences
from codi2.data.tasks.pictures import shared
from codi2.data.tasks.sampler import Task, TaskExample, TaskSampler, applied, encoded, one_round, pick
from codi2.data.templates import listing, series, write_prompt

SHOTS = 4  # examples at most
REMOVED = 0.4  # share of the examples in which the second sound is taken away
SCENES = 0.5  # share of the pictures edited by a sound that are scenes


@dataclass(frozen=True)
class Mood:
    """The edit of a picture that fits a sound."""

    kind: str
    """Of the edit."""
    captions: tuple[str, ...]
    """Words; the caption of such a sound has one of them."""
    above: float = -np.inf
    """Lower bound of the edit's value, for kinds that go both ways."""

    def draw(self, rng: np.random.Generator) -> Edit:
        while True:
            edit = edits.draw_kind(self.kind, rng)
            if next(iter(edit.values.values())) > self.above:
                return edit


MOODS = (
    Mood("night", ("owl", "wolf howling", "insects at night", "ghost", "cricket", "haunted", "zombie")),
    Mood("rain", ("rain in a garden", "thunder", "drop of water", "dripping water")),
    Mood("temperature", ("ball of fire", "campfire", "flame", "explosion", "fireworks"), above=0),
    Mood("brightness", ("birds", "bird tweeting", "garden music", "african music", "light music", "rooster"), above=1),
    Mood("more_blue", ("bubbles in water", "plunge into water", "waves at the seashore", "whale", "dolphin"), above=0),
    Mood("snow", ("footsteps on ice", "tinkle bell", "ice rain")),
)


def mixed(name: str) -> Task:
    """Add, remove or replace a sound by its caption, or fuse two sounds of the prompt."""

    def task(sampler: TaskSampler, draw: np.random.Generator) -> TaskExample:
        base, added, other = sampler.sounds(draw, 3)
        levels = [float(draw.uniform(*LEVELS_DB)) for _ in range(2)]
        wave = sampler.array(base)
        alone = encoded(wave // 2)  # as loud as it is in a mix
        first, second = (
            encoded(overlay(wave, sampler.array(extra), level))
            for extra, level in zip((added, other), levels, strict=True)
        )
        items: list[Item] = [base, added]
        source: Medium | None
        match name:
            case "add":
                fields, source, answer = {"caption": added.caption, "media": [alone]}, alone, first
            case "remove":
                fields, source, answer = {"caption": added.caption, "media": [first]}, first, alone
            case "replace":
                fields = {"caption": added.caption, "other": other.caption, "media": [first]}
                source, answer, items = first, second, [base, added, other]
            case _:
                fields, source, answer = {"media": [alone], "second": [encoded(sampler.array(added))]}, None, first
        prompt = write_prompt(name, draw, fields)
        return one_round(name, prompt, [answer], items, source, levels_db=[round(level, 2) for level in levels])

    return task


def overlaid(sampler: TaskSampler, draw: np.random.Generator) -> TaskExample:
    """Examples of sounds with one sound added to each, or removed, and another sound → the same edit of that sound."""
    shots = 1 + int(draw.integers(SHOTS))
    added, *bases = sampler.sounds(draw, shots + 2)
    level, removes = float(draw.uniform(*LEVELS_DB)), draw.random() < REMOVED
    waves = [sampler.array(base) for base in bases]
    pairs = [[encoded(wave // 2), encoded(overlay(wave, sampler.array(added), level))] for wave in waves]
    pairs = [pair[::-1] for pair in pairs] if removes else pairs
    (source, answer), *others = pairs
    prompt = write_prompt("analogy", draw, {"pairs": listing(others, between=", "), "media": [source]})
    about = {"edit": "remove" if removes else "add", "shots": shots, "level_db": round(level, 2)}
    return one_round("analogy_mix", prompt, [answer], [*bases, added], source, **about)


def counterpart(sampler: TaskSampler, draw: np.random.Generator) -> TaskExample:
    """The sound of a picture, or the picture of a sound."""
    picture, sound = _thing_with_sound(sampler, draw)
    media = encoded(sampler.array(picture)), encoded(sampler.array(sound))
    if draw.random() < 0.5:
        prompt = write_prompt("sound_of_picture", draw, {"media": [media[0]]})
        return one_round("sound_of_picture", prompt, [media[1]], [picture, sound])
    prompt = write_prompt("picture_of_sound", draw, {"media": [media[1]]})
    return one_round("picture_of_sound", prompt, [media[0]], [picture, sound])


def _thing_with_sound(sampler: TaskSampler, draw: np.random.Generator) -> tuple[Item, Item]:
    """A picture and a sound of one concept."""
    name = pick(draw, sampler.sounding)
    return pick(draw, sampler.world.by["concept"][name]), pick(draw, sampler.world.sounds_of[name])


def alive(sampler: TaskSampler, draw: np.random.Generator) -> TaskExample:
    """Pictures of one individual → it once more, with its sound."""
    items = pick(draw, [items for items in sampler.subjects if items[0].concept in sampler.world.sounds_of])
    order = [items[int(i)] for i in draw.permutation(len(items))][:4]
    sound = pick(draw, sampler.world.sounds_of[order[0].concept])
    target, *shots = (encoded(array) for array in sampler.individual(order, draw))
    prompt = write_prompt("subject_alive", draw, {"shots": series(shots)})
    return one_round("subject_alive", prompt, [target, encoded(sampler.array(sound))], [*order, sound])


def edited_by_sound(sampler: TaskSampler, draw: np.random.Generator) -> TaskExample:
    """A picture and a sound → the picture edited by the sound's mood."""
    fitting = [
        (mood, sound)
        for mood in MOODS
        for sound in sampler.world.sounds
        if any(word in sound.caption for word in mood.captions)
    ]
    mood = pick(draw, sorted({mood for mood, _ in fitting}, key=MOODS.index))
    sound = pick(draw, [sound for other, sound in fitting if other is mood])
    scenic = sampler.scenes and draw.random() < SCENES
    picture = pick(draw, sampler.scenes) if scenic else sampler.things(draw, 1)[0]
    edit = mood.draw(draw)
    source = encoded(sampler.array(picture))
    answer = encoded(applied(edit, sampler.array(picture)))
    prompt = write_prompt("edit_by_sound", draw, {"media": [source], "sound": [encoded(sampler.array(sound))]})
    return one_round("edit_by_sound", prompt, [answer], [picture, sound], source, change=edit.to_json())


TASKS: dict[str, Task] = {
    **{name: mixed(name) for name in ("add", "remove", "replace", "fuse")},
    "analogy_mix": overlaid,
    "concept_audio": shared("audio"),
    "counterpart": counterpart,
    "subject_alive": alive,
    **sequences.WITH_SOUND,
    "edit_by_sound": edited_by_sound,
}
