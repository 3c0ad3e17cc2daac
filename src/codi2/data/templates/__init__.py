"""Prompt templates: one plain file of a hundred per task type (appendix C.1), drawn uniformly.

A line of `<task>.txt` is a template: words, and fields in braces that a builder fills with words or media.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from importlib.resources import files
from typing import Any

import numpy as np

from codi2.prompt.parts import Text

COUNT = 100
"""Templates of a task."""
NEAREST = 0.6
"""No two templates of a task are more similar than this."""

_FIELD = re.compile(r"\{(\w+)\}")
_WORD = re.compile(r"\{\w+\}|[\w’']+")


@lru_cache(maxsize=1)
def templates() -> dict[str, list[str]]:
    """Task → its templates."""
    names = sorted(path.name for path in files(__package__).iterdir() if path.name.endswith(".txt"))
    return {name.removesuffix(".txt"): _lines(name) for name in names}


def fields_of(template: str) -> list[str]:
    """The fields of a template in their order."""
    return _FIELD.findall(template)


def similarity(one: str, other: str) -> float:
    """From 0 (no word shared) to 1 (the same words in the same order): one minus the edit distance in words over the
    longer template's length. Case and punctuation do not count; a field counts as a word."""
    a, b = _words(one), _words(other)
    row = list(range(len(b) + 1))
    for i, word in enumerate(a, 1):
        diagonal, row[0] = row[0], i
        for j, other_word in enumerate(b, 1):
            diagonal, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, diagonal + (word != other_word))
    return 1 - row[-1] / max(len(a), len(b))


def write_prompt(task: str, draw: np.random.Generator, fields: Mapping[str, Any]) -> tuple[Any, ...]:
    """One prompt of a task, as parts.

    Args:
        fields: field of the template → its content: words, a part, or a sequence of words and parts.
    """
    choices = templates()[task]
    parts: list[Any] = []
    for i, piece in enumerate(_FIELD.split(choices[int(draw.integers(len(choices)))])):
        value = fields[piece] if i % 2 else piece
        parts += value if isinstance(value, Sequence) and not isinstance(value, str) else [value]
    return _merged(parts)


def listing(groups: Sequence[Sequence[Any]], between: str, inside: str = " and ") -> list[Any]:
    """`[[a, b], [c, d]]` → a, " and ", b, `between`, c, " and ", d."""
    pieces: list[Any] = []
    for n, group in enumerate(groups):
        pieces += [between] if n else []
        for i, part in enumerate(group):
            pieces += [inside, part] if i else [part]
    return pieces


def series(parts: Sequence[Any]) -> list[Any]:
    """`[a, b, c]` → a, ", ", b, " and ", c."""
    *first, last = parts
    return [*listing([[part] for part in first], between=", "), *([" and "] if first else []), last]


def _lines(name: str) -> list[str]:
    text = files(__package__).joinpath(name).read_text(encoding="utf-8")
    return [line for line in text.splitlines() if line]


@lru_cache(maxsize=4096)
def _words(template: str) -> tuple[str, ...]:
    return tuple(_WORD.findall(template.lower()))


def _merged(parts: Sequence[Any]) -> tuple[Any, ...]:
    """Neighbouring words become one `Text`."""
    merged: list[Any] = []
    for part in parts:
        if not isinstance(part, str):
            merged.append(part)
        elif part and merged and isinstance(merged[-1], Text):
            merged[-1] = Text(merged[-1].text + part)
        elif part:
            merged.append(Text(part))
    return tuple(merged)
