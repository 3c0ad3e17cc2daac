"""The item of a conversation that a reply edits, by the option `source`.

`last` is the last item of a matching modality in the message that is answered: the item that an instruction edits, and
the last medium of an analogy. The sound of a clip is an audio item after it. `none` is no item. `image0`, `audio1`, …
is an item of the conversation by its name.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from codi2.errors import PromptError
from codi2.modalities import MEDIA
from codi2.prompt.parts import Media, Part, Phrase, Prompt, Text, Video

if TYPE_CHECKING:  # it brings torch
    from codi2.prompt.layout import Message

NONE, LAST = "none", "last"
_NAME = re.compile(rf"(?:{'|'.join(MEDIA)})[0-9]{{1,4}}", re.ASCII)


def with_clip_sounds(parts: Prompt) -> Prompt:
    """The parts with the sound of each clip after it, as a model with an audio encoder reads them."""
    with_sounds: list[Part] = []
    for part in parts:
        with_sounds.append(part)
        if isinstance(part, Video) and part.sound is not None:
            with_sounds.append(part.sound)
    return tuple(with_sounds)


def name_items(items: Sequence[Part]) -> dict[str, Media]:
    """`image0`, `image1`, `audio0`, … → the items of a conversation, in their order.

    An item that occurs again, as the same object, keeps its name.
    """
    named: dict[str, Media] = {}
    seen: set[int] = set()
    for item in items:
        if isinstance(item, (Text, Phrase)) or id(item) in seen:
            continue
        seen.add(id(item))
        named[f"{item.modality}{sum(name.startswith(item.modality) for name in named)}"] = item
    return named


def items_by_name(conversation: Sequence[Message]) -> dict[str, Media]:
    """`name_items` of all messages."""
    return name_items([part for message in conversation for part in message.parts])


def check_name(source: str) -> None:
    """Raises PromptError: it is neither `none` nor `last`, nor has the form of an item's name."""
    if source not in (NONE, LAST) and not _NAME.fullmatch(source):
        raise PromptError(f"source is {source!r}; write none, last, or an item's name, such as image0")


def source_of(conversation: Sequence[Message], source: str, reads: Sequence[str]) -> Part | None:
    """The item from which a decoder that reads the modalities `reads` starts; None: it starts from noise alone.

    Raises PromptError: the conversation has no item of this name.
    """
    if source == NONE:
        return None
    if source == LAST:
        return next(
            (part for part in reversed(with_clip_sounds(conversation[-1].parts)) if part.modality in reads), None
        )
    item = _named(source, items_by_name(conversation))
    return item if item.modality in reads else None


def check_source(
    conversation: Sequence[Message], source: str, want: Sequence[str] | None, reads: Mapping[str, Sequence[str]]
) -> None:
    """Raises PromptError: the conversation has no item of this name, or no wanted modality can start from it.

    Args:
        want: modalities of the reply's media; None: the model chooses.
        reads: modality of a decoder → the modalities that it starts from.
    """
    if source in (NONE, LAST):
        return
    modality = _named(source, items_by_name(conversation)).modality
    if want and not any(modality in reads.get(wanted, ()) for wanted in want):
        starts = ", ".join(f"{wanted} from {' or '.join(reads.get(wanted, ()))}" for wanted in dict.fromkeys(want))
        raise PromptError(f"the source {source} fits nothing that is wanted: {starts}; name another, or none")


def rename_source(source: str, names: Mapping[str, Any], items: Mapping[str, Media]) -> str:
    """The name among `items`, which the model reads, of the item that is called `source` in `names`.

    Raises PromptError: there is no such item, or the model does not read it, or no longer.
    """
    check_name(source)
    if source in (NONE, LAST):
        return source
    item = _named(source, names)
    for name, other in items.items():
        if other is item:
            return name
    raise PromptError(f"the source {source} is in a round that is no longer read; attach it to the message again")


def _named(source: str, names: Mapping[str, Media]) -> Media:
    """Raises PromptError."""
    if source not in names:
        known = ", ".join(name for name in names if _NAME.fullmatch(name))
        raise PromptError(
            f"there is no item {source} to start from: this conversation has {known or 'no item'}; "
            "name one of its items, last or none"
        )
    return names[source]
