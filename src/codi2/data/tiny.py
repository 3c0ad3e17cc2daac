"""Build the corpus of `tiny` from the fetched sources: the same sources and seed give the same bytes."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from codi2.data import fetch
from codi2.data.items import SCHEMA, Item, dump_items
from codi2.data.labels import concept_of, head_of
from codi2.data.prepare import CLIP, SIDE, clips, square
from codi2.data.sources import emoji, games, gcompris, scratch, sonic_pi, soundfont, stamps
from codi2.data.sources.raw import RawItem, Source
from codi2.data.split import assign, give_up_twins
from codi2.errors import DataError
from codi2.hub import atomic_path, home, write_atomic

SOURCES = (*emoji.SOURCES, stamps.SOURCE, scratch.SOURCE, gcompris.SOURCE, soundfont.SOURCE, sonic_pi.SOURCE,
           games.WESNOTH, games.ARCADE)  # fmt: skip


def build_tiny(seed: int = 0, sources: tuple[Source, ...] = SOURCES, root: Path | None = None) -> Path:
    """Read every source under `root` (default `<home>/sources`), split, and write `<home>/data/tiny`.

    Writes `items.jsonl`, `images.npy`, `sounds.npy` and, last, `build.json`.
    Raises `DataError` where a source is not fetched or yields nothing, `OutputError` where the folder is not writable.
    """
    root, folder = root or home() / "sources", home() / "data" / "tiny"
    items, images, sounds = _collect(root, sources)
    splits = give_up_twins(items, images, assign(items, seed))
    items = [replace(item, split=splits[item.id]) for item in items]
    lines = dump_items(items)
    write_atomic(folder / "build.json", b"{}")  # a build that dies half way is then refused, not read
    write_atomic(folder / "items.jsonl", lines)
    for name, array in (("images", images), ("sounds", sounds)):
        with atomic_path(folder / f"{name}.npy") as aside:
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


def _collect(root: Path, sources: tuple[Source, ...]) -> tuple[list[Item], np.ndarray, np.ndarray]:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description:<10}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    items: list[Item] = []
    images: list[np.ndarray] = []
    sounds: list[np.ndarray] = []
    with Progress(*columns) as progress:
        for source in sources:
            raws = _raws(source, root)
            for raw in progress.track(raws, description=source.name):
                rows = images if raw.modality == "image" else sounds
                for index, media in enumerate(_media(raw)):
                    items.append(_item(source, raw, index, len(rows)))
                    rows.append(media)
    pixels = np.asarray(images, np.uint8).reshape(-1, SIDE, SIDE, 3)
    return items, pixels, np.asarray(sounds, np.int16).reshape(-1, CLIP)


def _raws(source: Source, root: Path) -> list[RawItem]:
    try:
        raws = sorted(source.read(root), key=lambda raw: raw.key)
    except FileNotFoundError:
        raws = []
    if not raws:
        raise DataError(f"source {source.name} has no files under {root}: run `codi2 data fetch tiny`")
    return raws


def _media(raw: RawItem) -> Iterator[np.ndarray]:
    """The prepared picture, or the clips of the sound; nothing where it is blank or silent."""
    try:
        media = raw.load()
        if isinstance(media, Image.Image):
            pixels = square(media)
            if pixels.std() > 1:
                yield pixels
        else:
            for clip in clips(media):
                yield np.round(clip * 32767).astype(np.int16)
    except DataError:  # fully transparent
        return
    except (OSError, ValueError, RuntimeError) as error:
        raise DataError(f"cannot read {raw.file}: {error}; fetch the sources again") from error


def _item(source: Source, raw: RawItem, index: int, row: int) -> Item:
    concept = concept_of(raw.name)
    return Item(
        id=f"{source.name}/{raw.key}" + (f"#{index}" if index else ""), modality=raw.modality, row=row, file=raw.file,
        caption=raw.caption, concept=concept, family=f"{raw.category}/{head_of(concept, raw.category)}",
        style=raw.style, group=raw.group, subject=raw.subject, source=source.name, licence=source.licence,
        attribution=source.attribution, split="train",
    )  # fmt: skip
