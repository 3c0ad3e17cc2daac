"""Builds answers in threads, outside the event loop: encodes media, counts positions, writes JSON.

Replies, whole sessions and clips have threads of their own, so that requests for long sessions delay each other, but
no reply.
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

from codi2.cancellation import cancel_when
from codi2.serve.waiting import while_connected

T = TypeVar("T")
REPLIES = ThreadPoolExecutor(4, thread_name_prefix="codi2-packing")
SESSIONS = ThreadPoolExecutor(2, thread_name_prefix="codi2-sessions")
CLIPS = ThreadPoolExecutor(2, thread_name_prefix="codi2-clips")  # a clip takes seconds to encode


async def run_in_thread(make: Callable[..., T], *values: Any, where: Executor = REPLIES) -> T:
    """The result of `make(*values)`, which is called in a thread."""
    return await asyncio.get_running_loop().run_in_executor(where, make, *values)


async def run_while_connected(request: Request, make: Callable[[], T], where: Executor) -> T:
    """As `run_in_thread`. When the client disconnects, `make` is not started, or ends at its next
    `codi2.cancellation.check_cancelled`."""
    await request.body()  # a disconnect is only visible after the body
    disconnected = threading.Event()

    def work() -> T:
        with cancel_when(disconnected.is_set):
            return make()

    try:
        return await while_connected(request, run_in_thread(work, where=where))
    finally:
        disconnected.set()


async def answer_json(make: Callable[[], Any]) -> Response:
    """An answer whose JSON values `make` returns, in a thread."""
    return Response(await run_in_thread(lambda: to_json(make())), media_type="application/json")


def to_json(values: Any) -> bytes:
    return json.dumps(values, ensure_ascii=False, separators=(",", ":")).encode()


def answer_list(fields: dict[str, Any], name: str, items: Iterable[Callable[[], Any]]) -> StreamingResponse:
    """An object with `fields` and the list `name`. Its items are made one by one while the client reads them: all media
    of a long session at once would fill the memory."""

    async def pieces() -> AsyncIterator[bytes]:
        yield to_json(fields)[:-1] + (b"," if fields else b"") + to_json(name) + b":["
        for number, make in enumerate(items):
            item = await run_in_thread(lambda make: to_json(make()), make, where=SESSIONS)
            yield b"," + item if number else item
        yield b"]}"

    return StreamingResponse(pieces(), media_type="application/json")
