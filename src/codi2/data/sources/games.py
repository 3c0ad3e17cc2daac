"""Sound effects of two games: Battle for Wesnoth and the Arcade library."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from codi2.data.labels import hand_label
from codi2.data.prepare import read_sound
from codi2.data.raw import CorpusSource, RawItem

_WESNOTH = "wesnoth-1.16-data/usr/share/games/wesnoth/1.16/data/core/sounds"
_ARCADE = "arcade-3.3.3/arcade/resources/assets/sounds"


def _read(root: Path, folder: str, section: str, pattern: str) -> Iterator[RawItem]:
    for path in sorted((root / folder).rglob(pattern)):
        # bow-miss, magic-holy-miss-2 and torch-miss are labelled as the hit unless the table names a miss
        stem = re.sub(r"-?\d+$", "", re.sub(r"-fire(?=-miss$|$)|-\d+(?=-miss)|-?\d+$", "", path.stem))
        label = hand_label(section, stem) or hand_label(section, stem.removesuffix("-miss"))
        if label is not None:
            yield RawItem(
                key=path.stem, modality="audio", file=str(path.relative_to(root)), name=label[0], caption=label[1],
                category=f"{section}-effect", style="recorded", group=f"{section}/{path.stem}",
                load=partial(read_sound, path),
            )  # fmt: skip


def read_wesnoth(root: Path) -> Iterator[RawItem]:
    return _read(root, _WESNOTH, "wesnoth", "*.ogg")


def read_arcade(root: Path) -> Iterator[RawItem]:
    return _read(root, _ARCADE, "arcade", "*.wav")


WESNOTH = CorpusSource("wesnoth", "GPL-2.0-or-later", "The Battle for Wesnoth and its contributors", read_wesnoth)
ARCADE = CorpusSource("arcade", "CC0-1.0", "Python Arcade library resources, mostly by Kenney", read_arcade)
