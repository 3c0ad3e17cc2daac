"""One process that encodes: workers read and decode ahead, the encoder computes, shards are written.

A worker does the work that needs no GPU: it reads the records, decodes their media and prepares the encoder's inputs.
There is no pause between shards, and the CPU waits for the GPU only when a shard is complete.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from codi2.data.record import Medium
from codi2.data.shards import Shard
from codi2.errors import CoDi2Error, DataError, MediaError
from codi2.placement import ON_CPU, Placement, full, out_of_memory
from codi2.tensors import device_of
from codi2.train.encoded import Piece, items_of
from codi2.train.features.index import MODALITIES, index_path, place_path
from codi2.train.features.makers import FeatureMaker, load_maker
from codi2.train.features.store import NAME, EncodingJob, shard_path
from codi2.train.shard_files import open_tensors, write_tensors

AHEAD = 4  # batches that each worker prepares ahead
MOST = 8  # most workers of a process by default


@dataclass(frozen=True)
class EncodingOptions:
    """Options of a process that encodes."""

    placement: Placement = ON_CPU
    workers: int = -1  # processes that read and decode; 0: none; -1: depends on the number of cores
    batch: int = 32  # media per call of the encoder on an accelerator

    @property
    def reading(self) -> int:
        """Number of workers."""
        if self.workers >= 0:
            return self.workers
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        free = cores // int(os.environ.get("LOCAL_WORLD_SIZE", "1")) - 1
        return max(0 if self.placement.device == "cpu" else 1, min(MOST, free)) if hasattr(os, "fork") else 0


@dataclass(frozen=True)
class Chunk:
    """Media of one modality of one shard of the data set, for one shard of the store."""

    shard: Path
    name: str  # of the store's shard
    modality: str
    entries: np.ndarray  # of `index.ENTRY`
    last: bool = False  # of its shard of the store

    @property
    def media(self) -> int:
        return len(self.entries)


def missing(job: EncodingJob, folder: Path, shard: Path, size: int | None = None) -> Iterator[Chunk]:
    """The chunks of one shard of the data set that are not encoded yet, of at most `size` media each."""
    entries, places = np.load(index_path(folder, shard)), np.load(place_path(folder, shard))
    owned, parts = places >= 0, places >> 32
    for part in np.unique(parts[owned]):
        name = f"{shard.stem}-{part - parts[owned].min():03d}"
        media = entries[owned & (parts == part)]
        groups = {m: media[media["modality"] == k] for k, m in enumerate(MODALITIES) if (media["modality"] == k).any()}
        if _is_whole(job, folder, name, groups):
            continue
        chunks = [
            Chunk(shard, name, modality, group[start : start + (size or len(group))])
            for modality, group in groups.items()
            for start in range(0, len(group), size or len(group))
        ]
        yield from chunks[:-1]
        yield replace(chunks[-1], last=True)


def _is_whole(job: EncodingJob, folder: Path, name: str, groups: dict[str, np.ndarray]) -> bool:
    """Whether a shard of the store has exactly these media."""
    path = shard_path(folder, name)
    if not path.is_file():
        return False
    try:
        file = open_tensors(path, "")
        keys = {key for m in groups for key in (m, f"{m}.names")}
        return set(file.keys()) == keys and all(
            tuple(file.get_slice(m).get_shape()) == (len(group), *job.shapes[m])
            and torch.equal(file.get_tensor(f"{m}.names"), _names(group))
            for m, group in groups.items()
        )
    except DataError:
        return False


def _names(entries: np.ndarray) -> Tensor:
    """uint8 [n, 16]."""
    both = np.stack([entries["high"], entries["low"]], axis=1).astype(">u8")
    return torch.from_numpy(both.view(np.uint8).reshape(-1, NAME).copy())


def encode_shards(job: EncodingJob, folder: Path, shards: Sequence[Path], how: EncodingOptions) -> Iterator[int]:
    """Encodes the missing chunks of shards of the data set; yields the number of media of each shard that it writes.

    Raises:
        DataError: a medium or shard of the data set is damaged; the model is not that of the job.
        DeviceMemoryError: the device's memory is full.
    """
    maker = _placed(job, how.placement)
    chunks = (chunk for shard in shards for chunk in missing(job, folder, shard, how.batch))
    values_of: dict[str, list[Tensor]] = {}
    names_of: dict[str, list[Tensor]] = {}
    for chunk, numbers in _read_ahead(job, maker, chunks, how):
        values_of.setdefault(chunk.modality, []).append(_computed(maker, chunk, numbers))
        names_of.setdefault(chunk.modality, []).append(_names(chunk.entries))
        if chunk.last:
            tensors = {m: torch.cat(values) for m, values in values_of.items()}
            tensors |= {f"{m}.names": torch.cat(values) for m, values in names_of.items()}
            write_tensors(shard_path(folder, chunk.name), tensors)
            yield sum(len(value) for values in names_of.values() for value in values)
            values_of, names_of = {}, {}


def _placed(job: EncodingJob, placement: Placement) -> FeatureMaker:
    maker = load_maker(job.model, job.features)
    if maker.key != job.key:
        raise DataError(
            f"{job.model} has the encoder {maker.key} here, but {job.key} where the run began; use the same weights on "
            "all machines"
        )
    dtype = getattr(torch, placement.dtype) if maker.encoder.supports_half else torch.float32
    maker.encoder.to(placement.device, dtype)
    return maker


@torch.inference_mode()
def _computed(maker: FeatureMaker, chunk: Chunk, numbers: Any) -> Tensor:
    """fp16 [n, T, D], on the encoder's device. A CPU computes one medium at a time, so that its values do not depend on
    the others."""
    device = device_of(maker.encoder)
    size = 1 if device.type == "cpu" else len(numbers)
    try:
        calls = [maker.make(chunk.modality, numbers[start : start + size]) for start in range(0, len(numbers), size)]
    except RuntimeError as error:
        if not out_of_memory(error):
            raise
        doing = f"{len(numbers)} media ({chunk.modality}) were encoded at once"
        raise full(error, device, doing, "lower --batch-size or use --dtype bfloat16") from None
    return torch.cat(calls).to(torch.float16)


class _ChunkReader(Dataset[Any]):
    """Chunk → the chunk and the inputs of the encoder; or the error for the user."""

    def __init__(self, job: EncodingJob, maker: FeatureMaker) -> None:
        self.job, self.maker = job, maker
        self._shard: Shard | None = None

    def __getitem__(self, chunk: Chunk) -> tuple[Chunk, Any] | CoDi2Error:
        try:
            return chunk, self.maker.encoder.read([_decoded(piece, chunk) for piece in self._pieces(chunk)])
        except CoDi2Error as error:
            return error.with_traceback(None)

    def _pieces(self, chunk: Chunk) -> Iterator[Piece]:
        if self._shard is None or self._shard.path != chunk.shard:
            if self._shard is not None:
                self._shard.close()
            self._shard = Shard(chunk.shard)
        last, items = -1, list[Any]()
        for record, item in chunk.entries[["record", "item"]].tolist():
            if record != last:  # the items of a record are adjacent
                last, items = record, items_of(self._shard[record], self.job.reads_words)
            yield items[item][1]


def _decoded(piece: Piece, chunk: Chunk) -> Any:
    try:
        return piece.decode() if isinstance(piece, Medium) else piece
    except MediaError as error:
        raise DataError(f"{chunk.shard} has a damaged medium ({error}); delete the shard and build again") from error


def _read_ahead(
    job: EncodingJob, maker: FeatureMaker, chunks: Iterable[Chunk], how: EncodingOptions
) -> Iterator[tuple[Chunk, Any]]:
    """Chunks with the inputs of the encoder, prepared by workers. Raises the CoDi2Error of a worker."""
    reader, workers = _ChunkReader(job, maker), how.reading
    if not workers:
        stream: Iterable[Any] = map(reader.__getitem__, chunks)
    else:
        stream = DataLoader(
            reader,
            batch_size=None,
            sampler=chunks,
            num_workers=workers,
            prefetch_factor=AHEAD,
            collate_fn=_unchanged,
            worker_init_fn=_use_one_core,
            pin_memory=how.placement.device.startswith("cuda"),
            multiprocessing_context="fork",  # shares the encoder with the workers, without copying it
        )
    for result in stream:
        if isinstance(result, CoDi2Error):
            raise result
        yield result


def _unchanged(value: Any) -> Any:
    return value


def _use_one_core(_: int) -> None:
    torch.set_num_threads(1)
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
