"""A conversation of many rounds with one model: what was read stays in the language model's cache.

A reply is a function of the conversation as it is shown, and of its options: the same from a conversation that is kept,
opened again or sent as a whole (`CoDi2.answer`).

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

from codi2.chat.events import Began, Done, Event, MediaReady, Step, TextDelta
from codi2.errors import PromptError
from codi2.llm.reading import Past
from codi2.llm.stops import first, pending
from codi2.model import CoDi2
from codi2.prompt.layout import BEGIN, Message
from codi2.prompt.parts import Media, Part, Phrase, Prompt, Text
from codi2.prompt.references import read, resolve
from codi2.prompt.sources import items_of, numbered, renamed
from codi2.reply import Callback, Options, Reply
from codi2.stopping import Stopped, stops_when

MADE = ("image", "audio", "video")  # modalities of a reply's media
KEPT = 0.75  # of the positions a model reads: as many stay taken when old rounds leave, so that some rounds have room


@dataclass(frozen=True)
class Round:
    """A message and its reply."""

    prompt: Prompt  # what the model read: with the earlier items that the message speaks of
    reply: Reply
    options: Options
    left: int = 0  # rounds from the first on that the model no longer read
    words: str | None = None  # what the user wrote, where it is known: `prompt` also has what the words refer to
    given: tuple[Media, ...] = ()  # media of the prompt that are new in the conversation, in the order of their numbers

    @property
    def items(self) -> Iterator[Part]:
        """Parts in the order in which their media are numbered."""
        return iter((*self.given, *self.prompt, *self.reply.parts))


class Chat:
    """A conversation with `model`. Not for several threads at once.

    Args:
        system: opens the conversation, in place of the model's own system prompt.
        defaults: fields of `Options` for every message; a message's own come before them.
    """

    def __init__(self, model: CoDi2, system: str | None = None, **defaults: Any) -> None:
        self.model, self.defaults = model, defaults
        self.system = (Message("system", (Text(system),)),) if system else ()
        self.rounds: list[Round] = []
        self.past = Past()

    @property
    def media(self) -> dict[str, Media]:
        """All items so far by the names that a message can call them: `image0`, `audio0`, `image1`, …"""
        return self.items(len(self.rounds))

    def items(self, rounds: int) -> dict[str, Media]:
        """The same of the first `rounds` rounds."""
        return numbered([part for round_ in self.rounds[:rounds] for part in round_.items])

    def branch(self, rounds: int) -> Chat:
        """A conversation of the first `rounds` rounds that continues from what this one has read.

        This conversation keeps its rounds and reads them again when it continues.
        """
        branch = Chat(self.model, **self.defaults)
        branch.system, branch.rounds = self.system, self.rounds[:rounds]
        branch.past, self.past = self.past, Past()
        return branch

    @property
    def left(self) -> int:
        """Rounds from the first on that the model no longer reads."""
        return self.rounds[-1].left if self.rounds else 0

    def send(self, prompt: str | Prompt, *media: Media, callback: Callback | None = None, **settings: Any) -> Reply:
        """One round.

        Args:
            prompt: words, with placeholders for the media or for earlier items (see `prompt.references`), or parts.
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

    def stream(self, prompt: str | Prompt, *media: Media, **settings: Any) -> Generator[Event]:
        """`send`, as it happens. A reader who leaves early ends the round, and it is not kept."""
        news: queue.Queue[Event | BaseException] = queue.Queue()
        gone = threading.Event()

        def tell(event: Event) -> bool:
            news.put(event)
            return gone.is_set()

        def work() -> None:
            try:
                with stops_when(gone.is_set):
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
            await asyncio.to_thread(events.close)

    def undo(self) -> Round:
        """Takes the last round back. Raises PromptError: there is none."""
        if not self.rounds:
            raise PromptError("there is nothing to undo: this conversation has no round yet")
        return self.rounds.pop()

    def retry(self, callback: Callback | None = None, **settings: Any) -> Reply:
        """The last message once more, with other settings: `chat.retry(seed=1)`. Raises PromptError: there is none."""
        if not self.rounds:
            raise PromptError("there is nothing to retry: this conversation has no round yet")
        last = self.rounds[-1]
        trial = self.branch(len(self.rounds) - 1)
        try:
            reply = trial.send(last.prompt, callback=callback, **(vars(last.options) | settings))
        finally:
            self.past = trial.past
        self.rounds[-1] = replace(trial.rounds[-1], words=last.words, given=last.given)
        return reply

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
        left = self._no_longer_read(message, options)
        listener = Listener(self.model.mllm.backbone.tokenizer, tell, options.stop or ())

        def step(stage: str, done: int, total: int) -> None:
            if stage == "write" and done:
                listener.finish()
            _check(tell(Step(stage, done, total)))

        conversation = [*self._history(left), message]
        names = numbered([*self.media.values(), *message.parts])
        placed = replace(options, source=renamed(options.source, names, items_of(conversation)))
        (reply,) = self.model.answer([conversation], [placed], step, listener, [self.past])
        parts, told = check(reply.parts) if check else (list(reply.parts), ())
        for place, part in enumerate(parts):
            if not isinstance(part, Text):
                _check(tell(MediaReady(place, part, reply.recipe)))
        reply = replace(reply, parts=tuple(parts), notes=(*reply.notes, *self._notes(left), *told))
        self._keep(prompt, message, reply, options, left)
        tell(Done(reply))
        return reply

    def messages(self, prompt: str | Prompt, *media: Media) -> list[Message]:
        """What the model would read to answer a message. Raises as `send`."""
        message, options = self._message(prompt, media, {})
        return [*self._history(self._no_longer_read(message, options)), message]

    def record(self, prompt: str | Prompt, reply: Sequence[Part], *media: Media) -> None:
        """Appends a round whose reply somebody else made, as in an example. Raises as `send`."""
        message, options = self._message(prompt, media, {})
        self._keep(prompt, message, Reply(tuple(reply)), options, self._no_longer_read(message, options))

    def _keep(self, prompt: str | Prompt, message: Message, reply: Reply, options: Options, left: int) -> None:
        earlier = {id(item) for item in self.media.values()}
        new = {id(p): p for p in message.parts if not isinstance(p, (Text, Phrase)) and id(p) not in earlier}
        words = prompt if isinstance(prompt, str) else None
        self.rounds.append(Round(message.parts, reply, options, left, words, tuple(new.values())))

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
            self.model.layout.check_length([Message("user", (Text(prompt),))])  # before anything looks at these words
            prompt = read(prompt, named or media, earlier)
        elif media or named:
            raise PromptError("media were given beside a prompt of parts, which holds its own")
        options = Options(**self.defaults | {key: value for key, value in settings.items() if key in known})
        return Message("user", resolve(prompt, earlier)), options

    def _history(self, left: int) -> list[Message]:
        """What the model reads before the next message: the rounds behind the first `left`."""
        turns: list[Message] = []
        for round_ in self.rounds[left:]:
            turns += [Message("user", round_.prompt), Message("assistant", round_.reply.parts)]
        return [*self.system, *turns]

    def _no_longer_read(self, message: Message, options: Options) -> int:
        """How many of the first rounds leave: more than before when there would be no room for the reply."""
        layout, most, left = self.model.layout, self.model.layout.max_length, self.left
        slots = self.model.config.heads.num_slots
        room = options.max_new_tokens + sum(slots.values()) + 2 * len(slots)
        if layout.measure([*self._history(left), message]) + room > most:
            while left < len(self.rounds) and layout.measure([*self._history(left), message]) + room > KEPT * most:
                left += 1
        return left

    def _notes(self, left: int) -> tuple[str, ...]:
        if left == self.left:
            return ()
        return (
            f"The first {left} rounds are no longer read: with them the conversation would be longer than the "
            f"{self.model.layout.max_length} positions that the model reads.",
        )


def _check(gone: bool) -> None:
    if gone:
        raise Stopped


class Listener:
    """What a step loop calls with its tokens. Tokens → pieces of text; half a character waits for its other half, and
    what one of the strings in `stop` may begin with until it is known."""

    def __init__(self, tokenizer: Any, tell: Callable[[Event], bool], stop: Sequence[str] = ()) -> None:
        self.tokenizer, self.tell, self.stop = tokenizer, tell, stop
        self.media = {tokenizer.convert_tokens_to_ids(BEGIN[modality]): modality for modality in MADE}
        self.ids: list[int] = []
        self.told, self.place = "", 0

    def __call__(self, sample: int, token: int, place: int) -> bool:
        if place != self.place:
            self.finish()
            self.place = place
        if token in self.media:
            return self.tell(Began(place, self.media[token]))
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
        end = first(text, self.stop)
        if end is None:
            end = len(text) - (0 if whole else pending(text, self.stop))
        piece, self.told = text[len(self.told) : end], text[:end]
        return self.tell(TextDelta(piece, self.place)) if piece else False
