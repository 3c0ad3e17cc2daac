"""Animated emoji, drawn by the makers of the `fluent3d` rendering."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

from codi2.data.labels import with_article
from codi2.data.prepare import read_clip
from codi2.data.raw import CorpusSource, RawItem
from codi2.data.sources.emoji import labelled

_FOLDERS = [f"lobehub-fluent-emoji-anim-{number}-1.0.0/package/assets" for number in (1, 2, 3, 4)]


def read(root: Path) -> Iterator[RawItem]:
    """`root` holds the unpacked packages side by side. Skin tones and flags are left out, as in the other sets."""
    for code, name, subgroup, stems in labelled(root):
        paths = (root / folder / f"{stem.lower()}.webp" for folder in _FOLDERS for stem in stems)
        if (path := next((path for path in paths if path.exists()), None)) is not None:
            yield RawItem(
                key=code, modality="video", file=str(path.relative_to(root)), name=name, caption=with_article(name),
                category=subgroup, style="animated", group=code, load=partial(read_clip, path),
            )  # fmt: skip


SOURCE = CorpusSource("fluent-anim", "MIT", "Fluent Emoji, Microsoft", read)
