"""A user's files: captions, edits, or interleaved conversations.

A folder with `metadata.jsonl` or `metadata.csv`, a .jsonl file, or a folder of media with a `.txt` caption beside each.
A line is one of

    {"file_name": "cat.png", "text": "a cat"}                                     caption
    {"source": "a.png", "instruction": "make it night", "target": "b.png"}        edit
    {"prompt": "Make [image0] look like [image1].", "answer": "[image2]", "media": {"image0": "a.png", …}}
    {"turns": [["user", "…"], ["assistant", "…"], …], "media": {…}}               several rounds

and may have `licence` and `task`. `"edits": "image0"` names the medium that the last answer edits; the default is none,
for an edit its source. `[text0]` in a prompt is text that is encoded as features: `"media": {"text0": "a cat"}`.
"""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from codi2.data.builders.contract import BadRecord, Builder, Draft, LeftOut, Raw, Unit, exchange
from codi2.data.builders.instruct_pix2pix import clause
from codi2.data.builders.lines import Lines, csv_fields, csv_header, index_lines, line_entries, ranges
from codi2.data.builders.listed import listed
from codi2.data.builders.paired import Paired, paired
from codi2.data.checks import READ, entry_file, medium_of, suffix_of
from codi2.data.record import ROLES, Medium, Turn
from codi2.data.templates import write_prompt
from codi2.data.texts import decode
from codi2.errors import DataError, PromptError
from codi2.hub import write_atomic
from codi2.prompt.grammar import parse
from codi2.untrusted import parse_json

LINES = 1_000  # of a unit
LISTS = ("metadata.jsonl", "metadata.csv")


@dataclass(frozen=True)
class Options(Paired):
    licence: str = "unknown"
    """The licence of entries that name none."""


