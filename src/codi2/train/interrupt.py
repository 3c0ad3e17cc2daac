"""Ctrl-C during training: the step is finished and saved, and a message says how to continue."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import NoReturn

SIGNALS = (signal.SIGINT, signal.SIGTERM)  # from the terminal; from a job manager


class Interrupt:
    """Whether a signal to end the run has been received; a second one ends it at once, without saving."""

    def __init__(self) -> None:
        self.number = 0  # of the signal; 0: no signal

    def note(self, number: int, _: FrameType | None) -> None:
        if self.number:
            signal.signal(number, signal.SIG_DFL)
            raise KeyboardInterrupt
        self.number = number
        message = "stopping after this step, which is saved; press Ctrl-C again to stop without saving"
        print(message, file=sys.stderr, flush=True)

    def stop(self, step: int, steps: int, out: Path) -> NoReturn:
        """Ends the run after its checkpoint of `step` is written.

        Raises KeyboardInterrupt, or SystemExit (143) after SIGTERM.
        """
        print(
            f"stopped after step {step} of {steps}, saved in {out / 'checkpoints'}; run the same command to continue",
            file=sys.stderr,
            flush=True,
        )
        if self.number == signal.SIGTERM:
            raise SystemExit(128 + signal.SIGTERM)
        raise KeyboardInterrupt


@contextmanager
def interrupts(enabled: bool) -> Iterator[Interrupt]:
    """Records signals in this context, in the main thread of a program and with `enabled`; else changes nothing."""
    interrupt = Interrupt()
    if not enabled or threading.current_thread() is not threading.main_thread():
        yield interrupt
        return
    before = {number: signal.signal(number, interrupt.note) for number in SIGNALS}
    try:
        yield interrupt
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
