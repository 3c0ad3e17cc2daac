"""Finds and drops entries that repeat an earlier one, over all units of a build, in limited memory."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from codi2.data.record import to_sample
from codi2.data.shards import Shard, write_shard
from codi2.hub import write_atomic

if TYPE_CHECKING:
    from codi2.data.build import Settings


def find_duplicates(files: Sequence[Path], at_once: int) -> dict[int, list[int]]:
    """Index of a file → places of the entries that repeat an earlier one, for files with such entries.

    Args:
        files: of units, in order; each uint64 [N, 2]: place and fingerprint of an entry.
        at_once: fingerprints that are held in memory together.
    """
    total = sum(_rows(path) for path in files)
    passes = max(1, -(-total // at_once))
    repeats: dict[int, list[int]] = {}
    for remainder in range(passes):
        units, places, prints = [], [], []
        for number, path in enumerate(files):
            entries = np.load(path, mmap_mode="r")
            selected = entries[entries[:, 1] % np.uint64(passes) == remainder]
            units.append(np.full(len(selected), number, dtype=np.uint32))
            places.append(selected[:, 0].astype(np.uint32))
            prints.append(selected[:, 1])
        unit, place, fingerprint = map(np.concatenate, (units, places, prints))
        first = np.unique(fingerprint, return_index=True)[1]  # the first of equal entries in reading order
        repeated = np.ones(len(fingerprint), dtype=bool)
        repeated[first] = False
        for number, repeated_place in zip(unit[repeated].tolist(), place[repeated].tolist(), strict=True):
            repeats.setdefault(number, []).append(repeated_place)
    return {number: sorted(places) for number, places in repeats.items()}


def _rows(path: Path) -> int:
    return len(np.load(path, mmap_mode="r"))


def drop_duplicates(task: tuple[Settings, int, list[int]]) -> dict[str, Any]:
    """Rewrites a unit's shards without the records of these entries. A second call changes nothing."""
    settings, number, places = task
    path = settings.unit_file(number, ".json")
    part: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    if part["bad"].get("duplicate") == len(places):
        return part
    dropped, tasks, phases, licences = set(places), Counter[str](), Counter[str](), Counter[str]()
    for phase in part["phases"]:
        tar = settings.folder / "shards" / f"{phase}-{number:06d}.tar"
        shard = Shard(tar)
        with write_shard(tar) as add:
            for record in shard:
                if int(record.key.split("-")[1]) in dropped:
                    continue
                add(to_sample(record))
                phases[phase] += 1
                tasks[record.task] += 1
                licences.update(record.licence.split("; "))
        shard.close()
    part |= {"records": phases.total(), "tasks": tasks, "phases": {p: phases[p] for p in part["phases"]}}
    part |= {"licences": licences, "bad": part["bad"] | {"duplicate": len(places)}}
    lines = [
        {"source": f"{settings.builder}/unit {number}, entry {p}", "reason": "duplicate", "detail": ""} for p in places
    ]
    notes = settings.unit_file(number, ".jsonl")
    kept = [
        line for line in notes.read_text(encoding="utf-8").split("\n") if line and '"reason": "duplicate"' not in line
    ]
    write_atomic(notes, "".join(line + "\n" for line in [*kept, *map(json.dumps, lines)]).encode())
    write_atomic(path, json.dumps(part).encode())
    return part
