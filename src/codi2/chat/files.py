"""Conversations as files: rounds as JSON, media beside them by the hash of their content.

    chat.json  media/<hash>.png, .flac  index.html

What is read back continues as it would have: media are kept exactly, and a round says which of its media are new, so
that one which a message refers to again is one object as before.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from codi2 import __version__
from codi2.chat import Chat, Round
from codi2.chat.document import SCHEMA, check, current
from codi2.errors import CoDi2Error, PromptError
from codi2.hub import write_atomic
from codi2.media import picture_bytes, sound_bytes
from codi2.model import CoDi2
from codi2.prompt.grammar import join_text
from codi2.prompt.parts import IMU, Audio, Depth, Image, Part, Phrase, Prompt, Text, Thermal, Video
from codi2.prompt_json import flac
from codi2.reply import Options, Reply
from codi2.senses import load_as, to_bytes
from codi2.stopping import check_stop
from codi2.untrusted import parse_json, read_inside

Put = Callable[[bytes, str], str]
"""Keeps the bytes of a medium under a name of its own, which ends in the suffix that is given: the name."""
Recipes = Mapping[int, Mapping[str, Any]]
"""Of media that were made, by their identity."""
Get = Callable[[str], bytes]
"""The bytes that were kept under a name."""


def save(chat: Chat, folder: str | Path, title: str = "A conversation", marks: bool = True) -> Path:
    """Writes a conversation to a folder, with a page that shows and plays it.

    Args:
        marks: whether what was made says so (`media.provenance`).
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
    """The conversation that `save` wrote, to go on with.

    The folder may come from elsewhere: nothing outside it is opened, and no link is followed.

    Raises PromptError: it is none, or damaged.
    """
    folder = Path(folder)

    def get(name: str) -> bytes:
        data = read_inside(folder, f"media/{name}", links=False)
        if content_name(data, name.rpartition(".")[2]) != name:
            raise PromptError(f"media/{name} in {folder} is not what was kept under this name; bring the folder again")
        return data

    read = reader(get)
    try:
        about = parse_json(read_inside(folder, "chat.json", links=False))
        check(about, str(folder))
        chat = Chat(model, about["system"], **current(about["defaults"]))
        for value in about["rounds"]:
            round_ = read(value)
            said = zip((*round_.prompt, *round_.reply.parts), (*value["prompt"], *value["reply"]), strict=True)
            if other := next((one for part, one in said if part.modality != one["type"]), None):
                raise PromptError(f"media/{other['file']} in {folder} is not {other['type']}; bring the folder again")
            chat.add(round_)
    except CoDi2Error:
        raise
    except Exception as error:  # of the readers of media, and of options that do not fit
        reason = (str(error).splitlines() or [""])[0][:300]
        raise PromptError(
            f"{folder} holds no conversation that can be read ({type(error).__name__}: {reason})"
        ) from error
    return chat


def content_name(data: bytes, suffix: str) -> str:
    """A name that is the same for the same bytes only."""
    return f"{hashlib.sha256(data).hexdigest()[:32]}.{suffix}"


def recipes_of(rounds: Sequence[Round]) -> Recipes:
    """How the media of replies were made. Without the seconds: equal media are one file."""
    found: dict[int, Mapping[str, Any]] = {}
    for round_ in rounds:
        recipe = {name: value for name, value in round_.reply.recipe.items() if name != "seconds"}
        found |= {id(part): recipe for part in round_.reply.parts}
    return found


def to_json(round_: Round, put: Put, recipes: Recipes = MappingProxyType({})) -> dict[str, Any]:
    """A round as JSON values; its media go to `put`, with the recipes of those that have one."""
    return {
        "prompt": to_json_parts(round_.prompt, put, recipes),
        "reply": to_json_parts(round_.reply.parts, put, recipes),
        "options": vars(round_.options),
        "recipe": dict(round_.reply.recipe),
        "notes": list(round_.reply.notes),
        "left": round_.left,
        **({"words": round_.words} if round_.words is not None else {}),
        "given": _places(round_),
    }


