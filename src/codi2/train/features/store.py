"""The files of a store, and the lookup of a medium in them.

    features.json                  the contents, the encoder, and the list of shards; written last
    shards/image-000012-000.safetensors   for a modality: `image` fp16 [n, T, D] and `image.names` uint8 [n, 16]
    lookup/00.npy                  uint64 [3, n]: two halves of a name, and its shard and row; sorted by name
    encoding.json, index/          of `encode`, which continues from them after a kill

A shard has the media of one shard of the data set that no earlier shard has. A name is a hash of
a medium's modality and content, 16 bytes. The probability of a collision among 400 million media is 1 in 10^21.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from codi2.errors import DataError
from codi2.train.shard_files import open_tensors
from codi2.untrusted import inside, parse_json, read_inside

VERSION = 1
REPORT = "features.json"
SETTINGS = "encoding.json"
FOLDER = "features"  # subfolder of a data set for its stores
OPEN = 64  # most shards that a process keeps open
NAME = 16  # bytes of a name


@dataclass(frozen=True)
class EncodingJob:
    """The contents of a store: the data set, the encoder, and the shapes."""

    data: str  # folder of the finished data set
    model: str  # preset or folder, for messages and to load the encoder
    key: str  # of the encoder: its weights, its config
    shapes: Mapping[str, tuple[int, int]]  # modality → [T, D] of one medium
    reads_words: bool  # whether a user's words are encoded too
    report: str  # SHA-256 of the data set's report, which lists every shard
    features: int | None = None  # the value of `--features`; None: the model's T

    def command(self, folder: Path) -> str:
        """The command that makes the store `folder`."""
        options = "" if self.features is None else f" --features {self.features}"
        options += "" if folder.parent == Path(self.data) / FOLDER else f" --out {folder}"
        return f"`codi2 data encode {self.data} --model {self.model}{options}`"

    def bytes_of(self, modality: str) -> int:
        """Bytes of one medium, fp16."""
        return 2 * prod(self.shapes[modality])

    def to_json(self) -> dict[str, Any]:
        return {"version": VERSION, **asdict(self), "shapes": {m: list(shape) for m, shape in self.shapes.items()}}

    @classmethod
    def from_json(cls, about: Mapping[str, Any]) -> EncodingJob:
        """The inverse of `to_json`. Raises KeyError, TypeError: a field is missing or of another type."""
        values = {name: about[name] for name in cls.__dataclass_fields__}
        return cls(**values | {"shapes": {str(m): (count, dim) for m, (count, dim) in about["shapes"].items()}})


def read_report(folder: Path, again: str = "") -> dict[str, Any]:
    """The contents of `features.json`. Raises DataError: it is damaged, or missing, as the store is not finished."""
    again = again or "`codi2 data encode`"
    try:
        about: dict[str, Any] = parse_json(read_inside(folder, REPORT))
        EncodingJob.from_json(about)
        if about["version"] != VERSION:
            raise DataError(
                f"{folder} is of version {about['version']}, this version of codi2 reads {VERSION}; run {again} again"
            )
        return about | {"shards": [str(name) for name in about["shards"]], "bits": int(about["bits"])}
    except FileNotFoundError as error:
        state = "is not finished" if (folder / SETTINGS).is_file() else "holds no features"
        raise DataError(f"{folder} {state} (there is no {REPORT}); run {again} to the end") from error
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{folder / REPORT} is damaged ({error}); run {again} again") from error


def halves(names: Sequence[bytes]) -> np.ndarray:
    """uint64 [2, N] of N names, in the order of their bytes."""
    numbers: np.ndarray = np.frombuffer(b"".join(names), dtype=">u8").reshape(-1, 2).T.astype(np.uint64)
    return numbers


def bucket_of(high: Any, bits: int) -> Any:
    """The number of the file of `lookup` that holds a name, from its first bits."""
    return high >> np.uint64(64 - bits) if bits else high * np.uint64(0)


class FeatureStore:
    """A finished store, for reading."""

    def __init__(self, folder: Path) -> None:
        """Raises DataError: the store is not finished, damaged, or of another version."""
        about = read_report(folder)
        self.folder, self.job = folder, EncodingJob.from_json(about)
        self.again = self.job.command(folder)
        self._shards, self._bits = about["shards"], about["bits"]
        self._lookups: dict[int, np.ndarray] = {}
        self._files: dict[int, Any] = {}

    def read(self, name: bytes, modality: str) -> Tensor | None:
        """fp16 [T, D]; None: the store has no such medium. Raises DataError: a shard is damaged."""
        place = self._place(name)
        if place is None or modality not in self.job.shapes:
            return None
        shard, row = place
        try:
            value: Tensor = self._open(shard).get_slice(modality)[row : row + 1][0]
        except DataError:
            raise
        except Exception as error:  # safetensors raises errors of several types
            path = self._path(shard)
            raise DataError(
                f"the shard {path} is damaged at {modality} {row} ({error}); delete it and run {self.again} again"
            ) from error
        return value

    def _place(self, name: bytes) -> tuple[int, int] | None:
        high, low = halves([name])[:, 0]
        table = self._lookup(int(bucket_of(high, self._bits)))
        start = int(np.searchsorted(table[0], high))
        while start < table.shape[1] and table[0, start] == high:
            if table[1, start] == low:
                place = int(table[2, start])
                return place >> 32, place & 0xFFFFFFFF
            start += 1
        return None

    def _lookup(self, bucket: int) -> np.ndarray:
        if bucket not in self._lookups:
            path = lookup_path(self.folder, bucket)
            try:
                table = np.load(path, mmap_mode="r")
            except Exception as error:  # numpy parses a header as Python, which raises errors of many types
                raise DataError(f"{path} is missing or damaged; run {self.again} again") from error
            if table.dtype != np.uint64 or table.ndim != 2 or len(table) != 3:
                raise DataError(f"{path} is damaged; delete it and run {self.again} again")
            self._lookups[bucket] = table
        return self._lookups[bucket]

    def _path(self, shard: int) -> Path:
        if shard >= len(self._shards):
            raise DataError(f"{self.folder / 'lookup'} names a shard that does not exist; run {self.again} again")
        return inside(self.folder, shard_path(self.folder, self._shards[shard]))

    def _open(self, shard: int) -> Any:
        if shard not in self._files:
            if len(self._files) >= OPEN:
                self._files.pop(next(iter(self._files)))
            self._files[shard] = open_tensors(self._path(shard), f"run {self.again} again")
        return self._files[shard]

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_files": {}, "_lookups": {}}  # every worker opens its own files


def shard_path(folder: Path, name: str) -> Path:
    return folder / "shards" / f"{name}.safetensors"


def lookup_path(folder: Path, bucket: int) -> Path:
    return folder / "lookup" / f"{bucket:02d}.npy"
