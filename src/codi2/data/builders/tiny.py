"""The items of the `tiny` corpus as records: media from captions, and captions of media."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from codi2.data.builders.contract import BadRecord, Builder, Draft, Raw, Unit
from codi2.data.builders.lines import ranges
from codi2.data.builders.paired import Paired, paired
from codi2.data.drafts import moving, picture, sound
from codi2.data.items import Corpus, Item, load_corpus

ITEMS = 1_000  # of a unit


@dataclass(frozen=True)
class Options(Paired):
    splits: str = "train"
    """Of the corpus: `train`, or `test_family,test_subject`, …"""


class Tiny(Builder):
    about = "the corpus of `tiny`: pictures, sounds and clips from captions, and captions of them"
    reads = "the tiny corpus, as written by `codi2 data build tiny`"
    Options = Options

    @cached_property
    def _corpus(self) -> Corpus:
        return load_corpus(self.source)

    @property
    def version(self) -> str:
        return self._corpus.version

    @cached_property
    def _items(self) -> list[Item]:
        splits = {name.strip() for name in self.options.splits.split(",")}
        return [item for item in self._corpus.items if item.split in splits]

    def units(self) -> list[dict[str, Any]]:
        return ranges(len(self._items), ITEMS)

    def read(self, unit: Unit) -> Iterator[Raw | BadRecord]:
        for item in self._items[unit["start"] : unit["stop"]]:
            media = self._corpus.media(item)
            yield Raw(item.id, (item, media), (media.tobytes(), item.caption))

    def make(self, raw: Raw, draw: np.random.Generator) -> Iterator[Draft]:
        item, media = raw.entry
        medium = {"image": picture, "audio": sound, "video": moving}[item.modality](media)
        meta = {"concept": item.concept, "style": item.style, "attribution": item.attribution}
        yield from paired(medium, item.caption, draw, self.options.ways, item.licence, meta)
