"""Which media a data set has, each once, and in which shard of the store each will be.

First every shard of the data set is read once and the names of its media are noted: processes share these shards. Then
one process plans: of equal media the first in the order of the data set is encoded, with its shard, so no medium is
encoded twice, by whichever process. Memory stays flat: names are compared in passes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from codi2.data.build import load_report
from codi2.data.shards import Shard
from codi2.hub import atomic_path
from codi2.train.encoded import items_of, name_of
from codi2.train.features.store import Job, bucket_of, halves, lookup_path

ENTRY = np.dtype([("high", "<u8"), ("low", "<u8"), ("modality", "<u1"), ("record", "<u4"), ("item", "<u4")])
"""A medium of a shard of the data set: its name, and where it is there."""
MODALITIES = ("image", "audio", "video", "phrase")  # by number
SHARD_BYTES = 256 * 2**20  # of features in one shard of the store, about
AT_ONCE = 40_000_000  # names that are compared in one pass: 1.5 GB


@lru_cache(maxsize=2)
def shards_of(data: Path) -> tuple[tuple[Path, int], ...]:
    """The shards of a finished data set with their records, in its order. Raises DataError."""
    return tuple((data / entry["file"], int(entry["records"])) for entry in load_report(data)["shards"])


def index_path(folder: Path, shard: Path) -> Path:
    return folder / "index" / f"{shard.stem}.npy"


def place_path(folder: Path, shard: Path) -> Path:
    return folder / "index" / f"{shard.stem}-place.npy"


def index_shard(job: Job, folder: Path, shard: Path) -> None:
    """Notes the media of one shard of the data set, each once. Raises DataError: the shard is damaged."""
    names: list[bytes] = []
    rest: list[tuple[int, int, int]] = []
    opened, seen = Shard(shard), set[bytes]()
    for number, record in enumerate(opened):
        for at, (_, piece) in enumerate(items_of(record, job.reads_words)):
            name = name_of(piece)
            if piece.modality in job.shapes and name not in seen:
                seen.add(name)
                names.append(name)
                rest.append((MODALITIES.index(piece.modality), number, at))
    opened.close()
    entries = np.zeros(len(names), ENTRY)
    if names:
        entries["high"], entries["low"] = halves(names)
        entries["modality"], entries["record"], entries["item"] = np.array(rest).T
    _save(index_path(folder, shard), entries)


@dataclass(frozen=True)
class Plan:
    """What a store will hold."""

    media: Mapping[str, int]  # modality → number of media
    shards: list[str]  # of the store
    bits: int  # of a name that choose the file of `lookup`

    def bytes_of(self, job: Job) -> int:
        return sum(count * job.bytes_of(modality) for modality, count in self.media.items())


def plan(job: Job, folder: Path, at_once: int = AT_ONCE) -> Plan:
    """Chooses the place of every medium and writes it: beside the index for the encoding, in `lookup` for readers."""
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
    return Plan({m: int(n) for m, n in zip(MODALITIES, media, strict=True) if n}, shards, bits)


def _bucket(indices: Sequence[Path], bucket: int, bits: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The names of a bucket in the order of the data set: number of the index, row in it, entry."""
    numbers, rows, entries = [], [], []
    for number, path in enumerate(indices):
        index = _load(path)
        mine = np.flatnonzero(bucket_of(index["high"], bits) == bucket)
        numbers.append(np.full(len(mine), number, np.int64))
        rows.append(mine)
        entries.append(index[mine])
    return np.concatenate(numbers), np.concatenate(rows), np.concatenate(entries)


def _first_of_equal(entries: np.ndarray) -> np.ndarray:
    """Rows of the entries whose name no earlier one has, in their order."""
    order = np.lexsort((entries["low"], entries["high"]))  # stable
    high, low = entries["high"][order], entries["low"][order]
    fresh = np.ones(len(order), bool)
    fresh[1:] = (high[1:] != high[:-1]) | (low[1:] != low[:-1])
    return np.sort(order[fresh])


def _runs(numbers: np.ndarray) -> Iterator[tuple[int, slice]]:
    """Each value of an ascending array, and where it stands."""
    starts = np.flatnonzero(np.diff(numbers, prepend=-1))
    for start, stop in zip(starts.tolist(), [*starts[1:].tolist(), len(numbers)], strict=True):
        yield int(numbers[start]), slice(start, stop)


def _places(job: Job, kinds: np.ndarray, first: int) -> tuple[np.ndarray, int]:
    """int64: number of the store's shard in the upper half, row of the modality in it in the lower; how many shards."""
    sizes = np.array([job.bytes_of(m) if m in job.shapes else 0 for m in MODALITIES], np.int64)[kinds]
    parts = (sizes.cumsum() - sizes) // SHARD_BYTES
    # a part without media cannot be: where one medium is larger than a shard, numbers are closed up
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
    kept = places >= 0
    table = np.stack([entries["high"][kept], entries["low"][kept], places[kept].astype(np.uint64)])
    _save(lookup_path(folder, bucket), table[:, np.lexsort((table[1], table[0]))])


def _load(path: Path) -> np.ndarray:
    array: np.ndarray = np.load(path, mmap_mode="r")
    return array


def _save(path: Path, array: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as aside, open(aside, "wb") as file:
        np.save(file, array)
