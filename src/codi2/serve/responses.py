"""`/v1/responses`: its items and events."""

from __future__ import annotations

import time
import uuid
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

from codi2.chat.events import Done, Made, Said, Step
from codi2.errors import PromptError
from codi2.model import Reply
from codi2.prompt.layout import Message
from codi2.prompt.parts import Image, Text
from codi2.serve import wire
from codi2.serve.packing import aside
from codi2.serve.replies import usage_of
from codi2.serve.schemas import ChatMessage, ResponsesRequest
from codi2.serve.server import Server
from codi2.serve.waiting import Waiting
from codi2.serve.wire import Draft


def messages_of(body: ResponsesRequest) -> Draft:
    """Instructions and input items. Raises PromptError and MediaError."""
    if body.previous_response_id:
        raise PromptError("responses are not kept here; send the whole conversation as input, or use /v1/sessions")
    items: Sequence[Any] = [{"role": "user", "content": body.input}] if isinstance(body.input, str) else body.input
    messages = [ChatMessage(role="system", content=body.instructions)] if body.instructions else []
    for i, item in enumerate(items):
        kind = item.get("type", "message") if isinstance(item, Mapping) else None
        role = item.get("role") if kind == "message" else None
        if kind == "image_generation_call" and isinstance(item.get("result"), str):
            url = f"data:image/png;base64,{item['result']}"
            parts: Any = [{"type": "image_url", "image_url": {"url": url}}]
            messages.append(ChatMessage(role="assistant", content=parts))
        elif role in ("system", "developer", "user", "assistant"):
            content = item.get("content")
            if not isinstance(content, str | list):
                raise PromptError(f"item {i} of the input has no content")
            messages.append(ChatMessage(role=role, content=content))
        else:
            raise PromptError(f"item {i} of the input is neither a message nor a picture of ours")
    return wire.conversation(messages)


def answer(server: Server, reply: Reply, messages: Sequence[Message], name: str = "") -> dict[str, Any]:
    """The response object."""
    usage = usage_of(server, messages, [reply])
    return {
        "id": name or f"resp_{uuid.uuid4().hex}",
        "object": "response",
        "created_at": int(time.time()),
        "status": "completed",
        "model": server.model,
        "output": [_item(part) for part in reply.parts],
        "parallel_tool_calls": False,
        "tool_choice": "none",
        "tools": [],
        "error": None,
        "incomplete_details": None,
        "instructions": None,
        "metadata": {},
        "usage": {
            "input_tokens": usage["prompt_tokens"],
            "output_tokens": usage["completion_tokens"],
            "total_tokens": usage["total_tokens"],
            "input_tokens_details": {"cached_tokens": 0},
            "output_tokens_details": {"reasoning_tokens": 0},
        },
        "codi2": {"recipe": dict(reply.recipe), "notes": list(reply.notes)},
    }


async def stream(server: Server, waiting: Waiting, messages: Sequence[Message]) -> AsyncIterator[dict[str, Any]]:
    """The events of `stream: true`, as OpenAI names them; progress is `response.codi2.progress`."""
    name, number = f"resp_{uuid.uuid4().hex}", 0
    started: dict[str, Any] = {
        "id": name,
        "object": "response",
        "status": "in_progress",
        "model": server.model,
        "output": [],
    }
    started |= {"created_at": int(time.time()), "parallel_tool_calls": False, "tool_choice": "none", "tools": []}

    def event(kind: str, **fields: Any) -> dict[str, Any]:
        nonlocal number
        number += 1
        return {"type": kind, "sequence_number": number - 1, **fields}

    yield event("response.created", response=started)
    async for news in waiting:
        match news:
            case Said():
                place = {"item_id": f"{name}_text", "output_index": 0, "content_index": 0, "logprobs": []}
                yield event("response.output_text.delta", delta=news.text, **place)
            case Step():
                yield event("response.codi2.progress", stage=news.stage, step=news.step, total=news.total)
            case Made(place=place, part=part):
                item = await aside(_item, part)
                yield event("response.output_item.done", output_index=place, item=item)
            case Done(reply=reply):
                whole = await aside(answer, server, reply, messages, name)
                yield event("response.completed", response=whole)


def _item(part: Any) -> dict[str, Any]:
    """A part of a reply as an item of the output. Sounds and clips are ours: the standard has no word for them."""
    name = uuid.uuid4().hex
    match part:
        case Text():
            text = {"type": "output_text", "text": part.text, "annotations": []}
            return {
                "type": "message",
                "id": f"msg_{name}",
                "role": "assistant",
                "status": "completed",
                "content": [text],
            }
        case Image():
            result = wire.b64(wire.png(part.pixels))
            return {"type": "image_generation_call", "id": f"ig_{name}", "status": "completed", "result": result}
        case _:
            return {
                "type": f"codi2_{part.modality}",
                "id": f"c2_{name}",
                "status": "completed",
                "part": wire.to_part(part),
            }
