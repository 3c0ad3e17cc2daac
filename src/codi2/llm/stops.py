"""Stop strings: a text ends before the first of them."""

from __future__ import annotations

from collections.abc import Sequence


def find_stop(text: str, stops: Sequence[str]) -> int | None:
    """Number of characters before the first stop string in the text; None: it holds none."""
    positions = [position for stop in stops if (position := text.find(stop)) >= 0]
    return min(positions, default=None)


def pending(text: str, stops: Sequence[str]) -> int:
    """Number of characters at the end of the text that may be the beginning of a stop string."""
    longest = 0
    for stop in stops:
        lengths = range(min(len(stop) - 1, len(text)), longest, -1)
        longest = next((length for length in lengths if text.endswith(stop[:length])), longest)
    return longest
