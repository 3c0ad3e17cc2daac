"""The items of `/v1/responses`: items of a request → messages, parts of a reply → items."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from codi2.errors import PromptError
from codi2.prompt.parts import Image, Part, Text
from codi2.serve import fields, wire
from codi2.serve.schemas import ChatMessage, ResponsesRequest, check_role
from codi2.serve.wire import EncodedConversation

PREFIX = {"text": "msg", "image": "ig"}  # of ids, by modality
KNOWN: Mapping[str, Sequence[str]] = {
    "message": ("type", "role", "content", "id", "status"),
    "image_generation_call": ("type", "id", "status", "result"),
    "codi2_audio": ("type", "id", "status", "part"),
    "codi2_video": ("type", "id", "status", "part"),
}
ACCEPTS: Mapping[str, fields.Accepts] = {
    # fields of our own picture items beside the picture
    **dict.fromkeys(("revised_prompt", "size", "quality", "background", "output_format", "action"), fields.any_value),
    "phase": fields.any_value,
}


def messages_of(body: ResponsesRequest) -> EncodedConversation:
    """Instructions and input items; items of one reply become one message. Raises PromptError and MediaError."""
    items: Sequence[Any] = [{"role": "user", "content": body.input}] if isinstance(body.input, str) else body.input
    messages: list[tuple[Any, list[Any]]] = []
    if body.instructions:
        messages.append(("system", [{"type": "text", "text": body.instructions}]))
    for i, item in enumerate(items):
        role, parts = _read(item, f"item {i} of the input")
        if role == "assistant" and messages and messages[-1][0] == "assistant":
            messages[-1][1].extend(parts)
        else:
            messages.append((role, parts))
    # without validation: `wire.conversation` checks the parts, and its errors name them
    return wire.conversation([ChatMessage.model_construct(role=role, content=parts) for role, parts in messages])


def _read(item: Any, where: str) -> tuple[Any, list[Any]]:
    """The role and the parts of an item. Raises PromptError."""
    if not isinstance(item, Mapping):
        raise PromptError(f'{where} is no object; send {{"type": …}}')
    kind = str(item.get("type") or "message")
    if "call" in kind and kind not in KNOWN:
        raise PromptError(f"{where} is a {kind[:40]}, and {fields.TOOLS}; send its result as the user's words")
    if kind not in KNOWN:
        raise PromptError(f"{where} has the type {kind[:40]!r}; known are {', '.join(KNOWN)}")
    fields.check(item, KNOWN[kind], ACCEPTS, where)
    if kind == "message":
        role, content = check_role(item.get("role")), item.get("content")
        if role not in ("system", "developer", "user", "assistant"):
            raise PromptError(f"{where} has the role {str(role)[:40]!r}; write system, developer, user or assistant")
        if content is None and role == "assistant":
            content = []
        if not isinstance(content, str | list):
            raise PromptError(f"{where} has no content; send text or a list of parts")
        return role, [{"type": "text", "text": content}] if isinstance(content, str) else list(content)
    if kind == "image_generation_call":
        if not isinstance(result := item.get("result"), str):
            raise PromptError(f"{where} is a picture without a result; send the item as it came")
        return "assistant", [{"type": "image_url", "image_url": {"url": f"data:image/png;base64,{result}"}}]
    return "assistant", [item.get("part")]


def item_of(part: Part, name: str, mark: Mapping[str, Any] | None) -> dict[str, Any]:
    """A part of a reply as an item of the output. The types of sounds and clips are ours: OpenAI's API has none."""
    match part:
        case Text():
            return {**new_item("text", name), "status": "completed", "content": [text_of(part.text)]}
        case Image():
            url = wire.to_part(part, mark)["image_url"]["url"]
            return {
                **new_item("image", name),
                "status": "completed",
                "result": url.partition(",")[2],
                "output_format": "png",
            }
    return {**new_item(part.modality, name), "status": "completed", "part": wire.to_part(part, mark)}


def new_item(modality: str, name: str) -> dict[str, Any]:
    """An item without content, as a stream adds it."""
    item: dict[str, Any] = {"id": f"{PREFIX.get(modality, 'c2')}_{name}", "status": "in_progress"}
    match modality:
        case "text":
            return {**item, "type": "message", "role": "assistant", "content": []}
        case "image":
            return {**item, "type": "image_generation_call", "result": None}
    return {**item, "type": f"codi2_{modality}"}


def text_of(text: str) -> dict[str, Any]:
    """Text as the content of a message."""
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}
