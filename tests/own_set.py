"""A data set as a user has one: captioned pictures and edits."""

from __future__ import annotations

import json
from pathlib import Path

from PIL import Image

from codi2.data.build import Settings, build


def own_set(folder: Path, names: list[str], edits: int = 0) -> Path:
    """A set of pictures that are called `names`, and of `edits` edits."""
    entries = []
    (folder / "files").mkdir(parents=True)
    for n, name in enumerate(names):
        Image.new("RGB", (16, 16), (40 * n % 256, 99, 7)).save(folder / "files" / f"{n}.png")
        entries.append({"file_name": f"{n}.png", "text": f"a {name}"})
    for n in range(edits):
        entries.append({"source": f"{n}.png", "instruction": "zorble it", "target": f"{n + 1}.png"})
    (folder / "files" / "metadata.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    build(Settings("folder", str(folder / "files"), str(folder / "set")))
    return folder / "set"
