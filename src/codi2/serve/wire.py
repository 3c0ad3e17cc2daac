"""OpenAI's content parts ↔ ours.

Requests have `text`, `image_url` (a data URL), `input_audio` (base64 and format), `video_url` (a data URL; ours), and
the parts of the `responses` API (`input_text`, `input_image`). No path and no URL but `data:` is opened. A request is
first read as an `EncodedConversation`, whose files `serve.decoding` decodes.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from codi2.errors import LimitError, MediaError, PromptError
from codi2.media import LOSSLESS, file_bytes
from codi2.modalities import MEDIA, SENSES
from codi2.prompt.layout import Message
from codi2.prompt.parts import IMU, Audio, Depth, Image, Media, Part, Text, Thermal, Video
from codi2.prompt_json import from_base64
from codi2.senses import to_bytes
from codi2.serve import fields
from codi2.serve.decoder_process import SILENT, STILL
from codi2.serve.decoding import File
from codi2.serve.schemas import MOST_PARTS, ChatMessage

MOST_BYTES = 16 << 20
"""Limit of one file: enough for a phone's photograph or a clip of a minute."""
_DATA_URL = re.compile(
    r"""\s*data:\s*(?P<kind>[\w.+-]+/[\w.+-]+)?(?:;\s*[\w.+*%-]+=(?:"[^"]*"|[^;,"]*))*;\s*base64\s*,""", re.IGNORECASE
)
FIELDS: Mapping[str, Sequence[str]] = {
    "text": ("type", "text"), "input_text": ("type", "text"), "output_text": ("type", "text"),
    "refusal": ("type", "refusal"), "image_url": ("type", "image_url", "index"), "input_image": ("type", "image_url"),
    "video_url": ("type", "video_url"), "input_audio": ("type", "input_audio"), "audio": ("type", "audio"),
    **dict.fromkeys(SENSES, ("type", "data")),
}  # fmt: skip
"""Type of a part of a message → the fields that it may have."""
ACCEPTS: Mapping[str, fields.Accepts] = {
    "detail": fields.one_of("auto", "low", "high", "original"),  # pictures are read at the size that the model reads
    "annotations": fields.any_value,
    "cache_control": fields.any_value,
}
ESCAPES = [
    (f"%{code}", chr(int(code, 16))) for code in ("2B", "2b", "2F", "2f", "3D", "3d", "0A", "0a", "0D", "0d", "20")
]
"""Percent escapes of base64 in a URL, replaced one by one: decoding all at once takes many times the text's memory."""
MOST_HEAD = 1000  # characters of a data URL before its data


@dataclass(frozen=True)
class EncodedMedium:
    """A medium of a request, before it is decoded."""

    file: File
    expected: type[Media] | None  # None: any
    family: str = ""  # of the client's media type: image, audio or video; "": it names none
    sound: EncodedMedium | None = None  # of a clip whose file has no sound


PartOrEncoded = Part | EncodedMedium
Role = Literal["system", "user", "assistant"]


@dataclass(frozen=True)
class EncodedConversation:
    """The messages of a request before its media are decoded, as roles and parts."""

    messages: Sequence[tuple[Role, Sequence[PartOrEncoded]]]

    @property
    def media(self) -> list[EncodedMedium]:
        """All media in order; the sound of a clip follows the clip."""
        media = [part for _, parts in self.messages for part in parts if isinstance(part, EncodedMedium)]
        return [encoded for medium in media for encoded in (medium, medium.sound) if encoded is not None]

    @property
    def text_messages(self) -> list[Message]:
        """The messages without their media."""
        return [Message(role, tuple(part for part in parts if isinstance(part, Text))) for role, parts in self.messages]

    def with_media(self, decoded_media: Sequence[Media]) -> list[Message]:
        """The messages with the decoded files of `media`, in their order. Raises MediaError: a file is of another
        modality than the request names."""
        decoded = iter(decoded_media)
        return [Message(role, tuple(_decoded_part(part, decoded) for part in parts)) for role, parts in self.messages]


