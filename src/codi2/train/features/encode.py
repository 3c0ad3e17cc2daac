"""`codi2 data encode`: the media of a finished data set → a store of their features, or of their latents.

The work has four stages, and every process waits for the others between them: the shards of the data set are read for
the names of their media; one process plans which media each shard encodes; the shards are encoded, process r of n
takes the r-th, the (r + n)-th, …; one process writes the report. What a killed run has finished stays: the next run
with the same arguments encodes only the shards of the store that are missing.
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
from codi2.train.features.index import Plan, index_path, index_shard, place_path, plan, shards_of
from codi2.train.features.makers import load_maker
from codi2.train.features.store import FOLDER, REPORT, SETTINGS, Job, shard_path
from codi2.train.features.worker import How, encode_shards, missing
from codi2.untrusted import parse_json

if TYPE_CHECKING:
    from codi2.evaluate.processes import Processes

SAMPLE = 200  # records of each phase, of which the size of a store is estimated


@dataclass(frozen=True)
class Encoding:
    """One store to be made: what, where to, and how."""

    job: Job
    folder: Path
    how: How


def job_of(kind: str, data: Path, model: str, features: int | None = None) -> Job:
    """Raises DataError: `data` is no finished data set. ConfigError, WeightsError: the model cannot be loaded."""
    shards_of(data)
    maker = load_maker(kind, model, features)
    report = sha256_of(data / "build.json")
    return Job(kind, str(data), model, maker.key, dict(maker.shapes), maker.reads_words, report, features)


def default_folder(job: Job) -> Path:
    """Beside the data set, a folder for each network."""
    if job.kind == "features":
        return features_folder(Path(job.data), job.key, {m: shape[0] for m, shape in job.shapes.items()})
    return latents_folder(Path(job.data), job.kind, job.key)


def features_folder(data: Path, key: str, counts: Mapping[str, int]) -> Path:
    return data / FOLDER / f"features-{features_key(key, counts)}"


def latents_folder(data: Path, kind: str, key: str) -> Path:
    return data / FOLDER / f"{kind}-{key}"


def encode_set(
    encoding: Encoding,
    processes: Processes,
    ray: str | None = None,
    only_plan: bool = False,
    tell: Callable[[str], None] = print,
) -> Plan:
    """Makes the store, or goes on with it.

    Args:
        processes: this process among those that encode.
        ray: a Ray cluster's address, or `local`, in place of several processes.
        only_plan: tells the sizes and encodes nothing.

    Raises:
        DataError: the folder has another network's features; a shard or medium of the data set is damaged.
        OutputError: the folder cannot be written or has too little room, or another run writes to it.
    """
    job, folder = encoding.job, encoding.folder
    with ExitStack() as stack:
        processes.gather(lambda: _begin(encoding, stack) if processes.first else None)
        if processes.first:
            tell(f"About {_size(_estimate(job))} of {_what(job)} will be in {folder}.")
        _index(encoding, processes, ray)
        made = processes.gather(lambda: plan(job, folder) if processes.first else None)[0]
        assert made is not None
        if processes.first:
            tell(_summary(job, made))
        if not only_plan:
            processes.gather(lambda: _check_room(encoding, made) if processes.first else None)
            _encode(encoding, made, processes, ray)
            processes.gather(lambda: _finish(encoding, made) if processes.first else None)
    return made


def _begin(encoding: Encoding, stack: ExitStack) -> None:
    """Takes the folder. An index of another state of the data set is dropped; shards with the same media stay."""
    job, folder = encoding.job, encoding.folder
    stack.enter_context(locked(folder, "an encoding"))
    path = folder / SETTINGS
    if path.is_file():
        theirs = _settings(path, job.command(folder))
        if (theirs.kind, theirs.key, dict(theirs.shapes)) != (job.kind, job.key, dict(job.shapes)):
            raise DataError(
                f"{folder} holds {theirs.kind} by {theirs.model} (network {theirs.key}, {_shapes(theirs)}), not by "
                f"{job.model} ({job.key}, {_shapes(job)}); choose another --out, or delete that folder"
            )
        if (theirs.report, theirs.reads_words) != (job.report, job.reads_words):
            (folder / REPORT).unlink(missing_ok=True)
            for name in ("index", "lookup"):
                shutil.rmtree(folder / name, ignore_errors=True)
    elif any(entry.name not in (".lock", "index", "lookup", "shards") for entry in folder.iterdir()):
        raise DataError(f"{folder} is not empty and no store of features; choose another --out")
    for stale in folder.glob("*/.*"):  # half written when a run was killed
        stale.unlink(missing_ok=True)
    write_atomic(path, json.dumps(job.to_json(), indent=1).encode())


def _settings(path: Path, again: str) -> Job:
    try:
        return Job.from_json(parse_json(path.read_bytes()))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{path} is damaged ({error}); delete this file and run {again} again") from error


def _index(encoding: Encoding, processes: Processes, ray: str | None) -> None:
    shards = [shard for shard, _ in shards_of(Path(encoding.job.data))]
    todo = [(encoding, shard) for shard in shards if not index_path(encoding.folder, shard).is_file()]
    processes.gather(lambda: None)  # or one would count what another has just written
    mine = processes.share(todo)
    workers = max(1, encoding.how.reading) if processes.count == 1 else 1
    shown = run.results(_index_one, mine, workers, ray, "reading names") if processes.first else map(_index_one, mine)
    processes.gather(lambda: _all(shown))


def _index_one(task: tuple[Encoding, Path]) -> dict[str, Any]:
    encoding, shard = task
    index_shard(encoding.job, encoding.folder, shard)
    return {}


def _all(stream: Iterator[Any]) -> None:
    for _ in stream:
        pass


def _encode(encoding: Encoding, made: Plan, processes: Processes, ray: str | None) -> None:
    shards = [shard for shard, _ in shards_of(Path(encoding.job.data))]
    if ray is not None:
        todo = [(encoding, shard) for shard in shards if any(missing(encoding.job, encoding.folder, shard))]
        gpus = int(encoding.how.placement.device.startswith("cuda"))
        _all(run.results(_encode_one, todo, 1, ray, "encoding", len(shards) - len(todo), gpus))
        return
    mine = processes.share(shards)
    processes.gather(lambda: _encode_here(encoding, mine, processes.first))


def _encode_one(task: tuple[Encoding, Path]) -> dict[str, Any]:
    encoding, shard = task
    return {"media": sum(encode_shards(encoding.job, encoding.folder, [shard], encoding.how))}


def _encode_here(encoding: Encoding, shards: Sequence[Path], shown: bool) -> None:
    from rich.console import Console
    from rich.progress import Progress

    job, folder = encoding.job, encoding.folder
    todo = [sum(chunk.media for chunk in missing(job, folder, shard)) for shard in shards]
    left = [shard for shard, media in zip(shards, todo, strict=True) if media]
    with Progress(*columns(), console=Console(stderr=True), disable=not shown) as progress:
        bar = progress.add_task(f"encoding {job.kind}", total=sum(todo))
        for media in encode_shards(job, folder, left, encoding.how) if left else ():
            progress.advance(bar, media)


def _finish(encoding: Encoding, made: Plan) -> None:
    job, folder = encoding.job, encoding.folder
    if lost := [name for name in made.shards if not shard_path(folder, name).is_file()]:
        raise DataError(f"{folder} lacks {len(lost)} shards, the first {lost[0]}; run {job.command(folder)} again")
    kept = set(made.shards)
    for path in (folder / "shards").glob("*.safetensors"):  # of an earlier state of the data set
        if path.stem not in kept:
            path.unlink()
    about = {**job.to_json(), "media": made.media, "bytes": made.bytes_of(job), "bits": made.bits}
    about |= {"placement": encoding.how.placement.dtype, "shards": made.shards}
    write_atomic(folder / REPORT, json.dumps(about, indent=1).encode())


def _check_room(encoding: Encoding, made: Plan) -> None:
    """Raises OutputError: the disk has too little room for what is still missing."""
    folder = encoding.folder
    there = sum(path.stat().st_size for path in (folder / "shards").glob("*.safetensors"))
    need, free = made.bytes_of(encoding.job) - there, shutil.disk_usage(folder).free
    if need > free:
        raise OutputError(
            f"{folder} needs {_size(need)} more and its disk has {_size(free)} free; choose another --out or fewer "
            "--features"
        )


def _estimate(job: Job) -> float:
    """Bytes, from the first records of each phase; media that occur twice are counted twice."""
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
        some = sum(job.bytes_of(piece.modality) for piece in pieces if piece.modality in job.shapes)
        total += some / max(1, len(sample)) * count
    return total


def _summary(job: Job, made: Plan) -> str:
    parts = [f"{count:,} × {m} at {job.bytes_of(m):,} bytes" for m, count in made.media.items()]
    return f"{_what(job)}: {', '.join(parts) or 'none'}: {_size(made.bytes_of(job))} in {len(made.shards):,} shards."


def _what(job: Job) -> str:
    return f"{job.kind} of {job.data} by {job.model} ({_shapes(job)})"


def _shapes(job: Job) -> str:
    return ", ".join(f"{m} {' × '.join(map(str, shape))}" for m, shape in job.shapes.items())


def _size(number: float) -> str:
    for unit in ("bytes", "kB", "MB", "GB"):
        if number < 1000:
            return f"{number:.3g} {unit}" if unit != "bytes" else f"{number:.0f} {unit}"
        number /= 1000
    return f"{number:.3g} TB"


__all__ = ["Encoding", "How", "default_folder", "encode_set", "job_of", "place_path"]
