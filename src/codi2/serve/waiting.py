"""From the engine's threads to asyncio: what a request waits for."""

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
from codi2.serve.jobs import LATE, Failed, Job, Tell

GRACE = 1.0  # seconds behind a deadline in which the engine should say so itself
POLL = 0.25  # seconds between two looks whether a client is still there
T = TypeVar("T")


class Waiting:
    """The events of one job, as an async iterator that ends with `Done`; the job is cancelled with its reader.

    Raises what the job failed with; LateError: the engine has not noticed the deadline.
    """

    def __init__(self, ask: Callable[[Tell], Job] | None = None) -> None:
        """`ask` submits the job. Raises BusyError and PromptError as the engine does."""
        self._loop = asyncio.get_running_loop()
        self._news: asyncio.Queue[Event | Failed] = asyncio.Queue()
        if ask is not None:
            self.job = ask(self.tell)

    @classmethod
    async def several(cls, count: int, ask: Callable[[Sequence[Tell]], Sequence[Job]]) -> list[Waiting]:
        """Those of jobs that `ask` submits together, in a thread: laying out a long conversation takes time."""
        made = [cls() for _ in range(count)]

        def submit() -> None:
            for waiting, job in zip(made, ask([one.tell for one in made]), strict=True):
                waiting.job = job

        asking = asyncio.ensure_future(asyncio.to_thread(submit))
        try:
            await asyncio.shield(asking)
        except asyncio.CancelledError:
            asking.add_done_callback(lambda done: None if done.cancelled() or done.exception() else _cancel(made))
            raise
        return made

    def tell(self, event: Event | Failed) -> None:
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._news.put_nowait, event)

    async def __aiter__(self) -> AsyncIterator[Event]:
        try:
            while True:
                left = self.job.deadline - time.monotonic() + GRACE
                try:
                    event = await asyncio.wait_for(self._news.get(), max(left, 0.0))
                except TimeoutError:
                    raise LateError(LATE) from None
                if isinstance(event, Failed):
                    raise event.error
                yield event
                if isinstance(event, Done):
                    return
        finally:
            self.job.cancel()  # of no effect when it is done

    async def reply(self) -> Reply:
        """The whole reply."""
        reply: Any = None
        async for event in self:
            if isinstance(event, Done):
                reply = event.reply
        assert isinstance(reply, Reply)
        return reply


def _cancel(waiting: Sequence[Waiting]) -> None:
    for one in waiting:
        one.job.cancel()


async def replies_of(request: Request, asked: Sequence[Waiting]) -> list[Reply]:
    """The replies; when the client leaves before they are there, or one fails, the work for all ends."""
    try:
        return await while_connected(request, asyncio.gather(*(one.reply() for one in asked)))
    finally:
        _cancel(asked)


async def while_connected(request: Request, work: Awaitable[T]) -> T:
    """The result of `work`, which is cancelled when the client leaves before. Raises HTTPException 499 then."""
    task = asyncio.ensure_future(work)
    try:
        while not task.done():
            await asyncio.wait([task], timeout=POLL)
            if not task.done() and await request.is_disconnected():
                raise HTTPException(499, "the client has left")
        return task.result()
    finally:
        task.cancel()
