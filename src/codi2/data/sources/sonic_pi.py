"""Sonic Pi samples: drums, loops and short effects, named by a prefix."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

from codi2.data.labels import tables
from codi2.data.prepare import read_sound
from codi2.data.raw import CorpusSource, RawItem

_SAMPLES = "sonic-pi-samples/usr/share/sonic-pi/samples"


def read(root: Path) -> Iterator[RawItem]:
    table: dict[str, str] = tables()["sonic_pi"]
    for path in sorted((root / _SAMPLES).glob("*.flac")):
        prefix = max((p for p in table if path.stem.startswith(p)), key=len, default="")
        if not prefix:
            continue
        name, caption = table[prefix].split(" | ")
        rest = path.stem[len(prefix) :].strip("_").rstrip("0123456789").replace("_", " ").strip()
        yield RawItem(
            key=path.stem, modality="audio", file=str(path.relative_to(root)), name=name,
            caption=" ".join(caption.format(rest).split()), category="sample", style="recorded",
            group=f"sonic-pi/{path.stem}", load=partial(read_sound, path),
        )  # fmt: skip


SOURCE = CorpusSource("sonic-pi", "CC0-1.0", "Sonic Pi samples and their authors on freesound", read)
