"""What the rows draw from: the corpus's media and how they hang together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

import numpy as np
from PIL import Image

from codi2.data.drafts import Draft, exchange, moving, picture, sound
from codi2.data.items import Corpus, Item
from codi2.data.prepare import FPS
from codi2.data.record import Medium, Piece
from codi2.data.scene import is_cut_out
from codi2.data.sound_transforms import RATE
from codi2.data.tables.changes import Changes
from codi2.data.tables.factors import Look, apply
from codi2.data.world import RENDERINGS, World
from codi2.errors import DataError
from codi2.prompt.parts import Audio, Part, Video
from codi2.prompt.parts import Image as Picture

_TRIES = 100


class Studio:
    """Items of some splits.

    Args:
        splits: which of the corpus's splits, e.g. `("train",)`.
        held_out: whether changes have the values that training is kept from.
    """

    def __init__(self, corpus: Corpus, splits: Sequence[str], held_out: bool = False) -> None:
        self.corpus, self.changes = corpus, Changes(held_out)
        chosen = [item for item in corpus.items if item.split in splits]
        self.world = World(
            [item for item in chosen if item.modality == "image"], [item for item in chosen if item.modality == "audio"]
        )
        self.clips = [item for item in chosen if item.modality == "video"]

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
        """Style → picture, of things that several hands have drawn."""
        groups = (
            {item.style: item for item in items if item.style in RENDERINGS}
            for items in self.world.by["group"].values()
        )
        return [group for group in groups if len(group) > 1]

    def pixels(self, item: Item, look: Look | None = None) -> np.ndarray:
        """uint8 [64, 64, 3]."""
        return apply("image", np.asarray(self.corpus.images[item.row]), look or {})

    def clip(self, item: Item, look: Look | None = None) -> np.ndarray:
        """int16 [40960]."""
        return apply("audio", np.asarray(self.corpus.sounds[item.row]), look or {})

    def frames(self, item: Item, look: Look | None = None) -> np.ndarray:
        """uint8 [8, 64, 64, 3]."""
        return apply("video", self.corpus.media(item), look or {})

    def medium(self, item: Item, look: Look | None = None) -> Medium:
        match item.modality:
            case "image":
                return picture(self.pixels(item, look))
            case "audio":
                return sound(self.clip(item, look))
        return moving(self.frames(item, look))

    def part(self, item: Item, look: Look | None = None) -> Part:
        """As a prompt holds it."""
        match item.modality:
            case "image":
                return Picture(Image.fromarray(self.pixels(item, look)))
            case "audio":
                return Audio(self.clip(item, look).astype(np.float32) / 32767, RATE)
        return Video(tuple(Image.fromarray(frame) for frame in self.frames(item, look)), FPS)

    def things(self, draw: np.random.Generator, count: int, among: Sequence[Item] | None = None) -> list[Item]:
        """Different pictures of a thing on white, each of another concept. Raises DataError: there are fewer."""
        pool = self.world.images if among is None else among
        found: dict[str, Item] = {}
        for _ in range(_TRIES * count):
            item = pick(draw, pool)
            if not item.background and is_cut_out(self.corpus.images[item.row]):
                found.setdefault(item.concept, item)
            if len(found) == count:
                return list(found.values())
        raise DataError(
            f"these splits of the corpus hold no {count} things on white of different concepts; name others"
        )

    def sounds(self, draw: np.random.Generator, count: int) -> list[Item]:
        """Sounds of different concepts. Raises DataError: there are fewer."""
        if len(self.world.sounds_of) < count:
            raise DataError(f"these splits of the corpus hold no {count} different sounds; name others")
        found: dict[str, Item] = {}
        while len(found) < count:
            item = pick(draw, self.world.sounds)
            found.setdefault(item.concept, item)
        return list(found.values())

    def moving(self, draw: np.random.Generator, count: int) -> list[Item]:
        """Clips of different concepts. Raises DataError: there are fewer."""
        found = {item.concept: item for item in (self.clips[int(i)] for i in draw.permutation(len(self.clips)))}
        if len(found) < count:
            raise DataError(f"these splits of the corpus hold no {count} clips of different things; name others")
        return list(found.values())[:count]

    def items(self, modality: str, draw: np.random.Generator, count: int) -> list[Item]:
        """Of different concepts. Raises DataError: there are fewer."""
        return {"image": self.things, "audio": self.sounds, "video": self.moving}[modality](draw, count)


def pick(draw: np.random.Generator, options: Sequence[Any]) -> Any:
    """One of the options. Raises DataError: there is none."""
    if not options:
        raise DataError("these splits of the corpus hold nothing of the kind that a row needs; name others")
    return options[int(draw.integers(len(options)))]


def draft(
    task: str,
    prompt: Sequence[Any],
    answer: Sequence[Piece],
    items: Sequence[Item],
    edits: Medium | None = None,
    /,
    **meta: Any,
) -> Draft:
    """A record with the licences of all items that went into it.

    Args:
        edits: the medium of the prompt that the answer edits; None: none.
    """
    licences = "; ".join(sorted({item.licence for item in items}))
    return Draft(task, exchange(prompt, answer), licences, {**meta, "items": [item.id for item in items]}, edits)


__all__ = ["Row", "Studio", "draft", "moving", "pick", "picture", "sound"]

Row = Callable[[Studio, np.random.Generator], Draft]
