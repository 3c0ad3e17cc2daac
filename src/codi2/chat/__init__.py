"""A conversation of many rounds with one model: what was read and written stays in the language model's cache.

chat = model.chat()
chat.send("Draw a mango.", want="image")
chat.send("Now make it night.", want="image")
"""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from codi2.chat.events import Done, Event, Made, Said, Step
from codi2.chat.references import numbered, read, resolve
from codi2.errors import PromptError
from codi2.llm.decode import Conversation, FeatureSegment, generate
from codi2.llm.mllm import stack_features
from codi2.model import Callback, CoDi2, Options, Reply, Stopwatch
from codi2.prompt.layout import Batch, Message, TokenSequence, collate
from codi2.prompt.parts import Media, Part, Phrase, Prompt, Text

KEPT = 0.75  # of the positions a model reads: as many stay taken when old rounds leave, so that some rounds have room


@dataclass(frozen=True)
class Round:
    """A message and its reply."""

    prompt: Prompt  # what the model read: with the earlier items that the message speaks of
    reply: Reply
    features: Mapping[int, Tensor]  # of the reply's media [K, D], by their place in it
    options: Options


class Chat:
    """Build one with `CoDi2.chat`. Not for several threads at once.

    Args:
        system: opens the conversation, in place of the model's own system prompt.
        defaults: fields of `Options` for every message; a message's own come before them.
    """

    def __init__(self, model: CoDi2, system: str | None = None, **defaults: Any) -> None:
        self.model, self.defaults = model, defaults
        self.system = (Message("system", (Text(system),)),) if system else ()
        self.rounds: list[Round] = []
        self.left = 0  # rounds that the model no longer reads
        self._state: Conversation | None = None
        self._marks: dict[int, tuple[int, int]] = {}  # where the state stood before a round
        self._given: dict[int | str, tuple[Part, Tensor]] = {}  # what was read, with its features

    @property
    def media(self) -> dict[str, Media]:
        """All items so far by the names that a message can call them: `image0`, `audio0`, `image1`, …"""
        seen: dict[int, Part] = {}
        for part in (part for round_ in self.rounds for part in (*round_.prompt, *round_.reply.parts)):
            seen.setdefault(id(part), part)  # an item that is spoken of again is no new one
        return numbered(list(seen.values()))

    def send(self, prompt: str | Prompt, *media: Media, callback: Callback | None = None, **settings: Any) -> Reply:
        """One round.

        Args:
            prompt: words, with placeholders for the media or for earlier items (see `chat.references`), or parts.
            media: what placeholders that no earlier item has stand for, in order, by modality.
            callback: see `CoDi2.generate`.
            settings: fields of `Options`, or media by name, as for `CoDi2.generate`.
        Raises:
            PromptError: a placeholder or an ordinal stands for nothing; the message alone is longer than what the
                model reads.
        """

        def tell(event: Event) -> bool:
            if callback and isinstance(event, Step):
                callback(event.stage, event.step, event.total)
            return False

        return self.play(prompt, media, settings, tell)

    def stream(self, prompt: str | Prompt, *media: Media, **settings: Any) -> Iterator[Event]:
        """`send`, as it happens. A reader who leaves early ends the round, and it is not kept."""
        news: queue.Queue[Event | BaseException] = queue.Queue()
        gone = threading.Event()

        def tell(event: Event) -> bool:
            news.put(event)
            return gone.is_set()

        def work() -> None:
            try:
                self.play(prompt, media, settings, tell)
            except BaseException as error:
                news.put(error)

        worker = threading.Thread(target=work, daemon=True)
        worker.start()
        event: Event | BaseException | None = None
        try:
            while not isinstance(event, Done):
                event = news.get()
                if isinstance(event, BaseException):
                    raise event
                yield event
        finally:
            gone.set()
            worker.join()

    async def asend(self, prompt: str | Prompt, *media: Media, **settings: Any) -> Reply:
        """`send` for asyncio: the work is done in a thread."""
        return await asyncio.to_thread(self.send, prompt, *media, **settings)

    async def astream(self, prompt: str | Prompt, *media: Media, **settings: Any) -> AsyncIterator[Event]:
        """`stream` for asyncio."""
        events = self.stream(prompt, *media, **settings)
        try:
            while (event := await asyncio.to_thread(next, events, None)) is not None:
                yield event
        finally:
            await asyncio.to_thread(events.close)  # type: ignore[attr-defined]

    def undo(self) -> Round:
        """Takes the last round back. Raises PromptError: there is none."""
        if not self.rounds:
            raise PromptError("there is nothing to undo: this conversation has no round yet")
        last = self.rounds.pop()
        mark = self._marks.pop(len(self.rounds), None)
        if self._state is not None and (mark is None or not self._state.rewind(mark)):
            self._state = None  # the next round reads what is left anew
        self.left = min(self.left, len(self.rounds))
        live = {id(part) for round_ in self.rounds for part in (*round_.prompt, *round_.reply.parts)}
        self._given = {key: value for key, value in self._given.items() if key in live}
        return last

    def retry(self, callback: Callback | None = None, **settings: Any) -> Reply:
        """The last message once more, with other settings: `chat.retry(seed=1)`. Raises PromptError: there is none."""
        last = self.undo()
        try:
            return self.send(last.prompt, callback=callback, **(vars(last.options) | settings))
        except BaseException:
            self.add(last)
            raise

    def save(self, folder: str | Path, title: str = "A conversation") -> Path:
        """Writes the conversation to a folder, with a page that shows and plays it; `Chat.open` goes on with it.

        Raises OutputError: the folder cannot be written.
        """
        from codi2.chat.files import save

        return save(self, folder, title)

    @classmethod
    def open(cls, model: CoDi2, folder: str | Path) -> Chat:
        """The conversation in a folder. Raises PromptError: there is none, or it is damaged."""
        from codi2.chat.files import open_chat

        return open_chat(model, folder)

    def add(self, round_: Round) -> None:
        """Appends a round that was made before, as when a conversation is opened; the model reads it with the next."""
        self.rounds.append(round_)
        self._state, self._marks = None, {}

    @torch.no_grad()
    def play(
        self,
        prompt: str | Prompt,
        media: Sequence[Media],
        settings: dict[str, Any],
        tell: Callable[[Event], bool],
        check: Callable[[Sequence[Part]], tuple[list[Part], tuple[str, ...]]] | None = None,
    ) -> Reply:
        """One round, `tell` being called with what happens; it returns True when nobody listens any more.

        `check` gives the parts that may be shown, and what the user is told of the others.

        Raises as `send`; Stopped: nobody listened, and the round is not kept.
        """
        message, options = self._message(prompt, media, settings)
        if self._state is None:
            self._marks = {}
        model, watch = self.model, Stopwatch(lambda *step: _check(tell(Step(*step))))
        left_before = self.left
        try:
            with watch("encode"):
                batch = collate([self._sequence(message, options)], model.mllm.backbone.pad_id, left=True)
                batch = batch.to(model.device)
                features = self._features(batch)
            with watch("think"), model.resident(model.mllm.backbone):
                fresh, self._state = self._state is None, self._state or Conversation(model.mllm)
                mark = self._state.mark
                listener = Listener(model.mllm.backbone.tokenizer, tell)
                (written,) = generate(self._state, batch, features, [model.reply_options(options)], listener)
                listener.finish()
            with watch("diffuse"):
                (parts,) = model.diffuse([written], [message.parts], [options], watch.callback)
            parts, told = check(parts) if check else (parts, ())
            for place, part in enumerate(parts):
                if not isinstance(part, Text):
                    _check(tell(Made(place, part)))
        except BaseException:
            self._state, self.left = None, left_before  # what was read of this round is not to be kept
            raise
        made = {place: s.features for place, s in enumerate(written) if isinstance(s, FeatureSegment)}
        reply = Reply(tuple(parts), model.recipe(options, watch.seconds), (*self._notes(left_before), *told))
        if not fresh:
            self._marks[len(self.rounds)] = mark
        self.rounds.append(Round(message.parts, reply, made, options))
        tell(Done(reply))
        return reply

    def _message(
        self, prompt: str | Prompt, media: Sequence[Media], settings: dict[str, Any]
    ) -> tuple[Message, Options]:
        known = Options.__dataclass_fields__
        named = {key: value for key, value in settings.items() if key not in known}
        if media and named:
            raise PromptError(
                f"give media in order or by name, not both: {next(iter(named))!r} came beside {len(media)} in order"
            )
        earlier = self.media
        if isinstance(prompt, str):
            prompt = read(prompt, named or media, earlier)
        elif media or named:
            raise PromptError("media were given beside a prompt of parts, which holds its own")
        options = Options(**self.defaults | {key: value for key, value in settings.items() if key in known})
        return Message("user", resolve(prompt, earlier)), options

    def _history(self) -> list[Message]:
        """What the model reads before the next message."""
        turns: list[Message] = []
        for round_ in self.rounds[self.left :]:
            turns += [Message("user", round_.prompt), Message("assistant", round_.reply.parts)]
        return [*self.system, *turns]

    def _sequence(self, message: Message, options: Options) -> TokenSequence:
        """What the model has not read yet. The oldest rounds leave when there would be no room for the reply."""
        layout, most = self.model.layout, self.model.layout.max_length
        slots = self.model.config.heads.num_slots
        room = options.max_new_tokens + sum(slots.values()) + 2 * len(slots)
        past = self._state.mask.shape[1] if self._state else 0
        history = self._history()
        new = layout.measure([*history, message], known=len(history) if past else 0)
        if past + new + room > most and self.left < len(self.rounds):
            self._state, self._marks = None, {}
            while self.left < len(self.rounds) and layout.measure([*history, message]) + room > KEPT * most:
                self.left += 1
                history = self._history()
        return layout([*history, message], reply=True, known=len(history) if self._state else 0)

    def _features(self, batch: Batch) -> Tensor:
        """Features of a batch's items [N, T, D]: of the model's own as it predicted them, of others read but once."""
        counts = batch.slot_item.bincount(minlength=len(batch.items)).tolist()
        own = set(batch.slot_item[batch.slot_predicted].tolist())
        made = {
            id(round_.reply.parts[place]): features
            for round_ in self.rounds[self.left :]
            for place, features in round_.features.items()
        }
        unread = [i for i, item in enumerate(batch.items) if i not in own and _key(item) not in self._given]
        if unread:
            read_now = self.model.encode([batch.items[i] for i in unread], [counts[i] for i in unread])
            for i, values in zip(unread, read_now, strict=True):
                self._given[_key(batch.items[i])] = (batch.items[i], values[: counts[i]])
        values = [made[id(item)] if i in own else self._given[_key(item)][1] for i, item in enumerate(batch.items)]
        return stack_features(values, self.model.encoder.dim).to(self.model.device)

    def _notes(self, left_before: int) -> tuple[str, ...]:
        if self.left == left_before:
            return ()
        return (
            f"The first {self.left} rounds are no longer read: with them the conversation would be longer than the "
            f"{self.model.layout.max_length} positions that the model reads.",
        )


class Stopped(Exception):
    """Nobody listens any more."""


def _check(gone: bool) -> None:
    if gone:
        raise Stopped


def _key(part: Part) -> int | str:
    """An item by what it is: words by the words, media by identity."""
    return part.text if isinstance(part, Phrase) else id(part)


class Listener:
    """What a step loop calls with its tokens. Tokens → pieces of text; half a character waits for its other half."""

    def __init__(self, tokenizer: Any, tell: Callable[[Event], bool]) -> None:
        self.tokenizer, self.tell = tokenizer, tell
        self.ids: list[int] = []
        self.told = ""

    def __call__(self, sample: int, token: int, begins: bool) -> bool:
        if begins:
            self.finish()
        self.ids.append(token)
        return self._tell(whole=False)

    def finish(self) -> None:
        """A stretch of text is over: what waited is told as it is."""
        if self.ids:
            self._tell(whole=True)
        self.ids, self.told = [], ""

    def _tell(self, whole: bool) -> bool:
        text: str = self.tokenizer.decode(self.ids)
        if not whole and text.endswith("\ufffd"):
            return False
        piece, self.told = text[len(self.told) :], text
        return self.tell(Said(piece)) if piece else False
