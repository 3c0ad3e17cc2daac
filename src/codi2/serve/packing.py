"""Answers are made in threads, outside the event loop: media as files, positions counted, JSON written.

Replies, whole sessions and clips have threads of their own: who reads a long session waits behind others who do, and
nobody who waits for a reply does.
"""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Callable, Iterable
from concurrent.futures import Executor, ThreadPoolExecutor
from typing import Any, TypeVar

from fastapi import Request
from fastapi.responses import Response, StreamingResponse

from codi2.serve.waiting import while_connected
from codi2.stopping import stops_when

T = TypeVar("T")
REPLIES = ThreadPoolExecutor(4, thread_name_prefix="codi2-packing")
SESSIONS = ThreadPoolExecutor(2, thread_name_prefix="codi2-sessions")
CLIPS = ThreadPoolExecutor(2, thread_name_prefix="codi2-clips")  # a clip takes seconds to encode


async def aside(make: Callable[..., T], *values: Any, where: Executor = REPLIES) -> T:
    """The result of `make(*values)`, which is called in a thread."""
    return await asyncio.get_running_loop().run_in_executor(where, make, *values)


async def while_wanted(request: Request, make: Callable[[], T], where: Executor) -> T:
    """As `aside`. When the client leaves before, what has not begun is not done, and what has ends at its next
    `codi2.stopping.check_stop`."""
    await request.body()  # before it is read, nobody sees that a client has left
    gone = threading.Event()

    def work() -> T:
        with stops_when(gone.is_set):
            return make()

    try:
        return await while_connected(request, aside(work, where=where))
    finally:
        gone.set()


async def answer_json(make: Callable[[], Any]) -> Response:
    """An answer whose JSON values `make` gives, in a thread."""
    return Response(await aside(lambda: to_json(make())), media_type="application/json")


def to_json(values: Any) -> bytes:
    return json.dumps(values, ensure_ascii=False, separators=(",", ":")).encode()


def answer_list(fields: dict[str, Any], name: str, items: Iterable[Callable[[], Any]]) -> StreamingResponse:
    """An object with `fields` and the list `name`, whose items are made one by one while the client reads them: all of
    a long session's media at once would fill the memory."""

    async def pieces() -> AsyncIterator[bytes]:
        yield to_json(fields)[:-1] + (b"," if fields else b"") + to_json(name) + b":["
        for number, make in enumerate(items):
            item = await aside(lambda make: to_json(make()), make, where=SESSIONS)
            yield b"," + item if number else item
        yield b"]}"

    return StreamingResponse(pieces(), media_type="application/json")
