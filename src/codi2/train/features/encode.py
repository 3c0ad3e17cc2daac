"""`codi2 data encode`: the media of a finished data set → a store of their features.

The work has four stages, after each of which every process waits for the others: the shards of the data set are read
for the names of their media; one process plans which media each shard encodes; the shards are encoded, process r of n
takes the r-th, the (r + n)-th, …; one process writes the report. After a kill, the next run with the same arguments
encodes only the missing shards of the store.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from codi2.data import run
from codi2.data.shards import Shard
from codi2.errors import DataError, OutputError
from codi2.folders import locked
from codi2.hub import sha256_of, write_atomic
from codi2.progress import columns
from codi2.train.encoded import features_key, items_of
from codi2.train.features.index import StorePlan, index_path, index_shard, plan, shards_of
from codi2.train.features.makers import load_maker
from codi2.train.features.store import FOLDER, REPORT, SETTINGS, EncodingJob, shard_path
from codi2.train.features.worker import EncodingOptions, encode_shards, missing
from codi2.untrusted import parse_json

if TYPE_CHECKING:
    from codi2.processes import Processes

SAMPLE = 200  # records of each phase from which the size of a store is estimated


@dataclass(frozen=True)
class EncodingRun:
    """One store to make: its contents, its folder, and the options of the process."""

    job: EncodingJob
    folder: Path
    how: EncodingOptions


def job_of(data: Path, model: str, features: int | None = None) -> EncodingJob:
    """The store of a data set's features. Raises DataError: `data` is not a finished data set. ConfigError,
    WeightsError: the model cannot be loaded."""
    shards_of(data)
    maker = load_maker(model, features)
    report = sha256_of(data / "build.json")
    return EncodingJob(str(data), model, maker.key, maker.shapes, maker.reads_words, report, features)


def default_folder(job: EncodingJob) -> Path:
    """A folder below the data set, one for each encoder and T."""
    return features_folder(Path(job.data), job.key, {m: count for m, (count, _) in job.shapes.items()})


def features_folder(data: Path, key: str, counts: Mapping[str, int]) -> Path:
    return data / FOLDER / f"features-{features_key(key, counts)}"


def encode_set(
    encoding: EncodingRun,
    processes: Processes,
    ray: str | None = None,
    only_plan: bool = False,
    print_line: Callable[[str], None] = print,
) -> StorePlan:
    """Makes the store, or continues it.

    Args:
        processes: this process among those that encode.
        ray: a Ray cluster's address, or `local`; replaces several processes.
        only_plan: reports the sizes and encodes nothing.
        print_line: writes a line for the user.

    Raises:
        DataError: the folder has another encoder's features; a shard or medium of the data set is damaged.
        OutputError: the folder cannot be written, its disk is too full, or another run writes to it.
    """
    job, folder = encoding.job, encoding.folder
    with ExitStack() as stack:
        processes.gather(lambda: _begin(encoding, stack) if processes.first else None)
        if processes.first:
            print_line(f"About {_size(_estimate(job))} of {_description(job)} will be in {folder}.")
        _index(encoding, processes, ray)
        store_plan = processes.gather(lambda: plan(job, folder) if processes.first else None)[0]
        assert store_plan is not None
        if processes.first:
            print_line(_summary(job, store_plan))
        if not only_plan:
            processes.gather(lambda: _check_room(encoding, store_plan) if processes.first else None)
            _encode(encoding, store_plan, processes, ray)
            processes.gather(lambda: _finish(encoding, store_plan) if processes.first else None)
    return store_plan


def _begin(encoding: EncodingRun, stack: ExitStack) -> None:
    """Locks the folder. An index of another state of the data set is deleted; shards with the same media are kept."""
    job, folder = encoding.job, encoding.folder
    stack.enter_context(locked(folder, "an encoding"))
    path = folder / SETTINGS
    if path.is_file():
        existing = _settings(path, job.command(folder))
        if (existing.key, existing.shapes) != (job.key, job.shapes):
            raise DataError(
                f"{folder} holds features by {existing.model} (encoder {existing.key}, {_shapes(existing)}), "
                f"not by {job.model} ({job.key}, {_shapes(job)}); choose another --out, or delete that folder"
            )
        if (existing.report, existing.reads_words) != (job.report, job.reads_words):
            (folder / REPORT).unlink(missing_ok=True)
            for name in ("index", "lookup"):
                shutil.rmtree(folder / name, ignore_errors=True)
    elif any(entry.name not in (".lock", "index", "lookup", "shards") for entry in folder.iterdir()):
        raise DataError(f"{folder} is not empty and is not a store of features; choose another --out")
    for stale in folder.glob("*/.*"):  # partial files of a killed run
        stale.unlink(missing_ok=True)
    write_atomic(path, json.dumps(job.to_json(), indent=1).encode())


def _settings(path: Path, again: str) -> EncodingJob:
    try:
        return EncodingJob.from_json(parse_json(path.read_bytes()))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{path} is damaged ({error}); delete this file and run {again} again") from error


def _index(encoding: EncodingRun, processes: Processes, ray: str | None) -> None:
    shards = [shard for shard, _ in shards_of(Path(encoding.job.data))]
    todo = [(encoding, shard) for shard in shards if not index_path(encoding.folder, shard).is_file()]
    processes.gather(lambda: None)  # wait, or a process would count files that another has just written
    mine = processes.share(todo)
    workers = max(1, encoding.how.reading) if processes.count == 1 else 1
    results = run.results(_index_one, mine, workers, ray, "reading names") if processes.first else map(_index_one, mine)
    processes.gather(lambda: _exhaust(results))


def _index_one(task: tuple[EncodingRun, Path]) -> dict[str, Any]:
    encoding, shard = task
    index_shard(encoding.job, encoding.folder, shard)
    return {}


def _exhaust(stream: Iterator[Any]) -> None:
    for _ in stream:
        pass


def _encode(encoding: EncodingRun, store_plan: StorePlan, processes: Processes, ray: str | None) -> None:
    shards = [shard for shard, _ in shards_of(Path(encoding.job.data))]
    if ray is not None:
        todo = [(encoding, shard) for shard in shards if any(missing(encoding.job, encoding.folder, shard))]
        gpus = int(encoding.how.placement.device.startswith("cuda"))
        _exhaust(run.results(_encode_one, todo, 1, ray, "encoding", len(shards) - len(todo), gpus))
        return
    mine = processes.share(shards)
    processes.gather(lambda: _encode_here(encoding, mine, processes.first))


def _encode_one(task: tuple[EncodingRun, Path]) -> dict[str, Any]:
    encoding, shard = task
    return {"media": sum(encode_shards(encoding.job, encoding.folder, [shard], encoding.how))}


def _encode_here(encoding: EncodingRun, shards: Sequence[Path], shown: bool) -> None:
    from rich.console import Console
    from rich.progress import Progress

    job, folder = encoding.job, encoding.folder
    todo = [sum(chunk.media for chunk in missing(job, folder, shard)) for shard in shards]
    left = [shard for shard, media in zip(shards, todo, strict=True) if media]
    with Progress(*columns(), console=Console(stderr=True), disable=not shown) as progress:
        bar = progress.add_task("encoding features", total=sum(todo))
        for media in encode_shards(job, folder, left, encoding.how) if left else ():
            progress.advance(bar, media)


def _finish(encoding: EncodingRun, store_plan: StorePlan) -> None:
    job, folder = encoding.job, encoding.folder
    if missing_shards := [name for name in store_plan.shards if not shard_path(folder, name).is_file()]:
        raise DataError(
            f"{folder} lacks {len(missing_shards)} shards, the first {missing_shards[0]}; run "
            f"{job.command(folder)} again"
        )
    current = set(store_plan.shards)
    for path in (folder / "shards").glob("*.safetensors"):  # delete those of an earlier state of the data set
        if path.stem not in current:
            path.unlink()
    about = {**job.to_json(), "media": store_plan.media, "bytes": store_plan.bytes_of(job), "bits": store_plan.bits}
    about |= {"placement": encoding.how.placement.dtype, "shards": store_plan.shards}
    write_atomic(folder / REPORT, json.dumps(about, indent=1).encode())


def _check_room(encoding: EncodingRun, store_plan: StorePlan) -> None:
    """Raises OutputError: the disk has too little room for the missing shards."""
    folder = encoding.folder
    present = sum(path.stat().st_size for path in (folder / "shards").glob("*.safetensors"))
    need, free = store_plan.bytes_of(encoding.job) - present, shutil.disk_usage(folder).free
    if need > free:
        raise OutputError(
            f"{folder} needs {_size(need)} more, but its disk has {_size(free)} free; choose another --out or fewer "
            "--features"
        )


def _estimate(job: EncodingJob) -> float:
    """Bytes, estimated from the first records of each phase; repeated media are counted each time."""
    total, phases = 0.0, dict[str, tuple[Path, int]]()
    for shard, records in shards_of(Path(job.data)):
        phase = shard.stem.partition("-")[0]
        first, count = phases.get(phase, (shard, 0))
        phases[phase] = first, count + records
    for path, count in phases.values():
        opened = Shard(path)
        sample = list(islice(opened, SAMPLE))
        opened.close()
        pieces = [piece for record in sample for _, piece in items_of(record, job.reads_words)]
        sample_bytes = sum(job.bytes_of(piece.modality) for piece in pieces if piece.modality in job.shapes)
        total += sample_bytes / max(1, len(sample)) * count
    return total


def _summary(job: EncodingJob, store_plan: StorePlan) -> str:
    sizes = [f"{count:,} × {m} at {job.bytes_of(m):,} bytes" for m, count in store_plan.media.items()]
    total = f"{_size(store_plan.bytes_of(job))} in {len(store_plan.shards):,} shards"
    return f"{_description(job)}: {', '.join(sizes) or 'none'}: {total}."


def _description(job: EncodingJob) -> str:
    return f"features of {job.data} by {job.model} ({_shapes(job)})"


def _shapes(job: EncodingJob) -> str:
    return ", ".join(f"{m} {count} × {dim}" for m, (count, dim) in job.shapes.items())


def _size(number: float) -> str:
    for unit in ("bytes", "kB", "MB", "GB"):
        if number < 1000:
            return f"{number:.3g} {unit}" if unit != "bytes" else f"{number:.0f} {unit}"
        number /= 1000
    return f"{number:.3g} TB"


__all__ = ["EncodingOptions", "EncodingRun", "default_folder", "encode_set", "job_of"]