def check_bytes(size: int, where: str) -> None:
    """Raises LimitError: a medium's file is too large."""
    if size > MOST_BYTES:
        raise LimitError(f"{where} is larger than {MOST_BYTES >> 20} MB; send a smaller one")


def conversation(messages: Sequence[ChatMessage]) -> EncodedConversation:
    """The messages of a request. Raises PromptError and MediaError: a part is malformed."""
    conversation: list[tuple[Role, Sequence[PartOrEncoded]]] = []
    count = 0
    for i, message in enumerate(messages):
        content = _of_reply(message) if message.role == "assistant" else message.content
        if content is None:
            raise PromptError(f"message {i} has no content")
        parts = prompt(content, f"message {i}")
        count += len(parts)
        if count > MOST_PARTS:
            raise PromptError(f"the messages have more than {MOST_PARTS} parts; send fewer")
        conversation.append(("system" if message.role == "developer" else message.role, parts))
    if conversation[-1][0] != "user":
        raise PromptError(f"the last message is from the {conversation[-1][0]}; it should be the user's")
    return EncodedConversation(conversation)


def _of_reply(message: ChatMessage) -> Any:
    """The content of an assistant's message: the parts of our own reply, or the text and images of any reply."""
    own = message.codi2 or (message.provider_specific_fields or {}).get("codi2")  # litellm's place for our fields
    if isinstance(own, Mapping) and "parts" in own:
        return own["parts"]
    if isinstance(message.content, list):
        return message.content
    text = message.content or message.refusal or ""
    return [*([{"type": "text", "text": text}] if text else []), *(message.images or [])]


def prompt(content: str | Sequence[Mapping[str, Any]], where: str = "the content") -> list[PartOrEncoded]:
    """The parts of one message. Raises PromptError and MediaError."""
    if isinstance(content, str):
        return [Text(content)]
    if not isinstance(content, Sequence):
        raise PromptError(f"{where} is neither text nor a list of parts; send one of these")
    if len(content) > MOST_PARTS:
        raise PromptError(f"{where} has more than {MOST_PARTS} parts; send fewer")
    return [part(value, f"part {i} of {where}") for i, value in enumerate(content)]


def part(part: Any, where: str) -> PartOrEncoded:
    """One part of a message. Raises PromptError and MediaError."""
    if not isinstance(part, Mapping):
        raise PromptError(f'{where} is no object; send {{"type": …}}')
    kind = part.get("type")
    if isinstance(kind, str) and kind in FIELDS:
        fields.check(part, FIELDS[kind], ACCEPTS, where)
    match kind:
        case "text" | "input_text" | "output_text":
            return Text(_text_of(part.get("text"), where))
        case "refusal":
            return Text(_text_of(part.get("refusal"), where))
        case "image_url" | "input_image":
            return _from_url(part.get("image_url"), Image, where)
        case "video_url":
            return _with_sound(_from_url(part.get("video_url"), Video, where), part["video_url"], where)
        case "input_audio":
            return _sound(part.get("input_audio"), where)
        case "audio":  # of a reply of ours
            return _sound(part.get("audio"), where)
        case str() if kind in SENSES:  # ours: a file that `codi2.senses` reads
            return _media(_text_of(part.get("data"), where), where, kind)
        case "file" | "input_file":
            raise PromptError(
                f"{where} is a file; send pictures, sounds and clips as image_url, input_audio, video_url"
            )
    raise PromptError(f"{where} has the type {str(kind)[:40]!r}; known are text, image_url, input_audio and video_url")


def _text_of(text: Any, where: str) -> str:
    if not isinstance(text, str):
        raise PromptError(f"{where} has no text; send a string")
    return text


def _from_url(value: Any, kind: type[Media], where: str) -> EncodedMedium:
    url = value.get("url") if isinstance(value, Mapping) else value
    if not isinstance(url, str):
        raise PromptError(f"{where} has no url; send a data URL")
    if isinstance(value, Mapping):
        fields.check(value, ("url", "sound") if kind is Video else ("url",), ACCEPTS, where)
    head = _DATA_URL.match(url, 0, MOST_HEAD)
    if head is None:
        raise PromptError(
            f"{where} is no data URL in base64 ({url[:40]!r}); this server fetches nothing: send the bytes"
        )
    family = (head["kind"] or "").partition("/")[0].lower()
    still = kind is Image and family == "image"
    return _media(url[head.end() :], where, STILL if still else "", kind, family if family in MEDIA else "")


