r"""The paper's way to write an interleaved prompt, and back (section 3.1).

    "Given the transformation between [image0] and [image1], apply the same editing to [image2]."

A placeholder is `[image0]`, `[audio0]`, `[video0]`, `[depth0]`, `[thermal0]`, `[imu0]` or `[text0]` (text given as
features, section 4.1), in any case and with any number. A note after a colon is for the reader, `[image0: a couch]`;
only in `[text0: a cat]` it is the phrase itself unless another is given. Any other bracket, `[foo0]`, is plain text,
and a backslash keeps a placeholder plain: `\[image0]`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from codi2.errors import PromptError
from codi2.prompt.parts import Media, Part, Phrase, Prompt, Text

_PLACEHOLDER = re.compile(
    r"(?<!\\)(?P<escape>\\*)\[(?P<kind>image|audio|video|depth|thermal|imu|text)(?P<number>[0-9]{1,4})(?::(?P<note>[^\[\]]*))?\]",
    re.IGNORECASE | re.ASCII,
)


def parse(template: str, media: Mapping[str, Media | str] | Sequence[Media | str] = ()) -> Prompt:
    """Read `template` and put `media` in the place of its placeholders.

    A mapping names each placeholder (`{"image0": ..., "text0": "a cat"}`, in any case). A sequence fills the distinct
    placeholders of each modality in their order of appearance; a placeholder written twice is the same item twice.

    Raises PromptError when a placeholder has no item, an item has no placeholder, or the two differ in modality.
    """
    given = assigned(template, media)
    parts: list[Part] = []
    end = 0
    for match in _PLACEHOLDER.finditer(template):
        slashes = match["escape"]
        parts.append(Text(template[end : match.start()] + slashes[: len(slashes) // 2]))
        if len(slashes) % 2:  # an escaped placeholder stays as it is written
            parts.append(Text(template[match.end("escape") : match.end()]))
        else:
            parts.append(_fill(match, given))
        end = match.end()
    parts.append(Text(template[end:]))
    return join_text(parts)


def named_or_in_order(
    media: Sequence[Media | str], named: Mapping[str, Media | str]
) -> Mapping[str, Media | str] | Sequence[Media | str]:
    """The items of a call that has them in order or by name. Raises PromptError: it has both."""
    if media and named:
        raise PromptError(
            f"give media in order or by name, not both: {next(iter(named))!r} came beside {len(media)} in order"
        )
    return named or media


def assigned(template: str, media: Mapping[str, Media | str] | Sequence[Media | str]) -> dict[str, Media | str]:
    """Placeholder → the item that stands for it, as `parse` has it.

    Raises PromptError: an item has no placeholder.
    """
    names = placeholders(template)
    given = (
        {key.lower(): item for key, item in media.items()} if isinstance(media, Mapping) else _in_order(names, media)
    )
    if unused := [key for key in given if key not in names]:
        raise PromptError(
            f"The prompt has no placeholder [{unused[0]}], but {_kind(given[unused[0]])} was given for it."
        )
    return given


def placeholders(template: str) -> list[str]:
    """The names of the placeholders of a template, `image0`, …, in their order of appearance."""
    matches = [m for m in _PLACEHOLDER.finditer(template) if len(m["escape"]) % 2 == 0]
    return list(dict.fromkeys(_name(m) for m in matches))


def render(prompt: Prompt) -> tuple[str, dict[str, Media | str]]:
    """Write a prompt as a template and its named media, so that `parse(*render(prompt)) == join_text(prompt)`."""
    template = ""
    media: dict[str, Media | str] = {}
    names: dict[int | str, str] = {}  # by identity for media and by words for phrases: the same item gets the same name
    for part in join_text(prompt):
        if isinstance(part, Text):
            template += _PLACEHOLDER.sub(lambda m: "\\" * (len(m["escape"]) + 1) + m[0], part.text)
            continue
        # backslashes right before a placeholder would escape it, so they are doubled
        template += "\\" * (len(template) - len(template.rstrip("\\")))
        item = part.text if isinstance(part, Phrase) else part
        key = item if isinstance(item, str) else id(item)
        if key not in names:
            kind = _kind(item)
            names[key] = f"{kind}{sum(name.startswith(kind) for name in media)}"
            media[names[key]] = item
        template += f"[{names[key]}]"
    return template, media


def check_not_empty(prompt: Prompt) -> None:
    """Raises PromptError: there is nothing in a prompt but blank text."""
    if all(isinstance(part, Text) and not part.text.strip() for part in prompt):
        raise PromptError('The prompt is empty; write what the reply should be, as in "Draw a lighthouse."')


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


def _kind(item: object) -> str:
    """The modality of an item, or the name of its type where it has none, for the message that says so."""
    return "text" if isinstance(item, str) else getattr(item, "modality", type(item).__name__)


def _named(item: object) -> str:
    name = getattr(item, "name", "")
    return f", {name}," if name else ""


def _in_order(names: Sequence[str], items: Sequence[Media | str]) -> dict[str, Media | str]:
    """Match items with placeholder names, modality by modality."""
    given: dict[str, Media | str] = {}
    for item in items:
        kind = _kind(item)
        free = [name for name in names if name.startswith(kind) and name not in given]
        if not free:
            numbers = [int(name.removeprefix(kind)) for name in names if name.startswith(kind)]
            due = next((name for name in names if name not in given), None)
            if due and not numbers:
                raise PromptError(
                    f"[{due}] is due, and what was given{_named(item)} is of modality {kind}; write [{kind}0] or give "
                    f"what is due."
                )
            raise PromptError(
                f"The prompt has {len(numbers)} {kind} placeholder(s) but more were given; "
                f"write [{kind}{max(numbers, default=-1) + 1}] where the next one belongs."
            )
        given[free[0]] = item
    return given


def _fill(match: re.Match[str], given: Mapping[str, Media | str]) -> Part:
    name, kind = _name(match), match["kind"].lower()
    item = given.get(name)
    if item is None and kind == "text" and match["note"] and match["note"].strip():
        item = match["note"].strip()
    if item is None:
        raise PromptError(f"The prompt has the placeholder [{name}] but no {kind} was given for it.")
    if _kind(item) != kind:
        raise PromptError(f"The placeholder [{name}] takes {kind}, but {_kind(item)} was given for it.")
    return Phrase(item) if isinstance(item, str) else item
