"""`/v1/responses`: the response, and the events of its stream in the order that OpenAI's clients expect."""

from __future__ import annotations

import time
import uuid
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Any

from codi2.chat.events import Began, Done, MediaReady, Step, TextDelta
from codi2.model import Reply
from codi2.prompt.layout import Message
from codi2.prompt.parts import Text
from codi2.serve.items import begun, item_aside, item_of, text_of
from codi2.serve.packing import aside
from codi2.serve.replies import finish_of, mark_of, usage_of
from codi2.serve.schemas import ResponsesRequest
from codi2.serve.server import Server
from codi2.serve.waiting import Waiting

Event = dict[str, Any]
MODALITIES = {"message": "text", "image_generation_call": "image", "codi2_audio": "audio", "codi2_video": "video"}


class Response:
    """One response: its name, and what its request said."""

    def __init__(self, server: Server, body: ResponsesRequest, messages: Sequence[Message], tokens: int) -> None:
        self.server, self.body, self.messages, self.tokens = server, body, messages, tokens
        self.key, self.created = uuid.uuid4().hex, int(time.time())

    def name(self, place: int) -> str:
        """Of an item, without the prefix of its type."""
        return f"{self.key}_{place}"

    def begun(self) -> dict[str, Any]:
        """The response object before there is a reply."""
        body = self.body
        return {
            "id": f"resp_{self.key}",
            "object": "response",
            "created_at": self.created,
            "status": "in_progress",
            "model": self.server.model,
            "output": [],
            "instructions": body.instructions,
            "max_output_tokens": body.max_output_tokens,
            "temperature": body.temperature or 0.0,
            "top_p": 1.0 if body.top_p is None else body.top_p,
            "metadata": body.metadata or {},
            "user": body.user,
            "parallel_tool_calls": False,
            "tool_choice": "none",
            "tools": [],
            "text": {"format": {"type": "text"}},
            "truncation": "disabled",
            "store": False,
            "background": False,
            "previous_response_id": None,
            "error": None,
            "incomplete_details": None,
            "usage": None,
        }

    def answer(self, reply: Reply) -> dict[str, Any]:
        """The response object; `incomplete` where its length cut the reply."""
        usage = usage_of(self.server, self.messages, [reply])
        cut = finish_of(self.server, reply, self.tokens) == "length"
        mark = mark_of(self.server, reply.recipe)
        last = len(reply.parts) - 1
        output = [
            item_of(part, self.name(place), mark, "incomplete" if self._cut(part, cut, place == last) else "completed")
            for place, part in enumerate(reply.parts)
        ]
        return {
            **self.begun(),
            "status": "incomplete" if cut else "completed",
            "incomplete_details": {"reason": "max_output_tokens"} if cut else None,
            "output": output,
            "usage": {
                "input_tokens": usage["prompt_tokens"],
                "output_tokens": usage["completion_tokens"],
                "total_tokens": usage["total_tokens"],
                "input_tokens_details": {"cached_tokens": 0},
                "output_tokens_details": {"reasoning_tokens": 0},
            },
            "codi2": {"recipe": dict(reply.recipe), "notes": list(reply.notes)},
        }

    @staticmethod
    def _cut(part: Any, cut: bool, last: bool) -> bool:
        return cut and last and isinstance(part, Text)


class Places:
    """The parts of a reply that is being made, as events: each is added before anything is said of it."""

    def __init__(self, response: Response) -> None:
        self.response = response
        self.known: dict[int, str] = {}  # place → modality
        self.words: dict[int, str] = {}  # of the text that is being said
        self.ended: set[int] = set()

    def add(self, place: int, modality: str) -> Iterator[Event]:
        if place in self.known:
            return
        yield from self.end_words()
        self.known[place] = modality
        item = begun(modality, self.response.name(place))
        yield {"type": "response.output_item.added", "output_index": place, "item": item}
        if modality == "text":
            yield {"type": "response.content_part.added", **self._at(place), "part": text_of("")}
            self.words[place] = ""
        elif modality == "image":
            yield {"type": "response.image_generation_call.in_progress", **self._item(place)}

    def say(self, place: int, text: str) -> Iterator[Event]:
        yield from self.add(place, "text")
        self.words[place] = self.words.get(place, "") + text
        yield {"type": "response.output_text.delta", **self._at(place), "delta": text, "logprobs": []}

    def end_words(self, status: str = "completed") -> Iterator[Event]:
        """The text that was being said is over."""
        for place, text in self.words.items():
            yield {"type": "response.output_text.done", **self._at(place), "text": text, "logprobs": []}
            yield {"type": "response.content_part.done", **self._at(place), "part": text_of(text)}
            item = {**begun("text", self.response.name(place)), "status": status, "content": [text_of(text)]}
            yield {"type": "response.output_item.done", "output_index": place, "item": item}
        self.ended |= set(self.words)
        self.words = {}

    def end_all(self, output: Sequence[dict[str, Any]]) -> Iterator[Event]:
        """The reply is there; what a filter has put in the place of a medium ends that item."""
        yield from self.end_words(output[-1]["status"] if output else "completed")
        for place, item in enumerate(output):
            if place not in self.ended:
                yield from self.add(place, MODALITIES[item["type"]])
                self.words.pop(place, None)
                yield {"type": "response.output_item.done", "output_index": place, "item": item}

    def end(self, place: int, item: dict[str, Any]) -> Iterator[Event]:
        """A medium is there."""
        self.ended.add(place)
        if self.known[place] == "image":
            yield {"type": "response.image_generation_call.completed", **self._item(place)}
        yield {"type": "response.output_item.done", "output_index": place, "item": item}

    def drawing(self) -> Iterator[Event]:
        """All words are said, and media are being drawn."""
        yield from self.end_words()
        for place, modality in self.known.items():
            if modality == "image":
                yield {"type": "response.image_generation_call.generating", **self._item(place)}

    def _item(self, place: int) -> dict[str, Any]:
        return {"item_id": begun(self.known[place], self.response.name(place))["id"], "output_index": place}

    def _at(self, place: int) -> dict[str, Any]:
        return {**self._item(place), "content_index": 0}


async def stream(response: Response, waiting: Waiting) -> AsyncIterator[Event]:
    """The events of `stream: true`, as OpenAI names them; progress is `response.codi2.progress`."""
    number = 0
    async for event in _events(response, waiting):
        yield {**event, "sequence_number": number}
        number += 1


async def _events(response: Response, waiting: Waiting) -> AsyncIterator[Event]:
    started, places, drawing = response.begun(), Places(response), False
    yield {"type": "response.created", "response": started}
    yield {"type": "response.in_progress", "response": started}
    async for news in waiting:
        made: Iterator[Event] = iter(())
        match news:
            case TextDelta():
                made = places.say(news.place, news.text)
            case Began():
                made = places.add(news.place, news.modality)
            case Step():
                if news.stage == "decode" and not drawing:
                    drawing, made = True, places.drawing()
                progress = {"stage": news.stage, "step": news.step, "total": news.total}
                made = iter([*made, {"type": "response.codi2.progress", **progress}])
            case MediaReady():
                mark = mark_of(response.server, news.recipe)
                item = await item_aside(news.part, response.name(news.place), mark)
                begun_now = places.add(news.place, news.part.modality)
                made = iter([*begun_now, *places.end(news.place, item)])
            case Done(reply=reply):
                whole = await aside(response.answer, reply)
                made = iter(
                    [*places.end_all(whole["output"]), {"type": f"response.{whole['status']}", "response": whole}]
                )
        for event in made:
            yield event
