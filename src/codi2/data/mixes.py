"""Two sounds laid over each other: the material of add, remove and replace (section 4.1, after AUDIT).

A mix is (a, b): the base a and the overlay b. Mixes come in pairs that share their base, (a, b) and (a, c), so that
"replace b with c" has an input and a target. Seeded, level-controlled, and never clipping.
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
    """`count` mixes of the sounds in `rows`; mixes 2i and 2i + 1 share their base. All three differ in concept.

    Args:
        concepts: of every row of the corpus's sounds.
    """
    draw = np.random.default_rng((seed, 11))
    mixes: list[Mix] = []
    while len(mixes) < count:
        base, *overlays = (int(row) for row in draw.choice(rows, 3, replace=False))
        if len({concepts[row] for row in (base, *overlays)}) == 3:
            mixes += [Mix(base, row, round(float(draw.uniform(*LEVELS_DB)), 2)) for row in overlays]
    return mixes[:count]


def overlay(base: np.ndarray, other: np.ndarray, level_db: float) -> tuple[np.ndarray, float]:
    """Two int16 clips [N] → (their sum as int16 [N], the gain that the base was given so that nothing clips).

    The base keeps its level unless the sum would clip: then both are turned down together. A target that holds the
    base alone uses the same gain, so that removing the overlay does not change the base's level.
    """
    a, b = base.astype(np.float64), other.astype(np.float64)
    b *= _loudness(a) / max(_loudness(b), 1.0) * 10 ** (level_db / 20)
    mix = a + b
    gain = min(1.0, 32_000 / max(1.0, float(np.abs(mix).max())))
    return np.round(mix * gain).astype(np.int16), gain


def _loudness(x: np.ndarray) -> float:
    """Root mean square over the part that sounds: a short click in a long silence is not quiet."""
    loud = x[np.abs(x) > 0.02 * max(1.0, float(np.abs(x).max()))]
    return float(np.sqrt(np.mean(loud**2))) if len(loud) else 0.0
