"""Progress with an ETA, on stderr: the columns of every bar, and the steps of a long task one by one; no other bars."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from rich.progress import ProgressColumn

T = TypeVar("T")
QUIET = 30.0  # seconds between lines where the output is not a terminal


def columns() -> tuple[ProgressColumn, ...]:
    """Description, bar, steps, elapsed and remaining time."""
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    description = TextColumn("{task.description}")
    return description, BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn()


def tracked(values: Sequence[T], title: str) -> Iterator[T]:
    """The values one by one under a bar; a line every QUIET seconds where stderr is not a terminal."""
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    if console.is_terminal:
        with Progress(*columns(), console=console, transient=True) as bar:
            yield from bar.track(values, description=title)
        return
    began = printed = time.monotonic()
    for done, value in enumerate(values):
        now = time.monotonic()
        if done and now - printed >= QUIET:
            left = (now - began) / done * (len(values) - done)
            print(f"{title} {done}/{len(values)}, {left / 60:.0f} min left", file=sys.stderr, flush=True)
            printed = now
        yield value


@contextmanager
def quiet_loading() -> Iterator[None]:
    """In the block transformers shows no progress bars ("Loading weights"). Those of downloads are the hub's own and
    stay."""
    from transformers.utils import logging

    before = logging.set_tqdm_hook(lambda factory, args, kwargs: logging.EmptyTqdm(*args, **kwargs))
    try:
        yield
    finally:
        logging.set_tqdm_hook(before)
