"""Shards under damage: whatever bit of their headers or index is wrong, it is said, and no record is another."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from codi2.data.record import SCHEMA, Medium, Record, to_sample
from codi2.data.sets import load_report
from codi2.data.shards import Shard, index_of, write_shard
from codi2.errors import CoDi2Error, DataError
from codi2.prompt.parts import Text

BLOCK = 512


@pytest.fixture
def shard(tmp_path: Path) -> Path:
    path = tmp_path / "image-000000.tar"
    draw = np.random.default_rng(0)
    with write_shard(path) as add:
        for n in range(12):
            turns = (("user", (Text(f"Draw {n}."),)), ("assistant", (Medium("jpg", draw.bytes(700 + 90 * n)),)))
            add(to_sample(Record(f"r{n}", "own", turns, "made here", "CC0")))
    return path


def records(path: Path) -> list[Record]:
    return list(Shard(path))


def header_places(path: Path) -> list[int]:
    """Where each header begins: two a record."""
    import tarfile

    with tarfile.open(path) as archive:
        return [member.offset for member in archive]


def test_every_flip_in_a_header_is_found(shard: Path):
    whole, places, draw = shard.read_bytes(), header_places(shard), np.random.default_rng(1)
    assert len(places) == 24 and len(records(shard)) == 12
    for _ in range(300):
        data = bytearray(whole)
        data[int(draw.choice(places)) + int(draw.integers(BLOCK))] ^= 1 << int(draw.integers(8))
        shard.write_bytes(bytes(data))
        with pytest.raises(DataError, match=r"image-000000.tar is damaged at record \d+ .*; delete it and build again"):
            records(shard)


def test_every_flip_in_the_index_is_found(shard: Path):
    path, draw = index_of(shard), np.random.default_rng(2)
    whole, good = path.read_bytes(), records(shard)
    silent = 0
    for _ in range(300):
        data = bytearray(whole)
        data[int(draw.integers(len(data)))] ^= 1 << int(draw.integers(8))
        path.write_bytes(bytes(data))
        try:
            assert records(shard) == good  # a blank of the header of .npy
            silent += 1
        except DataError as error:
            assert "image-000000" in str(error)
    assert silent < 150


def test_every_cut_is_found(shard: Path):
    draw = np.random.default_rng(3)
    for path in (shard, index_of(shard)):
        whole = path.read_bytes()
        for n in {0, 1, len(whole) - 1, *draw.integers(len(whole), size=100).tolist()}:
            path.write_bytes(whole[:n])
            with pytest.raises(DataError, match="image-000000"):
                records(shard)
        path.write_bytes(whole)
    shard.write_bytes(shard.read_bytes() + bytes(BLOCK))
    with pytest.raises(DataError, match="is too long"):
        records(shard)


def test_an_index_of_fewer_or_other_records_is_found(shard: Path):
    places = np.load(index_of(shard))
    for other in (
        np.delete(places, 5),
        places[:-1],
        places[1:],
        np.roll(places, 1),
        places.astype(np.float64),
        places[:0],
    ):
        np.save(index_of(shard), other)
        with pytest.raises(DataError, match="image-000000"):
            records(shard)


@pytest.mark.parametrize("file", ["../../other.tar", "/etc/passwd", 5, None])
def test_a_report_that_names_other_files_is_refused(file: object, tmp_path: Path):
    report = {"schema": SCHEMA, "shards": [{"file": file, "phase": "image", "records": 1}]}
    (tmp_path / "build.json").write_text(json.dumps(report))
    with pytest.raises(CoDi2Error):
        load_report(tmp_path)
