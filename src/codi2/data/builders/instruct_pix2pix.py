"""InstructPix2Pix: edits by instruction, and examples of one instruction as the in-context template (section 4.1).

The authors' files are folders of one prompt each, `prompt.json` (`edit`, `input`, `output`) with several pairs
`<seed>_0.jpg`, `<seed>_1.jpg`, listed in `seeds.json`. The hub's copy is parquet with `original_image`, `edit_prompt`,
`edited_image`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from codi2.data.builders.contract import BadRecord, Builder, Draft, LeftOut, Raw, Unit, exchange
from codi2.data.builders.listed import listed
from codi2.data.builders.parquet import count_rows, need_columns, pick_rows, picture_bytes, read_rows
from codi2.data.checks import caption, entry_file
from codi2.data.record import Medium, suffix_in_shards
from codi2.data.templates import listing, write_prompt
from codi2.errors import DataError
from codi2.untrusted import parse_json, read_inside

LICENCE = "InstructPix2Pix data (CreativeML OpenRAIL-M outputs)"
PROMPTS, ROWS = 500, 2_000  # of a unit of folders, and of a parquet file
ROWS_IN_MEMORY = 400  # of a unit of parquet files whose pairs are grouped by instruction in memory
COLUMNS = ("original_image", "edit_prompt", "edited_image")
SHOTS = 3  # most examples
Pair = tuple[Medium, Medium]
T = TypeVar("T")


class InstructPix2Pix(Builder):
    """One record for each pair: the picture and the instruction → the edited picture."""

    about = "pictures edited by an instruction"
    reads = "seeds.json with shard-00/0000000/prompt.json and <seed>_0.jpg, <seed>_1.jpg, or the hub's parquet files"

    def units(self) -> list[dict[str, Any]]:
        if (self.source / "seeds.json").is_file():
            return [{"prompts": prompts} for prompts in self._prompts()]
        tables = listed(self.source, "**/*.parquet")
        if not tables:
            raise DataError(
                f"{self.source} holds neither seeds.json nor parquet files; this builder reads {self.reads}"
            )
        for table in tables:
            need_columns(self.source, table, COLUMNS)
        return self._table_units([str(table.relative_to(self.source)) for table in tables])

    def _table_units(self, tables: list[str]) -> list[dict[str, Any]]:
        counts = [(name, count_rows(self.source, name)) for name in tables]
        return [
            {"table": name, "start": start, "stop": min(start + ROWS, count)}
            for name, count in counts
            for start in range(0, count, ROWS)
        ]

    def _prompts(self) -> list[list[Any]]:
        """`seeds.json` in slices: `[folder, [seed, …]]` each."""
        path = self.source / "seeds.json"
        try:
            seeds = parse_json(read_inside(self.source, path))
            named = [[str(name), [int(seed) for seed in of]] for name, of in seeds]
        except (ValueError, TypeError, OverflowError) as error:
            raise DataError(f"{path} is not a list of [folder, [seed, …]] ({error}); download it again") from error
        return [named[i : i + PROMPTS] for i in range(0, len(named), PROMPTS)]

    def read(self, unit: Unit) -> Iterator[Raw | BadRecord]:
        for entry in self._pairs(unit):
            if isinstance(entry, BadRecord):
                yield entry
            else:
                key, instruction, pair = entry
                yield Raw(key, (instruction, pair), (pair[0].data, pair[1].data, str(instruction)))

    def _pairs(self, unit: Unit) -> Iterator[tuple[str, object, Pair] | BadRecord]:
        """Key, instruction, and the two pictures (empty data: missing)."""
        if "table" in unit:
            for i, row in read_rows(self.source, unit["table"], unit["start"], unit["stop"]):
                yield row if isinstance(row, BadRecord) else _entry(unit["table"], i, row)
            return
        for name, seeds in unit["prompts"]:
            instruction = self._instruction(name)
            for seed in seeds:
                try:
                    first, second = (Medium("jpg", self._bytes(f"{name}/{seed}_{k}.jpg")) for k in (0, 1))
                    yield f"{name.replace('/', '-')}-{seed}", instruction, (first, second)
                except BadRecord as error:
                    yield error

    def _instruction(self, name: str) -> str | None:
        try:
            about = parse_json(entry_file(self.source, f"{name}/prompt.json"))
        except (BadRecord, LeftOut, ValueError):
            return None
        edit = about.get("edit") if isinstance(about, dict) else None
        return edit if isinstance(edit, str) else None

    def _bytes(self, name: str) -> bytes:
        """The bytes of a file; empty if it is missing. Raises BadRecord."""
        try:
            return entry_file(self.source, name)
        except LeftOut:
            return b""

    def make(self, raw: Raw, draw: np.random.Generator) -> Iterator[Draft]:
        instruction, (before, after) = raw.entry
        _need(before, after)
        prompt = write_prompt("edit", draw, {"media": [before], "ask": clause(instruction)})
        yield Draft("edit_image", exchange(prompt, [after]), LICENCE, {"instruction": instruction}, before)


class InstructPix2PixInContext(InstructPix2Pix):
    """Pairs that share an instruction become examples of it; the prompt does not contain the instruction.

    Pairs are grouped over the whole source, so a unit has complete instructions, from any files. In the hub's files the
    pairs of an instruction are mostly adjacent; for others the row group is read again.
    """

    about = "the edit that one to three examples show, applied to another picture"

    def _prompts(self) -> list[list[Any]]:
        """The prompts grouped by instruction, so that examples come from different pictures."""
        prompts = [prompt for unit in super()._prompts() for prompt in unit]
        with_instruction = [(self._instruction(prompt[0]) or "", prompt) for prompt in prompts]
        with_instruction.sort(key=lambda entry: (entry[0], entry[1][0]))
        return _divided(with_instruction, PROMPTS)

    def _table_units(self, tables: list[str]) -> list[dict[str, Any]]:
        """The rows grouped by instruction, in the order in which instructions first occur."""
        groups: dict[str, list[tuple[int, int]]] = {}
        for number, name in enumerate(tables):
            for i, row in read_rows(self.source, name, names=["edit_prompt"]):
                instruction = None if isinstance(row, BadRecord) else row["edit_prompt"]
                groups.setdefault(instruction if isinstance(instruction, str) else "", []).append((number, i))
        entries = [(instruction, row) for instruction, group in groups.items() for row in group]
        units = []
        for rows in _divided(entries, ROWS_IN_MEMORY):
            used = sorted({number for number, _ in rows})
            units.append({"tables": [tables[n] for n in used], "rows": [[used.index(number), i] for number, i in rows]})
        return units

    def _pairs(self, unit: Unit) -> Iterator[tuple[str, object, Pair] | BadRecord]:
        if "rows" not in unit:
            yield from super()._pairs(unit)
            return
        entries: dict[tuple[int, int], tuple[str, object, Pair]] = {}
        for number, name in enumerate(unit["tables"]):
            rows = [i for n, i in unit["rows"] if n == number]
            for i, row in pick_rows(self.source, name, rows, COLUMNS):
                if isinstance(row, BadRecord):
                    yield row
                else:
                    entries[number, i] = _entry(name, i, row)
        yield from (entries[number, i] for number, i in unit["rows"] if (number, i) in entries)

    def read(self, unit: Unit) -> Iterator[Raw | BadRecord]:
        bad: list[BadRecord] = []

        def good() -> Iterator[tuple[str, object, Pair]]:
            for entry in self._pairs(unit):
                if isinstance(entry, BadRecord):
                    bad.append(entry)
                else:
                    yield entry

        for instruction, pairs in groupby(good(), key=lambda entry: entry[1]):
            group: list[tuple[str, Pair]] = []
            for key, _, pair in pairs:
                group.append((key, pair))
                if len(group) == SHOTS + 1:
                    yield _group(instruction, group)
                    group = []
            if group:
                yield _group(instruction, group)
        yield from bad

    def make(self, raw: Raw, draw: np.random.Generator) -> Iterator[Draft]:
        instruction, pairs = raw.entry
        complete = [pair for pair in pairs if pair[0].data and pair[1].data]
        if len(complete) < 2:
            raise LeftOut("no second pair", f"of {instruction!r}")
        caption(instruction)
        order = draw.permutation(len(complete))
        *shots, (source, target) = (complete[int(i)] for i in order)
        shots = shots[: 1 + int(draw.integers(len(shots)))]
        fields = {"pairs": listing(shots, between=", "), "media": [source]}
        meta = {"instruction": instruction, "shots": len(shots)}
        prompt = write_prompt("analogy", draw, fields)
        yield Draft("analogy_image", exchange(prompt, [target]), LICENCE, meta, source)


def _entry(table: str, number: int, row: Mapping[str, Any]) -> tuple[str, object, Pair]:
    """Key, instruction and pictures of a row."""
    before, after = (picture_bytes(row[name]) for name in ("original_image", "edited_image"))
    pair = Medium(suffix_in_shards("jpg", before), before), Medium(suffix_in_shards("jpg", after), after)
    return f"{Path(table).stem}-{number}", row["edit_prompt"], pair


def _divided(by_instruction: Sequence[tuple[str, T]], size: int) -> list[list[T]]:
    """Runs of about `size` entries; the entries of one instruction are divided only if they are more than `size`."""
    runs: list[list[T]] = [[]]
    for _, group in groupby(by_instruction, key=lambda entry: entry[0]):
        entries = [entry for _, entry in group]
        for start in range(0, len(entries), size):
            part = entries[start : start + size]
            if runs[-1] and len(runs[-1]) + len(part) > size:
                runs.append([])
            runs[-1] += part
    return [run for run in runs if run]


def _group(instruction: object, group: list[tuple[str, Pair]]) -> Raw:
    content = tuple(medium.data for _, pair in group for medium in pair)
    return Raw(group[0][0], (instruction, [pair for _, pair in group]), content)


def clause(text: object) -> str:
    """An instruction for use inside a sentence: `turn it into a lion`. Raises BadRecord: it is empty."""
    words = caption(text).rstrip(".!")
    return words if words[:2].isupper() or words.startswith("I ") else words[:1].lower() + words[1:]


def _need(*media: Medium) -> None:
    """Raises LeftOut: a medium is missing."""
    if any(not medium.data for medium in media):
        raise LeftOut("absent", "a picture of the pair is missing")
