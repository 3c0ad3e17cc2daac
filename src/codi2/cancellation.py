"""Cancellation: every loop of the model calls `check_cancelled` once a step.

The check is a context variable, so that functions need no further argument. It holds for what runs in one thread.

    with cancel_when(lambda: client_has_left):
        model.answer(...)  # raises Cancelled within a step
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar


class Cancelled(Exception):
    """The work was cancelled."""


_condition: ContextVar[Callable[[], bool] | None] = ContextVar("condition", default=None)


@contextmanager
def cancel_when(condition: Callable[[], bool]) -> Iterator[None]:
    """In this context `check_cancelled` raises Cancelled in this thread as soon as `condition()` is true."""
    token = _condition.set(condition)
    try:
        yield
    finally:
        _condition.reset(token)


def check_cancelled() -> None:
    """Raises Cancelled: the condition of `cancel_when` is true."""
    condition = _condition.get()
    if condition is not None and condition():
        raise Cancelled
