"""Conversations as files: rounds as JSON, media beside them by the hash of their content.

    chat.json  media/<hash>.png, .flac  index.html

A conversation that is read back continues as before: media are stored losslessly, and a round names its new media, so
that an item which a later message refers to is the same object.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from codi2 import __version__
from codi2.cancellation import check_cancelled
from codi2.chat import Chat, Round
from codi2.chat.document import SCHEMA, check
from codi2.errors import CoDi2Error, PromptError
from codi2.hub import write_atomic
from codi2.model import CoDi2
from codi2.prompt.grammar import join_text
from codi2.prompt.parts import Audio, Image, Part, Phrase, Prompt, Text, Video
from codi2.prompt_json import encode_part
from codi2.reply import Options, Reply
from codi2.senses import load_as
from codi2.untrusted import parse_json, read_inside

Put = Callable[[bytes, str], str]
"""Stores the bytes of a medium, whose file has a suffix, and returns a name for them."""
Recipes = Mapping[int, Mapping[str, Any]]
"""`id` of a generated medium → the recipe that made it."""
Get = Callable[[str], bytes]
"""A name → the bytes that were stored under it."""


def save(chat: Chat, folder: str | Path, title: str = "A conversation", marks: bool = True) -> Path:
    """Writes a conversation to a folder, with a page that shows and plays it.

    Args:
        marks: whether the files of generated media hold their recipe (`media.provenance`).
    Raises OutputError: the folder cannot be written.
    """
    folder = Path(folder)

    recipes = recipes_of(chat.rounds) if marks else {}

    def put(data: bytes, suffix: str) -> str:
        name = content_name(data, suffix)
        if not (folder / "media" / name).is_file():
            write_atomic(folder / "media" / name, data)
        return name

    about = {
        "schema": SCHEMA,
        "codi2": __version__,
        "model": chat.model.config.name,
        "system": chat.system[0].parts[0].text if chat.system else None,  # type: ignore[union-attr]
        "defaults": chat.defaults,
        "rounds": [to_json(round_, put, recipes) for round_ in chat.rounds],
    }
    write_page(folder / "index.html", chat.rounds, title, recipes)
    write_atomic(folder / "chat.json", (json.dumps(about, ensure_ascii=False, indent=1) + "\n").encode())
    return folder


def open_chat(model: CoDi2, folder: str | Path) -> Chat:
    """The conversation that `save` wrote.

    The folder may come from elsewhere: nothing outside it is opened, and no link is followed.

    Raises PromptError: it holds no conversation, or is damaged.
    """
    folder = Path(folder)

    def get(name: str) -> bytes:
        data = read_inside(folder, f"media/{name}", links=False)
        if content_name(data, name.rpartition(".")[2]) != name:
            raise PromptError(f"media/{name} in {folder} has other bytes than its name says; copy the folder again")
        return data

    read = reader(get)
    try:
        about = parse_json(read_inside(folder, "chat.json", links=False))
        check(about, str(folder))
        chat = Chat(model, about["system"], **about["defaults"])
        for value in about["rounds"]:
            round_ = read(value)
            parts = zip((*round_.prompt, *round_.reply.parts), (*value["prompt"], *value["reply"]), strict=True)
            if wrong := next((stored for part, stored in parts if part.modality != stored["type"]), None):
                raise PromptError(f"media/{wrong['file']} in {folder} is not {wrong['type']}; copy the folder again")
            chat.add(round_)
    except CoDi2Error:
        raise
    except Exception as error:  # from readers of media and from options
        reason = (str(error).splitlines() or [""])[0][:300]
        raise PromptError(
            f"{folder} holds no conversation that can be read ({type(error).__name__}: {reason}); copy the folder again"
        ) from error
    return chat


def content_name(data: bytes, suffix: str) -> str:
    """The name of a file with these bytes: their hash and the suffix."""
    return f"{hashlib.sha256(data).hexdigest()[:32]}.{suffix}"


def recipes_of(rounds: Sequence[Round]) -> Recipes:
    """The recipes of the replies' media, without the seconds, so that equal media are one file."""
    recipes: dict[int, Mapping[str, Any]] = {}
    for round_ in rounds:
        recipe = {name: value for name, value in round_.reply.recipe.items() if name != "seconds"}
        recipes |= {id(part): recipe for part in round_.reply.parts}
    return recipes


