"""Makes the replay set that the package ships: records of the corpus that fine-tuning mixes with a user's own.

codi2 data build tiny && python examples/replay_set.py src/codi2/data/replay

It draws from training items alone, under licences that require attribution at most. The same corpus gives the same
bytes.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import numpy as np

from codi2.data.items import Corpus, load_corpus
from codi2.data.record import SCHEMA, Record, to_sample
from codi2.data.shards import write_shard
from codi2.data.tasks import FAMILIES, TaskSampler, to_record
from codi2.hub import write_atomic

SEED = 91
LICENCES = {"MIT", "Apache-2.0", "CC-BY-4.0", "CC0-1.0"}
COUNTS = {
    "caption_image": 130, "image_from_words": 170, "caption_audio": 20, "audio_from_words": 20, "caption_video": 10,
    "video_from_words": 10, "edit_image": 90, "analogy_image": 40, "next_image": 16, "described_image": 24,
    "difference_image": 16, "edit_audio": 12, "add": 2, "remove": 2, "replace": 2, "fuse": 2, "edit_video": 6,
}  # fmt: skip
"""Task → number of its records."""


def main(out: Path) -> None:
    """Draws the records and writes them as one data set."""
    phases, tasks, licences = Counter[str](), Counter[str](), Counter[str]()
    with ExitStack() as stack:
        writers = {}
        for record in records():
            if record.phase not in writers:
                writers[record.phase] = stack.enter_context(write_shard(out / "shards" / f"{record.phase}.tar"))
            writers[record.phase](to_sample(record))
            phases[record.phase] += 1
            tasks[record.task] += 1
            licences.update(record.licence.split("; "))
    shards = [{"file": f"shards/{phase}.tar", "phase": phase, "records": n} for phase, n in sorted(phases.items())]
    report = {"schema": SCHEMA, "builder": "replay", "records": phases.total(), "tasks": tasks, "licences": licences}
    write_atomic(out / "build.json", json.dumps({**report, "shards": shards}, indent=1).encode() + b"\n")


def records() -> Iterator[Record]:
    corpus = load_corpus()
    items = [item for item in corpus.items if item.licence in LICENCES]
    sampler = TaskSampler(Corpus(corpus.folder, items, corpus.version))
    task_of = {name: task for family in FAMILIES.values() for name, task in family.items()}
    for number, name in enumerate(name for name, count in COUNTS.items() for _ in range(count)):
        example = task_of[name](sampler, np.random.default_rng((SEED, number)))
        # each record is an entry of its own, so that a part can be held out
        yield replace(to_record(example, f"{number:04d}"), source=f"replay/{number}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
