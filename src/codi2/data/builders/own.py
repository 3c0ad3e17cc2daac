"""A user's own files: captions, edits, or whole interleaved conversations.

A folder with `metadata.jsonl` or `metadata.csv`, a .jsonl file, or a folder of media with a `.txt` caption beside each.
A line is one of

    {"file_name": "cat.png", "text": "a cat"}                                     caption, both ways
    {"source": "a.png", "instruction": "make it night", "target": "b.png"}        edit
    {"prompt": "Make [image0] look like [image1].", "answer": "[image2]", "media": {"image0": "a.png", …}}
    {"turns": [["user", "…"], ["assistant", "…"], …], "media": {…}}               several rounds

and may have `licence` and `task`. `[text0]` in a prompt is text given as features: `"media": {"text0": "a cat"}`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from codi2.data.builders.contract import BadRecord, Builder, Draft, Raw, Unit, exchange
from codi2.data.builders.instruct_pix2pix import clause
from codi2.data.builders.lines import Lines, csv_fields, csv_header, index_lines, line_entries, ranges
from codi2.data.builders.paired import Paired, paired
from codi2.data.checks import entry_file
from codi2.data.record import MODALITY, ROLES, Medium, Turn, suffix_in_shards
from codi2.data.templates import write_prompt
from codi2.errors import DataError, PromptError
from codi2.hub import write_atomic
from codi2.prompt.grammar import parse
from codi2.untrusted import parse_json

LINES = 1_000  # a unit
LISTS = ("metadata.jsonl", "metadata.csv")


@dataclass(frozen=True)
class Options(Paired):
    licence: str = "unknown"
    """Of entries that name none."""


class Own(Builder):
    about = "your own files: captions, edits, interleaved conversations"
    reads = (
        "a folder with metadata.jsonl or metadata.csv, a .jsonl file, or media files with a .txt caption beside each"
    )
    Options = Options

    def units(self) -> list[dict[str, Any]]:
        folder, listed = self._list()
        quoted = listed.suffix == ".csv"
        header: list[str] = []
        if quoted:
            header = csv_header(folder, listed)
            if "file_name" not in header or "text" not in header:
                raise DataError(f"{listed} needs the columns file_name and text; it has {', '.join(header)}")
        count = index_lines(folder, listed, self.scratch / "lines.npy", quoted=quoted, skip=int(quoted))
        plan = {"list": listed.name, "made": folder == self.scratch, "header": header}
        (self.scratch / "plan.json").write_text(json.dumps(plan))
        return ranges(count, LINES)

    def _list(self) -> tuple[Path, Path]:
        """The file of one entry a line, with its folder; for captions in sidecars it is made. Raises DataError."""
        if self.source.is_file():
            if self.source.suffix not in (".jsonl", ".csv"):
                raise DataError(f"{self.source} is no .jsonl or .csv; this builder reads {self.reads}")
            return self.root, self.source
        if not self.source.is_dir():
            raise DataError(f"there is no {self.source}")
        for name in LISTS:
            if (self.source / name).exists():
                return self.source, self.source / name
        media = sorted(path for path in self.source.rglob("*") if path.suffix[1:].lower() in MODALITY)
        captioned = [path for path in media if path.with_suffix(".txt").is_file()]
        if not captioned:
            raise DataError(f"{self.source} holds no {' or '.join(LISTS)}, and no media file has a .txt beside it")
        lines = [json.dumps({"file_name": str(path.relative_to(self.source)), "sidecar": True}) for path in captioned]
        write_atomic(self.scratch / "sidecars.jsonl", "".join(line + "\n" for line in lines).encode())
        return self.scratch, self.scratch / "sidecars.jsonl"

    @cached_property
    def _plan(self) -> dict[str, Any]:
        plan: dict[str, Any] = json.loads((self.scratch / "plan.json").read_text())
        return plan

    def read(self, unit: Unit) -> Iterator[Raw | BadRecord]:
        folder = self.scratch if self._plan["made"] else self.root
        yield from line_entries(Lines(folder, self._plan["list"], self.scratch / "lines.npy"), unit, "line", 1)

    def make(self, raw: Raw, draw: np.random.Generator) -> Iterator[Draft]:
        entry = self._entry(raw.entry)
        licence = str(entry.get("licence") or entry.get("license") or self.options.licence)
        if "file_name" in entry:
            medium = self._medium(entry["file_name"])
            words = entry.get("text")
            if entry.get("sidecar"):
                beside = str(PurePosixPath(entry["file_name"]).with_suffix(".txt"))
                words = entry_file(self.root, beside).decode("utf-8", "replace")
            yield from paired(medium, words, draw, self.options.ways, licence)
        elif "instruction" in entry:
            source, target = (self._medium(entry.get(name)) for name in ("source", "target"))
            asked = write_prompt("edit", draw, {"media": [source], "ask": clause(entry["instruction"])})
            yield Draft(str(entry.get("task", f"edit_{target.modality}")), exchange(asked, [target]), licence)
        elif "turns" in entry or "prompt" in entry:
            turns = entry.get("turns") or [["user", entry["prompt"]], ["assistant", entry.get("answer")]]
            yield Draft(str(entry.get("task", "own")), self._turns(turns, entry.get("media") or {}), licence)
        else:
            raise BadRecord(
                "malformed", f"it has {', '.join(entry) or 'nothing'}; file_name, instruction or prompt is needed"
            )

    def _entry(self, line: str) -> Mapping[str, Any]:
        if self._plan["header"]:
            return dict(zip(self._plan["header"], csv_fields(line), strict=False))
        try:
            entry = parse_json(line)
        except ValueError as error:
            raise BadRecord("malformed", f"{line[:80]!r} is no JSON: {error}") from error
        if not isinstance(entry, dict):
            raise BadRecord("malformed", f"{line[:80]!r} is no JSON object")
        return entry

    def _turns(self, turns: Any, media: Mapping[str, Any]) -> tuple[Turn, ...]:
        """Raises BadRecord: the turns do not alternate, or a placeholder has no medium."""
        try:
            said = [(str(role), str(text)) for role, text in turns]
            if [role for role, _ in said] != [ROLES[i % 2] for i in range(len(said))] or len(said) % 2:
                raise BadRecord(
                    "malformed", f"the roles are {[role for role, _ in said]}; user and assistant should alternate"
                )
            named = {
                key.lower(): value if key.startswith("text") else self._medium(value) for key, value in media.items()
            }
            used = [{key: value for key, value in named.items() if f"[{key}" in text.lower()} for _, text in said]
            return tuple((role, parse(text, own)) for (role, text), own in zip(said, used, strict=True))  # type: ignore[arg-type, misc]
        except (ValueError, TypeError, AttributeError, PromptError) as error:
            raise BadRecord("malformed", str(error)) from error

    def _medium(self, name: Any) -> Medium:
        """Raises BadRecord: of no known kind, or not inside the folder; LeftOut: not there."""
        if not isinstance(name, str) or not name:
            raise BadRecord("malformed", f"{name!r} is no file name")
        suffix = PurePosixPath(name).suffix[1:].lower()
        if suffix not in MODALITY:
            raise BadRecord("malformed", f"{name} ends in none of {', '.join(MODALITY)}")
        data = entry_file(self.root, name)
        return Medium(suffix_in_shards(suffix, data), data)
