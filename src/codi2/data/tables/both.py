"""Tables 2 and 3: sounds, and pictures with sounds. Each function draws one record of a row."""

from __future__ import annotations

import numpy as np

from codi2.data.drafts import Draft
from codi2.data.items import Item
from codi2.data.mixes import LEVELS_DB, overlay
from codi2.data.scene import scaled
from codi2.data.tables.factors import apply, words
from codi2.data.tables.pictures import SHOTS
from codi2.data.tables.steps import nearing
from codi2.data.tables.studio import Studio, draft, pick, picture, sound
from codi2.data.templates import listing, series, write_prompt

MOODS = {
    "night": ("owl", "wolf howling", "insects at night", "ghost", "cricket", "haunted", "zombie"),
    "rain": ("rain in a garden", "thunder", "drop of water", "dripping water"),
    "sunset": ("ball of fire", "campfire", "flame", "explosion", "fireworks"),
    "bright": ("birds", "bird tweeting", "garden music", "african music", "irish music", "light music", "rooster"),
    "sea": ("bubbles in water", "plunge into water", "waves at the seashore", "whale", "dolphin"),
    "winter": ("footsteps on ice", "tinkle bell", "ice rain"),
}
"""Light of a picture → what a sound's caption says when it has that mood."""


def overlaid(studio: Studio, draw: np.random.Generator) -> Draft:
    """Exemplars of a mix: a sound with another laid over it (rain), or taken away again; then another base."""
    shots = 1 + int(draw.integers(SHOTS))
    added, *bases = studio.sounds(draw, shots + 2)
    level = float(draw.uniform(*LEVELS_DB))
    pairs = [[sound(clip // 2), sound(overlay(clip, studio.clip(added), level))] for clip in map(studio.clip, bases)]
    taken = draw.random() < 0.4
    if taken:
        pairs = [pair[::-1] for pair in pairs]
    fields = {"pairs": listing(pairs[1:], between=", "), "media": [pairs[0][0]]}
    edit = "remove" if taken else "add"
    meta = {"edit": edit, "shots": shots, "level_db": round(level, 2)}
    given, answer = pairs[0]
    return draft("analogy_mix", write_prompt("analogy", draw, fields), [answer], [*bases, added], given, **meta)


def mixed(studio: Studio, draw: np.random.Generator) -> Draft:
    """Add, remove or replace by name, or fuse two given sounds."""
    base, one, other = studio.sounds(draw, 3)
    levels = [float(draw.uniform(*LEVELS_DB)) for _ in range(2)]
    alone = sound(studio.clip(base) // 2)
    first, second = (
        sound(overlay(studio.clip(base), studio.clip(extra), level))
        for extra, level in zip((one, other), levels, strict=True)
    )
    meta = {"levels_db": [round(level, 2) for level in levels]}
    match str(draw.choice(["add", "remove", "replace", "fuse"])):
        case "add":
            prompt = write_prompt("add", draw, {"caption": one.caption, "media": [alone]})
            return draft("add", prompt, [first], [base, one], alone, **meta)
        case "remove":
            prompt = write_prompt("remove", draw, {"caption": one.caption, "media": [first]})
            return draft("remove", prompt, [alone], [base, one], first, **meta)
        case "replace":
            fields = {"caption": one.caption, "other": other.caption, "media": [first]}
            prompt = write_prompt("replace", draw, fields)
            return draft("replace", prompt, [second], [base, one, other], first, **meta)
        case _:
            fields = {"media": [alone], "second": [studio.medium(one)]}
            return draft("fuse", write_prompt("fuse", draw, fields), [first], [base, one], **meta)


def concept(studio: Studio, draw: np.random.Generator) -> Draft:
    """Sounds that share an effect → another sound with it."""
    look = studio.changes.look("audio", draw, 1 + int(draw.integers(2)))
    target, *items = studio.sounds(draw, 3 + int(draw.integers(2)))
    fields = {"shots": series([studio.medium(item, look) for item in items]), "caption": target.caption}
    prompt = write_prompt("concept_audio", draw, fields)
    return draft("concept_audio", prompt, [studio.medium(target, look)], [target, *items], shared=look)


def by_mood(studio: Studio, draw: np.random.Generator) -> Draft:
    """Zero-shot: a picture edited by the mood of a sound."""
    moods = {
        mood: [s for s in studio.world.sounds if any(k in s.caption for k in keys)] for mood, keys in MOODS.items()
    }
    mood = pick(draw, [mood for mood, sounds in moods.items() if sounds])
    heard, seen = pick(draw, moods[mood]), _picture_to_light(studio, draw)
    given = studio.medium(seen)
    fields = {"media": [given], "sound": [studio.medium(heard)]}
    answer = [studio.medium(seen, {"light": mood})]
    return draft("edit_by_sound", write_prompt("edit_by_sound", draw, fields), answer, [seen, heard], given, mood=mood)


def _picture_to_light(studio: Studio, draw: np.random.Generator) -> Item:
    """A thing as often as a scene."""
    item: Item = pick(draw, studio.scenes) if draw.random() < 0.5 and studio.scenes else studio.things(draw, 1)[0]
    return item


def next_with_sound(studio: Studio, draw: np.random.Generator) -> Draft:
    """A thing that comes nearer or goes away, larger and louder or smaller and fainter → the next frame and sound."""
    concept_name = pick(draw, studio.sounding)
    seen = pick(draw, studio.world.by["concept"][concept_name])
    heard = pick(draw, studio.world.sounds_of[concept_name])
    length, nears = 2 + int(draw.integers(2)), draw.random() < 0.5
    sizes = nearing(length)
    frames = [
        (picture(scaled(float(size))(studio.pixels(seen))), sound((studio.clip(heard) * size**2).astype(np.int16)))
        for size in (sizes if nears else sizes[::-1])
    ]
    shots = listing([list(frame) for frame in frames[:-1]], between=", ", inside=" ")
    prompt = write_prompt("next_with_sound", draw, {"shots": shots})
    return draft("next_with_sound", prompt, frames[-1], [seen, heard], nears=nears)


def crossed(studio: Studio, draw: np.random.Generator) -> Draft:
    """Exemplars across modalities: pictures with their sounds in one voice → another picture's sound in it, or back."""
    shots = 1 + int(draw.integers(2))
    chosen = [studio.sounding[int(i)] for i in draw.choice(len(studio.sounding), shots + 1, replace=False)]
    seen = [pick(draw, studio.world.by["concept"][name]) for name in chosen]
    heard = [pick(draw, studio.world.sounds_of[name]) for name in chosen]
    to_sound = draw.random() < 0.6
    changed = "audio" if to_sound else "image"
    look = studio.changes.look(changed, draw, 1, without=frozenset({"geometry"}))  # the vibe that all examples have
    looks = [{}, look] if to_sound else [look, {}]
    pairs = [
        [picture(apply("image", studio.pixels(s), looks[0])), sound(apply("audio", studio.clip(h), looks[1]))]
        for s, h in zip(seen, heard, strict=True)
    ]
    if not to_sound:
        pairs = [pair[::-1] for pair in pairs]
    fields = {"pairs": listing(pairs[1:], between=", "), "media": [pairs[0][0]]}
    prompt = write_prompt("analogy_cross", draw, fields)
    meta = {"vibe": look, "words": words(changed, look), "shots": shots}
    return draft(f"analogy_cross_{changed}", prompt, [pairs[0][1]], [*seen, *heard], **meta)


def alive(studio: Studio, draw: np.random.Generator) -> Draft:
    """Pictures of one individual → it again, with its sound."""
    several = [items for items in studio.subjects if items[0].concept in studio.world.sounds_of]
    items = pick(draw, several) if several else [pick(draw, studio.world.by["concept"][pick(draw, studio.sounding)])]
    order = [items[int(i)] for i in draw.permutation(len(items))][:4]
    heard = pick(draw, studio.world.sounds_of[order[0].concept])
    shots = [studio.medium(item) for item in order[1:] or order]
    prompt = write_prompt("subject_alive", draw, {"shots": series(shots)})
    answer = [studio.medium(order[0]), studio.medium(heard)]
    return draft("subject_alive", prompt, answer, [*order, heard])


def counterpart(studio: Studio, draw: np.random.Generator) -> Draft:
    """The sound of a picture, or the picture of a sound."""
    name = pick(draw, studio.sounding)
    seen, heard = pick(draw, studio.world.by["concept"][name]), pick(draw, studio.world.sounds_of[name])
    media = [studio.medium(seen)], [studio.medium(heard)]
    if draw.random() < 0.5:
        prompt = write_prompt("sound_of_picture", draw, {"media": media[0]})
        return draft("sound_of_picture", prompt, media[1], [seen, heard])
    prompt = write_prompt("picture_of_sound", draw, {"media": media[1]})
    return draft("picture_of_sound", prompt, media[0], [seen, heard])
