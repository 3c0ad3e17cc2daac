"""Helpers for tests of the records that a builder makes."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from codi2.data.record import Record
from codi2.prompt.parts import Phrase, Text

Built = Callable[..., list[Record]]


def words(record: Record, turn: int = 0) -> str:
    """A turn's text, with a mark for each medium."""
    return "".join(piece.text if isinstance(piece, (Text, Phrase)) else "@" for piece in record.turns[turn][1])


def tasks(records: list[Record]) -> Counter[str]:
    return Counter(record.task for record in records)


def report(out: Path) -> dict:
    return json.loads((out / "build.json").read_text())
