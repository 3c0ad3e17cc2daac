"""Data sets of a few records for the stages of `configs/paper`: coloured pictures, tones, clips, and captions."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from PIL import Image as PILImage

from codi2.data.build import Settings, build

COLOURS = {"red": (220, 30, 30), "green": (30, 180, 40), "blue": (40, 60, 220), "white": (240, 240, 240)}
SETS = (
    "mimic-it", "laion", "audioset", "webvid", "instruct-pix2pix", "instruct-pix2pix-in-context", "audio-edits",
    "audio-edits-in-context", "open-images", "alpaca",
)  # fmt: skip
"""What the configs name; here each is the same few records, of which a step takes those of its phase."""


def write_data(home: Path) -> None:
    """Every data set and file of captions that the configs name, below `home`/data."""
    folder = home / "data"
    for name, seed in (("all", 0), ("all-held-out", 1)):
        _build(folder, name, _records(folder / f"raw-{name}", seed))
        for alias in SETS:
            (folder / alias.join(name.split("all"))).symlink_to(folder / name)
    for name, seed in (("clips-with-sound", 2), ("clips-with-sound-held-out", 3)):
        _build(folder, name, _clips_with_sound(folder / f"raw-{name}", seed))
    things = ("dog", "cat", "bell", "rain", "car", "bird", "river", "door")
    lines = [
        f"a {size} {colour} {thing}"
        for size in ("small", "large", "slow", "loud", "far", "wet")
        for colour in COLOURS
        for thing in things
    ]
    for modality in ("audio", "video"):
        (folder / f"captions-{modality}.txt").write_text("\n".join(lines) + "\n")


def _build(folder: Path, name: str, lines: Iterator[dict[str, Any]]) -> None:
    raw = folder / f"raw-{name}"
    raw.mkdir(parents=True)
    (raw / "list.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    build(Settings("jsonl", str(raw / "list.jsonl"), str(folder / name)))


def _records(raw: Path, seed: int) -> Iterator[dict[str, Any]]:
    """Captions both ways, edits and texts."""
    for n, (a, b) in enumerate([("red", "blue"), ("green", "white"), ("blue", "red")]):
        for kind in ("png", "wav", "webp"):
            files = [write(raw / f"{name}{n}.{kind}", name, seed + n) for name in (a, b)]
            yield {"file_name": files[0], "text": f"something {a}, number {n}"}
            yield {"file_name": files[1], "text": f"something {b}, number {n}"}
            yield {"source": files[0], "instruction": f"make it {b}", "target": files[1]}
        yield {"turns": [["user", f"Which colour follows {a}?"], ["assistant", b]]}


def _clips_with_sound(raw: Path, seed: int) -> Iterator[dict[str, Any]]:
    for n, name in enumerate(COLOURS):
        media = {"video0": f"{name}.webp", "audio0": f"{name}.wav"}
        for file in media.values():
            write(raw / file, name, seed + n)
        yield {"prompt": f"Show and play {name}.", "answer": "[video0][audio0]", "media": media}


def write(path: Path, colour: str, seed: int) -> str:
    """A picture, a sound or a clip of a colour, by the file's suffix; returns the file's name."""
    draw = np.random.default_rng(seed)
    if path.suffix == ".wav":
        time = np.arange(8_000) / 16_000
        tone = np.sin(2 * np.pi * (200 + 300 * list(COLOURS).index(colour)) * time)
        soundfile.write(path, 0.4 * tone + 0.01 * draw.standard_normal(len(time)), 16_000)
        return path.name
    frames = []
    for n in range(4):
        pixels = np.full((32, 40, 3), COLOURS[colour], np.uint8)
        pixels[4 * n : 4 * n + 8, 8:20] = draw.integers(0, 255, 3)
        frames.append(PILImage.fromarray(pixels))
    if path.suffix == ".png":
        frames[0].save(path)
    else:
        frames[0].save(path, save_all=True, append_images=frames[1:], duration=120, lossless=True)
    return path.name


SMALL = {
    "steps": 24, "batch_size": 8, "accumulate": 1, "warmup_steps": 2, "log_every": 8, "save_every": 100,
    "validate_every": 100, "diffusion_items": 4, "lookahead": 4, "lora_rank": 4,
}  # fmt: skip
RATES = {"captions": 3e-2, "llm": 1e-2, "published": 3e-3, "joint": 1e-2}


def small_configs(source: Path, out: Path, model: Path) -> Path:
    """The configs of a recipe with another model and other sizes; all else is as it stands there."""
    import re

    out.mkdir(parents=True)
    for path in sorted(source.glob("*.toml")):
        text = path.read_text().replace('model = "paper"', f'model = "{model}"')
        for key, value in SMALL.items():
            text = re.sub(rf"(?m)^{key} = .*$", f"{key} = {value}", text)
        part = next(part for part in RATES if f'part = "{part}"' in text)
        text = re.sub(r"(?m)^learning_rate = .*$", f"learning_rate = {RATES[part]}", text)
        (out / path.name).write_text(text.replace("keep = 2\n", "keep = 2\nnum_workers = 0\ntrackers = []\n"))
    return out
