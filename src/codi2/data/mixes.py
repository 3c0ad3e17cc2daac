"""Mixes of two sounds: the material of add, remove and replace (section 4.1, after AUDIT).

A mix is (a, b): the base a and the overlay b. It is seeded, has a set level, and never clips.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

# the overlay's level against the base, in dB of root mean square
LEVELS_DB = (-6.0, 6.0)


@dataclass(frozen=True)
class Mix:
    base: int
    """Row of the base in the corpus's sounds."""
    overlay: int
    level_db: float


def draw_mixes(rows: np.ndarray, concepts: list[str], count: int, seed: int) -> list[Mix]:
    """`count` mixes (a multiple of 4) of the sounds in `rows`, in fours: (a, b), (a, c), (d, b), (d, c).

    Two that share the base make a replacement, two that share the overlay an exemplar. All four sounds differ in
    concept; an overlay has one level throughout its four.

    Args:
        concepts: of every row of the corpus's sounds.
    """
    draw = np.random.default_rng((seed, 11))
    mixes: list[Mix] = []
    while len(mixes) < count:
        four = [int(row) for row in draw.choice(rows, 4, replace=False)]
        if len({concepts[row] for row in four}) < 4:
            continue
        levels = [round(float(level), 2) for level in draw.uniform(*LEVELS_DB, size=2)]
        mixes += [Mix(base, row, level) for base in four[:2] for row, level in zip(four[2:], levels, strict=True)]
    return mixes[:count]


def overlay(base: np.ndarray, other: np.ndarray, level_db: float) -> np.ndarray:
    """Two int16 clips [N] of peak 0.9 → their mix, int16 [N].

    The base has half its level in every mix, so that removing the overlay leaves the base at half its level. The
    overlay's peak is at most half, too, so a mix never clips.
    """
    a, b = base.astype(np.float64) / 2, other.astype(np.float64) / 2
    gain = loudness(a) / max(loudness(b), 1.0) * 10 ** (level_db / 20)
    largest_gain = 0.45 * 32767 / max(float(np.abs(b).max()), 1.0)
    return np.round(a + b * min(gain, largest_gain)).astype(np.int16)


def loudness(x: np.ndarray) -> float:
    """Root mean square without the silent part, so that a short click in a long silence is not quiet."""
    level = np.abs(x)
    loud = x[level > 0.02 * level.max(initial=0)]
    return float(np.sqrt(np.mean(loud.astype(np.float64) ** 2))) if len(loud) else 0.0
