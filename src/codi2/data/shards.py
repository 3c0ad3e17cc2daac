"""WebDataset shards of records, each with an index beside it: any record is one read at a known place.

`image-000012.tar` is an ordinary WebDataset shard. `image-000012.npy` holds int64 [N + 1]: record i lies in the bytes
from the i-th to the next number. Both are written here: webdataset's writer keeps no places, and would bring torch
(a second, 200 MB) into every worker of a build.
"""

from __future__ import annotations

import os
import tarfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from codi2.data.record import Record, from_sample, to_sample
from codi2.errors import DataError
from codi2.hub import atomic_path

_BLOCK = tarfile.BLOCKSIZE  # headers and contents are padded to this


@contextmanager
def write_shard(path: Path) -> Iterator[Callable[[Record], None]]:
    """Yields the function that adds a record. The shard appears whole, its index before it, or not at all.

    Raises OutputError: the folder cannot be written, or the disk is full.
    """
    places = [0]
    with atomic_path(path) as aside, open(aside, "wb") as file:

        def add(record: Record) -> None:
            sample = to_sample(record)
            key = sample.pop("__key__")
            for name, data in sorted(sample.items()):
                header = tarfile.TarInfo(f"{key}.{name}")  # no time, no user: the same records give the same bytes
                header.size = len(data)
                file.write(header.tobuf(tarfile.USTAR_FORMAT))
                file.write(data)
                file.write(bytes(-len(data) % _BLOCK))
            places.append(file.tell())

        yield add
        file.write(bytes(2 * _BLOCK))  # the end of a tar
        with atomic_path(index_of(path)) as index, open(index, "wb") as numbers:
            np.save(numbers, np.array(places, dtype=np.int64))


def index_of(shard: Path) -> Path:
    """The index of a shard."""
    return shard.with_suffix(".npy")


class Shard:
    """An opened shard: `len(shard)`, `shard[i]`."""

    def __init__(self, path: Path) -> None:
        """Raises DataError: the shard or its index is missing or damaged."""
        self.path = path
        try:
            self._places = np.load(index_of(path))
            self._file = open(path, "rb")  # noqa: SIM115 – closed with the shard
        except FileNotFoundError as error:
            raise DataError(f"there is no {error.filename}: build the data set again into the same folder") from error
        except (OSError, ValueError) as error:
            raise DataError(f"the index of {path} is damaged ({error}): build the data set again") from error

    def __len__(self) -> int:
        return len(self._places) - 1

    def __getitem__(self, i: int) -> Record:
        """Raises DataError naming the shard when the bytes at the record's place are not a record."""
        start, end = int(self._places[i]), int(self._places[i + 1])
        # a loader's forked workers share the open file: whoever moved its position would move everyone's
        block = os.pread(self._file.fileno(), end - start, start)
        if len(block) < end - start:
            raise DataError(
                f"{self.path} is cut off: record {i} should end at byte {end:,}, the file at {start + len(block):,}; "
                "delete it and build again"
            )
        try:
            return from_sample(_members(block))
        except tarfile.TarError as error:
            raise DataError(f"{self.path} is damaged at record {i} ({error}); delete it and build again") from error

    def __iter__(self) -> Iterator[Record]:
        return (self[i] for i in range(len(self)))

    def close(self) -> None:
        self._file.close()


def open_shards(folder: Path, report: Mapping[str, Any]) -> Iterator[Shard]:
    """The shards of a finished data set, one open at a time. Raises DataError: one holds more or less than reported."""
    for entry in report["shards"]:
        shard = Shard(folder / entry["file"])
        if len(shard) != entry["records"]:
            raise DataError(f"{shard.path} holds {len(shard)} records, the report says {entry['records']}: build again")
        yield shard
        shard.close()


def _members(block: bytes) -> dict[str, bytes | str]:
    """The sample in a piece of a tar: `__key__`, and its members by name."""
    sample: dict[str, bytes | str] = {}
    at = 0
    while at < len(block):
        header = tarfile.TarInfo.frombuf(block[at : at + _BLOCK], "utf-8", "surrogateescape")
        at += _BLOCK
        sample["__key__"], _, name = header.name.partition(".")
        sample[name] = block[at : at + header.size]
        at += -(-header.size // _BLOCK) * _BLOCK
    return sample
