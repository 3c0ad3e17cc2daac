"""Two ways to do the same work, timed in turns, so that other load of the machine slows down both."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any


def medians(first: Callable[[], Any], second: Callable[[], Any], rounds: int) -> tuple[float, float]:
    """Median seconds of each over alternating runs, after one of each that does not count."""
    works = (first, second)
    times: tuple[list[float], list[float]] = ([], [])
    first(), second()
    for i in range(rounds):
        for which in (0, 1) if i % 2 else (1, 0):
            start = time.perf_counter()
            works[which]()
            times[which].append(time.perf_counter() - start)
    return statistics.median(times[0]), statistics.median(times[1])
