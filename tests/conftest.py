import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from codi2.data.items import SCHEMA, Item, dump_items

MEDIA = Path(__file__).parents[1] / "examples" / "media"


@pytest.fixture
def media() -> Path:
    """The folder of real sample media."""
    return MEDIA


@pytest.fixture
def cli(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run the real command line in a process of its own and an empty folder: `cli("demo", CODI2_HOME=...)`."""

    def run(*arguments: object, **environment: object) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "codi2", *map(str, arguments)]
        env = os.environ | {"HF_HUB_OFFLINE": "1"} | {name: str(value) for name, value in environment.items()}
        return subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=env, timeout=300)

    return run


@pytest.fixture
def ran(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file that is made by whatever code of a model runs; asking on the terminal fails."""
    monkeypatch.setenv("CODI2_RAN", str(tmp_path / "ran"))
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("it asks a question"))
    return tmp_path / "ran"


STYLES = ("openmoji", "google", "twitter", "fluent3d")
SPLITS = {"train": 6, "test_rendering": 6, "test_family": 5, "val": 3}  # concepts each


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
    from codi2.data import cache

    for kept in (cache.corpus, cache.items, cache._row_keys):
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
    """A $CODI2_HOME with a small built corpus: concepts are colours and tones, held out as the real ones are."""
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
def rich_home(empty_home: Path) -> Path:
    """A small corpus with all that Tables 1 to 3 need: things, scenes, poses, renderings, sounds, moods, clips."""
    draw = np.random.default_rng(0)
    items: list[Item] = []
    pictures, sounds, clips = [], [], []

    def move(**about: str) -> None:
        """A thing that goes to the right and turns darker."""
        items.append(_item("video", len(clips), **about))
        still = _thing(draw)
        clips.append(np.stack([(np.roll(still, n, axis=1) * (1 - n / 20)).astype(np.uint8) for n in range(8)]))

    def see(pixels: np.ndarray, **about: str) -> None:
        items.append(_item("image", len(pictures), **about))
        pictures.append(pixels)

    def hear(**about: str) -> None:
        time = np.arange(40_960) / 16_000
        wave = sum(np.sin(2 * np.pi * hertz * time) for hertz in draw.integers(150, 3000, 3)) * np.exp(-time)
        items.append(_item("audio", len(sounds), **about))
        sounds.append((wave / np.abs(wave).max() * 0.9 * 32767).astype(np.int16))

    for split in ("train", "test_family", "test_rendering", "test_subject", "val"):
        for n in range(8):
            name = f"{split} thing {n}"
            for style in STYLES:
                see(_thing(draw), concept=name, style=style, group=name, split=split)
            for pose in range(3):
                see(_thing(draw), concept=name, style="cartoon", group=f"{name}/{pose}", subject=name, split=split)
            hear(concept=name, caption=f"a {name} sounding", split=split)
            move(concept=name, style="animated", group=name, split=split)
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
    np.save(folder / "clips.npy", np.stack(clips))
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
