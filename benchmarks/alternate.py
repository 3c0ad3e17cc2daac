"""Two ways of doing one thing, timed in turns, so that what else the machine does meets both."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any


def medians(one: Callable[[], Any], other: Callable[[], Any], rounds: int) -> tuple[float, float]:
    """Median seconds of each over alternating runs, after one of each that does not count."""
    times: tuple[list[float], list[float]] = ([], [])
    one(), other()
    for i in range(rounds):
        for which in (0, 1) if i % 2 else (1, 0):
            began = time.perf_counter()
            (one, other)[which]()
            times[which].append(time.perf_counter() - began)
    first, second = (statistics.median(t) for t in times)
    return first, second
