"""The rounds of a conversation, and what the model reads of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from codi2.prompt.grammar import items_of_call
from codi2.prompt.layout import Layout, Message
from codi2.prompt.parts import Media, Part, Phrase, Prompt, Text
from codi2.prompt.references import parse_message, resolve_references
from codi2.prompt.sources import name_items
from codi2.reply import Options, Reply, divide_settings

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


def named_media(rounds: Sequence[Round]) -> dict[str, Media]:
    """All media by the names that messages have for them: `image0`, `audio0`, `image1`, …"""
    return name_items([part for round_ in rounds for part in round_.items])


def messages_of(rounds: Sequence[Round]) -> list[Message]:
    """The messages of the user and of the assistant, in turn."""
    pairs = [(Message("user", round_.prompt), Message("assistant", round_.reply.parts)) for round_ in rounds]
    return [message for pair in pairs for message in pair]


def new_media(prompt: Prompt, earlier: Mapping[str, Media]) -> tuple[Media, ...]:
    """The media of a prompt that are no earlier items, each once, in order."""
    known = {id(item) for item in earlier.values()}
    new = {id(part): part for part in prompt if not isinstance(part, (Text, Phrase)) and id(part) not in known}
    return tuple(new.values())


def read_message(
    prompt: str | Prompt,
    media: Sequence[Media],
    settings: Mapping[str, Any],
    earlier: Mapping[str, Media],
    layout: Layout,
) -> tuple[Message, dict[str, Any]]:
    """The message of `Chat.send`, and the settings that are fields of `Options`.

    Args:
        earlier: the items of the conversation, see `named_media`.
    Raises:
        PromptError: a placeholder or an ordinal names no item; a setting is neither option nor placeholder; media come
            in two ways; the text is longer than what the model reads.
    """
    options, named = divide_settings(settings)
    items = items_of_call(prompt, media, named)
    if isinstance(prompt, str):
        layout.check_length([Message("user", (Text(prompt),))])  # before any other work on the text
        prompt = parse_message(prompt, items, earlier)
    return Message("user", resolve_references(prompt, earlier)), options


def count_skipped(
    system: Sequence[Message], rounds: Sequence[Round], message: Message, layout: Layout, reply_length: int
) -> int:
    """How many of the first rounds the model skips: more than before, if there would be no room for the reply.

    Args:
        reply_length: most tokens and slots of the reply.
    """
    skipped = rounds[-1].skipped if rounds else 0

    def length(first: int) -> int:
        return layout.measure([*system, *messages_of(rounds[first:]), message]) + reply_length

    if length(skipped) > layout.max_length:
        while skipped < len(rounds) and length(skipped) > KEPT * layout.max_length:
            skipped += 1
    return skipped
