"""Records before they are written: what builders, tables and tasks draw."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from codi2.data.record import Medium, Piece, Turn


@dataclass(frozen=True)
class Draft:
    """A record before it has its key and its source."""

    task: str
    turns: tuple[Turn, ...]
    licence: str
    meta: Mapping[str, Any] = field(default_factory=dict)
    edits: Medium | None = None
    """The given medium, this very object, that the answer edits: edits and analogies have one, all else has none."""


def exchange(prompt: Sequence[Piece], answer: Sequence[Piece]) -> tuple[Turn, Turn]:
    """One prompt and its answer."""
    return ("user", tuple(prompt)), ("assistant", tuple(answer))


def flac(wave: np.ndarray, rate: int) -> Medium:
    """float [N] in [-1, 1] as 16-bit FLAC."""
    import soundfile

    file = io.BytesIO()
    soundfile.write(file, wave, rate, format="FLAC", subtype="PCM_16")
    return Medium("flac", file.getvalue(), checked=True)
