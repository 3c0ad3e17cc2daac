"""Damaged sources: whatever byte is wrong, a build ends in records, a quarantine, or one sentence."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from codi2.data.build import Settings, build
from codi2.data.sets import load_report
from codi2.data.shards import open_shards
from codi2.errors import CoDi2Error

from . import official

SOURCES: dict[str, tuple[str, Callable[[Path], Path]]] = {
    "laion tars": ("laion", official.laion_tars),
    "laion files": ("laion", official.laion_files),
    "laion parquet": ("laion", official.laion_parquet),
    "audioset": ("audioset", official.audioset),
    "audio-edits": ("audio-edits-in-context", official.audioset),
    "webvid": ("webvid", official.webvid),
    "instruct-pix2pix": ("instruct-pix2pix", official.instruct_pix2pix),
    "in context": ("instruct-pix2pix-in-context", official.instruct_pix2pix),
    "instruct-pix2pix parquet": ("instruct-pix2pix", official.instruct_pix2pix_parquet),
    "mimic-it": ("mimic-it", official.mimic_it),
    "mimic-it parquet": ("mimic-it", lambda folder: official.mimic_it(folder, "parquet")),
    "mimic-it hub": ("mimic-it", official.mimic_it_hub),
    "open-images": ("open-images", official.open_images),
    "alpaca": ("alpaca", official.alpaca),
}
ROUNDS = 60
OTHERS = [None, 7, "x", [], {}, [None], {"a": 1}, True, "", 1e300]


def damage(path: Path, draw: np.random.Generator) -> None:
    """One file cut, with a few bytes changed, emptied, or, where it is JSON, with a value of another kind."""
    data = bytearray(path.read_bytes())
    kind = int(draw.integers(4))
    if kind == 0:
        data = data[: int(draw.integers(len(data) + 1))]
    elif kind == 1 and data:
        for _ in range(int(draw.integers(1, 6))):
            data[int(draw.integers(len(data)))] = int(draw.integers(256))
    elif kind == 2 and path.suffix in (".json", ".jsonl") and len(data) < 50_000:
        try:
            data = bytearray(json.dumps(changed(json.loads(data), draw)).encode())
        except ValueError:
            data = bytearray(data.replace(b": ", b":\x00 ", 1))
    else:
        data = bytearray()
    path.write_bytes(data)


def changed(value: object, draw: np.random.Generator) -> object:
    """JSON with one value, somewhere in it, of another kind."""
    if isinstance(value, (dict, list)) and value and draw.random() < 0.8:
        keys = list(value) if isinstance(value, dict) else list(range(len(value)))
        key = keys[int(draw.integers(len(keys)))]
        copy = value.copy()
        copy[key] = changed(copy[key], draw)  # type: ignore[index, call-overload]
        return copy
    return OTHERS[int(draw.integers(len(OTHERS)))]


@pytest.mark.slow
@pytest.mark.parametrize("name", SOURCES)
def test_a_damaged_source_never_breaks_a_build(name: str, tmp_path: Path):
    builder, make = SOURCES[name]
    whole = make(tmp_path / "whole")
    ends = []
    for n in range(ROUNDS):
        draw = np.random.default_rng((n, len(name)))
        source, out = tmp_path / f"source{n}", tmp_path / f"out{n}"
        shutil.copytree(whole, source)
        files = sorted(path for path in source.rglob("*") if path.is_file())
        for path in {files[int(draw.integers(len(files)))] for _ in range(2)}:
            damage(path, draw)
        try:
            build(Settings(builder, str(source), str(out)), max_bad=1)
            for shard in open_shards(out, load_report(out)):
                for record in shard:
                    record.messages()
            ends.append("built")
        except CoDi2Error as error:
            assert "\n" not in str(error).strip()
            ends.append("said")
        shutil.rmtree(source)
        shutil.rmtree(out, ignore_errors=True)
    assert "built" in ends or name in ("alpaca", "laion parquet")