class Own(Builder):
    about = "your own files: captions, edits, interleaved conversations"
    reads = (
        "a folder with metadata.jsonl or metadata.csv, a .jsonl file, or media files with a .txt caption beside each"
    )
    Options = Options

    def units(self) -> list[dict[str, Any]]:
        folder, table = self._list()
        quoted = table.suffix.lower() == ".csv"
        header: list[str] = []
        between = ","
        if quoted:
            header, between = csv_header(folder, table)
            if "file_name" not in header or "text" not in header:
                raise DataError(f"{table} needs the columns file_name and text; it has {', '.join(header)}")
        count = index_lines(folder, table, self.scratch / "lines.npy", quoted=quoted, skip=int(quoted))
        plan = {"list": table.name, "made": folder == self.scratch, "header": header, "between": between}
        (self.scratch / "plan.json").write_text(json.dumps(plan))
        return ranges(count, LINES)

    def _list(self) -> tuple[Path, Path]:
        """The folder and the file with one entry per line; for sidecar captions the file is made. Raises DataError."""
        if self.source.is_file():
            if self.source.suffix.lower() not in (".jsonl", ".csv"):
                raise DataError(f"{self.source} is not a .jsonl or .csv file; this builder reads {self.reads}")
            return self.root, self.source
        if not self.source.is_dir():
            raise DataError(f"there is no {self.source}; this builder reads {self.reads}")
        for name in LISTS:
            if (self.source / name).exists():
                return self.source, self.source / name
        entries = _sidecars(self.source)
        if not any("sidecar" in entry for entry in entries):
            raise DataError(
                f"{self.source} holds no {' or '.join(LISTS)}, and no media file has a .txt beside it; add one of these"
            )
        lines = "".join(json.dumps(entry) + "\n" for entry in entries)
        write_atomic(self.scratch / "sidecars.jsonl", lines.encode())
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
        if "left_out" in entry and self._plan["made"]:
            raise LeftOut(entry["left_out"], entry["file_name"])
        if "file_name" in entry:
            medium = self._medium(entry["file_name"])
            words = entry.get("text")
            if "sidecar" in entry and self._plan["made"]:
                words = decode(entry_file(self.root, entry["sidecar"]))
            yield from paired(medium, words, draw, self.options.ways, licence)
        elif "instruction" in entry:
            source, target = (self._medium(entry.get(name)) for name in ("source", "target"))
            prompt = write_prompt("edit", draw, {"media": [source], "ask": clause(entry["instruction"])})
            task = str(entry.get("task", f"edit_{target.modality}"))
            yield Draft(task, exchange(prompt, [target]), licence, edits=source)
        elif "turns" in entry or "prompt" in entry:
            turns = entry.get("turns") or [["user", entry["prompt"]], ["assistant", entry.get("answer")]]
            media = self._media(entry.get("media") or {})
            edits = self._edited(entry.get("edits"), media)
            yield Draft(str(entry.get("task", "own")), self._turns(turns, media), licence, edits=edits)
        else:
            raise BadRecord(
                "malformed", f"it has {', '.join(entry) or 'nothing'}; file_name, instruction or prompt is needed"
            )

    def _entry(self, line: str) -> Mapping[str, Any]:
        if self._plan["header"]:
            return dict(zip(self._plan["header"], csv_fields(line, self._plan["between"]), strict=False))
        try:
            entry = parse_json(line)
        except ValueError as error:
            raise BadRecord("malformed", f"{line[:80]!r} is no JSON: {error}") from error
        if not isinstance(entry, dict):
            raise BadRecord("malformed", f"{line[:80]!r} is no JSON object")
        return entry

    def _media(self, named: Any) -> dict[str, Medium | str]:
        """Placeholder → its medium or words. Raises BadRecord and LeftOut."""
        if not isinstance(named, dict):
            raise BadRecord("malformed", f"media is {named!r:.80}; it should name files by their placeholders")
        return {
            key: _words(key, value) if key.startswith("text") else self._medium(value)
            for key, value in ((key.lower(), value) for key, value in named.items())
        }

    def _edited(self, name: Any, media: Mapping[str, Medium | str]) -> Medium | None:
        """The medium that an entry edits. Raises BadRecord: it is not one of the entry's media."""
        if name is None:
            return None
        medium = media.get(name.lower()) if isinstance(name, str) else None
        if not isinstance(medium, Medium):
            known = ", ".join(key for key, value in media.items() if isinstance(value, Medium))
            raise BadRecord("malformed", f"edits is {name!r:.80}; it should name one of {known or 'no media'}")
        return medium

    def _turns(self, turns: Any, named: Mapping[str, Medium | str]) -> tuple[Turn, ...]:
        """The parsed turns. Raises BadRecord: the turns do not alternate, or a placeholder has no medium."""
        try:
            texts = [(str(role), str(text)) for role, text in turns]
            if [role for role, _ in texts] != [ROLES[i % 2] for i in range(len(texts))] or len(texts) % 2:
                raise BadRecord(
                    "malformed", f"the roles are {[role for role, _ in texts]}; user and assistant should alternate"
                )
            used = [{key: value for key, value in named.items() if f"[{key}" in text.lower()} for _, text in texts]
            return tuple((role, parse(text, media)) for (role, text), media in zip(texts, used, strict=True))  # type: ignore[arg-type, misc]
        except (ValueError, TypeError, AttributeError, PromptError) as error:
            raise BadRecord("malformed", str(error)) from error

    def _medium(self, name: Any) -> Medium:
        """The medium of a file. Raises BadRecord: its format is unknown, or it is outside the folder; LeftOut: it is
        missing."""
        if not isinstance(name, str) or not name:
            raise BadRecord("malformed", f"{name!r} is no file name")
        if suffix_of(name) not in READ:
            raise BadRecord("malformed", f"{name} ends in none of {', '.join(READ)}")
        return medium_of(name, entry_file(self.root, name))


def _sidecars(folder: Path) -> list[dict[str, str]]:
    """An entry for each file with a caption beside it, and, with the reason, for each file that is left out."""
    files = [path.relative_to(folder) for path in listed(folder, "**/*") if path.is_file()]
    captions = {_stem(path): path for path in files if path.suffix.lower() == ".txt"}
    used, entries = set(), []
    for path in files:
        beside, read = captions.get(_stem(path)), suffix_of(path.name) in READ
        if path.suffix.lower() == ".txt" or not (beside or read):
            continue
        used.add(beside)
        entry = {"file_name": str(path)}
        if beside and read:
            entry["sidecar"] = str(beside)
        else:
            entry["left_out"] = "format not read" if beside else "no caption"
        entries.append(entry)
    return entries + [
        {"file_name": str(path), "left_out": "no medium"} for path in captions.values() if path not in used
    ]


def _stem(path: Path) -> str:
    """The common name of a file and its caption; normalised, as an accent may be one character or two."""
    return unicodedata.normalize("NFC", str(path.with_suffix("")))


def _words(key: str, value: Any) -> str:
    """The words of a text placeholder. Raises BadRecord: they are not text."""
    if not isinstance(value, str):
        raise BadRecord("malformed", f"{key} is {value!r:.80}; it should be text")
    return value
