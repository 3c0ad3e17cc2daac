"""Replies in the shapes of OpenAI's API: a message, its usage, and the events of a stream."""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

from fastapi.responses import StreamingResponse

from codi2.chat.events import Done, MediaReady, StageProgress, TextDelta
from codi2.errors import CoDi2Error
from codi2.model import Reply
from codi2.prompt.layout import Message
from codi2.prompt.parts import Text
from codi2.serve import wire
from codi2.serve.errors import describe_error
from codi2.serve.packing import run_in_thread
from codi2.serve.server import Server
from codi2.serve.waiting import JobEvents


def mark_of(server: Server, recipe: Mapping[str, Any]) -> dict[str, Any] | None:
    """The recipe that is written into the files of a reply; None: the server writes no recipes."""
    return dict(recipe) if server.marks else None


def message_of(server: Server, reply: Reply, as_parts: bool = False) -> dict[str, Any]:
    """A reply as a message; `as_parts`: its content is the list of its parts, not its text."""
    parts = wire.to_parts(reply.parts, mark_of(server, reply.recipe))
    pictures = [{**part, "index": i} for i, part in enumerate(part for part in parts if part["type"] == "image_url")]
    return {
        "role": "assistant",
        "content": parts if as_parts else reply.text,
        "refusal": None,
        **({"images": pictures} if pictures else {}),
        "codi2": {"parts": parts, "recipe": dict(reply.recipe), "notes": list(reply.notes)},
    }


def finish_of(server: Server, reply: Reply, tokens: int) -> str:
    """`length`: the reply was cut at `tokens`; `stop`: it ended by itself, or at a stop string."""
    words = server.engine.model.mllm.backbone.tokenizer
    if any(isinstance(part, Text) and part.text != words.decode(part.ids) for part in reply.parts):
        return "stop"
    # a begin token of a medium counts where the model chose it
    begins = 0 if reply.recipe.get("want") is not None else sum(not isinstance(part, Text) for part in reply.parts)
    return "length" if _text_tokens(reply) + begins >= tokens else "stop"


def _text_tokens(reply: Reply) -> int:
    return sum(len(part.ids) for part in reply.parts if isinstance(part, Text))


def usage_of(server: Server, messages: Sequence[Message], replies: Sequence[Reply]) -> dict[str, Any]:
    """Counts of the language model's positions, with those of media."""
    slots = server.engine.model.config.heads.num_slots
    read = server.engine.model.layout.measure(messages)
    written = sum(
        _text_tokens(reply) + sum(2 + slots[part.modality] for part in reply.parts if not isinstance(part, Text))
        for reply in replies
    )
    return {"prompt_tokens": read, "completion_tokens": written, "total_tokens": read + written}


async def chunks(
    server: Server, events: JobEvents, about: dict[str, Any], tokens: int, messages: Sequence[Message], usage: bool
) -> AsyncIterator[dict[str, Any]]:
    """The events of `stream: true`: text as it is written; progress and media under `codi2`."""

    def chunk(delta: dict[str, Any], finish: str | None = None, **more: Any) -> dict[str, Any]:
        choice = {"index": 0, "delta": delta, "finish_reason": finish, "logprobs": None}
        return {**about, "object": "chat.completion.chunk", "choices": [choice], **more}

    yield chunk({"role": "assistant", "content": ""})
    pictures = 0
    async for event in events:
        match event:
            case TextDelta():
                yield chunk({"content": event.text})
            case StageProgress():
                yield chunk({}, codi2={"progress": {"stage": event.stage, "step": event.step, "total": event.total}})
            case MediaReady(place=place, part=part):
                content = await run_in_thread(wire.to_part, part, mark_of(server, event.recipe))
                delta: dict[str, Any] = {"codi2": {"place": place, "part": content}}
                if content["type"] == "image_url":
                    delta["images"] = [{**content, "index": pictures}]
                    pictures += 1
                yield chunk(delta)
            case Done():
                reply = event.reply
                yield chunk(
                    {},
                    finish_of(server, reply, tokens),
                    codi2={"recipe": dict(reply.recipe), "notes": list(reply.notes)},
                )
                if usage:
                    counts = await run_in_thread(usage_of, server, messages, [reply])
                    yield {**chunk({}), "choices": [], "usage": counts}


def sse(events: AsyncIterator[dict[str, Any]]) -> StreamingResponse:
    """Server-sent events, one JSON object each; an error is the last."""

    async def lines() -> AsyncIterator[str]:
        try:
            async for event in events:
                name = f"event: {event['type']}\n" if "type" in event and "choices" not in event else ""
                yield f"{name}data: {json.dumps(event, ensure_ascii=False)}\n\n"
            yield "data: [DONE]\n\n"
        except Exception as error:
            if not isinstance(error, CoDi2Error):
                logging.getLogger("codi2").exception("a stream failed", exc_info=error)
            yield f"data: {json.dumps(describe_error(error)[1])}\n\n"

    return StreamingResponse(lines(), media_type="text/event-stream", headers={"Cache-Control": "no-store"})
