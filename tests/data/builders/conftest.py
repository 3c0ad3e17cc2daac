from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from codi2.data.build import Settings, build, load_report
from codi2.data.items import SCHEMA, Item, dump_items
from codi2.data.record import Record
from codi2.data.shards import open_shards
from codi2.data.tasks import RENDERINGS


@pytest.fixture
def built(tmp_path: Path) -> Callable[..., list[Record]]:
    """Build a source and read it back: `built("laion", folder, max_bad=1, option=…)`; records by key."""

    def run(name: str, source: Path, max_bad: float = 0.0, seed: int = 0, **options: Any) -> list[Record]:
        out = tmp_path / f"out-{name}-{len(list(tmp_path.glob('out-*')))}"
        build(Settings(name, str(source), str(out), seed, options), max_bad=max_bad)
        records = [record for shard in open_shards(out, load_report(out)) for record in shard]
        return sorted(records, key=lambda record: record.key)

    return run


@pytest.fixture
def rich_home(empty_home: Path) -> Path:
    """A small corpus with all that Tables 1 to 3 need: things, scenes, poses, renderings, sounds of things, moods."""
    draw = np.random.default_rng(0)
    items: list[Item] = []
    pictures, sounds = [], []

    def see(pixels: np.ndarray, **about: str) -> None:
        items.append(_item("image", len(pictures), **about))
        pictures.append(pixels)

    def hear(**about: str) -> None:
        time = np.arange(40_960) / 16_000
        wave = sum(np.sin(2 * np.pi * hertz * time) for hertz in draw.integers(150, 3000, 3)) * np.exp(-time)
        items.append(_item("audio", len(sounds), **about))
        sounds.append((wave / np.abs(wave).max() * 0.9 * 32767).astype(np.int16))

    for split in ("train", "test_family"):
        for n in range(8):
            name = f"{split} thing {n}"
            for style in RENDERINGS:
                see(_thing(draw), concept=name, style=style, group=name, split=split)
            for pose in range(3):
                see(_thing(draw), concept=name, style="cartoon", group=f"{name}/{pose}", subject=name, split=split)
            hear(concept=name, caption=f"a {name} sounding", split=split)
        for n in range(3):
            scenery = draw.integers(0, 256, (64, 64, 3)).astype(np.uint8)
            see(scenery, concept=f"scene {n}", family=f"background/scene {n}", style="photo", split=split)
        for caption in ("an owl hooting", "rain in a garden", "birds singing", "a campfire crackling"):
            hear(concept=caption, caption=caption, split=split)
    folder = empty_home / "data" / "tiny"
    folder.mkdir(parents=True)
    (folder / "items.jsonl").write_bytes(dump_items(items))
    (folder / "build.json").write_text(json.dumps({"schema": SCHEMA}))
    np.save(folder / "images.npy", np.stack(pictures))
    np.save(folder / "sounds.npy", np.stack(sounds))
    return empty_home


def _thing(draw: np.random.Generator) -> np.ndarray:
    """A figure of two blocks on white, unlike itself mirrored, turned or upside down."""
    pixels = np.full((64, 64, 3), 255, np.uint8)
    y, x = draw.integers(6, 16, 2)
    pixels[y : y + 40, x : x + 18] = draw.integers(20, 220, 3)
    pixels[y + 24 : y + 40, x : x + 34] = draw.integers(20, 220, 3)
    return pixels


def _item(modality: str, row: int, concept: str, split: str, **about: str) -> Item:
    plain = {
        "id": f"fixture/{modality}{row}", "file": "", "caption": f"a {concept}", "family": f"things/{concept}",
        "style": "recorded", "group": f"{modality}{row}", "subject": "", "source": "fixture", "licence": "CC0-1.0",
        "attribution": "",
    }  # fmt: skip
    return Item(modality=modality, row=row, concept=concept, split=split, **(plain | about))  # type: ignore[arg-type]
