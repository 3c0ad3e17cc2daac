"""The engine's jobs: one reply each, or one round of a conversation that the server holds."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from codi2.chat import Chat
from codi2.chat.events import Event, TextDelta
from codi2.llm.generation import Segment
from codi2.media.bounds import decoded_bytes
from codi2.model import Options, Reply
from codi2.prompt.layout import Message

LATE = "the reply was not ready before its deadline; ask for less, or allow more"


@dataclass(frozen=True)
class Failed:
    """The last event of a job that has no reply."""

    error: Exception


OnEvent = Callable[[Event | Failed], None]
"""Called from the engine's threads with each event of a job; must not block."""


@dataclass
class Job:
    """One unit of work. `cancel` it when its client no longer waits."""

    on_event: OnEvent
    client: str
    deadline: float  # of time.monotonic()
    turn: int
    number: int
    stage: Literal["write", "decode", "round"]
    options: Options = field(default_factory=Options)
    conversation: Sequence[Message] = ()
    shape: tuple[Any, ...] = ()
    segments: Sequence[Segment] = ()  # what the stage `write` wrote
    seconds: dict[str, float] = field(default_factory=dict)
    play: Callable[[Callable[[Event], bool]], Reply] | None = None  # of a round: makes the reply
    store: Callable[[], None] = lambda: None  # of a round: writes it to the disk
    release_conversation: Callable[[], None] = lambda: None  # of a round: frees its conversation for the next one
    size: int = 0  # decoded bytes of its media
    cancelled: bool = False
    ended: bool = False  # the last event was sent
    characters_written: int = 0  # of text, in this attempt
    characters_sent: int = 0  # of text, in all attempts

    def cancel(self) -> None:
        self.cancelled = True

    @property
    def over(self) -> bool:
        """The job has ended, was cancelled, or is past its deadline."""
        return self.ended or self.cancelled or time.monotonic() > self.deadline

    def forward(self, event: Event) -> bool:
        """Sends an event, without the text that an earlier attempt has sent. Returns `over`."""
        if isinstance(event, TextDelta):
            self.characters_written += len(event.text)
            new = self.characters_written - self.characters_sent
            if new > 0:
                self.characters_sent = self.characters_written
                self.on_event(replace(event, text=event.text[-new:]))
        else:
            self.on_event(event)
        return self.over

    def drop_data(self) -> None:
        """Drops the large fields: references to a job that has ended may last long."""
        self.conversation, self.segments, self.play, self.size = (), (), None, 0


def chat_bytes(chat: Chat) -> int:
    """Decoded bytes of the media of a conversation that the server holds."""
    return sum(map(decoded_bytes, list(chat.media.values())))


def media_bytes(conversation: Sequence[Message]) -> int:
    """Decoded bytes of a conversation's media; an item that occurs twice counts once."""
    items = {id(part): part for message in conversation for part in message.parts}
    return sum(map(decoded_bytes, items.values()))
