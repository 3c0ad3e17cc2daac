"""Strings at which a stretch of text ends."""

from __future__ import annotations

from collections.abc import Sequence


def first(text: str, stops: Sequence[str]) -> int | None:
    """Characters before the first of the strings that the text holds; None: it holds none."""
    found = [place for stop in stops if (place := text.find(stop)) >= 0]
    return min(found, default=None)


def pending(text: str, stops: Sequence[str]) -> int:
    """Characters at the end of the text with which one of the strings may begin."""
    longest = 0
    for stop in stops:
        lengths = range(min(len(stop) - 1, len(text)), longest, -1)
        longest = next((length for length in lengths if text.endswith(stop[:length])), longest)
    return longest
