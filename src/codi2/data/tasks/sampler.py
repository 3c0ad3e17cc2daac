"""The items of some splits and the edits that these splits may use, for the tasks to draw from."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from codi2.data import edits
from codi2.data.chat import split_chats
from codi2.data.drafts import exchange, moving, picture, sound
from codi2.data.edits import Edit, HeldOut
from codi2.data.items import Corpus, Item
from codi2.data.record import Medium, Piece, Turn
from codi2.data.scene import is_cut_out
from codi2.data.world import ALL_RENDERINGS, World
from codi2.errors import DataError
from codi2.modalities import MEDIA

TRIES = 40  # draws until an edit changes what it is applied to
LEAST_MOTION = 0.1  # share of its motion that a clip keeps under an edit
TWICE = 0.2  # share of the edits that are two in a row
EDITED_BEFORE = 0.25  # share of the sources that are edited themselves
CUT_OUT = 0.8  # share of the pictures that are a thing on white
EDITED_ALIKE = 0.7  # share of the sets of pictures of one individual that have one edit in common


@dataclass(frozen=True)
class TaskExample:
    """The result of a task: a record before it has its key."""

    task: str
    turns: tuple[Turn, ...]
    items: Sequence[Item]
    edits: Medium | None = None
    """The given medium that the last answer edits; None: the answer edits nothing."""
    about: Mapping[str, Any] = field(default_factory=dict)


class TaskSampler:
    """Items of some splits of the corpus, as they are and edited.

    Args:
        splits: `("train",)`, `("val",)`, …
        held_out: see `edits.draw`.
    """

    def __init__(self, corpus: Corpus, splits: Sequence[str] = ("train",), held_out: HeldOut = "") -> None:
        self.corpus, self.trains, self.held_out = corpus, tuple(splits) == ("train",), held_out
        chosen = [item for item in corpus.items if item.split in splits]
        by_modality = {m: [item for item in chosen if item.modality == m] for m in MEDIA}
        self.world, self.clips = World(by_modality["image"], by_modality["audio"]), by_modality["video"]

    @cached_property
    def scenes(self) -> list[Item]:
        return [item for item in self.world.images if item.background]

    @cached_property
    def subjects(self) -> list[list[Item]]:
        """Pictures of one individual, two or more."""
        return [items for _, items in sorted(self.world.by["subject"].items()) if len(items) > 1]

    @cached_property
    def sounding(self) -> list[str]:
        """Concepts that have both pictures and sounds."""
        return sorted(self.world.sounds_of.keys() & self.world.by["concept"].keys())

    @cached_property
    def rendered(self) -> list[dict[str, Item]]:
        """Style → picture, of the emoji that exist in several sets."""
        groups = (
            {item.style: item for item in items if item.style in ALL_RENDERINGS}
            for items in self.world.by["group"].values()
        )
        return [group for group in groups if len(group) > 1]

    @cached_property
    def chats(self) -> list[tuple[str, str]]:
        """Questions with the base model's answers; training and the other splits share none."""
        training, held_out = split_chats()
        return training if self.trains else held_out

    def items(self, modality: str, draw: np.random.Generator, count: int) -> list[Item]:
        """Of different concepts; pictures are mostly things on white. Raises DataError: there are fewer."""
        if modality == "image" and draw.random() < CUT_OUT:
            return self.things(draw, count)
        pools = {"image": self.world.images, "audio": self.world.sounds, "video": self.clips}
        return distinct(draw, pools[modality], count)

    def things(self, draw: np.random.Generator, count: int) -> list[Item]:
        """Pictures of a thing on white, of different concepts. Raises DataError: there are fewer."""
        return distinct(draw, self.world.images, count, lambda item: not item.background and self._is_cut_out(item))

    def sounds(self, draw: np.random.Generator, count: int) -> list[Item]:
        """Of different concepts. Raises DataError: there are fewer."""
        return distinct(draw, self.world.sounds, count)

    def _is_cut_out(self, item: Item) -> bool:
        return is_cut_out(self.corpus.images[item.row])

    def individual(self, items: Sequence[Item], draw: np.random.Generator) -> list[np.ndarray]:
        """Pictures of one individual. In training they often have one edit in common, since there are few individuals.

        Raises DataError: no edit changes them.
        """
        arrays = [self.array(item) for item in items]
        return self.change("image", arrays, draw)[1] if self.trains and draw.random() < EDITED_ALIKE else arrays

    def array(self, item: Item) -> np.ndarray:
        """uint8 [64, 64, 3], int16 [40960] or uint8 [8, 64, 64, 3]."""
        return self.corpus.media(item)

    def source(self, item: Item, draw: np.random.Generator) -> np.ndarray:
        """The medium of an item that is to be edited; sometimes it is edited already."""
        media = self.array(item)
        if draw.random() < EDITED_BEFORE:
            return applied(edits.draw(edited_as(item.modality), draw), media)
        return media

    def edit(self, modality: str, draw: np.random.Generator) -> Edit:
        """One edit; in training sometimes two in a row."""
        kind = edited_as(modality)
        edit = edits.draw(kind, draw, self.held_out)
        if not self.held_out and draw.random() < TWICE:
            return edits.compose(edit, edits.draw(kind, draw))
        return edit

    def change(
        self, modality: str, media: Sequence[np.ndarray], draw: np.random.Generator
    ) -> tuple[Edit, list[np.ndarray]]:
        """An edit and all of `media` edited by it. It changes the first of them and, if there are several, one more.

        Raises DataError: no such edit was drawn.
        """
        for _ in range(TRIES):
            edit = self.edit(modality, draw)
            first, *others = (applied(edit, medium) for medium in media)
            if not is_visible(media[0], first) or not all(map(moves_as_much, media, (first, *others))):
                continue
            if not others or any(is_visible(before, after) for before, after in zip(media[1:], others, strict=True)):
                return edit, [first, *others]
        raise DataError(f"none of {TRIES} edits changes this {modality}: it is blank; rebuild the corpus")


