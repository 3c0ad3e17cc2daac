"""From the engine's thread to asyncio: what a request waits for."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

from codi2.chat.events import Done, Event
from codi2.model import Reply
from codi2.serve.engine import Failed, Job, Tell


class Waiting:
    """The events of one job, as an async iterator that ends with `Done`; the job is cancelled with its reader.

    Raises what the job failed with.
    """

    def __init__(self, ask: Callable[[Tell], Job]) -> None:
        """`ask` submits the job. Raises BusyError and PromptError as the engine does."""
        loop = asyncio.get_running_loop()
        self._news: asyncio.Queue[Event | Failed] = asyncio.Queue()

        def tell(event: Event | Failed) -> None:
            if not loop.is_closed():
                loop.call_soon_threadsafe(self._news.put_nowait, event)

        self.job = ask(tell)

    async def __aiter__(self) -> AsyncIterator[Event]:
        try:
            while True:
                event = await self._news.get()
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
