"""What the engine works on: one reply, or one round of a conversation that the server holds."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from codi2.chat import Chat
from codi2.chat.events import Event, TextDelta
from codi2.llm.decode import Segment
from codi2.media.bounds import decoded_bytes
from codi2.model import Options, Reply
from codi2.prompt.layout import Message

LATE = "the reply was not ready before its deadline; ask for less, or allow more"


@dataclass(frozen=True)
class Failed:
    """There will be no reply: the last event."""

    error: Exception


Tell = Callable[[Event | Failed], None]
"""Is called from the engine's threads with what happens, and must not wait."""


@dataclass
class Job:
    """Work that was asked for. `cancel` it when nobody waits for it any more."""

    tell: Tell
    client: str
    deadline: float  # of time.monotonic()
    turn: int
    number: int
    stage: Literal["write", "decode", "round"]
    options: Options = field(default_factory=Options)
    conversation: Sequence[Message] = ()
    shape: tuple[Any, ...] = ()
    written: Sequence[Segment] = ()
    seconds: dict[str, float] = field(default_factory=dict)
    play: Callable[[Callable[[Event], bool]], Reply] | None = None  # of a round
    keep: Callable[[], None] = lambda: None  # of a round that was played: puts it on the disk
    end: Callable[[], None] = lambda: None  # of a round: its conversation is free again
    size: int = 0  # decoded bytes of its media
    gone: bool = False
    ended: bool = False  # its last event was told
    said: int = 0  # characters of text in this attempt
    told: int = 0  # characters of text that were told, in any attempt

    def cancel(self) -> None:
        self.gone = True

    @property
    def over(self) -> bool:
        """Nobody waits any more, or it is too late."""
        return self.ended or self.gone or time.monotonic() > self.deadline

    def hear(self, event: Event) -> bool:
        """Passes an event on; text that an earlier attempt has told is left out. Returns `over`."""
        if isinstance(event, TextDelta):
            self.said += len(event.text)
            fresh = self.said - self.told
            if fresh > 0:
                self.told = self.said
                self.tell(replace(event, text=event.text[-fresh:]))
        else:
            self.tell(event)
        return self.over

    def release(self) -> None:
        """Drops what is large: a job that has ended may be referred to for long."""
        self.conversation, self.written, self.play, self.size = (), (), None, 0


def chat_bytes(chat: Chat) -> int:
    """Decoded bytes of the media of a conversation that the server holds."""
    return sum(map(decoded_bytes, list(chat.media.values())))


def media_bytes(conversation: Sequence[Message]) -> int:
    """Decoded bytes of a conversation's media; an item that occurs twice counts once."""
    items = {id(part): part for message in conversation for part in message.parts}
    return sum(map(decoded_bytes, items.values()))