def pick(draw: np.random.Generator, options: Sequence[Any]) -> Any:
    """One of the options. Raises DataError: there is none."""
    if not options:
        raise DataError("these splits of the corpus hold nothing of the kind that a task needs; name others")
    return options[int(draw.integers(len(options)))]


def distinct(
    draw: np.random.Generator, pool: Sequence[Item], count: int, fits: Callable[[Item], bool] = lambda item: True
) -> list[Item]:
    """Items of different concepts. Raises DataError: there are fewer."""
    item_of: dict[str, Item] = {}
    for _ in range(TRIES * count):
        item = pick(draw, pool)
        if item.concept not in item_of and fits(item):
            item_of[item.concept] = item
        if len(item_of) == count:
            return list(item_of.values())
    raise DataError(
        f"these splits of the corpus hold too few {pool[0].modality} items of different concepts: "
        f"a task needs {count}; use a larger corpus"
    )


def edited_as(modality: str) -> str:
    """The modality whose edits apply: clips are edited frame by frame."""
    return "audio" if modality == "audio" else "image"


def applied(edit: Edit, media: np.ndarray) -> np.ndarray:
    """An edited picture, sound or clip."""
    return np.stack([edit(frame) for frame in media]) if media.ndim == 4 else edit(media)


def is_visible(before: np.ndarray, after: np.ndarray) -> bool:
    """Whether a change is visible or audible; clips are compared by their first frame."""
    return edits.visible(before[0], after[0]) if before.ndim == 4 else edits.visible(before, after)


def moves_as_much(before: np.ndarray, after: np.ndarray) -> bool:
    """Whether an edited clip still moves: an edit may hide the part that does. True for pictures and sounds."""
    if before.ndim != 4:
        return True
    motion = [float(np.abs(np.diff(frames.astype(np.float32), axis=0)).mean()) for frames in (before, after)]
    return motion[1] >= LEAST_MOTION * motion[0]


def encoded(media: np.ndarray) -> Medium:
    """An array as a medium of a record; the number of axes decides the modality."""
    return {1: sound, 3: picture, 4: moving}[media.ndim](media)


def one_round(
    task: str,
    prompt: Sequence[Piece],
    answer: Sequence[Piece],
    items: Sequence[Item],
    edits: Medium | None = None,
    **about: Any,
) -> TaskExample:
    """A prompt and its answer."""
    return TaskExample(task, exchange(prompt, answer), items, edits, about)


Task = Callable[[TaskSampler, np.random.Generator], TaskExample]
"""Draws one example."""


__all__ = ["Task", "TaskExample", "TaskSampler", "applied", "distinct", "encoded", "is_visible", "one_round", "pick"]
