"""The one split: seeded, by head noun, by individual and by rendering, never by file.

- `test_family`: whole head nouns, in every source and modality, so no near-duplicate of them is in training.
- `test_subject`: whole individuals of the cartoons.
- `test_rendering`: one rendering of a known emoji; one whole recording of a known sound; the clip of a known emoji.
- `test_style`: one whole rendering, of all items that are not held out by head noun.
- `val`: two in a hundred of the rest, by (concept, style) and by recording.

`ADDED_RENDERINGS` have the same held-out heads and are otherwise split separately, so that the split of all other items
does not depend on them.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable

from codi2.data.items import Item, Split
from codi2.data.labels import tables
from codi2.data.world import ADDED_RENDERINGS, RENDERINGS, UNSEEN_RENDERING
from codi2.modalities import MEDIA

_FAMILY_EMOJI = 140  # held-out emoji that exist in all four renderings
_LARGEST_HEAD = 16  # emoji; a larger head would be most of the held-out set
_LARGEST_HEARD = 6  # recordings
_SOUND_SHARE = 0.06  # of the heads that are heard
_SUBJECT_SHARE = 0.15
_RENDERINGS = 250
_MOVING_SHARE = 0.1  # of the clips
_VAL_SHARE = 0.02


def _shuffled(values: Iterable[str], seed: int) -> list[str]:
    """In the order of their hashes, not by position: one more or fewer item leaves the split of the others as it is."""
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
    candidates = _shuffled((h for h in heard - protected if len(recordings[h]) <= _LARGEST_HEARD), seed)
    return held | set(candidates[: round(_SOUND_SHARE * len(heard))])


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
    first = [item for item in items if item.style not in ADDED_RENDERINGS]
    styles: dict[str, set[str]] = defaultdict(set)
    for item in first:
        if item.style in RENDERINGS:
            styles[item.group].add(item.style)
    complete = {group for group, seen in styles.items() if len(seen) == len(RENDERINGS)}
    heads, subjects = _held_out_heads(first, complete, seed), _held_out_subjects(first, seed)
    split: dict[str, Split] = {}
    for item in first:
        if item.head in heads:
            split[item.id] = "test_family"
        elif item.subject in subjects:
            split[item.id] = "test_subject"
    rest = [item for item in first if item.id not in split]

    known = _shuffled((item.group for item in rest if item.group in complete), seed)[:_RENDERINGS]
    hidden = {(group, _shuffled((f"{style} {group}" for style in RENDERINGS), seed)[0].split()[0]) for group in known}
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

    for modality in MEDIA:
        split |= _validation([item for item in rest if item.modality == modality], seed)
    split |= _assign_added([item for item in items if item.style in ADDED_RENDERINGS], heads, seed)
    return {item.id: split.get(item.id, "train") for item in items}


def _assign_added(items: list[Item], heads: set[str], seed: int) -> dict[str, Split]:
    """Item id → split, of the added renderings that are held out from training."""
    split: dict[str, Split] = {}
    for item in items:
        if item.head in heads:
            split[item.id] = "test_family"
        elif item.style == UNSEEN_RENDERING:
            split[item.id] = "test_style"
    rest = [item for item in items if item.id not in split]
    styles: dict[str, set[str]] = defaultdict(set)
    for item in rest:
        styles[item.group].add(item.style)
    for group in _shuffled(styles, seed + 2)[:_RENDERINGS]:
        style = _shuffled((f"{style} {group}" for style in styles[group]), seed)[0].split()[0]
        split |= {item.id: "test_rendering" for item in rest if (item.group, item.style) == (group, style)}
    return split | _validation([item for item in rest if item.id not in split], seed)


def _validation(items: list[Item], seed: int) -> dict[str, Split]:
    """Item id → `val`, of two in a hundred of the units."""
    units = _shuffled(map(_unit, items), seed)
    chosen = set(units[: round(_VAL_SHARE * len(units))])
    return {item.id: "val" for item in items if _unit(item) in chosen}


def _unit(item: Item) -> str:
    return item.group if item.modality == "audio" else f"{item.concept}\t{item.style}"
