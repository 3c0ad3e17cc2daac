"""A General MIDI soundfont, played: three notes of each of the 128 programs."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np

from codi2.data.labels import tables, with_article
from codi2.data.raw import CorpusSource, RawItem, Sound
from codi2.errors import MissingDependencyError

_FONT = "timgm6mb-soundfont/usr/share/sounds/sf2/TimGM6mb.sf2"
_RATE = 44_100  # Hz
_HELD, _RELEASE = 1.8, 0.7  # seconds
_NOTES = (48, 60, 72)
_LOW, _HIGH = (36, 43, 50), (60, 72, 79)  # what basses and piccolos can play
_LOW_NAMES, _HIGH_NAMES = ("bass", "tuba", "timpani", "contra"), ("piccolo", "glockenspiel", "music box", "whistle")


def _render(font: Path, program: int, note: int) -> Sound:
    try:
        import tinysoundfont
    except ImportError as error:
        raise MissingDependencyError(
            "rendering a soundfont needs the package tinysoundfont: run `pip install --no-deps tinysoundfont`"
        ) from error
    synth = tinysoundfont.Synth(samplerate=_RATE)
    synth.program_select(0, synth.sfload(str(font)), 0, program)
    synth.noteon(0, note, 110)
    held = np.frombuffer(bytes(synth.generate(int(_HELD * _RATE))), np.float32)
    synth.noteoff(0, note)
    released = np.frombuffer(bytes(synth.generate(int(_RELEASE * _RATE))), np.float32)
    return np.concatenate([held, released]).reshape(-1, 2), _RATE


def read(root: Path) -> Iterator[RawItem]:
    table, font = tables()["soundfont"], root / _FONT
    for program, name in enumerate(table["names"]):
        concept = table["concept"].get(name, name)
        caption = table["caption"].get(name) or f"{with_article(name)} playing a note"
        low, high = name.startswith(_LOW_NAMES) or "bass" in name.split(), name.startswith(_HIGH_NAMES)
        for note in _LOW if low else _HIGH if high else _NOTES:
            yield RawItem(
                key=f"{program:03d}-{note}", modality="audio", file=f"{_FONT}:{program}:{note}", name=concept,
                caption=caption, category="soundfont", style="synthesized", group=f"soundfont/{program:03d}",
                load=partial(_render, font, program, note),
            )  # fmt: skip


SOURCE = CorpusSource("soundfont", "GPL-2.0-or-later", "TimGM6mb by Tim Brechbill", read)
