"""A corpus of a few items, as `codi2 data build` writes one."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from codi2.data import cache
from codi2.data.items import SCHEMA, Item, dump_items

if TYPE_CHECKING:
    from codi2.evaluate.judge import Judge

STYLES = ("openmoji", "google", "twitter", "fluent3d")
SPLITS = {"train": 3, "test_rendering": 6, "test_family": 3}  # concepts each


def item(modality: str, row: int, concept: str, style: str, split: str) -> Item:
    return Item(
        id=f"fixture/{modality}{row}",
        modality=modality,
        row=row,
        file="",
        caption=f"a {concept}",
        concept=concept,
        family=f"things/{concept}",
        style=style,
        group=concept,
        subject="",
        source="fixture",
        licence="CC0-1.0",
        attribution="",
        split=split,
    )


def forget() -> None:
    for kept in (cache.corpus, cache.items, cache.mixes):
        kept.cache_clear()


@pytest.fixture
def empty_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A $CODI2_HOME without a corpus."""
    monkeypatch.setenv("CODI2_HOME", str(tmp_path / "home"))
    forget()
    yield tmp_path / "home"
    forget()


@pytest.fixture
def home(empty_home: Path) -> Path:
    """A $CODI2_HOME with a corpus: concepts as colours and tones, held out as the real ones are."""
    draw = np.random.default_rng(0)
    items, pictures, sounds = [], [], []
    for split, count in SPLITS.items():
        for n in range(count):
            concept, colour = f"{split} {n}", draw.integers(0, 255, 3)
            for style in STYLES if split != "test_rendering" else STYLES[:1]:
                picture = np.full((64, 64, 3), 255, np.uint8)
                side = 12 + 8 * STYLES.index(style)
                picture[32 - side // 2 : 32 + side // 2, 32 - side // 2 : 32 + side // 2] = colour
                items.append(item("image", len(pictures), concept, style, split))
                pictures.append(picture)
            wave = 0.9 * np.sin(2 * np.pi * draw.integers(100, 3000) * np.arange(40_960) / 16_000)
            items.append(item("audio", len(sounds), concept, "recorded", split))
            sounds.append((wave * 32767).astype(np.int16))
    folder = empty_home / "data" / "tiny"
    folder.mkdir(parents=True)
    (folder / "items.jsonl").write_bytes(dump_items(items))
    (folder / "build.json").write_text(json.dumps({"schema": SCHEMA, "sha256_items": "abc"}))
    np.save(folder / "images.npy", np.stack(pictures))
    np.save(folder / "sounds.npy", np.stack(sounds))
    return empty_home


@pytest.fixture
def judge(monkeypatch: pytest.MonkeyPatch) -> Judge:
    """A judge that sees the colours of nine fields; the suites find it in place of the downloaded one."""
    from torch import nn

    from codi2.evaluate import bench
    from codi2.evaluate.judge import Judge

    stub = Judge(nn.Sequential(nn.AdaptiveAvgPool2d(3), nn.Flatten(1), nn.Unflatten(1, (27, 1, 1))))
    monkeypatch.setattr(bench, "load_judge", lambda: stub)
    return stub
