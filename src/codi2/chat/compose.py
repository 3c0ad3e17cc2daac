"""Words and attached media → the prompt of a round, with the words as the user wrote them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from codi2.prompt.grammar import join_text, placeholders
from codi2.prompt.parts import Media, Phrase, Prompt, Text
from codi2.prompt.references import placed
from codi2.prompt.sources import numbered


@dataclass(frozen=True)
class Composed:
    """A message that is ready for `Chat.play`, and what is shown of it."""

    prompt: Prompt
    words: str  # as the user wrote them; a medium that stands among the words is written as its placeholder
    given: tuple[Media, ...] = ()  # media that are new in the conversation, in the order of their numbers


def compose(content: Prompt, earlier: Mapping[str, Media]) -> Composed:
    """Reads the placeholders of a message's words (`prompt.references.placed`).

    Args:
        content: words and media in order; a medium that is one of `earlier` is that item, not a new one.
        earlier: see `prompt.sources.numbered`.
    Raises:
        PromptError: a placeholder stands for neither an earlier nor an attached item.
    """
    items = numbered([*earlier.values(), *content])
    names = {id(item): name for name, item in items.items()}
    given = tuple(item for name, item in items.items() if name not in earlier)
    spoken = {name for part in content if isinstance(part, Text) for name in placeholders(part.text)}
    last = max(
        (place for place, part in enumerate(content) if isinstance(part, Text) and part.text.strip()), default=-1
    )
    words = ""
    for place, part in enumerate(content):
        if isinstance(part, (Text, Phrase)):
            words += part.text
        elif place < last and names[id(part)] not in spoken:
            words += f"[{names[id(part)]}]"
    return Composed(join_text(placed(content, earlier)), words.strip(), given)
