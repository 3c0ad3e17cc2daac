"""Text as features (section 4.1): Alpaca's instructions with noun phrases given as `[text0]` … instead of tokens."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from codi2.data.builders.contract import BadRecord, Builder, Draft, LeftOut, Raw, Unit, exchange
from codi2.data.builders.lines import Lines, index_lines, line_entries, ranges
from codi2.data.builders.phrases import noun_phrases
from codi2.data.record import Piece
from codi2.errors import DataError
from codi2.hub import write_atomic
from codi2.prompt.grammar import join_text
from codi2.prompt.parts import Phrase, Text
from codi2.untrusted import parse_json, read_inside

LICENCE = "CC-BY-NC-4.0"
ENTRIES = 5_000  # of a unit
LONGEST = 50_000  # most characters of an entry, as the parser of phrases is slow


@dataclass(frozen=True)
class Options:
    rate: float = 0.3
    """Share of noun phrases that are replaced, of the instruction and of the answer."""


class Alpaca(Builder):
    about = "instructions and answers, noun phrases in them given as text features"
    reads = "alpaca_data.json: a list of instruction, input, output"
    Options = Options

    def units(self) -> list[dict[str, Any]]:
        if not 0 <= self.options.rate <= 1:
            raise DataError(f"the rate of replaced phrases is {self.options.rate}; set a value from 0 to 1")
        path = self.source / "alpaca_data.json" if self.source.is_dir() else self.source
        try:
            entries = parse_json(read_inside(self.root, path))  # 23 MB
        except FileNotFoundError as error:
            raise DataError(f"there is no {path}; name the folder of alpaca_data.json, or the file") from error
        except ValueError as error:
            raise DataError(f"{path} is not JSON ({error}); download it again") from error
        if not isinstance(entries, list):
            raise DataError(f"{path} is not a list of instruction, input, output; name Alpaca's file")
        lines = self.scratch / "entries.jsonl"
        write_atomic(lines, "".join(json.dumps(entry) + "\n" for entry in entries).encode())
        return ranges(index_lines(self.scratch, lines, self.scratch / "entries.npy"), ENTRIES)

    def read(self, unit: Unit) -> Iterator[Raw | BadRecord]:
        lines = Lines(self.scratch, "entries.jsonl", self.scratch / "entries.npy")
        for raw in line_entries(lines, unit, "entry"):
            yield raw if isinstance(raw, BadRecord) else Raw(raw.key, json.loads(raw.entry), raw.content)

    def make(self, raw: Raw, draw: np.random.Generator) -> Iterator[Draft]:
        entry = raw.entry
        if not isinstance(entry, dict) or not all(isinstance(entry.get(k), str) for k in ("instruction", "output")):
            raise BadRecord("malformed", f"{entry!r:.80} has no instruction and output")
        instruction, answer = entry["instruction"].strip(), entry["output"].strip()
        if context := str(entry.get("input") or "").strip():
            instruction += f"\n\n{context}"
        if not instruction or not answer:
            raise BadRecord("empty caption", "no instruction or no output")
        if len(instruction) + len(answer) > LONGEST:
            raise BadRecord("absurd size", f"{len(instruction) + len(answer):,} characters")
        prompt, reply = (with_phrases(text, self.options.rate, draw) for text in (instruction, answer))
        count = sum(isinstance(piece, Phrase) for piece in (*prompt, *reply))
        if not count and self.options.rate:
            raise LeftOut("no phrase", instruction[:80])
        yield Draft("text_as_features", exchange(prompt, reply), LICENCE, {"phrases": count})


def with_phrases(text: str, rate: float, draw: np.random.Generator) -> tuple[Piece, ...]:
    """The text with about `rate` of its noun phrases as `Phrase`s; the rest is unchanged."""
    pieces: list[Any] = []
    at = 0
    for phrase in noun_phrases(text):
        if draw.random() < rate:
            pieces += [Text(text[at : phrase.start]), Phrase(phrase.text)]
            at = phrase.end
    return join_text([*pieces, Text(text[at:])])  # type: ignore[return-value]
