"""A progress bar with the remaining time; plain lines if the output is not a terminal."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from codi2.progress import columns


@contextmanager
def progress_bar(title: str, total: int, start: int = 0) -> Iterator[Callable[..., None]]:
    """Yields `report(step, loss, figures=None)`."""
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    if not console.is_terminal:
        began = time.monotonic()

        def line(step: int, loss: float, figures: Mapping[str, float] | None = None) -> None:
            rate = (time.monotonic() - began) / max(1, step - start)
            text = (
                f"{title} {step}/{total} loss {loss:.4f} {rate:.2f} s/step, {rate * (total - step) / 60:.0f} min left"
            )
            print(text + "".join(f" {k} {v:.4f}" for k, v in (figures or {}).items()), file=sys.stderr, flush=True)

        yield line
        return
    with Progress(*columns(), console=console) as bar:
        task = bar.add_task(title, total=total, completed=start)

        def move(step: int, loss: float, figures: Mapping[str, float] | None = None) -> None:
            bar.update(task, completed=step, description=f"{title} · loss {loss:.4f}")
            if figures:
                bar.console.print(f"{title} {step}: " + ", ".join(f"{k} {v:.4f}" for k, v in figures.items()))

        yield move
