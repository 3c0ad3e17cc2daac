"""Which earlier item of a conversation a message speaks of.

Items are numbered through the conversation, the user's and the model's alike: `[image0]` is its first picture,
`[audio1]` its second sound. A message refers to one by its placeholder, or in words:

- "the second image", "your last sound", and plainly "the picture": in a message that brings no item of that kind
  itself, and plainly only where it has no placeholder of that kind either;
- "it", "this", "that": the newest item, in a message that brings and names none.

What is spoken of is put behind the words, as though the user had attached it again: the model reads it where an
instruction stands in its training, and the fidelity path starts from it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from itertools import zip_longest

from codi2.errors import PromptError
from codi2.prompt.grammar import join_text, parse, placeholders
from codi2.prompt.layout import Message
from codi2.prompt.parts import Media, Part, Prompt, Text
from codi2.prompt.sources import numbered

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


def read(
    template: str, given: Mapping[str, Media | str] | Sequence[Media | str], earlier: Mapping[str, Media]
) -> Prompt:
    """A message as the user wrote it → its parts, earlier items in their places.

    Args:
        given: the message's own media: by name, or in order for the placeholders that no earlier item has.
        earlier: see `prompt.sources.numbered`.
    Raises:
        PromptError: a placeholder stands for nothing, or a medium has no placeholder.
    """
    names = placeholders(template)
    if not isinstance(given, Mapping):
        free = [name for name in names if name not in earlier]
        mine: dict[str, Media | str] = {}
        for item in given:
            kind = "text" if isinstance(item, str) else item.modality
            fits = [name for name in free if name.startswith(kind) and name not in mine]
            if not fits:
                count = sum(name.startswith(kind) for name in (*earlier, *mine))
                raise PromptError(f"there is no placeholder for the {kind} that was given; write [{kind}{count}]")
            mine[fits[0]] = item
        given = mine
    named = {key.lower(): value for key, value in given.items()}
    spoken = {name: earlier[name] for name in names if name in earlier and name not in named}
    return parse(template, named | spoken)


def placed(prompt: Prompt, earlier: Mapping[str, Media]) -> Prompt:
    """A message of parts with items in the places of the placeholders in its words: earlier ones, or its own.

    An item of its own has the next number of its modality. It stands where the words have its placeholder, and
    otherwise where it came.
    """
    own = numbered([*earlier.values(), *prompt])
    known = {id(item) for item in earlier.values()}
    spoken = {name for part in prompt if isinstance(part, Text) for name in placeholders(part.text)}
    moved = {id(item) for name, item in own.items() if name in spoken and id(item) not in known}
    return tuple(
        one
        for part in prompt
        if id(part) not in moved
        for one in (read(part.text, {}, own) if isinstance(part, Text) else [part])
    )


def resolve_conversation(messages: Sequence[Message]) -> list[Message]:
    """A conversation that its client sends whole → as a `Chat` of the same messages holds it.

    Raises PromptError: a placeholder or an ordinal stands for nothing.
    """
    held: list[Message] = []
    for message in messages:
        parts = message.parts
        if message.role == "user":
            earlier = numbered([part for before in held for part in before.parts])
            parts = resolve(placed(parts, earlier), earlier)
        held.append(Message(message.role, parts))
    return held


def resolve(prompt: Prompt, earlier: Mapping[str, Media]) -> Prompt:
    """Puts the items that a message's words speak of behind these words."""
    known = {id(item) for item in earlier.values()}
    present = {part.modality for part in prompt if not isinstance(part, Text)}
    brought = {part.modality for part in prompt if not isinstance(part, Text) and id(part) not in known}
    choices = {m: [item for item in earlier.values() if item.modality == m] for m in NOUNS if m not in brought}
    found = False
    parts: list[Part] = []
    for part, behind in zip_longest(prompt, prompt[1:]):
        pieces = _with_items(part.text, choices, present, behind) if isinstance(part, Text) else [part]
        found = found or len(pieces) > 1
        parts += pieces
    if not found and not present and earlier:
        parts = _with_newest(parts, list(earlier.values())[-1])
    return join_text(parts)


def _with_items(text: str, items: Mapping[str, Sequence[Media]], present: set[str], behind: Part | None) -> list[Part]:
    """Words with the items that they speak of. `behind` is what stands behind them: it need not be put there again."""
    parts: list[Part] = []
    end = 0
    for match in _NAMED.finditer(text):
        modality = next(kind for kind in NOUNS if match[kind])
        choices, which = items.get(modality, ()), (match["which"] or NEWEST[0]).lower()
        if not choices or (match["which"] is None and modality in present):
            continue
        number = ORDINALS.index(which) if which in ORDINALS else len(choices) - 1
        if number >= len(choices):
            raise PromptError(f"there is no {which} {match[modality].lower()}: this conversation has {len(choices)}")
        if choices[number] is behind and not text[match.end() :].strip():
            continue
        parts += [Text(text[end : match.end()] + " "), choices[number]]
        end = match.end()
    return [*parts, Text(text[end:])]


def _with_newest(parts: Sequence[Part], newest: Media) -> list[Part]:
    out = list(parts)
    for i, part in enumerate(out):
        if isinstance(part, Text) and (match := _PRONOUN.search(part.text)):
            end = match.end()
            out[i : i + 1] = [Text(part.text[:end] + " "), newest, Text(part.text[end:])]
            break
    return out
