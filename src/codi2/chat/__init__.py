"""A conversation of many rounds with one model. Earlier rounds stay in the language model's cache.

A reply is a function of the conversation and of its options. It is the same from a conversation in memory, from a
conversation that was saved and opened, and from one that is sent as a whole (`CoDi2.answer`).

chat = Chat(model)
chat.send("Draw a mango.", want="image")
chat.send("Now make it night.", want="image")
"""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import AsyncIterator, Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from codi2.chat.events import Done, Event, MediaReady, Step
from codi2.chat.listener import TextListener
from codi2.errors import PromptError
from codi2.llm.reading import Past
from codi2.model import CoDi2
from codi2.prompt.layout import Message
from codi2.prompt.parts import Media, Part, Phrase, Prompt, Text
from codi2.prompt.references import parse_message, resolve_references
from codi2.prompt.sources import items_by_name, name_items, rename_source
from codi2.reply import Callback, Options, Reply
from codi2.stopping import Stopped, stops_when

KEPT = 0.75  # of the model's positions that stay in use when old rounds are skipped; the next rounds need the others


@dataclass(frozen=True)
class Round:
    """A message and its reply."""

    prompt: Prompt  # as the model read it, with the earlier items that the message refers to
    reply: Reply
    options: Options
    skipped: int = 0  # rounds from the first on that the model no longer read
    words: str | None = None  # the user's text, where it is known: `prompt` also has the items that it refers to
    new_media: tuple[Media, ...] = ()  # media of the prompt that no earlier round has, in the order of their numbers

    @property
    def items(self) -> Iterator[Part]:
        """Parts in the order in which their media are numbered."""
        return iter((*self.new_media, *self.prompt, *self.reply.parts))


