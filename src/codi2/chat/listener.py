"""Tokens of a reply in progress → pieces of its text, as events."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from codi2.chat.events import Event, MediaStarted, TextDelta
from codi2.llm.stops import find_stop, pending
from codi2.modalities import MEDIA
from codi2.prompt.layout import BEGIN


class TextListener:
    """A listener of the language model's steps (`llm.generation.Listener`) that sends the text and the begin of media.

    It holds back incomplete characters, and characters with which a string of `stop` may begin.

    Args:
        on_event: called with each event; returns True when the reply is no longer wanted.
    """

    def __init__(self, tokenizer: Any, on_event: Callable[[Event], bool], stop: Sequence[str] = ()) -> None:
        self.tokenizer, self.on_event, self.stop = tokenizer, on_event, stop
        self.begin_tokens = {tokenizer.convert_tokens_to_ids(BEGIN[modality]): modality for modality in MEDIA}
        self.ids: list[int] = []  # tokens of the stretch of text in progress
        self.sent, self.place = "", 0  # its text that was sent, and its place among the reply's parts

    def __call__(self, sample: int, token: int, place: int) -> bool:
        if place != self.place:
            self.finish()
            self.place = place
        if token in self.begin_tokens:
            return self.on_event(MediaStarted(place, self.begin_tokens[token]))
        self.ids.append(token)
        return self._send(complete=False)

    def finish(self) -> None:
        """Ends a stretch of text, and sends the characters that were held back."""
        if self.ids:
            self._send(complete=True)
        self.ids, self.sent = [], ""

    def _send(self, complete: bool) -> bool:
        text: str = self.tokenizer.decode(self.ids)
        if not complete and text.endswith("\ufffd"):
            return False
        end = find_stop(text, self.stop)
        if end is None:
            end = len(text) - (0 if complete else pending(text, self.stop))
        piece, self.sent = text[len(self.sent) : end], text[:end]
        return self.on_event(TextDelta(piece, self.place)) if piece else False
