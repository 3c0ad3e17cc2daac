"""A conversation of many rounds with one model. Earlier rounds stay in the language model's cache.

A reply is a function of the conversation and of its options. It is the same from a conversation in memory, from a
conversation that was saved and opened, and from one that is sent as a whole (`CoDi2.answer`).

chat = Chat(model)
chat.send("Draw a mango.", want="image")
chat.send("Now make it night.", want="image")
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Generator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from codi2.cancellation import Cancelled
from codi2.chat import streaming
from codi2.chat.events import Done, Event, MediaReady, StageProgress
from codi2.chat.listener import TextListener
from codi2.chat.rounds import Round, count_skipped, messages_of, named_media, new_media, read_message
from codi2.errors import PromptError
from codi2.llm.reading import Past
from codi2.model import CoDi2
from codi2.prompt.layout import Message
from codi2.prompt.parts import Media, Part, Prompt, Text
from codi2.prompt.sources import items_by_name, name_items, rename_source
from codi2.reply import Callback, Options, Reply

__all__ = ["Chat", "Round"]


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
        return named_media(self.rounds[:rounds])

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
            if callback and isinstance(event, StageProgress):
                callback(event.stage, event.step, event.total)
            return False

        return self.play(prompt, media, settings, on_event)

    def stream(self, prompt: str | Prompt, *media: Media, **settings: Any) -> Generator[Event]:
        """The events of `send`. Closing the generator early ends the round, which is not kept."""
        return streaming.stream(lambda on_event: self.play(prompt, media, settings, on_event))

    async def asend(self, prompt: str | Prompt, *media: Media, **settings: Any) -> Reply:
        """`send` for asyncio, in a thread."""
        return await asyncio.to_thread(self.send, prompt, *media, **settings)

    def astream(self, prompt: str | Prompt, *media: Media, **settings: Any) -> AsyncIterator[Event]:
        """`stream` for asyncio."""
        return streaming.astream(self.stream(prompt, *media, **settings))

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
        Raises as `send`; Cancelled: `on_event` has returned True, and the round is not kept.
        """
        message, options = self._message(prompt, media, settings)
        skipped = self._count_skipped(message, options)
        listener = TextListener(self.model.mllm.backbone.tokenizer, on_event, options.stop or ())

        def step(stage: str, done: int, total: int) -> None:
            if stage == "write" and done:
                listener.finish()
            _stop_if(on_event(StageProgress(stage, done, total)))

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
        words = prompt if isinstance(prompt, str) else None
        new = new_media(message.parts, self.media)
        self.rounds.append(Round(message.parts, reply, options, skipped, words, new))

    def _message(
        self, prompt: str | Prompt, media: Sequence[Media], settings: dict[str, Any]
    ) -> tuple[Message, Options]:
        message, own = read_message(prompt, media, settings, self.media, self.model.layout)
        return message, Options(**self.defaults | own)

    def _history(self, skipped: int) -> list[Message]:
        """The messages before the next one, without those of the first `skipped` rounds."""
        return [*self.system, *messages_of(self.rounds[skipped:])]

    def _count_skipped(self, message: Message, options: Options) -> int:
        slots = self.model.config.heads.num_slots
        reply_length = options.max_new_tokens + sum(slots.values()) + 2 * len(slots)
        return count_skipped(self.system, self.rounds, message, self.model.layout, reply_length)

    def _notes(self, skipped: int) -> tuple[str, ...]:
        if skipped == self.skipped:
            return ()
        return (
            f"The first {skipped} rounds are no longer read: with them the conversation would be longer than the "
            f"{self.model.layout.max_length} positions that the model reads.",
        )


def _stop_if(unwanted: bool) -> None:
    if unwanted:
        raise Cancelled
