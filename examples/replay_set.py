"""Makes the replay set that the package ships: records of the corpus that fine-tuning mixes with a user's own.

codi2 data build tiny && python examples/replay_set.py src/codi2/data/replay

It takes training items alone, under licences that ask for attribution at most. The same corpus gives the same bytes.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from codi2.data.build import Settings, build
from codi2.data.record import SCHEMA, Record, to_sample
from codi2.data.sets import load_report
from codi2.data.shards import open_shards, write_shard
from codi2.hub import home, write_atomic

LICENCES = {"MIT", "Apache-2.0", "CC-BY-4.0", "CC0-1.0"}
STYLES = {"google", "twitter", "fluent3d", "recorded", "animated"}  # of captioned items
PAIRS = {"image": 130, "audio": 20, "video": 10}  # captioned items each way
ROWS = {
    "edit_image": 90, "analogy_image": 40, "next_image": 16, "described_image": 24,
    "difference_image": 16, "edit_audio": 12, "mix": 8, "edit_video": 6, "picture_from_words": 40,
}  # fmt: skip


def main(out: Path) -> None:
    """Builds what is drawn from into a temporary folder, and writes the chosen records as one data set."""
    with tempfile.TemporaryDirectory() as scratch, ExitStack() as stack:
        chosen = [*pairs(Path(scratch)), *rows(Path(scratch))]
        writers, counts = {}, Counter[str]()
        for number, record in enumerate(chosen):
            if record.phase not in writers:
                writers[record.phase] = stack.enter_context(write_shard(out / "shards" / f"{record.phase}.tar"))
            writers[record.phase](to_sample(replace(record, key=f"{number:04d}")))
            counts[record.phase] += 1
    shards = [{"file": f"shards/{phase}.tar", "phase": phase, "records": n} for phase, n in sorted(counts.items())]
    tasks, licences = Counter(r.task for r in chosen), Counter(x for r in chosen for x in r.licence.split("; "))
    report = {"schema": SCHEMA, "builder": "replay", "records": len(chosen), "tasks": tasks, "licences": licences}
    write_atomic(out / "build.json", json.dumps({**report, "shards": shards}, indent=1).encode() + b"\n")


def pairs(scratch: Path) -> Iterator[Record]:
    """Captions of items and items from captions, as many of each, every item once."""
    left = {(modality, way): count for modality, count in PAIRS.items() for way in ("caption_{}", "{}_from_caption")}
    for record in drawn("tiny", scratch / "pairs", {"ways": "either"}, every=17):
        modality = record.media[0].modality
        way = record.task.replace(modality, "{}")
        if left.get((modality, way), 0) and record.meta["style"] in STYLES:
            left[modality, way] -= 1
            yield record


def rows(scratch: Path) -> Iterator[Record]:
    """Edits, examples and the rest of the paper's tables."""
    for row, count in ROWS.items():
        options = {"only": row, "records": (60 if "audio" in row or row == "mix" else 12) * count}
        found = drawn("tables", scratch / row, options)
        yield from (replace(r, source=f"{r.source}/{row}") for r, _ in zip(found, range(count), strict=False))


def drawn(builder: str, out: Path, options: dict[str, object], every: int = 1) -> Iterator[Record]:
    """Records whose every item has one of the licences, each `every`-th first."""
    build(Settings(builder, str(home() / "data" / "tiny"), str(out), seed=91, options=options))
    records = [record for shard in open_shards(out, load_report(out)) for record in shard]
    for start in range(every):
        yield from (record for record in records[start::every] if set(record.licence.split("; ")) <= LICENCES)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
