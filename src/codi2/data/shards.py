"""WebDataset shards of records, each with an index beside it: any record takes one read at a known offset.

`image-000012.tar` is an ordinary WebDataset shard. `image-000012.npy` holds int64 [N + 1]: record i is the bytes from
the i-th to the next number. This module writes both, since webdataset's writer keeps no offsets and would import torch
(a second, 200 MB) in every worker of a build.
"""

from __future__ import annotations

import os
import tarfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from codi2.data.record import Record, Sample, from_sample
from codi2.errors import CoDi2Error, DataError
from codi2.hub import atomic_path
from codi2.untrusted import open_inside

_BLOCK = tarfile.BLOCKSIZE  # headers and contents are padded to this
_END = 2 * _BLOCK  # empty bytes at the end of a tar


@contextmanager
def write_shard(path: Path) -> Iterator[Callable[[Sample], None]]:
    """Yields the function that adds a record. The shard appears complete, its index before it, or not at all.

    Raises OutputError: the folder cannot be written, or the disk is full.
    """
    offsets = [0]
    with atomic_path(path) as aside, open(aside, "wb") as file:

        def add(sample: Sample) -> None:
            for name, data in sorted(sample.items()):
                if name != "__key__":
                    file.write(_header(f"{sample['__key__']}.{name}", len(data)))
                    file.write(data)
                    file.write(bytes(-len(data) % _BLOCK))
            offsets.append(file.tell())

        yield add
        file.write(bytes(_END))
        with atomic_path(index_of(path)) as index, open(index, "wb") as numbers:
            np.save(numbers, np.array(offsets, dtype=np.int64))


def _header(name: str, size: int) -> bytes:
    """Without time and user, so that the same records give the same bytes."""
    header = tarfile.TarInfo(name)
    header.size = size
    return header.tobuf(tarfile.USTAR_FORMAT)


def index_of(shard: Path) -> Path:
    """The index of a shard."""
    return shard.with_suffix(".npy")


class Shard:
    """An opened shard: `len(shard)`, `shard[i]`."""

    def __init__(self, path: Path) -> None:
        """Raises DataError: the shard or its index is missing or damaged, or they do not fit each other."""
        self.path = path
        try:
            self._offsets = np.load(index_of(path))
            self._file = open_inside(path.parent, path.name)
        except FileNotFoundError as error:
            raise DataError(f"there is no {error.filename}: build the data set again into the same folder") from error
        except CoDi2Error:
            raise
        except Exception as error:  # numpy parses a damaged header as Python and can raise any error
            raise DataError(f"the index of {path} is damaged ({error}): build the data set again") from error
        self._check(os.fstat(self._file.fileno()).st_size)

    def _check(self, size: int) -> None:
        """Raises DataError: the index does not divide a file of `size` bytes into records."""
        offsets = self._offsets
        valid = offsets.ndim == 1 and offsets.dtype == np.int64 and len(offsets) and offsets[0] == 0
        if not valid or (np.diff(offsets) < 2 * _BLOCK).any() or (offsets % _BLOCK).any():
            raise DataError(
                f"the index of {self.path} is damaged (its offsets do not increase): build the data set again"
            )
        if size != offsets[-1] + _END:
            state = "is cut off" if size < offsets[-1] + _END else "is too long"
            raise DataError(
                f"{self.path} {state}: it has {size:,} bytes, by its index {offsets[-1] + _END:,}; "
                "delete it and build again"
            )
        if any(os.pread(self._file.fileno(), _END, int(offsets[-1]))):
            raise DataError(f"{self.path} is damaged at its end; delete it and build again")

    def __len__(self) -> int:
        return len(self._offsets) - 1

    def __getitem__(self, i: int) -> Record:
        """Raises DataError: the bytes at the record's offset are not a record."""
        start, end = int(self._offsets[i]), int(self._offsets[i + 1])
        # pread, since a loader's forked workers share the open file and its position
        block = os.pread(self._file.fileno(), end - start, start)
        try:
            return from_sample(_members(block, end - start))
        except (tarfile.TarError, ValueError) as error:
            raise DataError(f"{self.path} is damaged at record {i} ({error}); delete it and build again") from error

    def __iter__(self) -> Iterator[Record]:
        return (self[i] for i in range(len(self)))

    def close(self) -> None:
        self._file.close()


def open_shards(folder: Path, report: Mapping[str, Any]) -> Iterator[Shard]:
    """The shards of a finished data set, one open at a time.

    Raises DataError: the number of records of a shard is not that of the report.
    """
    for entry in report["shards"]:
        shard = Shard(folder / entry["file"])
        if len(shard) != entry["records"]:
            raise DataError(
                f"{shard.path} holds {len(shard)} records, but {entry['records']} in the report: build again"
            )
        yield shard
        shard.close()


def _members(block: bytes, length: int) -> Sample:
    """The sample in a piece of a tar: `__key__`, and its members by name.

    Raises ValueError or TarError: the piece differs from the output of `write_shard`, be it in one bit of a header.
    """
    if len(block) < length:
        raise ValueError("it is cut off")
    sample: Sample = {}
    at = 0
    while at < length:
        head = block[at : at + _BLOCK]
        path, size = _named(head)
        if head != _header(path, size):
            raise ValueError(f"the header of {path[:80]!r} is damaged")
        start, at = at + _BLOCK, at + _BLOCK + -(-size // _BLOCK) * _BLOCK
        key, _, name = path.partition(".")
        if at > length or sample.setdefault("__key__", key) != key or name in sample:
            raise ValueError(f"{path[:80]!r} does not belong to this record")
        if any(block[start + size : at]):
            raise ValueError(f"there are unknown bytes after {path[:80]!r}")
        sample[name] = block[start : start + size]
    return sample


def _named(head: bytes) -> tuple[str, int]:
    """Path and size in a header, unchecked. Raises ValueError: it has no size."""
    path, size, folder = (head[a:b].partition(b"\0")[0] for a, b in ((0, 100), (124, 135), (345, 500)))
    return (folder + b"/" + path if folder else path).decode("utf-8", "surrogateescape"), int(size, 8)
