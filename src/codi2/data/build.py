"""Builds a data set: units of a source become shards, on one core, several, or a Ray cluster, with the same result.

    out/
      shards/image-000012.tar, .npy   records of unit 12 whose answer is a picture, and their index
      parts/000012.json               the counts of unit 12; written last, so its existence means that the unit is done
      parts/000012.npy                fingerprints of its entries, for duplicates
      settings.json                   the settings; a build with other settings is refused
      quarantine.jsonl                the records that were left out, each with the reason
      build.json                      the report; written at the end

A killed build loses only the units in progress; the next build makes these.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from codi2.data import run
from codi2.data.builders import load_builder
from codi2.data.builders.contract import BadRecord, Builder, Draft, LeftOut, Raw
from codi2.data.checks import Unfit, verify
from codi2.data.record import SCHEMA, Record, Sample, number_of, to_sample
from codi2.data.sets import check_source
from codi2.data.shards import write_shard
from codi2.errors import CoDi2Error, ConfigError, DataError
from codi2.folders import locked, undone
from codi2.hub import atomic_path, write_atomic

SHOWN = 500  # most characters of a name or detail in the quarantine
NAME, WORDS = 200, 2**20  # most characters of a task or licence, most bytes of a record's words
ENOUGH = 500  # entries after which the share of bad ones is checked during a build
_SUMS = ("tasks", "phases", "licences", "bad", "left_out")
_FINGERPRINTS_AT_ONCE = 40_000_000  # 0.3 GB


@dataclass(frozen=True)
class Settings:
    """The settings of a build. The same settings give the same shards, byte for byte."""

    builder: str
    source: str
    out: str
    seed: int = 0
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """Options of the builder; options that are not named have their defaults."""

    @property
    def folder(self) -> Path:
        return Path(self.out)

    def unit_file(self, number: int, suffix: str) -> Path:
        return self.folder / "parts" / f"{number:06d}{suffix}"


def build(
    settings: Settings, *, workers: int = 1, ray: str | None = None, max_bad: float = 0.05, units: int | None = None
) -> dict[str, Any]:
    """Builds a data set or continues a build; returns the report that `build.json` holds.

    Args:
        workers: processes on this machine.
        ray: address of a Ray cluster, or `local` for one that is started here; Ray chooses the number of workers.
        max_bad: share of quarantined entries above which the build stops.
        units: build only the first units, to inspect them.

    Raises:
        DataError: the builder cannot read the source; too many entries are bad; no record could be made; the folder
            holds another build.
        OutputError: the folder cannot be written, the disk is full, or another build writes to it. Finished shards stay
            valid.
    """
    check_source(settings.builder, Path(settings.source), settings.folder)
    with undone(settings.folder, "settings.json"), locked(settings.folder, "a build"):
        return _build(settings, workers, ray, max_bad, units)


def _build(settings: Settings, workers: int, ray: str | None, max_bad: float, units: int | None) -> dict[str, Any]:
    planned = _plan(settings)[:units]
    tasks = [(settings, number, unit) for number, unit in enumerate(planned)]
    todo = [task for task in tasks if not settings.unit_file(task[1], ".json").is_file()]
    _sweep(settings)
    seen, bad = _tally(settings, set(range(len(planned))) - {task[1] for task in todo})
    gpus, done = open_builder(settings).gpus, len(planned) - len(todo)
    for part in run.results(build_unit, todo, workers, ray, settings.builder, done, gpus):
        seen, bad = seen + part["entries"], bad + Counter(part["bad"])
        if seen >= ENOUGH:
            _judge(settings, seen, bad, max_bad)
    return _finish(settings, len(planned), workers, ray, max_bad)


@lru_cache(maxsize=2)
def _open_builder(name: str, source: str, out: str, options: str, seed: int) -> Builder:
    builder_class = load_builder(name)
    values = json.loads(options)
    known = {field.name: field for field in dataclasses.fields(builder_class.Options)}
    if unknown := sorted(values.keys() - known.keys()):
        raise ConfigError(f"{name} has no option {unknown[0]!r}; it has {', '.join(known) or 'none'}")
    for key, value in values.items():
        default = known[key].default
        if not isinstance(value, type(default)) and not (isinstance(default, float) and isinstance(value, int)):
            raise ConfigError(f"option {key} of {name} is {value!r}; it should be like {default!r}")
    return builder_class(Path(source), Path(out) / "scratch", builder_class.Options(**values), seed)


def open_builder(settings: Settings) -> Builder:
    """The builder of a source, cached in a process. Raises ConfigError: an option is unknown or of another type."""
    options = json.dumps(dict(settings.options), sort_keys=True)
    return _open_builder(settings.builder, settings.source, settings.out, options, settings.seed)


def build_unit(task: tuple[Settings, int, Mapping[str, Any]]) -> dict[str, Any]:
    """Reads one unit and writes its shards; returns its counts."""
    settings, number, unit = task
    builder, tally = open_builder(settings), _Tally(settings, number)
    with ExitStack() as stack:
        writers: dict[str, Callable[[Sample], None]] = {}
        for place, raw in enumerate(tally.timed(_readable(builder, unit))):
            for phase, sample in tally.samples_of(builder, raw, f"{number:06d}-{place:06d}"):
                start = time.perf_counter()
                if phase not in writers:
                    path = settings.folder / "shards" / f"{phase}-{number:06d}.tar"
                    writers[phase] = stack.enter_context(write_shard(path))
                writers[phase](sample)
                tally.spent["write"] += time.perf_counter() - start
    return tally.write()


def _readable(builder: Builder, unit: Mapping[str, Any]) -> Iterator[Raw]:
    """The entries; a BadRecord of `read` becomes an entry that `make` quarantines."""
    n = -1
    try:
        for n, raw in enumerate(builder.read(unit)):
            yield Raw(f"entry-{n}", raw) if isinstance(raw, BadRecord) else raw
    except OSError as error:  # it would be taken for an error of writing
        raise DataError(f"{error.filename or builder.source} cannot be read: {error.strerror or error}") from error
    except CoDi2Error:
        raise
    except Exception as error:  # a hostile source may cause any error of a library
        yield Raw(f"entry-{n + 1}", _unexpected(error, "this entry and those behind it in the unit cannot be read"))


def _unexpected(error: Exception, what: str = "") -> BadRecord:
    """A BadRecord for an error of any type."""
    reason = (str(error).splitlines() or [""])[0][:200]
    return BadRecord("failed", ": ".join(filter(None, (what, type(error).__name__, reason))))


class _Tally:
    """The counts, the quarantine and the fingerprints of one unit."""

    def __init__(self, settings: Settings, number: int) -> None:
        self.settings, self.number = settings, number
        self.entries, self.records = 0, 0
        self.tasks, self.phases, self.licences = Counter[str](), Counter[str](), Counter[str]()
        self.bad, self.left_out = Counter[str](), Counter[str]()
        self.spent: defaultdict[str, float] = defaultdict(float)  # stage → seconds
        self.quarantine: list[str] = []
        self.fingerprints: list[tuple[int, int]] = []

    def timed(self, entries: Iterator[Raw]) -> Iterator[Raw]:
        while True:
            start = time.perf_counter()
            raw = next(entries, None)
            self.spent["read"] += time.perf_counter() - start
            if raw is None:
                return
            self.entries += 1
            yield raw

    def samples_of(self, builder: Builder, raw: Raw, key: str) -> list[tuple[str, Sample]]:
        """Phase and sample of all records of an entry; none if one of them is unfit."""
        start = time.perf_counter()
        try:
            if isinstance(raw.entry, BadRecord):
                raise raw.entry
            draw = np.random.default_rng(_seed_of(self.settings.seed, raw.key))
            source = f"{self.settings.builder}/{raw.key}"
            records = [_record(draft, f"{key}-{n}", source) for n, draft in enumerate(builder.make(raw, draw))]
            samples = [(record.phase, _sample(record)) for record in records]
            fingerprint = _fingerprint(raw.content) if raw.content else None
            end = time.perf_counter()
            self.spent["make"] += end - start
            for medium in {id(medium): medium for record in records for medium in record.media}.values():
                if not medium.checked:
                    verify(medium)
            self.spent["check"] += time.perf_counter() - end
        except LeftOut as error:
            self.note(self.left_out, raw.key, error)
            return []
        except BadRecord as error:
            self.note(self.bad, raw.key, error)
            return []
        except CoDi2Error:  # a missing package or a wrong option, not a fault of the entry
            raise
        except Exception as error:
            self.note(self.bad, raw.key, _unexpected(error))
            return []
        if fingerprint is not None:
            self.fingerprints.append((self.entries - 1, fingerprint))
        self.records += len(records)
        self.tasks.update(record.task for record in records)
        self.phases.update(record.phase for record in records)
        self.licences.update(licence for record in records for licence in record.licence.split("; "))
        return samples

    def note(self, counts: Counter[str], key: str, unfit: Unfit) -> None:
        counts[unfit.reason] += 1
        source = f"{self.settings.builder}/{key}"
        line = {"source": source[:SHOWN], "reason": unfit.reason, "detail": unfit.detail[:SHOWN]}
        self.quarantine.append(json.dumps(line, ensure_ascii=False))

    def write(self) -> dict[str, Any]:
        part = {
            "entries": self.entries, "records": self.records, "tasks": self.tasks, "phases": self.phases,
            "licences": self.licences, "bad": self.bad, "left_out": self.left_out,
            "spent": {what: round(seconds, 4) for what, seconds in self.spent.items()},
        }  # fmt: skip
        with atomic_path(self.settings.unit_file(self.number, ".npy")) as aside, open(aside, "wb") as file:
            np.save(file, np.array(self.fingerprints, dtype=np.uint64).reshape(-1, 2))
        lines = "".join(line + "\n" for line in self.quarantine)
        # names and words of a source may have lone surrogates, which are written as JSON escapes
        write_atomic(self.settings.unit_file(self.number, ".jsonl"), lines.encode("utf-8", "backslashreplace"))
        write_atomic(self.settings.unit_file(self.number, ".json"), json.dumps(part).encode())
        return part


def _record(draft: Draft, key: str, source: str) -> Record:
    """The record of a draft. Raises BadRecord: it is malformed, or its task or licence is not a plain name."""
    for field, name in (("task", draft.task), ("licence", draft.licence)):
        if len(name) > NAME or not name.isprintable():
            raise BadRecord("malformed", f"the {field} {name[:NAME]!r} is no plain name of at most {NAME} characters")
    try:
        edits = None if draft.edits is None else number_of(draft.edits, draft.turns)
        return Record(key, draft.task, draft.turns, source, draft.licence, draft.meta, edits)
    except DataError as error:
        raise BadRecord("malformed", str(error)) from error


def _sample(record: Record) -> Sample:
    """The sample of a record. Raises BadRecord: its words have a lone surrogate, or are too long."""
    try:
        sample = to_sample(record)
    except UnicodeEncodeError as error:
        raise BadRecord("malformed", f"its words hold {error.object[error.start]!r}, half a character") from error
    if len(sample["json"]) > WORDS:
        raise BadRecord("absurd size", f"words of {len(sample['json']):,} bytes")
    return sample


def _seed_of(seed: int, key: str) -> list[int]:
    """The seed of an entry depends on its key only, not on its unit or worker."""
    return [seed, int.from_bytes(hashlib.blake2b(key.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "big")]


def _fingerprint(content: tuple[bytes | str, ...]) -> int:
    digest = hashlib.blake2b(digest_size=8)
    for piece in content:
        data = piece.encode("utf-8", "surrogatepass") if isinstance(piece, str) else piece
        digest.update(len(data).to_bytes(8, "big") + data)
    return int.from_bytes(digest.digest(), "big")


def _plan(settings: Settings) -> list[dict[str, Any]]:
    """The units, planned once and stored, so that a resumed build has the same ones.

    The settings are written last, after the source has been checked.
    Raises DataError: the builder cannot read the source, or the folder holds another build.
    """
    path = settings.folder / "settings.json"
    builder = open_builder(settings)
    current = {"schema": SCHEMA, **asdict(settings), "version of the source": builder.version}
    del current["out"]  # a folder may be moved
    if not path.is_file():
        with undone(settings.folder / "scratch"):
            (settings.folder / "scratch").mkdir(parents=True, exist_ok=True)
            units = builder.units()
            if not units:
                raise DataError(f"{settings.source} holds nothing for {settings.builder}, which reads {builder.reads}")
        write_atomic(settings.folder / "units.json", json.dumps(units).encode())
        write_atomic(path, json.dumps(current, indent=1).encode())
        return units
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DataError(f"{path} is damaged ({error}); delete {settings.out} and build again") from error
    if differing := next((name for name in current if current[name] != stored.get(name)), None):
        raise DataError(
            f"{settings.out} holds a build with {differing} {stored.get(differing)!r}, not {current[differing]!r}; "
            "choose another folder, or delete that one"
        )
    planned: list[dict[str, Any]] = json.loads((settings.folder / "units.json").read_text(encoding="utf-8"))
    return planned


def _sweep(settings: Settings) -> None:
    """Removes partial files of killed builds and workers."""
    for folder in ("shards", "parts"):
        for stale in (settings.folder / folder).glob(".*"):
            stale.unlink(missing_ok=True)


def _part(settings: Settings, number: int) -> dict[str, Any]:
    part: dict[str, Any] = json.loads(settings.unit_file(number, ".json").read_text(encoding="utf-8"))
    return part


def _tally(settings: Settings, numbers: set[int]) -> tuple[int, Counter[str]]:
    parts = [_part(settings, number) for number in numbers]
    return sum(part["entries"] for part in parts), sum((Counter(part["bad"]) for part in parts), Counter[str]())


def _judge(settings: Settings, seen: int, bad: Counter[str], max_bad: float) -> None:
    """Raises DataError: more than `max_bad` of the entries are bad."""
    if bad.total() <= max_bad * seen:
        return
    reasons = ", ".join(f"{count} × {reason}" for reason, count in bad.most_common(4))
    raise DataError(
        f"{bad.total()} of {seen} entries are bad ({reasons}), more than the share of {max_bad:g} that is allowed; "
        f"see {settings.folder / 'parts'}/*.jsonl, correct the source, or allow more with --max-bad and run again"
    )


def _finish(settings: Settings, count: int, workers: int, ray: str | None, max_bad: float) -> dict[str, Any]:
    """Removes duplicates and writes the report."""
    from codi2.data.duplicates import drop_duplicates, find_duplicates

    duplicates = find_duplicates([settings.unit_file(n, ".npy") for n in range(count)], _FINGERPRINTS_AT_ONCE)
    dropped = [(settings, number, places) for number, places in sorted(duplicates.items())]
    for _ in run.results(drop_duplicates, dropped, workers, ray, "duplicates"):
        pass
    _sweep(settings)  # partial files of workers that died
    report = _report(settings, count)
    with atomic_path(settings.folder / "quarantine.jsonl") as aside, open(aside, "wb") as file:
        for number in range(count):
            file.write(settings.unit_file(number, ".jsonl").read_bytes())
    _judge(settings, report["entries"], Counter(report["bad"]), max_bad)
    if not report["records"]:
        reasons = Counter(report["bad"]) + Counter(report["left_out"])
        summary = ", ".join(f"{count} × {reason}" for reason, count in reasons.most_common(4)) or "no entries"
        raise DataError(f"no record could be made of {settings.source}: {summary}; see {settings.out}/quarantine.jsonl")
    write_atomic(settings.folder / "build.json", json.dumps(report, indent=1).encode())
    return report


def _report(settings: Settings, count: int) -> dict[str, Any]:
    report: dict[str, Any] = {"schema": SCHEMA, **asdict(settings), "units": count, "entries": 0, "records": 0}
    sums: dict[str, Counter[str]] = {name: Counter() for name in _SUMS}
    spent: defaultdict[str, float] = defaultdict(float)
    shards = []
    for number in range(count):
        part = _part(settings, number)
        report["entries"] += part["entries"]
        report["records"] += part["records"]
        for name, counter in sums.items():
            counter.update(part[name])
        for what, seconds in part["spent"].items():
            spent[what] += seconds
        shards += [
            {"file": f"shards/{phase}-{number:06d}.tar", "phase": phase, "records": n}
            for phase, n in part["phases"].items()
            if n
        ]
    del report["out"]
    counts = {name: dict(counter.most_common()) for name, counter in sums.items()}
    return report | counts | {"spent": {what: round(seconds, 2) for what, seconds in spent.items()}, "shards": shards}
