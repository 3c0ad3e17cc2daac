"""`/v1/responses`: the response, and the events of its stream in the order that OpenAI's clients expect."""

from __future__ import annotations

import time
import uuid
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Any

from codi2.chat.events import Done, MediaReady, MediaStarted, StageProgress, TextDelta
from codi2.model import Reply
from codi2.prompt.layout import Message
from codi2.prompt.parts import Text
from codi2.serve.items import item_of, new_item, text_of
from codi2.serve.packing import run_in_thread
from codi2.serve.replies import finish_of, mark_of, usage_of
from codi2.serve.schemas import ResponsesRequest
from codi2.serve.server import Server
from codi2.serve.waiting import JobEvents

Event = dict[str, Any]
MODALITIES = {"message": "text", "image_generation_call": "image", "codi2_audio": "audio", "codi2_video": "video"}


class Response:
    """One response and the fields that it repeats from its request."""

    def __init__(self, server: Server, body: ResponsesRequest, messages: Sequence[Message], tokens: int) -> None:
        self.server, self.body, self.messages, self.tokens = server, body, messages, tokens
        self.key, self.created = uuid.uuid4().hex, int(time.time())

    def name(self, place: int) -> str:
        """The id of an item, without the prefix of its type."""
        return f"{self.key}_{place}"

    def in_progress(self) -> dict[str, Any]:
        """The response object without a reply."""
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
        """The response object of a reply; its status is `incomplete` where the reply was cut at its length."""
        usage = usage_of(self.server, self.messages, [reply])
        cut = finish_of(self.server, reply, self.tokens) == "length"
        mark = mark_of(self.server, reply.recipe)
        output = [item_of(part, self.name(place), mark) for place, part in enumerate(reply.parts)]
        if cut and output and isinstance(reply.parts[-1], Text):
            output[-1]["status"] = "incomplete"
        return {
            **self.in_progress(),
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


class OutputItems:
    """The parts of a reply in progress → events of a stream, which adds each item before any other event of it."""

    def __init__(self, response: Response) -> None:
        self.response = response
        self.modalities: dict[int, str] = {}  # place → modality, of the items that were added
        self.texts: dict[int, str] = {}  # place → text so far, of the text in progress
        self.ended: set[int] = set()

    def add(self, place: int, modality: str) -> Iterator[Event]:
        if place in self.modalities:
            return
        yield from self.end_text()
        self.modalities[place] = modality
        item = new_item(modality, self.response.name(place))
        yield {"type": "response.output_item.added", "output_index": place, "item": item}
        if modality == "text":
            yield {"type": "response.content_part.added", **self._at(place), "part": text_of("")}
            self.texts[place] = ""
        elif modality == "image":
            yield {"type": "response.image_generation_call.in_progress", **self._item(place)}

    def add_text(self, place: int, text: str) -> Iterator[Event]:
        yield from self.add(place, "text")
        self.texts[place] = self.texts.get(place, "") + text
        yield {"type": "response.output_text.delta", **self._at(place), "delta": text, "logprobs": []}

    def end_text(self, status: str = "completed") -> Iterator[Event]:
        """Ends the text in progress."""
        for place, text in self.texts.items():
            yield {"type": "response.output_text.done", **self._at(place), "text": text, "logprobs": []}
            yield {"type": "response.content_part.done", **self._at(place), "part": text_of(text)}
            item = {**new_item("text", self.response.name(place)), "status": status, "content": [text_of(text)]}
            yield {"type": "response.output_item.done", "output_index": place, "item": item}
        self.ended |= set(self.texts)
        self.texts = {}

    def end_all(self, output: Sequence[dict[str, Any]]) -> Iterator[Event]:
        """Ends the items of a whole reply, with a filter's replacement where it has withheld a medium."""
        yield from self.end_text(output[-1]["status"] if output else "completed")
        for place, item in enumerate(output):
            if place not in self.ended:
                yield from self.add(place, MODALITIES[item["type"]])
                self.texts.pop(place, None)
                yield {"type": "response.output_item.done", "output_index": place, "item": item}

    def end_medium(self, place: int, item: dict[str, Any]) -> Iterator[Event]:
        self.ended.add(place)
        if self.modalities[place] == "image":
            yield {"type": "response.image_generation_call.completed", **self._item(place)}
        yield {"type": "response.output_item.done", "output_index": place, "item": item}

    def start_decoding(self) -> Iterator[Event]:
        """The text is complete, and the decoding of media begins."""
        yield from self.end_text()
        for place, modality in self.modalities.items():
            if modality == "image":
                yield {"type": "response.image_generation_call.generating", **self._item(place)}

    def _item(self, place: int) -> dict[str, Any]:
        return {"item_id": new_item(self.modalities[place], self.response.name(place))["id"], "output_index": place}

    def _at(self, place: int) -> dict[str, Any]:
        return {**self._item(place), "content_index": 0}


async def stream(response: Response, job_events: JobEvents) -> AsyncIterator[Event]:
    """The events of `stream: true`, as OpenAI names them; progress is `response.codi2.progress`."""
    number = 0
    async for event in _events(response, job_events):
        yield {**event, "sequence_number": number}
        number += 1


async def _events(response: Response, job_events: JobEvents) -> AsyncIterator[Event]:
    started, items, decoding = response.in_progress(), OutputItems(response), False
    yield {"type": "response.created", "response": started}
    yield {"type": "response.in_progress", "response": started}
    async for job_event in job_events:
        events: list[Event] = []
        match job_event:
            case TextDelta():
                events = [*items.add_text(job_event.place, job_event.text)]
            case MediaStarted():
                events = [*items.add(job_event.place, job_event.modality)]
            case StageProgress():
                if job_event.stage == "decode" and not decoding:
                    decoding, events = True, [*items.start_decoding()]
                progress = {"stage": job_event.stage, "step": job_event.step, "total": job_event.total}
                events.append({"type": "response.codi2.progress", **progress})
            case MediaReady(place=place, part=part):
                item = await run_in_thread(
                    item_of, part, response.name(place), mark_of(response.server, job_event.recipe)
                )
                events = [*items.add(place, part.modality), *items.end_medium(place, item)]
            case Done(reply=reply):
                whole = await run_in_thread(response.answer, reply)
                events = [*items.end_all(whole["output"]), {"type": f"response.{whole['status']}", "response": whole}]
        for event in events:
            yield event
