"""Prompt templates: words around media, drawn at random, as a prompt's parts."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping, Sequence
from functools import lru_cache
from importlib.resources import files
from typing import Any

import numpy as np

from codi2.prompt.parts import Text

_FIELD = re.compile(r"\{(\w+)\}")


@lru_cache(maxsize=1)
def templates() -> dict[str, dict[str, list[str]]]:
    """Task → openings, bodies and closings."""
    return tomllib.loads(files(__package__).joinpath("prompts.toml").read_text(encoding="utf-8"))


def write_prompt(task: str, draw: np.random.Generator, fields: Mapping[str, Any]) -> tuple[Any, ...]:
    """One prompt of a task, as parts.

    Args:
        fields: what the fields of a body stand for: words, a part, or a sequence of words and parts.
    """
    chosen = templates()[task]
    opening, body, closing = (str(draw.choice(chosen[part])) for part in ("openings", "bodies", "closings"))
    template = opening + body + closing
    template = template[:1].upper() + template[1:]
    parts: list[Any] = []
    for i, piece in enumerate(_FIELD.split(template)):
        value = fields[piece] if i % 2 else piece
        parts += value if isinstance(value, Sequence) and not isinstance(value, str) else [value]
    return _merged(parts)


def listing(groups: Sequence[Sequence[Any]], between: str, inside: str = " and ") -> list[Any]:
    """`[[a, b], [c, d]]` → a, " and ", b, `between`, c, " and ", d."""
    out: list[Any] = []
    for n, group in enumerate(groups):
        out += [between] if n else []
        for i, part in enumerate(group):
            out += [inside, part] if i else [part]
    return out


def _merged(parts: Sequence[Any]) -> tuple[Any, ...]:
    """Neighbouring words become one `Text`."""
    out: list[Any] = []
    for part in parts:
        if not isinstance(part, str):
            out.append(part)
        elif part and out and isinstance(out[-1], Text):
            out[-1] = Text(out[-1].text + part)
        elif part:
            out.append(Text(part))
    return tuple(out)