def _with_sound(clip: EncodedMedium, value: Any, where: str) -> EncodedMedium:
    """Reads `sound` beside a clip's URL: `false` leaves out the sound of the file; our own clips have a sound there."""
    sound = value.get("sound") if isinstance(value, Mapping) else None
    if sound is False:
        return replace(clip, file=replace(clip.file, kind=SILENT))
    return clip if sound is None else replace(clip, sound=_sound(sound, f"the sound of {where}"))


def _sound(value: Any, where: str) -> EncodedMedium:
    if not isinstance(value, Mapping) or not isinstance(value.get("data"), str):
        raise PromptError(f"{where} has no data; send base64")
    fields.check(value, ("data", "format"), ACCEPTS, where)
    data = value["data"]
    head = _DATA_URL.match(data, 0, MOST_HEAD)  # some clients send a data URL here, too
    return _media(data[head.end() :] if head else data, where, "", Audio)


def _media(text: str, where: str, kind: str, expected: type[Media] | None = None, family: str = "") -> EncodedMedium:
    check_bytes(len(text) // 2, where)  # of base64: four characters for three bytes, and line breaks
    try:
        for escape, plain in ESCAPES:
            text = text.replace(escape, plain)
        data = from_base64(text)
    except ValueError as error:
        raise PromptError(f"{where} is not base64 ({error})") from error
    check_bytes(len(data), where)
    return EncodedMedium(File(data, kind, where), expected, family)


def _decoded_part(part: PartOrEncoded, decoded: Iterator[Media]) -> Part:
    """Raises MediaError."""
    if not isinstance(part, EncodedMedium):
        return part
    media = _checked(part, next(decoded))
    if part.sound is None:
        return media
    sound = _checked(part.sound, next(decoded))
    assert isinstance(media, Video) and isinstance(sound, Audio)
    return replace(media, sound=sound)


def _checked(encoded: EncodedMedium, media: Media) -> Media:
    """Raises MediaError."""
    expected = encoded.expected
    families = ("", media.modality, "image") if isinstance(media, Video) else ("", media.modality)  # WebP can be a clip
    if expected is None or (isinstance(media, expected) and encoded.family in families):
        return media
    raise MediaError(
        f"{encoded.file.name} says that it is {encoded.family or expected.modality}, but its bytes are "
        f"{media.modality}; name the modality of the bytes"
    )


def to_parts(parts: Sequence[Part], mark: Mapping[str, Any] | None = None) -> list[dict[str, Any]]:
    """A reply's parts, in order, as `codi2.parts` of a message. Clients can send them back unchanged.

    `mark` is the recipe that is written into the files' metadata, as `codi2 generate` does.
    """
    return [to_part(part, mark) for part in parts]


def to_part(part: Part, mark: Mapping[str, Any] | None = None) -> dict[str, Any]:
    match part:
        case Image():
            return {"type": "image_url", "image_url": {"url": _url(part, mark)}}
        case Audio():
            return {"type": "audio", "audio": _sound_field(part, mark)}
        case Video():
            sound = {} if part.sound is None else {"sound": _sound_field(part.sound)}
            return {"type": "video_url", "video_url": {"url": _url(part, mark), **sound}}
        case Depth() | Thermal() | IMU():
            return {"type": part.modality, "data": b64(to_bytes(part))}
        case _:
            return {"type": "text", "text": part.text}


def _url(part: Image | Video, mark: Mapping[str, Any] | None) -> str:
    suffix = LOSSLESS[part.modality]
    return f"data:image/{suffix};base64,{b64(file_bytes(part, suffix, mark))}"


def _sound_field(sound: Audio, mark: Mapping[str, Any] | None = None) -> dict[str, str]:
    suffix = LOSSLESS["audio"]
    return {"data": b64(file_bytes(sound, suffix, mark)), "format": suffix}


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")
