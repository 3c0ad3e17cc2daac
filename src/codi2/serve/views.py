"""Rounds of a session as JSON with ids in the place of media, made from what the store keeps: nothing is decoded.

An item is `{"type", "item", "id"}`: its modality, its name in the conversation (`image0`), and its id, which is a hash
of its content. A clip and the sound that came with it are one thing to a viewer: the clip's `sound` is that item's id.
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
    """All rounds of one session, as `chat.files.to_json` made them → what clients see."""
    names: dict[Any, str] = {}
    counts: Counter[str] = Counter()

    def new(part: Value, known: bool = False) -> dict[str, Any]:
        """An item with the next number; of rounds that do not say what is new, an equal one is the same."""
        if not known or _key(part) not in names:
            names[_key(part)] = f"{part['type']}{counts[part['type']]}"
            counts[part["type"]] += 1
        return {"type": part["type"], "item": names[_key(part)], "id": media_id(part)}

    shown = []
    for number, value in enumerate(values):
        prompt, options, recipe = value["prompt"], value["options"], value["recipe"]
        items = [new(prompt[place]) for place in value.get("given", _unseen(prompt, names))]
        reply = [part if _is_words(part) else new(part, known="given" not in value) for part in value["reply"]]
        shown.append(
            {
                "number": number,
                "words": value["words"] if value.get("words") is not None else _words(prompt, names),
                "items": items,
                "reply": _with_sounds(reply),
                "notes": list(value["notes"]),
                "options": {name: options[name] for name in ("want", "seed") if name in options},
                "recipe": {name: recipe[name] for name in ("model", "seconds") if name in recipe},
            }
        )
    return shown


def media_id(part: Value) -> str:
    """The id of a medium: the hash in its file's name, and for a clip a hash of all its frames behind that."""
    first = part["file"] if isinstance(part["file"], str) else part["file"][0]
    name = first.partition(".")[0]
    if part["type"] != "video":
        return name
    heard = [part["sound"]] if part.get("sound") else []
    frames = hashlib.sha256(json.dumps([part["fps"], part["file"], *heard]).encode()).hexdigest()
    return f"{name}-{frames[:12]}"


def is_clip(name: str) -> bool:
    """Whether an id is that of a clip."""
    found = _ID.fullmatch(name)
    return found is not None and found[2] is not None


def files_of(name: str) -> list[str]:
    """Names of files that a medium with this id may begin with; of what is no id of ours, none."""
    found = _ID.fullmatch(name)
    return [f"{found[1]}.{suffix}" for suffix in ("png", "flac", "npy")] if found else []


def find(values: Iterable[Value], name: str) -> tuple[Value, Value | None] | None:
    """The medium with an id among rounds, and the recipe of the reply that it is a part of."""
    asked: Value | None = None
    for value in values:
        for part in value["reply"]:
            if not _is_words(part) and media_id(part) == name:
                return part, value["recipe"]
        for part in value["prompt"]:
            if not _is_words(part) and media_id(part) == name:
                asked = part
    return (asked, None) if asked is not None else None


def _is_words(part: Value) -> bool:
    return part["type"] in ("text", "phrase")


def _key(part: Value) -> tuple[Any, ...]:
    """What makes two parts one item: as `chat.files.reader` has it."""
    return (part["type"], part["name"], *files_in(part))


def _unseen(prompt: Iterable[Value], names: Mapping[Any, str]) -> list[int]:
    """Places of new media, for rounds that do not say which are new."""
    places: dict[Any, int] = {}
    for place, part in enumerate(prompt):
        if not _is_words(part) and _key(part) not in names:
            places.setdefault(_key(part), place)
    return list(places.values())


def _with_sounds(parts: Iterable[Value]) -> list[dict[str, Any]]:
    """The reply's parts without empty words; each clip names the sound that came with it."""
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
    """For rounds that keep no words: the text with placeholders."""
    return "".join(part["text"] if _is_words(part) else f"[{names[_key(part)]}]" for part in prompt).strip()
