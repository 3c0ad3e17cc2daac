"""The rows of the paper's Tables 1 to 3, drawn from the `tiny` corpus."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from codi2.data.builders.contract import BadRecord, Builder, Draft, Raw, Unit
from codi2.data.builders.lines import ranges
from codi2.data.items import load_corpus
from codi2.data.tables import both, clips, pictures
from codi2.data.tables.studio import Row, Studio
from codi2.errors import ConfigError

ROWS: dict[str, Row] = {
    # Table 1
    "edit_image": pictures.edit("image"),
    "compose": pictures.composition,
    "next_image": pictures.following,
    "analogy_image": pictures.analogy("image"),
    "analogy_rendering": pictures.rendering,
    "concept_image": pictures.concept,
    "subject": pictures.poses,
    # Table 2
    "edit_audio": pictures.edit("audio"),
    "mix": both.mixed,
    "analogy_audio": pictures.analogy("audio"),
    "analogy_mix": both.overlaid,
    "concept_audio": both.concept,
    # Table 3
    "edit_by_sound": both.by_mood,
    "next_with_sound": both.next_with_sound,
    "analogy_cross": both.crossed,
    "subject_alive": both.alive,
    "counterpart": both.counterpart,
    "animate": clips.animated,
    "clip_from_words": clips.from_words,
    "clip_with_sound": clips.with_sound,
    "clip_in_time": clips.in_time,
    "edit_video": pictures.edit("video"),
    "analogy_video": pictures.analogy("video"),
    "described_video": pictures.described("video"),
    "described_image": pictures.described("image"),
    "described_audio": pictures.described("audio"),
    # text answers over several media
    "difference_image": pictures.difference("image"),
    "difference_audio": pictures.difference("audio"),
    # from words only, so that a model trained on the rows does not forget them
    "picture_from_words": pictures.from_words("image"),
    "sound_from_words": pictures.from_words("audio"),
}
DRAWS = 500  # of a unit


@dataclass(frozen=True)
class Options:
    records: int = 20_000
    """Number of records to draw."""
    splits: str = "train"
    """Of the corpus: `train`, or `test_family,test_subject`, …"""
    held_out: bool = False
    """Whether changes have the held-out values (`HELD_OUT` of data/tables/factors.py)."""
    only: str = ""
    """Rows to draw, `next_image,compose`; a row named twice is drawn twice as often. Empty: all rows."""
    without: str = ""
    """Rows to leave out."""

    def rows(self) -> list[str]:
        """The rows to draw. Raises ConfigError: a row is unknown, or none is left."""
        only, without = (_names(text) for text in (self.only, self.without))
        if unknown := [name for name in (*only, *without) if name not in ROWS]:
            raise ConfigError(f"there is no row {unknown[0]!r}; there are {', '.join(ROWS)}")
        left = [name for name in (only or ROWS) if name not in without]
        if not left:
            raise ConfigError("the option `without` names every row; remove one")
        return left


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


class Tables(Builder):
    about = "every row of the paper's Tables 1 to 3, in factorial variation"
    reads = "the tiny corpus, as written by `codi2 data build tiny`"
    Options = Options

    def units(self) -> list[dict[str, Any]]:
        self.options.rows()
        _ = self._studio
        return ranges(self.options.records, DRAWS)

    @cached_property
    def _studio(self) -> Studio:
        return Studio(load_corpus(self.source), _names(self.options.splits), self.options.held_out)

    @property
    def version(self) -> str:
        return self._studio.corpus.version

    def read(self, unit: Unit) -> Iterator[Raw | BadRecord]:
        rows = self.options.rows()
        for i in range(unit["start"], unit["stop"]):
            yield Raw(f"draw-{i}", rows[i % len(rows)])

    def make(self, raw: Raw, draw: np.random.Generator) -> Iterator[Draft]:
        yield ROWS[raw.entry](self._studio, draw)
