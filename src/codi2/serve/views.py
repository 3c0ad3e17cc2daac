"""Rounds of a session as JSON with ids in the place of media, made from the store's JSON without decoding media.

An item is `{"type", "item", "id"}`: its modality, its name in the conversation (`image0`), and its id, which is a hash
of its content. A clip that was made together with a sound has the id of this item as its `sound`.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from codi2.chat.files import files_in

Value = Mapping[str, Any]
_ID = re.compile(r"([0-9a-f]{32})(-[0-9a-f]{12})?", re.ASCII)


def rounds(values: Iterable[Value]) -> list[dict[str, Any]]:
    """All rounds of one session, as `chat.files.to_json` writes them → the values that clients get."""
    names: dict[Any, str] = {}
    counts: Counter[str] = Counter()

    def new_item(part: Value) -> dict[str, Any]:
        """An item with the next number."""
        names[_key(part)] = f"{part['type']}{counts[part['type']]}"
        counts[part["type"]] += 1
        return {"type": part["type"], "item": names[_key(part)], "id": media_id(part)}

    shown = []
    for number, value in enumerate(values):
        prompt, options, recipe = value["prompt"], value["options"], value["recipe"]
        items = [new_item(prompt[place]) for place in value["new_media"]]
        reply = [part if _is_words(part) else new_item(part) for part in value["reply"]]
        shown.append(
            {
                "number": number,
                "words": value["words"] if value["words"] is not None else _words(prompt, names),
                "items": items,
                "reply": _with_sounds(reply),
                "notes": list(value["notes"]),
                "options": {name: options[name] for name in ("want", "seed") if name in options},
                "recipe": {name: recipe[name] for name in ("model", "seconds") if name in recipe},
            }
        )
    return shown


def media_id(part: Value) -> str:
    """The id of a medium: the hash in its file's name; a clip's id ends with a hash of all its frames."""
    first = part["file"] if isinstance(part["file"], str) else part["file"][0]
    name = first.partition(".")[0]
    if part["type"] != "video":
        return name
    sound = [part["sound"]] if part.get("sound") else []
    frames = hashlib.sha256(json.dumps([part["fps"], part["file"], *sound]).encode()).hexdigest()
    return f"{name}-{frames[:12]}"


def is_clip(name: str) -> bool:
    """Whether an id is that of a clip."""
    match = _ID.fullmatch(name)
    return match is not None and match[2] is not None


def files_of(name: str) -> list[str]:
    """Names that the first file of a medium with this id may have; none for a string that is no id."""
    match = _ID.fullmatch(name)
    return [f"{match[1]}.{suffix}" for suffix in ("png", "flac", "npy")] if match else []


def find(values: Iterable[Value], name: str) -> tuple[Value, Value | None] | None:
    """The medium with an id among rounds, and the recipe of its reply; no recipe for a medium of a prompt."""
    in_prompt: Value | None = None
    for value in values:
        for part in value["reply"]:
            if not _is_words(part) and media_id(part) == name:
                return part, value["recipe"]
        for part in value["prompt"]:
            if not _is_words(part) and media_id(part) == name:
                in_prompt = part
    return (in_prompt, None) if in_prompt is not None else None


def _is_words(part: Value) -> bool:
    return part["type"] in ("text", "phrase")


def _key(part: Value) -> tuple[Any, ...]:
    """Parts with equal keys are one item, as in `chat.files.reader`."""
    return (part["type"], part["name"], *files_in(part))


def _with_sounds(parts: Iterable[Value]) -> list[dict[str, Any]]:
    """The reply's parts without blank text; each clip names the sound that was made with it."""
    shown = [
        {"type": "text", "text": part["text"]} if _is_words(part) else dict(part)
        for part in parts
        if not _is_words(part) or part["text"].strip()
    ]
    clips, sounds = ([part for part in shown if part["type"] == kind] for kind in ("video", "audio"))
    for clip, sound in zip(clips, sounds, strict=False):
        clip["sound"] = sound["id"]
    return shown


def _words(prompt: Iterable[Value], names: Mapping[Any, str]) -> str:
    """The text with placeholders, for rounds that do not keep the user's words."""
    return "".join(part["text"] if _is_words(part) else f"[{names[_key(part)]}]" for part in prompt).strip()
