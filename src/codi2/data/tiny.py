"""Build the corpus of `tiny` from the fetched sources: the same sources and seed give the same bytes."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from codi2.data import fetch
from codi2.data.items import ARRAYS, SCHEMA, Item, dump_items
from codi2.data.labels import concept_of, head_of
from codi2.data.prepare import CLIP, FRAMES, SIDE, clips, square, square_clip
from codi2.data.raw import CorpusSource, RawItem
from codi2.data.sources import animated, emoji, games, gcompris, iconify, scratch, sonic_pi, soundfont, stamps
from codi2.data.split import assign
from codi2.data.twins import give_up_twins
from codi2.errors import DataError
from codi2.hub import atomic_path, home, write_atomic
from codi2.progress import columns

SOURCES = (*emoji.SOURCES, stamps.SOURCE, scratch.SOURCE, gcompris.SOURCE, soundfont.SOURCE, sonic_pi.SOURCE,
           games.WESNOTH, games.ARCADE, animated.SOURCE, *iconify.SOURCES)  # fmt: skip
"""In the order of the corpus: a new source goes last, so that the rows of the others stay."""

STILL = 0.2
"""Mean change from frame to frame, of 255, below which a clip is a picture."""


def build_tiny(seed: int = 0, sources: tuple[CorpusSource, ...] = SOURCES, root: Path | None = None) -> Path:
    """Read every source under `root` (default `<home>/sources`), split, and write `<home>/data/tiny`.

    Writes `items.jsonl`, `images.npy`, `sounds.npy`, `clips.npy` and, last, `build.json`.
    Raises `DataError` where a source is not fetched or yields nothing, `OutputError` where the folder is not writable.
    """
    root, folder = root or home() / "sources", home() / "data" / "tiny"
    items, media = _collect(root, sources)
    splits = give_up_twins(items, media["image"], assign(items, seed))
    items = [replace(item, split=splits[item.id]) for item in items]
    lines = dump_items(items)
    write_atomic(folder / "build.json", b"{}")  # readers refuse a build that stopped half way
    write_atomic(folder / "items.jsonl", lines)
    for modality, array in media.items():
        with atomic_path(folder / ARRAYS[modality]) as aside:
            np.save(aside, array)
    about = {
        "schema": SCHEMA, "seed": seed, "sources": fetch.pinned(), "counts": count(items),
        "sha256_items": hashlib.sha256(lines).hexdigest(),
    }  # fmt: skip
    write_atomic(folder / "build.json", json.dumps(about, indent=1).encode())
    return folder


def count(items: list[Item]) -> dict[str, dict[str, int]]:
    """Items by `source modality` and by `split modality`."""
    by_source = Counter(f"{item.source} {item.modality}" for item in items)
    by_split = Counter(f"{item.split} {item.modality}" for item in items)
    return {"source": dict(sorted(by_source.items())), "split": dict(sorted(by_split.items()))}


def _collect(root: Path, sources: tuple[CorpusSource, ...]) -> tuple[list[Item], dict[str, np.ndarray]]:
    from rich.progress import Progress

    items: list[Item] = []
    rows: dict[str, list[np.ndarray]] = {modality: [] for modality in ARRAYS}
    with Progress(*columns()) as progress:
        for source in sources:
            raws = _raws(source, root)
            for raw in progress.track(raws, description=source.name):
                modality_rows = rows[raw.modality]
                for index, media in enumerate(_media(raw)):
                    items.append(_item(source, raw, index, len(modality_rows)))
                    modality_rows.append(media)
    shapes = {"image": (-1, SIDE, SIDE, 3), "audio": (-1, CLIP), "video": (-1, FRAMES, SIDE, SIDE, 3)}
    kinds = {"image": np.uint8, "audio": np.int16, "video": np.uint8}
    return items, {m: np.asarray(rows[m], kinds[m]).reshape(shapes[m]) for m in ARRAYS}


def _raws(source: CorpusSource, root: Path) -> list[RawItem]:
    try:
        raws = sorted(source.read(root), key=lambda raw: raw.key)
    except FileNotFoundError:
        raws = []
    if not raws:
        raise DataError(f"source {source.name} has no files under {root}: run `codi2 data fetch tiny`")
    return raws


def _media(raw: RawItem) -> Iterator[np.ndarray]:
    """The prepared picture or clip, or the cuts of the sound; blank, still and silent media are left out."""
    try:
        media: Any = raw.load()
        if raw.modality == "image":
            pixels = square(media)
            if pixels.std() > 1:
                yield pixels
        elif raw.modality == "video":
            frames = square_clip(media)
            if len(frames) == FRAMES and np.abs(np.diff(frames.astype(np.int16), axis=0)).mean() > STILL:
                yield frames
        else:
            for clip in clips(media):
                yield np.round(clip * 32767).astype(np.int16)
    except DataError:  # fully transparent
        return
    except (OSError, ValueError, RuntimeError) as error:
        raise DataError(f"cannot read {raw.file}: {error}; fetch the sources again") from error


def _item(source: CorpusSource, raw: RawItem, index: int, row: int) -> Item:
    concept = concept_of(raw.name)
    return Item(
        id=f"{source.name}/{raw.key}" + (f"#{index}" if index else ""), modality=raw.modality, row=row, file=raw.file,
        caption=raw.caption, concept=concept, family=f"{raw.category}/{head_of(concept, raw.category)}",
        style=raw.style, group=raw.group, subject=raw.subject, source=source.name, licence=source.licence,
        attribution=source.attribution, split="train",
    )  # fmt: skip
