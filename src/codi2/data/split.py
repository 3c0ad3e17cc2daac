"""The one split: seeded, by head noun, by individual and by rendering, never by file.

- `test_family`: whole head nouns, in every source and modality, so no near-duplicate of them is in training.
- `test_subject`: whole individuals of the cartoons.
- `test_rendering`: one rendering of a known emoji; one whole recording of a known sound; the clip of a known emoji.
- `val`: two in a hundred of the rest, by (concept, style) and by recording.

A held-out picture that has a twin in training all the same (the mage and the man mage of one hand) goes to training.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable

import numpy as np

from codi2.data.items import Item, Split
from codi2.data.labels import tables

EMOJI_STYLES = ("openmoji", "google", "twitter", "fluent3d")
_FAMILY_EMOJI = 140  # held-out emoji that exist in all four renderings
_LARGEST_HEAD = 16  # emoji; a larger head would be most of the held-out set
_LARGEST_HEARD = 6  # recordings
_SOUND_SHARE = 0.06  # of the heads that are heard
_SUBJECT_SHARE = 0.15
_RENDERINGS = 250
_MOVING_SHARE = 0.1  # of the clips
_VAL_SHARE = 0.02
_TWIN_RMS = 6.0  # of 255, over averages of 2×2 pixels: no more than a recoloured detail


def _shuffled(values: Iterable[str], seed: int) -> list[str]:
    """By hash, not by position, so that an item more or less leaves the others on their side."""
    return sorted(set(values), key=lambda value: hashlib.sha256(f"{seed}:{value}".encode()).digest())


def _held_out_heads(items: list[Item], complete: set[str], seed: int) -> set[str]:
    protected = set(tables()["split"]["protected"])
    emoji: dict[str, set[str]] = defaultdict(set)
    for item in items:
        if item.group in complete:
            emoji[item.head].add(item.group)
    recordings: dict[str, set[str]] = defaultdict(set)
    for item in items:
        if item.modality == "audio":
            recordings[item.head].add(item.group)
    heard = set(recordings)
    held: set[str] = set()
    count = 0
    for head in _shuffled(emoji.keys() - heard - protected, seed):
        if len(emoji[head]) <= _LARGEST_HEAD and count + len(emoji[head]) <= _FAMILY_EMOJI:
            held.add(head)
            count += len(emoji[head])
    free = _shuffled((h for h in heard - protected if len(recordings[h]) <= _LARGEST_HEARD), seed)
    return held | set(free[: round(_SOUND_SHARE * len(heard))])


def _held_out_subjects(items: list[Item], seed: int) -> set[str]:
    """The same share of the individuals seen in several poses and of those seen once."""
    poses: dict[str, int] = defaultdict(int)
    for item in items:
        poses[item.subject] += bool(item.subject)
    held: set[str] = set()
    for several in (True, False):
        names = _shuffled((s for s, n in poses.items() if s and (n > 1) == several), seed)
        held |= set(names[: round(_SUBJECT_SHARE * len(names))])
    return held


def assign(items: list[Item], seed: int) -> dict[str, Split]:
    """Item id → split."""
    styles: dict[str, set[str]] = defaultdict(set)
    for item in items:
        if item.style in EMOJI_STYLES:
            styles[item.group].add(item.style)
    complete = {group for group, seen in styles.items() if len(seen) == len(EMOJI_STYLES)}
    heads, subjects = _held_out_heads(items, complete, seed), _held_out_subjects(items, seed)
    split: dict[str, Split] = {}
    for item in items:
        if item.head in heads:
            split[item.id] = "test_family"
        elif item.subject in subjects:
            split[item.id] = "test_subject"
    rest = [item for item in items if item.id not in split]

    known = _shuffled((item.group for item in rest if item.group in complete), seed)[:_RENDERINGS]
    hidden = {(group, _shuffled((f"{style} {group}" for style in EMOJI_STYLES), seed)[0].split()[0]) for group in known}
    recordings: dict[str, set[str]] = defaultdict(set)
    for item in rest:
        if item.modality == "audio":
            recordings[item.concept].add(item.group)
    hidden |= {(_shuffled(groups, seed)[0], "") for groups in recordings.values() if len(groups) > 1}
    moving = _shuffled((item.group for item in rest if item.modality == "video"), seed + 1)
    hidden |= {(group, "animated") for group in moving[: round(_MOVING_SHARE * len(moving))]}
    for item in rest:
        if (item.group, "" if item.modality == "audio" else item.style) in hidden:
            split[item.id] = "test_rendering"
    rest = [item for item in rest if item.id not in split]

    for modality in ("image", "audio", "video"):
        units = _shuffled((_unit(item) for item in rest if item.modality == modality), seed)
        chosen = set(units[: round(_VAL_SHARE * len(units))])
        split |= {item.id: "val" for item in rest if item.modality == modality and _unit(item) in chosen}
    return {item.id: split.get(item.id, "train") for item in items}


def _unit(item: Item) -> str:
    return item.group if item.modality == "audio" else f"{item.concept}\t{item.style}"


def give_up_twins(items: list[Item], images: np.ndarray, split: dict[str, Split]) -> dict[str, Split]:
    """`split` with every held-out picture that training shows too moved there; `images` uint8 [N, side, side, 3]."""
    pictures = [item for item in items if item.modality == "image"]
    known = [item for item in pictures if split[item.id] == "train"]
    held = [item for item in pictures if split[item.id] != "train"]
    if not known or not held:
        return split
    theirs, ours = _small(images, known), _small(images, held)
    # |a - b|² = |a|² + |b|² - 2ab, so that one product compares all with all
    squares = (ours**2).sum(1)[:, None] + (theirs**2).sum(1) - 2 * ours @ theirs.T
    twin = squares.min(1) / ours.shape[1] < _TWIN_RMS**2
    return split | {item.id: "train" for item, has in zip(held, twin, strict=True) if has}


def _small(images: np.ndarray, items: list[Item]) -> np.ndarray:
    """Averages of 2×2 pixels of the items' pictures, float32 [n, numbers]."""
    pixels = images[[item.row for item in items]].astype(np.float32)
    n, height, width, channels = pixels.shape
    return pixels.reshape(n, height // 2, 2, width // 2, 2, channels).mean((2, 4)).reshape(n, -1)