class Chat:
    """A conversation with `model`. Not for several threads at once.

    Args:
        system: the system prompt, in place of the model's own.
        defaults: fields of `Options` for every message; the settings of a message override them.
    """

    def __init__(self, model: CoDi2, system: str | None = None, **defaults: Any) -> None:
        self.model, self.defaults = model, defaults
        self.system = (Message("system", (Text(system),)),) if system else ()
        self.rounds: list[Round] = []
        self.past = Past()

    @property
    def media(self) -> dict[str, Media]:
        """All items so far by the names that messages have for them: `image0`, `audio0`, `image1`, …"""
        return self.items(len(self.rounds))

    def items(self, rounds: int) -> dict[str, Media]:
        """The `media` of the first `rounds` rounds."""
        return name_items([part for round_ in self.rounds[:rounds] for part in round_.items])

    def branch(self, rounds: int) -> Chat:
        """A conversation of the first `rounds` rounds, with the cache of this one.

        This conversation keeps its rounds; the model reads them again with its next message.
        """
        branch = Chat(self.model, **self.defaults)
        branch.system, branch.rounds = self.system, self.rounds[:rounds]
        branch.past, self.past = self.past, Past()
        return branch

    @property
    def skipped(self) -> int:
        """Rounds from the first on that the model no longer reads."""
        return self.rounds[-1].skipped if self.rounds else 0

    def send(self, prompt: str | Prompt, *media: Media, callback: Callback | None = None, **settings: Any) -> Reply:
        """One round.

        Args:
            prompt: text, with placeholders for the media or for earlier items (see `prompt.references`), or parts.
            media: the items of the placeholders that name no earlier item, in order, by modality.
            callback: see `CoDi2.generate`.
            settings: fields of `Options`, or media by name, as for `CoDi2.generate`.
        Raises:
            PromptError: a placeholder or an ordinal names no item; the message alone is longer than what the model
                reads.
        """

        def on_event(event: Event) -> bool:
            if callback and isinstance(event, Step):
                callback(event.stage, event.step, event.total)
            return False

        return self.play(prompt, media, settings, on_event)

    def stream(self, prompt: str | Prompt, *media: Media, **settings: Any) -> Generator[Event]:
        """The events of `send`. Closing the generator early ends the round, which is not kept."""
        events: queue.Queue[Event | BaseException] = queue.Queue()
        closed = threading.Event()

        def on_event(event: Event) -> bool:
            events.put(event)
            return closed.is_set()

        def work() -> None:
            try:
                with stops_when(closed.is_set):
                    self.play(prompt, media, settings, on_event)
            except BaseException as error:
                events.put(error)

        worker = threading.Thread(target=work, daemon=True)
        worker.start()
        event: Event | BaseException | None = None
        try:
            while not isinstance(event, Done):
                event = events.get()
                if isinstance(event, BaseException):
                    raise event
                yield event
        finally:
            closed.set()
            worker.join()

    async def asend(self, prompt: str | Prompt, *media: Media, **settings: Any) -> Reply:
        """`send` for asyncio, in a thread."""
        return await asyncio.to_thread(self.send, prompt, *media, **settings)

    async def astream(self, prompt: str | Prompt, *media: Media, **settings: Any) -> AsyncIterator[Event]:
        """`stream` for asyncio."""
        events = self.stream(prompt, *media, **settings)
        try:
            while (event := await asyncio.to_thread(next, events, None)) is not None:
                yield event
        finally:
            await asyncio.to_thread(events.close)

    def undo(self) -> Round:
        """Removes the last round and returns it. Raises PromptError: there is none."""
        if not self.rounds:
            raise PromptError("there is nothing to undo: this conversation has no round yet")
        return self.rounds.pop()

    def retry(self, callback: Callback | None = None, **settings: Any) -> Reply:
        """Repeats the last message with other settings: `chat.retry(seed=1)`. Raises PromptError: there is none."""
        if not self.rounds:
            raise PromptError("there is nothing to retry: this conversation has no round yet")
        last = self.rounds[-1]
        trial = self.branch(len(self.rounds) - 1)
        try:
            reply = trial.send(last.prompt, callback=callback, **(vars(last.options) | settings))
        finally:
            self.past = trial.past
        self.rounds[-1] = replace(trial.rounds[-1], words=last.words, new_media=last.new_media)
        return reply

    def save(self, folder: str | Path, title: str = "A conversation") -> Path:
        """Writes the conversation to a folder, with a page that shows and plays it. `Chat.open` loads it again.

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
        """Appends an earlier round, as of a conversation that is opened; the model reads it with the next message."""
        self.rounds.append(round_)

    def play(
        self,
        prompt: str | Prompt,
        media: Sequence[Media],
        settings: dict[str, Any],
        on_event: Callable[[Event], bool],
        check: Callable[[Sequence[Part]], tuple[list[Part], tuple[str, ...]]] | None = None,
    ) -> Reply:
        """One round.

        Args:
            on_event: called with each event; returns True when the reply is no longer wanted.
            check: a reply's parts → the parts that may be shown, and notes for the user about the others.
        Raises as `send`; Stopped: `on_event` has returned True, and the round is not kept.
        """
        message, options = self._message(prompt, media, settings)
        skipped = self._count_skipped(message, options)
        listener = TextListener(self.model.mllm.backbone.tokenizer, on_event, options.stop or ())

        def step(stage: str, done: int, total: int) -> None:
            if stage == "write" and done:
                listener.finish()
            _stop_if(on_event(Step(stage, done, total)))

        conversation = [*self._history(skipped), message]
        names = name_items([*self.media.values(), *message.parts])
        options_with_source = replace(options, source=rename_source(options.source, names, items_by_name(conversation)))
        (reply,) = self.model.answer([conversation], [options_with_source], step, listener, [self.past])
        parts, check_notes = check(reply.parts) if check else (list(reply.parts), ())
        for place, part in enumerate(parts):
            if not isinstance(part, Text):
                _stop_if(on_event(MediaReady(place, part, reply.recipe)))
        reply = replace(reply, parts=tuple(parts), notes=(*reply.notes, *self._notes(skipped), *check_notes))
        self._append(prompt, message, reply, options, skipped)
        on_event(Done(reply))
        return reply

    def messages(self, prompt: str | Prompt, *media: Media) -> list[Message]:
        """The conversation that the model would read to answer a message. Raises as `send`."""
        message, options = self._message(prompt, media, {})
        return [*self._history(self._count_skipped(message, options)), message]

    def record(self, prompt: str | Prompt, reply: Sequence[Part], *media: Media) -> None:
        """Appends a round with a reply that the model has not made, as in an example. Raises as `send`."""
        message, options = self._message(prompt, media, {})
        self._append(prompt, message, Reply(tuple(reply)), options, self._count_skipped(message, options))

    def _append(self, prompt: str | Prompt, message: Message, reply: Reply, options: Options, skipped: int) -> None:
        earlier = {id(item) for item in self.media.values()}
        new = {id(p): p for p in message.parts if not isinstance(p, (Text, Phrase)) and id(p) not in earlier}
        words = prompt if isinstance(prompt, str) else None
        self.rounds.append(Round(message.parts, reply, options, skipped, words, tuple(new.values())))

    def _message(
        self, prompt: str | Prompt, media: Sequence[Media], settings: dict[str, Any]
    ) -> tuple[Message, Options]:
        fields = Options.__dataclass_fields__
        named = {key: value for key, value in settings.items() if key not in fields}
        if media and named:
            raise PromptError(
                f"give media in order or by name, not both: {next(iter(named))!r} came beside {len(media)} in order"
            )
        earlier = self.media
        if isinstance(prompt, str):
            self.model.layout.check_length([Message("user", (Text(prompt),))])  # before any other work on the text
            prompt = parse_message(prompt, named or media, earlier)
        elif media or named:
            raise PromptError("the prompt is a list of parts and there are media beside it; add the media to the parts")
        options = Options(**self.defaults | {key: value for key, value in settings.items() if key in fields})
        return Message("user", resolve_references(prompt, earlier)), options

    def _history(self, skipped: int) -> list[Message]:
        """The messages before the next one, without those of the first `skipped` rounds."""
        turns: list[Message] = []
        for round_ in self.rounds[skipped:]:
            turns += [Message("user", round_.prompt), Message("assistant", round_.reply.parts)]
        return [*self.system, *turns]

    def _count_skipped(self, message: Message, options: Options) -> int:
        """How many of the first rounds the model skips: more than before, if there would be no room for the reply."""
        layout, limit, skipped = self.model.layout, self.model.layout.max_length, self.skipped
        slots = self.model.config.heads.num_slots
        reply = options.max_new_tokens + sum(slots.values()) + 2 * len(slots)
        if layout.measure([*self._history(skipped), message]) + reply > limit:
            while (
                skipped < len(self.rounds) and layout.measure([*self._history(skipped), message]) + reply > KEPT * limit
            ):
                skipped += 1
        return skipped

    def _notes(self, skipped: int) -> tuple[str, ...]:
        if skipped == self.skipped:
            return ()
        return (
            f"The first {skipped} rounds are no longer read: with them the conversation would be longer than the "
            f"{self.model.layout.max_length} positions that the model reads.",
        )


def _stop_if(unwanted: bool) -> None:
    if unwanted:
        raise Stopped
