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

_FIELD = re.compile(r"\{(\w+)\}")


@lru_cache(maxsize=1)
def templates() -> dict[str, list[str]]:
    """Task → its templates."""
    names = sorted(path.name for path in files(__package__).iterdir() if path.name.endswith(".txt"))
    return {name.removesuffix(".txt"): _lines(name) for name in names}


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
