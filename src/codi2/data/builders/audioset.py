"""AudioSet: sounds from captions and captions of sounds, from segments (CSV), ontology (JSON) and the user's clips.

`*_segments.csv` has three comment lines and `YTID, start_seconds, end_seconds, "label,label"`; the clips are below the
source and have any of the names that common downloaders give.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from codi2.data.builders.contract import BadRecord, Builder, Draft, LeftOut, Raw, Unit
from codi2.data.builders.lines import Lines, index_lines, line_entries, ranges
from codi2.data.builders.listed import listed
from codi2.data.builders.paired import Paired, paired
from codi2.data.checks import entry_file
from codi2.data.record import SUFFIXES, Medium
from codi2.errors import DataError
from codi2.untrusted import is_file, parse_json, read_inside

LICENCE = "AudioSet labels CC-BY-4.0; each clip its video's own"
SEGMENTS = 1_000  # of a unit
_PROBED = 300  # segments that are tried to find the names of the clips


@dataclass(frozen=True)
class Segment:
    video: str
    start: float  # seconds
    end: float
    labels: tuple[str, ...]
    """Machine ids: `/m/0bt9lr`."""

    def stems(self) -> Iterator[str]:
        """The names that downloaders give its clip, without suffix."""
        yield self.video
        yield f"Y{self.video}"
        yield f"{self.video}_{self.start:g}"
        yield f"{self.video}_{self.start:g}_{self.end:g}"
        yield f"{self.video}_{self.start:.3f}_{self.end:.3f}"
        yield f"{self.video}_{self.start * 1000:.0f}"
        yield f"{self.video}_{self.start * 1000:.0f}_{self.end * 1000:.0f}"


def parse_segment(line: str) -> Segment:
    """Raises BadRecord."""
    try:
        video, start, end, labels = next(csv.reader([line], skipinitialspace=True))
        return Segment(video, float(start), float(end), tuple(labels.split(",")))
    except (ValueError, StopIteration, csv.Error) as error:
        raise BadRecord("malformed", f"{line[:80]!r} is no segment") from error


class AudioSetFiles:
    """The segments of a source by number, and their clips.

    Args:
        scratch: folder with the index that `plan` wrote.
    """

    def __init__(self, source: Path, scratch: Path) -> None:
        self.source, self.scratch = source, scratch
        self._below: dict[str, set[str]] = {}

    def plan(self) -> int:
        """Indexes the segments and finds the names of the clips; returns the number of segments. Raises DataError."""
        tables = listed(self.source, "*segments*.csv")
        if len(tables) != 1:
            names = ", ".join(table.name for table in tables) or "none"
            raise DataError(
                f"{self.source} should hold one *_segments.csv with its clips below it, there is {names}; "
                "put each list into a folder of its own"
            )
        count = index_lines(self.source, tables[0], self.scratch / "segments.npy", comments="#")
        patterns = self._names(Lines(self.source, tables[0], self.scratch / "segments.npy"))
        (self.scratch / "segments.json").write_text(json.dumps({"table": tables[0].name, "names": patterns}))
        _ = self.ontology  # raises now if it is missing
        return count

    def _names(self, lines: Lines) -> list[tuple[str, int, str]]:
        """The patterns of names in use, most frequent first: folder, index in `stems`, suffix."""
        folders = {path.parent for suffix in SUFFIXES["audio"] for path in self.source.glob(f"**/*.{suffix}")}
        hits: dict[tuple[str, int, str], int] = {}
        for i in np.linspace(0, len(lines) - 1, min(len(lines), _PROBED)).astype(int):
            try:
                segment = parse_segment(lines[int(i)])
            except BadRecord:
                continue
            for folder in sorted(folders):
                for n, stem in enumerate(segment.stems()):
                    for suffix in SUFFIXES["audio"]:
                        if is_file(self.source, folder / f"{stem}.{suffix}"):
                            name = (str(folder.relative_to(self.source)), n, suffix)
                            hits[name] = hits.get(name, 0) + 1
        if len(lines) and not hits:
            raise DataError(
                f"no clip of {self.source}'s segments was found; put them as <YTID>.wav (or .flac, .ogg, .mp3, .m4a, "
                ".opus; Y<YTID> and <YTID>_<start> are known too) into a folder below it"
            )
        return sorted(hits, key=lambda name: -hits[name])

    @cached_property
    def _plan(self) -> dict[str, Any]:
        plan: dict[str, Any] = json.loads((self.scratch / "segments.json").read_text())
        return plan

    @cached_property
    def lines(self) -> Lines:
        return Lines(self.source, self._plan["table"], self.scratch / "segments.npy")

    @cached_property
    def ontology(self) -> dict[str, tuple[str, list[str]]]:
        """Machine id → name, and the ids of its children. Raises DataError."""
        path = self.source / "ontology.json"
        try:
            entries = parse_json(read_inside(self.source, path))
            children = {str(entry["id"]): [str(kid) for kid in entry["child_ids"]] for entry in entries}
            names = {str(entry["id"]): str(entry["name"]) for entry in entries}
        except FileNotFoundError as error:
            raise DataError(f"there is no {path}; AudioSet's ontology.json belongs beside the segments") from error
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(f"{path} is not AudioSet's ontology: it lacks {error}; download it again") from error

        return {label: (name, children[label]) for label, name in names.items()}

    def below(self, label: str) -> set[str]:
        """All ids below a label."""
        if label not in self._below:
            descendants: set[str] = set()
            todo = [label]
            while todo:
                children = set(self.ontology[top][1] if (top := todo.pop()) in self.ontology else ()) - descendants
                descendants |= children
                todo += children
            self._below[label] = descendants
        return self._below[label]

    def caption(self, labels: Sequence[str]) -> str:
        """`bark and rain on surface`: the most specific labels. Raises BadRecord: a label that the ontology lacks."""
        if unknown := [label for label in labels if label not in self.ontology]:
            raise BadRecord("malformed", f"the label {unknown[0]!r} is not in the ontology")
        narrow = [label for label in labels if not any(other in self.below(label) for other in labels)]
        names = [_plain(self.ontology[label][0]) for label in narrow]
        return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)

    def related(self, labels: Sequence[str]) -> set[str]:
        """The labels and all below them: sounds that share one of these are hard to distinguish."""
        return set(labels).union(*(self.below(label) for label in labels))

    def clip(self, segment: Segment) -> Medium:
        """The clip of a segment. Raises LeftOut: the source has none."""
        stems = list(segment.stems())
        for folder, n, suffix in self._plan["names"]:
            with suppress(LeftOut):
                return Medium(suffix, entry_file(self.source, Path(folder) / f"{stems[n]}.{suffix}"))
        raise LeftOut("absent", f"no clip of {segment.video}")


def _plain(name: str) -> str:
    """`Male speech, man speaking` → `male speech`; the rest of a label repeats it in other words."""
    words = name.partition(",")[0].partition(" (")[0]
    return words if words[:2].isupper() else words[:1].lower() + words[1:]


class AudioSet(Builder):
    about = "sounds from captions and captions of sounds"
    reads = (
        "one *_segments.csv, ontology.json, and clips named by video (wav, flac, ogg, mp3, m4a, opus) in a folder below"
    )
    Options: ClassVar[type] = Paired

    @cached_property
    def files(self) -> AudioSetFiles:
        return AudioSetFiles(self.source, self.scratch)

    def units(self) -> list[dict[str, Any]]:
        return ranges(self.files.plan(), SEGMENTS)

    def read(self, unit: Unit) -> Iterator[Raw | BadRecord]:
        yield from line_entries(self.files.lines, unit, "segment")

    def make(self, raw: Raw, draw: np.random.Generator) -> Iterator[Draft]:
        segment = parse_segment(raw.entry)
        words = self.files.caption(segment.labels)
        meta = {"video": segment.video, "start": segment.start, "labels": list(segment.labels)}
        yield from paired(self.files.clip(segment), words, draw, self.options.ways, LICENCE, meta)
