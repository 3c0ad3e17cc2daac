"""A text and attached media → the prompt of a round, with the text as the user wrote it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from codi2.prompt.grammar import join_text, placeholders
from codi2.prompt.parts import Media, Phrase, Prompt, Text
from codi2.prompt.references import place_items
from codi2.prompt.sources import name_items


@dataclass(frozen=True)
class Composed:
    """A message for `Chat.play`, and the text that is shown for it."""

    prompt: Prompt
    words: str  # the user's text; a medium within it is written as its placeholder
    new_media: tuple[Media, ...] = ()  # media that are new in the conversation, in the order of their numbers


def compose(content: Prompt, earlier: Mapping[str, Media]) -> Composed:
    """Reads the placeholders in a message's text (`prompt.references.place_items`).

    Args:
        content: texts and media in order; a medium that is the same object as one of `earlier` is no new item.
        earlier: see `prompt.sources.name_items`.
    Raises:
        PromptError: a placeholder names neither an earlier nor an attached item.
    """
    items = name_items([*earlier.values(), *content])
    names = {id(item): name for name, item in items.items()}
    new_media = tuple(item for name, item in items.items() if name not in earlier)
    in_text = {name for part in content if isinstance(part, Text) for name in placeholders(part.text)}
    last = max(
        (place for place, part in enumerate(content) if isinstance(part, Text) and part.text.strip()), default=-1
    )
    words = ""
    for place, part in enumerate(content):
        if isinstance(part, (Text, Phrase)):
            words += part.text
        elif place < last and names[id(part)] not in in_text:
            words += f"[{names[id(part)]}]"
    return Composed(join_text(place_items(content, earlier)), words.strip(), new_media)
