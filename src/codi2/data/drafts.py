"""Records before they have a key, and arrays as their media."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from PIL import Image

from codi2.data.prepare import FPS, RATE
from codi2.data.record import Medium, Piece, Turn


@dataclass(frozen=True)
class Draft:
    """A record without its key and its source."""

    task: str
    turns: tuple[Turn, ...]
    licence: str
    meta: Mapping[str, Any] = field(default_factory=dict)
    edits: Medium | None = None
    """The medium of the prompt, by identity, that the answer edits: of edits and analogies; None for other tasks."""


def exchange(prompt: Sequence[Piece], answer: Sequence[Piece]) -> tuple[Turn, Turn]:
    """The turns of one prompt and its answer."""
    return ("user", tuple(prompt)), ("assistant", tuple(answer))


def flac(wave: np.ndarray, rate: int) -> Medium:
    """float [N] in [-1, 1] as 16-bit FLAC."""
    import soundfile

    file = io.BytesIO()
    soundfile.write(file, wave, rate, format="FLAC", subtype="PCM_16")
    return Medium("flac", file.getvalue(), checked=True)


def picture(pixels: np.ndarray) -> Medium:
    """uint8 [H, W, 3] as PNG."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG", compress_level=3)
    return Medium("png", file.getvalue(), checked=True)


def moving(frames: np.ndarray) -> Medium:
    """uint8 [F, H, W, 3], `FPS` frames a second, as an animated PNG: nothing is lost."""
    file = io.BytesIO()
    first, *others = (Image.fromarray(frame) for frame in frames)
    blend = [n % 2 for n in range(len(frames))]  # opaque frames look the same, and Pillow does not merge equal ones
    timing = {"duration": 1000 / FPS, "loop": 0}
    first.save(file, "PNG", save_all=True, append_images=others, blend=blend, compress_level=3, **timing)
    return Medium("apng", file.getvalue(), checked=True)


def sound(clip: np.ndarray) -> Medium:
    """int16 [N] as FLAC."""
    return flac(clip, RATE)
