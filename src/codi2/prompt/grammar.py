r"""The paper's notation of an interleaved prompt ↔ parts (section 3.1).

    "Given the transformation between [image0] and [image1], apply the same editing to [image2]."

A placeholder is `[image0]`, `[audio0]`, `[video0]`, `[depth0]`, `[thermal0]`, `[imu0]` or `[text0]` (text given as
features, section 4.1), in any case and with any number. A note after a colon is ignored, `[image0: a couch]`, except in
`[text0: a cat]`, where it is the phrase unless the call has one. Any other bracket, `[foo0]`, is plain text. After a
backslash a placeholder is plain text too: `\[image0]`.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence

from codi2.errors import PromptError
from codi2.modalities import MEDIA, SENSES
from codi2.prompt.parts import Media, Part, Phrase, Prompt, Text

_PLACEHOLDER = re.compile(
    rf"(?<!\\)(?P<escape>\\*)\[(?P<kind>{'|'.join((*MEDIA, *SENSES, 'text'))})(?P<number>[0-9]{{1,4}})"
    r"(?::(?P<note>[^\[\]]*))?\]",
    re.IGNORECASE | re.ASCII,
)


def parse(template: str, media: Mapping[str, Media | str] | Sequence[Media | str] = ()) -> Prompt:
    """The parts of `template`, with `media` in place of its placeholders.

    A mapping names each placeholder (`{"image0": ..., "text0": "a cat"}`, in any case). A sequence fills the distinct
    placeholders of each modality in their order of appearance. A placeholder that occurs twice is the same item twice.

    Raises PromptError when a placeholder has no item, an item has no placeholder, or the two differ in modality.
    """
    items = assign_items(template, media)
    parts: list[Part] = []
    end = 0
    for match in _PLACEHOLDER.finditer(template):
        slashes = match["escape"]
        parts.append(Text(template[end : match.start()] + slashes[: len(slashes) // 2]))
        if len(slashes) % 2:  # an escaped placeholder is plain text
            parts.append(Text(template[match.end("escape") : match.end()]))
        else:
            parts.append(_fill(match, items))
        end = match.end()
    parts.append(Text(template[end:]))
    return join_text(parts)


def is_placeholder(name: str) -> bool:
    """Whether a name, such as `image0`, can stand in a placeholder."""
    return _PLACEHOLDER.fullmatch(f"[{name}]") is not None


def items_of_call(
    prompt: str | Prompt, media: Sequence[Media | str], named: Mapping[str, Media | str]
) -> Mapping[str, Media | str] | Sequence[Media | str]:
    """The items of a call, which has them in order or by name.

    Raises PromptError: it has both, or the prompt consists of parts, which include the media.
    """
    if (media or named) and not isinstance(prompt, str):
        raise PromptError("the prompt is a list of parts and there are media beside it; add the media to the parts")
    if media and named:
        raise PromptError(
            f"give media in order or by name, not both: {next(iter(named))!r} came beside {len(media)} in order"
        )
    return named or media


def assign_items(template: str, media: Mapping[str, Media | str] | Sequence[Media | str]) -> dict[str, Media | str]:
    """Name of a placeholder → its item, as `parse` assigns them.

    Raises PromptError: an item has no placeholder.
    """
    names = placeholders(template)
    items = (
        {key.lower(): item for key, item in media.items()}
        if isinstance(media, Mapping)
        else assign_in_order(names, media)
    )
    if unused := next((key for key in items if key not in names), ""):
        raise PromptError(
            f"the prompt has no placeholder [{unused}] for {_described(items[unused])}; write [{unused}] where it "
            "belongs, or leave the item out"
        )
    return items


def placeholders(template: str) -> list[str]:
    """The names of the placeholders of a template, `image0`, …, in their order of appearance."""
    matches = [m for m in _PLACEHOLDER.finditer(template) if len(m["escape"]) % 2 == 0]
    return list(dict.fromkeys(_name(m) for m in matches))


def render(prompt: Prompt) -> tuple[str, dict[str, Media | str]]:
    """A prompt as a template and its media by name, so that `parse(*render(prompt)) == join_text(prompt)`."""
    template = ""
    media: dict[str, Media | str] = {}
    names: dict[int | str, str] = {}  # `id` of a medium, or text of a phrase → name
    for part in join_text(prompt):
        if isinstance(part, Text):
            template += _PLACEHOLDER.sub(lambda m: "\\" * (len(m["escape"]) + 1) + m[0], part.text)
            continue
        # backslashes right before a placeholder would escape it, so they are doubled
        template += "\\" * (len(template) - len(template.rstrip("\\")))
        item = part.text if isinstance(part, Phrase) else part
        key = item if isinstance(item, str) else id(item)
        if key not in names:
            modality = _modality(item)
            names[key] = f"{modality}{sum(name.startswith(modality) for name in media)}"
            media[names[key]] = item
        template += f"[{names[key]}]"
    return template, media


def check_not_empty(prompt: Prompt) -> None:
    """Raises PromptError: the prompt has no items, and only blank text."""
    if all(isinstance(part, Text) and not part.text.strip() for part in prompt):
        raise PromptError('the prompt is empty; write what the reply should be, as in "Draw a lighthouse."')


def join_text(parts: Sequence[Part]) -> Prompt:
    """The same prompt with neighbouring texts joined and empty ones left out."""
    joined: list[Part] = []
    for part in parts:
        if isinstance(part, Text) and joined and isinstance(joined[-1], Text):
            joined[-1] = Text(joined[-1].text + part.text)
        elif part != Text(""):
            joined.append(part)
    return tuple(joined)


def _name(match: re.Match[str]) -> str:
    return f"{match['kind'].lower()}{int(match['number'])}"


def _modality(item: object) -> str:
    """The modality of an item; for messages, the type of an object that has none."""
    return "text" if isinstance(item, str) else getattr(item, "modality", type(item).__name__)


def assign_in_order(
    names: Sequence[str], items: Sequence[Media | str], earlier: Collection[str] = ()
) -> dict[str, Media | str]:
    """Assigns items to placeholders, modality by modality.

    Args:
        names: of the placeholders, in order; those in `earlier` already have an item.
    Raises:
        PromptError: an item has no placeholder.
    """
    assigned: dict[str, Media | str] = {}
    for item in items:
        modality = _modality(item)
        matching = [name for name in names if name.startswith(modality)]
        free = [name for name in matching if name not in assigned and name not in earlier]
        if not free:
            other = next((name for name in names if name not in assigned and name not in earlier), None)
            if other and not matching:
                raise PromptError(_wrong_modality(other, item))
            used = [name for name in (*names, *earlier) if name.startswith(modality)]
            number = max((int(name.removeprefix(modality)) for name in used), default=-1) + 1
            raise PromptError(
                f"the prompt has no placeholder for {_described(item)}; write [{modality}{number}] where it belongs"
            )
        assigned[free[0]] = item
    return assigned


def _described(item: object) -> str:
    modality = _modality(item)
    return f"{name} ({modality})" if (name := getattr(item, "name", "")) else f"an item of the modality {modality}"


def _wrong_modality(placeholder: str, item: object) -> str:
    expected, modality = placeholder.rstrip("0123456789"), _modality(item)
    shown = getattr(item, "name", "") or "the item"
    return (
        f"placeholder [{placeholder}] expects {expected}, but {shown} is {modality}; write [{modality}0] or give "
        f"{expected}"
    )


def _fill(match: re.Match[str], items: Mapping[str, Media | str]) -> Part:
    name, modality = _name(match), match["kind"].lower()
    item = items.get(name)
    if item is None and modality == "text" and match["note"] and match["note"].strip():
        item = match["note"].strip()
    if item is None:
        raise PromptError(
            f"the placeholder [{name}] has no {modality}; add one, or write \\[{name}] if it is plain text"
        )
    if _modality(item) != modality:
        raise PromptError(_wrong_modality(name, item))
    return Phrase(item) if isinstance(item, str) else item
