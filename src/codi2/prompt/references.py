"""References of a message to earlier items of its conversation.

Items are numbered through the conversation, the user's and the model's alike: `[image0]` is its first picture,
`[audio1]` its second sound. A message refers to an item by its placeholder, or by one of these phrases:

- "the second image", "your last sound": in a message without a new item of that modality; "the picture" without an
  ordinal: in a message that has no placeholder of that modality either;
- "it", "this", "that": the newest item, in a message without items.

The item is put after the phrase, as if the user had attached it again. There, the model reads it at the same place as
the items of its training prompts, and the fidelity path starts from it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from itertools import zip_longest

from codi2.errors import PromptError
from codi2.prompt.grammar import assign_in_order, join_text, parse, placeholders
from codi2.prompt.layout import Message
from codi2.prompt.parts import Media, Part, Prompt, Text
from codi2.prompt.sources import name_items

ORDINALS = ("first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth")
NEWEST = ("last", "latest", "newest", "previous")
NOUNS = {
    "image": "image|picture|photograph|photo|drawing|illustration|icon|emoji",
    "audio": "sound|audio|recording|noise",
    "video": "video|clip|film|animation",
}
_NAMED = re.compile(
    rf"\b(?:the|your|my|this|that)\s+(?:(?P<which>{'|'.join((*ORDINALS, *NEWEST))})\s+)?"
    rf"(?:{'|'.join(f'(?P<{modality}>{nouns})' for modality, nouns in NOUNS.items())})\b(?!\s+(?:of|from|that)\b)",
    re.IGNORECASE,
)
_PRONOUN = re.compile(r"\b(?:it|this)\b(?!\s+is\b)|\bthat\b(?=\s*(?:[.,;:!?]|$))", re.IGNORECASE)


def parse_message(
    template: str, media: Mapping[str, Media | str] | Sequence[Media | str], earlier: Mapping[str, Media]
) -> Prompt:
    """The text of a message → its parts, with new and earlier items in place of its placeholders.

    Args:
        media: the message's own media: by name, or in order for the placeholders that name no earlier item.
        earlier: see `prompt.sources.name_items`.
    Raises:
        PromptError: a placeholder names no item, or a medium has no placeholder.
    """
    names = placeholders(template)
    if not isinstance(media, Mapping):
        media = assign_in_order(names, media, earlier)
    own = {key.lower(): value for key, value in media.items()}
    referenced = {name: earlier[name] for name in names if name in earlier and name not in own}
    return parse(template, own | referenced)


def place_items(prompt: Prompt, earlier: Mapping[str, Media]) -> Prompt:
    """Puts earlier items and the message's own items in place of the placeholders in a message's texts.

    An own item has the next number of its modality. It moves to its placeholder, or stays where it is without one.
    """
    items = name_items([*earlier.values(), *prompt])
    known = {id(item) for item in earlier.values()}
    in_text = {name for part in prompt if isinstance(part, Text) for name in placeholders(part.text)}
    moved = {id(item) for name, item in items.items() if name in in_text and id(item) not in known}
    parts: list[Part] = []
    for part in prompt:
        if isinstance(part, Text):
            parts += parse_message(part.text, {}, items)
        elif id(part) not in moved:
            parts.append(part)
    return tuple(parts)


def resolve_conversation(messages: Sequence[Message]) -> list[Message]:
    """The messages of a conversation with all references resolved, as a `Chat` of the same messages has them.

    Raises PromptError: a placeholder or an ordinal names no item.
    """
    resolved: list[Message] = []
    for message in messages:
        parts = message.parts
        if message.role == "user":
            earlier = name_items([part for before in resolved for part in before.parts])
            parts = resolve_references(place_items(parts, earlier), earlier)
        resolved.append(Message(message.role, parts))
    return resolved


def resolve_references(prompt: Prompt, earlier: Mapping[str, Media]) -> Prompt:
    """Puts the items that the phrases of a message refer to after these phrases."""
    known = {id(item) for item in earlier.values()}
    present = {part.modality for part in prompt if not isinstance(part, Text)}
    new = {part.modality for part in prompt if not isinstance(part, Text) and id(part) not in known}
    choices = {m: [item for item in earlier.values() if item.modality == m] for m in NOUNS if m not in new}
    has_reference = False
    parts: list[Part] = []
    for part, following in zip_longest(prompt, prompt[1:]):
        pieces = _with_items(part.text, choices, present, following) if isinstance(part, Text) else [part]
        has_reference = has_reference or len(pieces) > 1
        parts += pieces
    if not has_reference and not present and earlier:
        parts = _with_newest(parts, list(earlier.values())[-1])
    return join_text(parts)


def _with_items(
    text: str, items: Mapping[str, Sequence[Media]], present: set[str], following: Part | None
) -> list[Part]:
    """A text with the items that it refers to; an item that follows the text already is not put there again."""
    parts: list[Part] = []
    end = 0
    for match in _NAMED.finditer(text):
        modality = next(modality for modality in NOUNS if match[modality])
        choices, which = items.get(modality, ()), (match["which"] or NEWEST[0]).lower()
        if not choices or (match["which"] is None and modality in present):
            continue
        number = ORDINALS.index(which) if which in ORDINALS else len(choices) - 1
        if number >= len(choices):
            noun = match[modality].lower()
            raise PromptError(
                f"there is no {which} {noun}: this conversation has {len(choices)}; name one of these, or attach it"
            )
        if choices[number] is following and not text[match.end() :].strip():
            continue
        parts += [Text(text[end : match.end()] + " "), choices[number]]
        end = match.end()
    return [*parts, Text(text[end:])]


def _with_newest(parts: Sequence[Part], newest: Media) -> list[Part]:
    """The parts with the newest item after the first pronoun."""
    for i, part in enumerate(parts):
        if isinstance(part, Text) and (match := _PRONOUN.search(part.text)):
            end = match.end()
            return [*parts[:i], Text(part.text[:end] + " "), newest, Text(part.text[end:]), *parts[i + 1 :]]
    return list(parts)