def _places(round_: Round) -> list[int]:
    """Where the prompt has the media that are new in the conversation."""
    places = {id(part): place for place, part in reversed(list(enumerate(round_.prompt)))}
    return [places[id(part)] for part in round_.given]


def to_json_parts(parts: Prompt, put: Put, recipes: Recipes = MappingProxyType({})) -> list[dict[str, Any]]:
    """Parts as JSON values; the media among them go to `put`."""
    return [_part(part, put, recipes.get(id(part))) for part in parts]


def files_in(value: Mapping[str, Any]) -> list[str]:
    """Names of the files that a part of `to_json_parts` has."""
    file = value.get("file", [])
    return [file] if isinstance(file, str) else [*file, *filter(None, [value.get("sound")])]


def part_reader(get: Get) -> Callable[[Mapping[str, Any]], Part]:
    """What reads single parts, each as an object of its own."""

    def medium(kind: str, file: str, name: str) -> Part:
        check_stop()
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
    """What reads the rounds of one conversation: an item that a message refers to again is one object, as it was."""
    seen: dict[tuple[str, ...], Part] = {}
    fresh = part_reader(get)

    def part(value: Mapping[str, Any], new: bool = False) -> Part:
        if value["type"] in ("text", "phrase"):
            return fresh(value)
        key = (value["type"], value["name"], *files_in(value))
        if new or key not in seen:
            seen[key] = fresh(value)
        return seen[key]

    def read(value: Mapping[str, Any]) -> Round:
        options = {**current(value["options"]), "want": _tuple(value["options"]["want"])}
        given = value.get("given", ())
        numbered = "given" in value  # rounds that were kept before say nothing: equal media were one item
        prompt: tuple[Any, ...] = tuple(part(one, i in given) for i, one in enumerate(value["prompt"]))
        parts = tuple(part(one, new=numbered) for one in value["reply"])
        return Round(
            prompt,
            Reply(parts, value["recipe"], tuple(value["notes"])),
            Options(**options),
            int(value.get("left", 0)),
            value.get("words"),
            tuple(prompt[place] for place in given),
        )

    return read


def write_page(path: Path, rounds: list[Round], title: str, recipes: Recipes) -> None:
    """The conversation as one page that shows and plays everything; nothing is requested."""
    from codi2.report import Row
    from codi2.report import write_page as write

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
    write(
        path,
        title,
        rows,
        f"{len(rows)} rounds with {rounds[-1].reply.recipe.get('model', 'a model')}" if rounds else "No round yet",
    )


def _part(part: Part, put: Put, recipe: Mapping[str, Any] | None) -> dict[str, Any]:
    match part:
        case Text():
            return {"type": "text", "text": part.text, **({"ids": list(part.ids)} if part.ids else {})}
        case Phrase():
            return {"type": "phrase", "text": part.text}
        case Image():
            return {"type": "image", "file": put(picture_bytes(part.pixels, "PNG", recipe), "png"), "name": part.name}
        case Audio():
            data = flac(part) if recipe is None else sound_bytes(part, "FLAC", recipe)
            return {"type": "audio", "file": put(data, "flac"), "name": part.name}
        case Video():
            files = [put(picture_bytes(frame, "PNG", recipe), "png") for frame in part.frames]
            sound = {"sound": put(flac(part.sound), "flac")} if part.sound is not None else {}
            return {"type": "video", "file": files, "fps": part.fps, "name": part.name, **sound}
        case Depth() | Thermal():
            return {"type": part.modality, "file": put(to_bytes(part), "png"), "name": part.name}
        case IMU():
            return {"type": "imu", "file": put(to_bytes(part), "npy"), "name": part.name}


def _tuple(want: Any) -> Any:
    return tuple(want) if isinstance(want, list) else want
