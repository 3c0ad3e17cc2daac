"""From the body of a request to jobs of the engine."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from fastapi import Request
from starlette.exceptions import HTTPException

from codi2.errors import PromptError
from codi2.model import Options
from codi2.prompt.layout import Message
from codi2.serve import wire
from codi2.serve.reading import Deadline, read_messages
from codi2.serve.schemas import ReplyRequest, TextRequest
from codi2.serve.server import Server, server_of
from codi2.serve.waiting import JobEvents


def check_model(server: Server, name: str) -> None:
    """Raises HTTPException 404: this server has another model."""
    if name not in (server.model, "codi2"):
        raise HTTPException(404, f"there is no model {name!r}; this server has {server.model!r}")


def check_want(body: ReplyRequest, modality: str) -> None:
    """Raises PromptError: `codi2.want` is another modality than the route makes."""
    if body.own.want not in (None, [modality]):
        raise PromptError(
            f"codi2.want is {body.own.want}, but this route makes {modality}; leave it out, or use /v1/chat/completions"
        )


def options_of(body: ReplyRequest, modalities: Sequence[str] | None, max_new_tokens: int, number: int = 0) -> Options:
    """The options of a reply; number `number` of several, from 0, has a seed of its own."""
    text: dict[str, Any] = {"top_p": body.top_p, "stop": body.stop or None} if isinstance(body, TextRequest) else {}
    own = body.own.model_dump(exclude_none=True, exclude={"timeout", "want", "content"})
    want = body.own.want or modalities
    if want is not None and set(want) == {"text"}:
        want = ["text"]
    elif body.own.want is None and want is not None:
        want = [m for m in want if m != "text"]  # the standard's `modalities` always has text beside media
    return Options(
        want=tuple(want) if want is not None else None,
        seed=((body.seed or 0) + number) % 2**63,
        temperature=body.temperature or 0.0,
        max_new_tokens=max_new_tokens,
        **text,
        **own,
    )


def queue_name(client: str, user: str | None = None) -> str:
    """The name under which requests take turns in the queues: the client, or the user whom the client names."""
    return f"{client}/{user or ''}"


def deadline_of(server: Server, body: ReplyRequest) -> Deadline:
    return Deadline(body.own.timeout or server.engine.timeout)


async def read_and_submit(
    request: Request,
    read_body: Callable[[], wire.EncodedConversation],
    options: Sequence[Options],
    client: str,
    body: ReplyRequest,
) -> tuple[list[Message], list[JobEvents]]:
    """The conversation of a request, and the events of its jobs: one reply for each of `options`, or none."""
    server, deadline = server_of(request), deadline_of(server_of(request), body)
    layout, queue = server.engine.model.layout, queue_name(client, body.person)
    messages = await read_messages(request, read_body, layout, server.decoders, queue, deadline)
    return messages, await submit(server, messages, options, client, body, deadline)


async def submit(
    server: Server,
    messages: Sequence[Message],
    options: Sequence[Options],
    client: str,
    body: ReplyRequest,
    deadline: Deadline,
) -> list[JobEvents]:
    """The events of jobs: one reply to the conversation for each of `options`, or none."""
    queue, left = queue_name(client, body.person), deadline.left
    return await JobEvents.of_jobs(
        len(options), lambda callbacks: server.engine.submit_replies(messages, options, callbacks, queue, timeout=left)
    )
