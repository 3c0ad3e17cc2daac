"""Ends work that nobody waits for any more: every loop of the model asks once a step.

The loops are many and lie deep: items that are encoded, tokens that are written, steps of samplers inside samplers. So
the question is not an argument of each: it holds for all that runs inside a `with`, in one thread.

    with stops_when(lambda: client_has_left):
        model.answer(...)  # raises Stopped within a step
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar


class Stopped(Exception):
    """Nobody waits for the work any more."""


_over: ContextVar[Callable[[], bool] | None] = ContextVar("over", default=None)


@contextmanager
def stops_when(over: Callable[[], bool]) -> Iterator[None]:
    """While it lasts, `check_stop` in this thread raises Stopped as soon as `over()` is true."""
    token = _over.set(over)
    try:
        yield
    finally:
        _over.reset(token)


def check_stop() -> None:
    """Raises Stopped."""
    over = _over.get()
    if over is not None and over():
        raise Stopped