def to_json(round_: Round, put: Put, recipes: Recipes = MappingProxyType({})) -> dict[str, Any]:
    """A round as JSON values; its media are stored by `put`, with their recipes."""
    return {
        "prompt": to_json_parts(round_.prompt, put, recipes),
        "reply": to_json_parts(round_.reply.parts, put, recipes),
        "options": vars(round_.options),
        "recipe": dict(round_.reply.recipe),
        "notes": list(round_.reply.notes),
        "skipped": round_.skipped,
        "words": round_.words,
        "new_media": _places_of_new_media(round_),
    }


def _places_of_new_media(round_: Round) -> list[int]:
    """The places in the prompt of the media that are new in the conversation."""
    places = {id(part): place for place, part in reversed(list(enumerate(round_.prompt)))}
    return [places[id(part)] for part in round_.new_media]


def to_json_parts(parts: Prompt, put: Put, recipes: Recipes = MappingProxyType({})) -> list[dict[str, Any]]:
    """Parts as JSON values; their media are stored by `put`."""
    return [_part(part, put, recipes.get(id(part))) for part in parts]


def files_in(value: Mapping[str, Any]) -> list[str]:
    """Names of the files of a part, as `to_json_parts` writes it."""
    file = value.get("file", [])
    return [file] if isinstance(file, str) else [*file, *filter(None, [value.get("sound")])]


def part_reader(get: Get) -> Callable[[Mapping[str, Any]], Part]:
    """A function that reads single parts, each as a new object."""

    def medium(kind: str, file: str, name: str) -> Part:
        check_cancelled()
        return load_as(kind, get(file), name)

    def read(value: Mapping[str, Any]) -> Part:
        if value["type"] == "text":
            return Text(value["text"], tuple(value.get("ids", ())))
        if value["type"] == "phrase":
            return Phrase(value["text"])
        if value["type"] == "video":
            frames = [medium("image", name, name) for name in value["file"]]
            pixels = tuple(frame.pixels for frame in frames if isinstance(frame, Image))
            sound = medium("audio", value["sound"], value["sound"]) if value.get("sound") else None
            return Video(pixels, float(value["fps"]), value["name"], sound if isinstance(sound, Audio) else None)
        return medium(value["type"], value["file"], value["name"])

    return read


def reader(get: Get) -> Callable[[Mapping[str, Any]], Round]:
    """A function that reads the rounds of one conversation, in which an item that occurs again is the same object."""
    seen: dict[tuple[str, ...], Part] = {}
    read_new = part_reader(get)

    def read_part(value: Mapping[str, Any], new: bool = False) -> Part:
        if value["type"] in ("text", "phrase"):
            return read_new(value)
        key = (value["type"], value["name"], *files_in(value))
        if new or key not in seen:
            seen[key] = read_new(value)
        return seen[key]

    def read(value: Mapping[str, Any]) -> Round:
        options = {**value["options"], "want": _tuple(value["options"]["want"])}
        new_places = value["new_media"]
        prompt: tuple[Any, ...] = tuple(read_part(part, i in new_places) for i, part in enumerate(value["prompt"]))
        parts = tuple(read_part(part, new=True) for part in value["reply"])
        return Round(
            prompt,
            Reply(parts, value["recipe"], tuple(value["notes"])),
            Options(**options),
            value["skipped"],
            value["words"],
            tuple(prompt[place] for place in new_places),
        )

    return read


def write_page(path: Path, rounds: list[Round], title: str, recipes: Recipes) -> None:
    """The conversation as one page that shows and plays all media, and loads nothing from elsewhere."""
    from codi2.report import Row
    from codi2.report import write_page as write_report

    rows = [
        Row(
            f"Round {i}",
            join_text(round_.prompt),
            round_.reply.parts,
            note=" ".join(round_.reply.notes),
            recipes=recipes,
        )
        for i, round_ in enumerate(rounds, start=1)
    ]
    write_report(
        path,
        title,
        rows,
        f"{len(rows)} rounds with {rounds[-1].reply.recipe.get('model', 'a model')}" if rounds else "No round yet",
    )


def _part(part: Part, put: Put, recipe: Mapping[str, Any] | None) -> dict[str, Any]:
    ids = {"ids": list(part.ids)} if isinstance(part, Text) and part.ids else {}
    return {**encode_part(part, put, "file", recipe), **ids}


def _tuple(want: Any) -> Any:
    return tuple(want) if isinstance(want, list) else want
