"""Helpers for tests of feature stores."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from safetensors.torch import load_file

from codi2.data.sets import load_report
from codi2.data.shards import open_shards
from codi2.train.encoded import items_of, name_of
from codi2.train.features.encode import EncodingOptions, EncodingRun, default_folder, job_of

HERE = EncodingOptions(workers=0)


def encoding(data: Path, features: int | None = None, out: Path | None = None) -> EncodingRun:
    job = job_of(data, "debug", features)
    return EncodingRun(job, out or default_folder(job), HERE)


def pieces_of(data: Path, reads_words: bool = True) -> dict[bytes, Any]:
    """Name → medium or phrase of all that the records have."""
    shards = open_shards(data, load_report(data))
    return {name_of(p): p for shard in shards for record in shard for _, p in items_of(record, reads_words)}


def names_in(folder: Path) -> list[bytes]:
    """The names in the shards of a store, as often as they are there."""
    files = [load_file(path) for path in sorted((folder / "shards").glob("*.safetensors"))]
    return [bytes(row.tolist()) for file in files for key in file if key.endswith(".names") for row in file[key]]


def decoded(piece: Any) -> Any:
    return piece.decode() if hasattr(piece, "decode") else piece
