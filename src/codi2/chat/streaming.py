"""The events of a round as a generator, while another thread plays the round."""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import AsyncIterator, Callable, Generator

from codi2.cancellation import cancel_when
from codi2.chat.events import Done, Event

Play = Callable[[Callable[[Event], bool]], object]
"""Plays a round; its argument is called with each event and returns True when the reply is no longer wanted."""


def stream(play: Play) -> Generator[Event]:
    """The events of a round; the last one is `Done`. Closing the generator early ends the round.

    Raises what `play` raises.
    """
    events: queue.Queue[Event | BaseException] = queue.Queue()
    closed = threading.Event()

    def on_event(event: Event) -> bool:
        events.put(event)
        return closed.is_set()

    def work() -> None:
        try:
            with cancel_when(closed.is_set):
                play(on_event)
        except BaseException as error:
            events.put(error)

    worker = threading.Thread(target=work, daemon=True)
    worker.start()
    event: Event | BaseException | None = None
    try:
        while not isinstance(event, Done):
            event = events.get()
            if isinstance(event, BaseException):
                raise event
            yield event
    finally:
        closed.set()
        worker.join()


async def astream(events: Generator[Event]) -> AsyncIterator[Event]:
    """The events of `stream` for asyncio. Cancelling a task that waits for an event ends the round, too."""
    waiting: asyncio.Future[Event | None] | None = None
    try:
        while True:
            waiting = asyncio.ensure_future(asyncio.to_thread(next, events, None))
            event = await asyncio.shield(waiting)
            if event is None:
                return
            yield event
    finally:
        if waiting is not None:
            # a generator that runs in a thread cannot be closed
            await asyncio.gather(waiting, return_exceptions=True)
        await asyncio.to_thread(events.close)
