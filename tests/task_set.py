"""A data set of the tasks that are drawn from the corpus of `rich_home`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from codi2.data.items import load_corpus
from codi2.data.record import SCHEMA, Record, to_sample
from codi2.data.shards import write_shard
from codi2.data.tasks import FAMILIES, TaskSampler, to_record

TASKS = {
    name: task
    for family, tasks in FAMILIES.items()
    for name, task in tasks.items()
    if family != "rounds" and name != "chat"  # which need answers of the base model
}
SHARD = 500  # most records


def write_task_set(
    home: Path, folder: Path, records: int = 76, names: Sequence[str] = tuple(TASKS)
) -> dict[str, float]:
    """Writes a finished data set of the named tasks, each in turn. Returns {folder: 1.0}, for `[options.data]`."""
    sampler = TaskSampler(load_corpus(home / "data" / "tiny"))
    groups: dict[tuple[int, str], list[Record]] = {}
    for number in range(records):
        task = TASKS[names[number % len(names)]]
        record = to_record(task(sampler, np.random.default_rng((0, number))), f"{number:06d}")
        groups.setdefault((number // SHARD, record.phase), []).append(record)
    shards = []
    for (unit, phase), group in sorted(groups.items()):
        shards.append({"file": f"shards/{phase}-{unit:06d}.tar", "phase": phase, "records": len(group)})
        with write_shard(folder / "shards" / f"{phase}-{unit:06d}.tar") as add:
            for record in group:
                add(to_sample(record))
    report = {"schema": SCHEMA, "builder": "tasks", "records": records, "shards": shards}
    (folder / "build.json").write_text(json.dumps(report))
    return {str(folder): 1.0}
