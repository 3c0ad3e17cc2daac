"""Indexes the media of a data set, each once, and plans in which shard of the store each will be.

First every shard of the data set is read once and the names of its media are written; processes share this work. Then
one process plans: of equal media the first in the order of the data set is encoded, with its shard, so that no process
encodes a medium twice. Memory is limited: names are compared in passes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np

from codi2.data.sets import load_report
from codi2.data.shards import Shard
from codi2.hub import atomic_path
from codi2.modalities import MEDIA
from codi2.train.encoded import items_of, name_of
from codi2.train.features.store import EncodingJob, bucket_of, halves, lookup_path

ENTRY = np.dtype([("high", "<u8"), ("low", "<u8"), ("modality", "<u1"), ("record", "<u4"), ("item", "<u4")])
"""A medium of a shard of the data set: its name, and its record and item in the shard."""
MODALITIES = (*MEDIA, "phrase")  # by number
SHARD_BYTES = 256 * 2**20  # approximate size of a shard of the store
AT_ONCE = 40_000_000  # names that are compared in one pass, in 1.5 GB


def shards_of(data: Path) -> tuple[tuple[Path, int], ...]:
    """The shards of a finished data set with their numbers of records, in order. Raises DataError."""
    return tuple((data / entry["file"], int(entry["records"])) for entry in load_report(data)["shards"])


def index_path(folder: Path, shard: Path) -> Path:
    return folder / "index" / f"{shard.stem}.npy"


def place_path(folder: Path, shard: Path) -> Path:
    return folder / "index" / f"{shard.stem}-place.npy"


def index_shard(job: EncodingJob, folder: Path, shard: Path) -> None:
    """Writes the index of one shard of the data set, each medium once. Raises DataError: the shard is damaged."""
    names: list[bytes] = []
    positions: list[tuple[int, int, int]] = []
    opened, seen = Shard(shard), set[bytes]()
    for number, record in enumerate(opened):
        for item, (_, piece) in enumerate(items_of(record, job.reads_words)):
            name = name_of(piece)
            if piece.modality in job.shapes and name not in seen:
                seen.add(name)
                names.append(name)
                positions.append((MODALITIES.index(piece.modality), number, item))
    opened.close()
    entries = np.zeros(len(names), ENTRY)
    if names:
        entries["high"], entries["low"] = halves(names)
        entries["modality"], entries["record"], entries["item"] = np.array(positions).T
    _save(index_path(folder, shard), entries)


@dataclass(frozen=True)
class StorePlan:
    """The contents of a store."""

    media: Mapping[str, int]  # modality → number of media
    shards: list[str]  # names of the store's shards
    bits: int  # number of leading bits of a name that select the file of `lookup`

    def bytes_of(self, job: EncodingJob) -> int:
        return sum(count * job.bytes_of(modality) for modality, count in self.media.items())


def plan(job: EncodingJob, folder: Path, at_once: int = AT_ONCE) -> StorePlan:
    """Chooses the place of every medium and writes it beside the index, for encoding, and in `lookup`, for reading."""
    indices = [index_path(folder, shard) for shard, _ in shards_of(Path(job.data))]
    total = sum(len(_load(path)) for path in indices)
    bits = (-(-max(total, 1) // at_once) - 1).bit_length()
    owned = [np.zeros(len(_load(path)), bool) for path in indices]
    for bucket in range(1 << bits):
        numbers, rows, entries = _bucket(indices, bucket, bits)
        first = _first_of_equal(entries)
        for number, run in _runs(numbers[first]):
            owned[number][rows[first[run]]] = True
    media = np.zeros(len(MODALITIES), np.int64)
    shards: list[str] = []
    for path, mine in zip(indices, owned, strict=True):
        kinds = _load(path)["modality"][mine]
        media += np.bincount(kinds, minlength=len(MODALITIES))
        places, count = _places(job, kinds, len(shards))
        all_places = np.full(len(mine), -1, np.int64)
        all_places[mine] = places
        _save(path.with_name(f"{path.stem}-place.npy"), all_places)
        shards += [f"{path.stem}-{part:03d}" for part in range(count)]
    for bucket in range(1 << bits):
        _write_lookup(folder, indices, bucket, bits)
    return StorePlan({m: int(n) for m, n in zip(MODALITIES, media, strict=True) if n}, shards, bits)


def _bucket(indices: Sequence[Path], bucket: int, bits: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The entries of a bucket in the order of the data set: number of the index, row in it, entry."""
    numbers, rows, entries = [], [], []
    for number, path in enumerate(indices):
        index = _load(path)
        mine = np.flatnonzero(bucket_of(index["high"], bits) == bucket)
        numbers.append(np.full(len(mine), number, np.int64))
        rows.append(mine)
        entries.append(index[mine])
    return np.concatenate(numbers), np.concatenate(rows), np.concatenate(entries)


def _first_of_equal(entries: np.ndarray) -> np.ndarray:
    """Rows of the entries whose name is not that of an earlier one, in order."""
    order = np.lexsort((entries["low"], entries["high"]))  # stable
    high, low = entries["high"][order], entries["low"][order]
    is_first = np.ones(len(order), bool)
    is_first[1:] = (high[1:] != high[:-1]) | (low[1:] != low[:-1])
    return np.sort(order[is_first])


def _runs(numbers: np.ndarray) -> Iterator[tuple[int, slice]]:
    """Each value of an ascending array, with the slice of its occurrences."""
    starts = np.flatnonzero(np.diff(numbers, prepend=-1))
    for start, stop in pairwise([*starts.tolist(), len(numbers)]):
        yield int(numbers[start]), slice(start, stop)


def _places(job: EncodingJob, kinds: np.ndarray, first: int) -> tuple[np.ndarray, int]:
    """int64 places, with the number of the store's shard in the upper half and the row of the modality in the lower
    half, and the number of shards."""
    sizes = np.array([job.bytes_of(m) if m in job.shapes else 0 for m in MODALITIES], np.int64)[kinds]
    parts = (sizes.cumsum() - sizes) // SHARD_BYTES
    # where a medium is larger than a shard, some numbers have no media: renumber without gaps
    parts = np.unique(parts, return_inverse=True)[1] if len(parts) else parts
    rows = np.zeros(len(kinds), np.int64)
    for part in range(int(parts.max(initial=-1)) + 1):
        for kind in range(len(MODALITIES)):
            mine = (parts == part) & (kinds == kind)
            rows[mine] = np.arange(mine.sum())
    return (parts + first) << 32 | rows, int(parts.max(initial=-1)) + 1


def _write_lookup(folder: Path, indices: Sequence[Path], bucket: int, bits: int) -> None:
    numbers, rows, entries = _bucket(indices, bucket, bits)
    places = np.full(len(entries), -1, np.int64)
    for number, run in _runs(numbers):
        places[run] = _load(indices[number].with_name(f"{indices[number].stem}-place.npy"))[rows[run]]
    placed = places >= 0
    table = np.stack([entries["high"][placed], entries["low"][placed], places[placed].astype(np.uint64)])
    _save(lookup_path(folder, bucket), table[:, np.lexsort((table[1], table[0]))])


def _load(path: Path) -> np.ndarray:
    array: np.ndarray = np.load(path, mmap_mode="r")
    return array


def _save(path: Path, array: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as aside, open(aside, "wb") as file:
        np.save(file, array)
