"""Ctrl-C while a run trains: the step is finished and saved, and the user is told how to go on."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import NoReturn

SIGNALS = (signal.SIGINT, signal.SIGTERM)  # of the terminal; of whatever manages jobs


class Interrupt:
    """Whether the run has been asked to end; the second time it ends at once, and nothing is saved."""

    def __init__(self) -> None:
        self.number = 0  # of the signal; 0: none has come

    def note(self, number: int, _: FrameType | None) -> None:
        if self.number:
            signal.signal(number, signal.SIG_DFL)
            raise KeyboardInterrupt
        self.number = number
        print("stopping: this step is finished and saved; once more stops at once", file=sys.stderr, flush=True)

    def stop(self, step: int, steps: int, out: Path) -> NoReturn:
        """Ends the run, whose checkpoint of `step` is written.

        Raises KeyboardInterrupt, or SystemExit (143) where it was asked by SIGTERM.
        """
        print(
            f"stopped after step {step} of {steps}; {out / 'checkpoints'} holds it, and the same command continues",
            file=sys.stderr,
            flush=True,
        )
        if self.number == signal.SIGTERM:
            raise SystemExit(128 + signal.SIGTERM)
        raise KeyboardInterrupt


@contextmanager
def interrupts(listens: bool) -> Iterator[Interrupt]:
    """Within the block signals are noted. Only the main thread of a program can listen; else nothing changes."""
    noted = Interrupt()
    if not listens or threading.current_thread() is not threading.main_thread():
        yield noted
        return
    before = {number: signal.signal(number, noted.note) for number in SIGNALS}
    try:
        yield noted
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
