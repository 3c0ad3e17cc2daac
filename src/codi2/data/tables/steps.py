"""What changes from one medium to another by a rule: steps of the tables' sequences, and single values of factors.

`changes` gives each as something that can be drawn of any medium: what a linear map of its features is fitted to.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from codi2.data.scene import counted, scaled, turned
from codi2.data.tables.factors import FACTORS, apply

TURNS = (-60, -45, -30, 30, 45, 60)  # degrees a step, of a thing at TURNED of its size
TURNED = 0.75
GROWTHS, SMALLEST = (1.25, 1.35), 0.25  # times as large a step, and the size that begins
WAY, ON_WAY = 0.28, 0.4  # shares of the side from the middle to either end, and the size on the way across
LENGTHS = (2, 3, 4)  # pictures of a sequence that are given
COUNTS, MOST = (1, 2), 9  # more things a step, and at most
NEAREST, FARTHEST, APPROACHES = 1.0, 0.3, (2, 3)  # sizes of what comes nearer with its sound; steps that it takes

Change = Callable[[np.ndarray, np.random.Generator], tuple[np.ndarray, np.ndarray]]
"""A medium → before and after, from anywhere in the sequence."""


def growing(growth: float, length: int) -> np.ndarray:
    """Sizes [length + 1]."""
    return np.geomspace(SMALLEST, SMALLEST * growth**length, length + 1)


def way(length: int) -> np.ndarray:
    """Places [length + 1] from the middle."""
    return np.linspace(-WAY, WAY, length + 1)


def nearing(length: int) -> np.ndarray:
    """Sizes [length + 1]; a sound's amplitude goes with their square."""
    return np.geomspace(FARTHEST, NEAREST, length + 1)


def changes(modality: str) -> dict[str, Change]:
    """Name → change, of pictures or sounds."""
    made: dict[str, Change] = {}
    for factor, values in FACTORS[modality].items():
        for value in values:
            made[f"{factor}: {value}"] = _look(modality, factor, value)
    if modality == "audio":
        for length in APPROACHES:
            louder = [_gain(float(size**2)) for size in nearing(length)]
            made |= {f"in {length} steps {way}": step for way, step in _both_ways(louder, "nearer", "away")}
        return made
    for degrees in TURNS:
        turns = [_then(scaled(TURNED), turned(degrees * k)) for k in range(max(LENGTHS) + 1)]
        made[f"turned by {degrees}"] = _step(turns)
    for growth in GROWTHS:
        sizes = [scaled(float(size)) for size in growing(growth, max(LENGTHS))]
        made |= {f"{way} by {growth}": step for way, step in _both_ways(sizes, "larger", "smaller")}
    for length in LENGTHS:
        for axis in ("dx", "dy"):
            places = [scaled(ON_WAY, **{axis: float(place)}) for place in way(length)]
            made |= {f"{axis} {way} in {length}": step for way, step in _both_ways(places, "+", "-")}
    for more in COUNTS:
        made |= {f"{more} {way}": _counting(more if way == "more" else -more) for way in ("more", "fewer")}
    for length in APPROACHES:
        sizes = [scaled(float(size)) for size in nearing(length)]
        made |= {f"in {length} steps {way}": step for way, step in _both_ways(sizes, "nearer", "away")}
    return made


Apply = Callable[[np.ndarray], np.ndarray]


def _look(modality: str, factor: str, value: str) -> Change:
    return lambda medium, draw: (medium, apply(modality, medium, {factor: value}))


def _step(states: list[Apply]) -> Change:
    """From any of the states in order to the next."""

    def change(medium: np.ndarray, draw: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        at = int(draw.integers(len(states) - 1))
        return states[at](medium), states[at + 1](medium)

    return change


def _both_ways(states: list[Apply], forth: str, back: str) -> list[tuple[str, Change]]:
    return [(forth, _step(states)), (back, _step(states[::-1]))]


def _counting(more: int) -> Change:
    def change(medium: np.ndarray, draw: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        first = int(draw.integers(max(1, 1 - more), min(MOST, MOST - more) + 1))
        return counted(medium, first), counted(medium, first + more)

    return change


def _gain(amplitude: float) -> Apply:
    return lambda clip: (clip * amplitude).astype(np.int16)


def _then(first: Apply, second: Apply) -> Apply:
    return lambda medium: second(first(medium))
