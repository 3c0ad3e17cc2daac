"""From a request that was read to jobs of the engine."""

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
from codi2.serve.schemas import Settings, Wording
from codi2.serve.server import Server, server_of
from codi2.serve.waiting import Waiting


def check_model(server: Server, name: str) -> None:
    """Raises HTTPException 404: this server has another model."""
    if name not in (server.model, "codi2"):
        raise HTTPException(404, f"there is no model {name!r}; this server has {server.model!r}")


def check_want(body: Settings, modality: str) -> None:
    """Raises PromptError: a route that makes one thing is asked for another."""
    if body.own.want not in (None, [modality]):
        raise PromptError(
            f"codi2.want is {body.own.want}, but this route makes {modality}; leave it out, or use /v1/chat/completions"
        )


def options_of(body: Settings, modalities: Sequence[str] | None, max_new_tokens: int, plus: int = 0) -> Options:
    """How a reply is to be made; the `plus`-th of several has a seed of its own."""
    words: dict[str, Any] = {"top_p": body.top_p, "stop": body.stop or None} if isinstance(body, Wording) else {}
    said = body.own.model_dump(exclude_none=True, exclude={"timeout", "want", "content"})
    want = body.own.want or modalities
    if want is not None and set(want) == {"text"}:
        want = ["text"]
    elif body.own.want is None and want is not None:
        want = [m for m in want if m != "text"]  # `modalities` says what may come: the media among it do
    return Options(
        want=tuple(want) if want is not None else None,
        seed=((body.seed or 0) + plus) % 2**63,
        temperature=body.temperature or 0.0,
        max_new_tokens=max_new_tokens,
        **words,
        **said,
    )


def queue_name(client: str, user: str | None = None) -> str:
    """Whose turn a request takes in the queues: a client's, or that of the user whom the client names."""
    return f"{client}/{user or ''}"


def deadline_of(server: Server, body: Settings) -> Deadline:
    return Deadline(body.own.timeout or server.engine.timeout)


async def ask(
    request: Request, draft: Callable[[], wire.Draft], options: Sequence[Options], client: str, body: Settings
) -> tuple[list[Message], list[Waiting]]:
    """A request's conversation, and the replies to it that are made: all that `options` say, or none."""
    server, deadline = server_of(request), deadline_of(server_of(request), body)
    layout, queue = server.engine.model.layout, queue_name(client, body.person)
    messages = await read_messages(request, draft, layout, server.decoders, queue, deadline)
    return messages, await submit(server, messages, options, client, body, deadline)


async def submit(
    server: Server,
    messages: Sequence[Message],
    options: Sequence[Options],
    client: str,
    body: Settings,
    deadline: Deadline,
) -> list[Waiting]:
    queue, left = queue_name(client, body.person), deadline.left
    return await Waiting.several(
        len(options), lambda tells: server.engine.replies(messages, options, tells, queue, timeout=left)
    )
