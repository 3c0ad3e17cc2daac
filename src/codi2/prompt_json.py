"""The JSON form of a prompt with its media, for data records and other programs.

    [{"type": "text", "text": "Paint "}, {"type": "image", "data": "<base64 PNG>", "name": "cat.png"}]

Pictures are PNG (lossless), sounds 24-bit FLAC (exact to 2^-23 of full scale), clips PNG frames with `fps` and, where
they have a sound, `sound`. Depth maps, thermal pictures and IMU are files that `codi2.senses` reads.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from types import UnionType
from typing import Any

from codi2.errors import PromptError
from codi2.media import LOSSLESS, file_bytes, picture_bytes, sound_bytes
from codi2.modalities import MEDIA, SENSES
from codi2.prompt.parts import IMU, Audio, Depth, Image, Part, Phrase, Prompt, Text, Thermal, Video


def to_wire(prompt: Prompt) -> list[dict[str, Any]]:
    """The prompt as JSON values, one object a part."""
    return [encode_part(part, lambda data, _: base64.b64encode(data).decode("ascii"), "data") for part in prompt]


def from_wire(parts: Sequence[Mapping[str, Any]]) -> Prompt:
    """The prompt of JSON values in the form of `to_wire`.

    Raises PromptError when a part has no known type or lacks a field, MediaError when its data cannot be read.
    """
    return tuple(_decode(part, place) for place, part in enumerate(parts))


def encode_part(
    part: Part, put: Callable[[bytes, str], str], field: str, recipe: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """A part as JSON values, whose files are stored by `put` without loss.

    Args:
        put: the bytes and the suffix of a file → the text that stands for it under `field`; for a clip a list of texts.
        recipe: how a model made the part, for the metadata of its files.
    """
    from codi2.senses import SUFFIXES, to_bytes

    match part:
        case Text() | Phrase():
            return {"type": part.modality, "text": part.text}
        case Image() | Audio():
            suffix = LOSSLESS[part.modality]
            file: Any = put(file_bytes(part, suffix, recipe), suffix)
        case Video():
            file = [put(picture_bytes(frame, "PNG", recipe), "png") for frame in part.frames]
            sound = {} if part.sound is None else {"sound": put(sound_bytes(part.sound, "FLAC"), "flac")}
            return {"type": "video", field: file, "fps": part.fps, "name": part.name, **sound}
        case Depth() | Thermal() | IMU():
            file = put(to_bytes(part), SUFFIXES[part.modality])
    return {"type": part.modality, field: file, "name": part.name}


def _decode(part: Mapping[str, Any], place: int) -> Part:
    from codi2.media import load_audio, load_image
    from codi2.senses import load_as

    kind = _field(part, place, "type", str)
    if kind in ("text", "phrase"):
        text = _field(part, place, "text", str)
        return Text(text) if kind == "text" else Phrase(text)
    name = str(part.get("name", ""))
    label = name or f"part {place}"
    if kind == "image":
        return replace(load_image(_bytes(_field(part, place, "data", str), place), label), name=name)
    if kind == "audio":
        return replace(load_audio(_bytes(_field(part, place, "data", str), place), label), name=name)
    if kind == "video":
        frames = tuple(load_image(_bytes(frame, place), label).pixels for frame in _field(part, place, "data", list))
        fps = float(_field(part, place, "fps", int | float))
        if not frames or fps <= 0:
            raise PromptError(
                f"part {place} of the prompt is a clip of {len(frames)} frames at {fps} frames per second; give one "
                "frame or more, and a rate above 0"
            )
        sound = load_audio(_bytes(part["sound"], place), label) if part.get("sound") is not None else None
        return Video(frames, fps, name, sound)
    if kind in SENSES:
        return replace(load_as(kind, _bytes(_field(part, place, "data", str), place), label), name=name)
    known = ", ".join(("text", "phrase", *MEDIA, *SENSES))
    raise PromptError(f"part {place} of the prompt has the type {kind!r}; known are {known}")


def _field(part: Mapping[str, Any], place: int, name: str, kind: type | UnionType) -> Any:
    value = part.get(name) if isinstance(part, Mapping) else None
    if not isinstance(value, kind):
        expected = getattr(kind, "__name__", str(kind))
        raise PromptError(f"part {place} of the prompt needs a field {name!r} of type {expected}, not {value!r:.60}")
    return value


# one pass with the memory of the text: splitting it at blanks could take a hundred times as much
_PLAIN = str.maketrans("-_", "+/", " \t\r\n\f\v")


def from_base64(text: str) -> bytes:
    """The bytes of base64 of either alphabet (RFC 4648), also in lines and without padding.

    Raises ValueError: it is malformed.
    """
    plain = text.translate(_PLAIN).rstrip("=")
    return base64.b64decode(plain + "=" * (-len(plain) % 4), validate=True)


def _bytes(data: Any, place: int) -> bytes:
    try:
        return from_base64(data)
    except (ValueError, TypeError, AttributeError) as error:
        raise PromptError(f"the data in part {place} of the prompt is not base64 ({error})") from error
