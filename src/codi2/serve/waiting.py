"""The events of the engine's jobs for asyncio, and work that ends when its client disconnects."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any, TypeVar

from fastapi import Request
from starlette.exceptions import HTTPException

from codi2.chat.events import Done, Event
from codi2.errors import LateError
from codi2.model import Reply
from codi2.serve.jobs import LATE, Failed, Job, OnEvent

GRACE = 1.0  # seconds after a deadline in which the engine should send the error itself
POLL = 0.25  # seconds between two checks whether a client is still connected
T = TypeVar("T")


class JobEvents:
    """The events of one job, as an async iterator that ends with `Done`. The job is cancelled when the iterator is
    closed.

    Raises the job's error; LateError: the engine has not noticed the deadline.
    """

    def __init__(self, submit: Callable[[OnEvent], Job] | None = None) -> None:
        """`submit` submits the job. Raises BusyError and PromptError as the engine does."""
        self._loop = asyncio.get_running_loop()
        self._events: asyncio.Queue[Event | Failed] = asyncio.Queue()
        if submit is not None:
            self.job = submit(self.put)

    @classmethod
    async def of_jobs(cls, count: int, submit: Callable[[Sequence[OnEvent]], Sequence[Job]]) -> list[JobEvents]:
        """The events of jobs that `submit` submits together, in a thread: to lay out a long conversation takes time."""
        streams = [cls() for _ in range(count)]

        def submit_all() -> None:
            for stream, job in zip(streams, submit([stream.put for stream in streams]), strict=True):
                stream.job = job

        submitting = asyncio.ensure_future(asyncio.to_thread(submit_all))
        try:
            await asyncio.shield(submitting)
        except asyncio.CancelledError:
            submitting.add_done_callback(
                lambda task: None if task.cancelled() or task.exception() else _cancel(streams)
            )
            raise
        return streams

    def put(self, event: Event | Failed) -> None:
        """Adds an event; called from any thread."""
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._events.put_nowait, event)

    async def __aiter__(self) -> AsyncIterator[Event]:
        try:
            while True:
                left = self.job.deadline - time.monotonic() + GRACE
                try:
                    event = await asyncio.wait_for(self._events.get(), max(left, 0.0))
                except TimeoutError:
                    raise LateError(LATE) from None
                if isinstance(event, Failed):
                    raise event.error
                yield event
                if isinstance(event, Done):
                    return
        finally:
            self.job.cancel()  # without effect on a job that has ended

    async def reply(self) -> Reply:
        """The whole reply."""
        reply: Any = None
        async for event in self:
            if isinstance(event, Done):
                reply = event.reply
        assert isinstance(reply, Reply)
        return reply


def _cancel(streams: Sequence[JobEvents]) -> None:
    for stream in streams:
        stream.job.cancel()


async def wait_for_replies(request: Request, streams: Sequence[JobEvents]) -> list[Reply]:
    """The replies of jobs. All jobs are cancelled when the client disconnects, or one of them fails."""
    try:
        return await while_connected(request, asyncio.gather(*(stream.reply() for stream in streams)))
    finally:
        _cancel(streams)


async def while_connected(request: Request, work: Awaitable[T]) -> T:
    """The result of `work`, which is cancelled when the client disconnects. Raises HTTPException 499 then."""
    task = asyncio.ensure_future(work)
    try:
        while not task.done():
            await asyncio.wait([task], timeout=POLL)
            if not task.done() and await request.is_disconnected():
                raise HTTPException(499, "the client has left")
        return task.result()
    finally:
        task.cancel()
