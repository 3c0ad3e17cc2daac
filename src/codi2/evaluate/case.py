"""Questions with known answers, and what systems answer, kept on disk: to generate and to score are two steps.

out/outputs/ours/<case>.png      what a system made of each case; whoever writes files of these names can be scored
out/outputs/ours/settings.json   what made them; other settings are refused, so that no figure mixes two models
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from codi2.errors import DataError
from codi2.hub import write_atomic
from codi2.media import LOSSLESS, file_bytes
from codi2.processes import ALONE, Processes
from codi2.prompt.parts import Audio, Image, Part, Prompt, Text, Video
from codi2.prompt.sources import LAST
from codi2.prompt_json import to_wire

if TYPE_CHECKING:
    from codi2.evaluate.context import EvalContext

SETTINGS = "settings.json"
SUFFIXES = {"image": (".png", ".jpg", ".jpeg", ".webp"), "audio": (".flac", ".wav", ".ogg"), "video": (".webp", ".mp4"),
            "text": (".txt",)}  # fmt: skip
"""How a case's output may be named, by modality; the first is what is written here."""
CHUNK = 16  # cases that a system answers between two savings


@dataclass(frozen=True)
class Case:
    """One question, and what its answer is compared with."""

    id: str
    """Names its files: letters, digits, - and _."""
    prompt: Prompt
    want: str
    """Modality of the answer."""
    truth: Mapping[str, Part] = field(default_factory=dict)
    """`target`, `source`, … by name."""
    group: str = ""
    """Cases of one group make one figure."""
    about: Mapping[str, Any] = field(default_factory=dict)
    thread: str = ""
    """Cases of one thread follow each other: they are answered together, in order."""
    source: str = LAST
    """What the answer edits, as `Options.source` has it."""

    @property
    def target(self) -> Part:
        return self.truth["target"]


System = Callable[["EvalContext", Sequence[Case]], Sequence[Part]]
"""A way to answers: one part for each case, in order."""


class Outputs:
    """The outputs of systems under a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def find(self, system: str, case: Case) -> Path | None:
        """The file of a case's output; None where there is none."""
        paths = (self.folder / system / f"{case.id}{suffix}" for suffix in SUFFIXES[case.want])
        return next((path for path in paths if path.is_file()), None)

    def load(self, system: str, case: Case) -> Part:
        """Raises DataError: there is none; MediaError: it cannot be read, or is empty."""
        from codi2.media import load

        path = self.find(system, case)
        if path is None:
            raise DataError(f"{self.folder / system} holds no {case.id}{SUFFIXES[case.want][0]}")
        if case.want == "text":
            return Text(path.read_text(encoding="utf-8"))
        part = load(path)
        if case.want == "video" and isinstance(part, Image):  # what does not move is written as a still
            part = Video((part.pixels,), 1.0, part.name)
        if part.modality != case.want:
            raise DataError(f"{path} is {part.modality}, the case asks for {case.want}")
        return part

    def load_all(self, system: str, cases: Sequence[Case]) -> list[Part]:
        """Raises DataError with the first case without an output and how many: none is left out in silence."""
        missing = [case.id for case in cases if self.find(system, case) is None]
        if missing:
            where = self.folder / system
            raise DataError(f"{where} lacks {len(missing)} of {len(cases)} outputs, the first is {missing[0]!r}")
        return [self.load(system, case) for case in cases]

    def save(self, system: str, case: Case, part: Part, settings: Mapping[str, Any]) -> None:
        """Writes an output; a medium says how it was made."""
        path = self.folder / system / f"{case.id}{SUFFIXES[case.want][0]}"
        provenance = {name: settings[name] for name in ("model", "seed") if name in settings}
        write_atomic(path, _encoded(part, {"system": system, "case": case.id, **provenance}))

    def produce(
        self,
        system: str,
        answer: System,
        context: EvalContext,
        cases: Sequence[Case],
        settings: Mapping[str, Any],
        processes: Processes = ALONE,
    ) -> list[Part]:
        """Every case's output: what is there is kept, what is missing is made and saved, a chunk at a time.

        Chunks are divided over `processes`. All return when all chunks are made, only the first with the outputs.

        Raises DataError: the folder holds outputs that other settings made.
        """

        def missing() -> list[list[str]]:
            self._claim(system, settings)
            open_threads = {case.thread or case.id for case in cases if self.find(system, case) is None}
            chunks = _chunks([case for case in cases if (case.thread or case.id) in open_threads])
            return [[case.id for case in chunk] for chunk in chunks]

        def make() -> None:
            for ids in processes.share(chunks):
                for name, part in zip(ids, answer(context, [named[name] for name in ids]), strict=True):
                    self.save(system, named[name], part, settings)

        named = {case.id: case for case in cases}
        chunks = processes.gather(missing)[0]  # one list for all: from now on it gets shorter
        processes.gather(make)
        return self.load_all(system, cases) if processes.first else []

    def _claim(self, system: str, settings: Mapping[str, Any]) -> None:
        path = self.folder / system / SETTINGS
        content = json.dumps(settings, indent=1, sort_keys=True, default=str)
        if path.is_file() and path.read_text(encoding="utf-8") != content:
            raise DataError(
                f"{path.parent} holds outputs of another model or seed; choose another --out, or delete the folder"
            )
        write_atomic(path, content.encode())


def _chunks(cases: Sequence[Case]) -> Iterator[list[Case]]:
    """About CHUNK cases at a time: threads whole, others with those of their modality."""
    for want in dict.fromkeys("" if case.thread else case.want for case in cases):
        chunk: list[Case] = []
        same = [case for case in cases if ("" if case.thread else case.want) == want]
        for n, case in enumerate(same):
            chunk.append(case)
            ends = n + 1 == len(same) or not case.thread or same[n + 1].thread != case.thread
            if ends and (len(chunk) >= CHUNK or n + 1 == len(same)):
                yield chunk
                chunk = []


def export(cases: Sequence[Case], folder: Path) -> None:
    """Writes `<case>.json` for each, for other systems to answer: its prompt as HTTP carries it, what is wanted, and
    what the answer edits."""
    for case in cases:
        about = {
            "id": case.id,
            "want": case.want,
            "group": case.group,
            "source": case.source,
            "prompt": to_wire(case.prompt),
        }
        write_atomic(folder / f"{case.id}.json", json.dumps(about).encode())


def _encoded(part: Part, metadata: Mapping[str, Any]) -> bytes:
    match part:
        case Image() | Audio() | Video():
            return file_bytes(part, LOSSLESS[part.modality], metadata)
        case Text():
            return part.text.encode()
    raise DataError(f"answers in {part.modality} are not kept")
