"""The schema of `chat.json`. The file may come from elsewhere, so all of it is checked before it is used."""

from __future__ import annotations

import re
from dataclasses import fields
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator

from codi2.errors import PromptError
from codi2.media.bounds import MAX_FPS
from codi2.modalities import SenseName
from codi2.model import Options

SCHEMA = 2
"""Version of the form of a conversation, in chat.json and in the server's database; another is refused."""
MAX_FRAMES = 4_096  # of a clip


def _file(name: str) -> str:
    """Raises ValueError: the name has a folder, or another form."""
    if not re.fullmatch(r"[0-9A-Za-z][0-9A-Za-z_-]{0,99}\.(png|flac|npy)", name):
        raise ValueError(f"{name[:80]!r} is no name of a file in the conversation's own media folder")
    return name


def _text(text: str) -> str:
    """Raises ValueError: it has half of a surrogate pair."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"the text holds {text[error.start]!r}, which is half of a character") from error
    return text


FileName = Annotated[str, AfterValidator(_file)]
"""The name of a medium's file in the conversation's own folder."""
Words = Annotated[str, AfterValidator(_text)]
Name = Annotated[Words, Field(max_length=1_000)]
Place = Annotated[int, Field(ge=0, le=1_000_000)]


class _Part(BaseModel):
    model_config = ConfigDict(strict=True)


class _Words(_Part):
    type: Literal["text", "phrase"]
    text: Words
    ids: list[Annotated[int, Field(ge=0, lt=2**31)]] = []


class _Medium(_Part):
    type: Literal["image", "audio", SenseName]
    file: FileName
    name: Name


class _Clip(_Part):
    type: Literal["video"]
    file: Annotated[list[FileName], Field(min_length=1, max_length=MAX_FRAMES)]
    fps: Annotated[float, Field(gt=0, le=MAX_FPS, strict=False)]
    name: Name
    sound: FileName | None = None


StoredPart = Annotated[_Words | _Medium | _Clip, Field(discriminator="type")]


def _options(options: dict[str, Any]) -> dict[str, Any]:
    """Raises ValueError: an option is unknown, of another type, or out of range."""
    known = {field.name for field in fields(Options)}
    if unknown := sorted(options.keys() - known):
        raise ValueError(f"there is no option {unknown[0]!r}")
    try:
        TypeAdapter(Options).validate_python(options)
    except PromptError as error:
        raise ValueError(str(error)) from error
    for value in options.values():
        if isinstance(value, str):
            _text(value)
    return options


StoredSettings = Annotated[dict[str, Any], AfterValidator(_options)]


class StoredRound(_Part):
    """One round."""

    model_config = ConfigDict(strict=True, extra="allow")

    prompt: list[StoredPart]
    reply: list[StoredPart]
    options: StoredSettings
    recipe: dict[str, Any]
    notes: list[Words]
    skipped: Place
    words: Words | None
    new_media: list[Place]

    @model_validator(mode="after")
    def _new_media_are_media(self) -> StoredRound:
        if any(place >= len(self.prompt) or isinstance(self.prompt[place], _Words) for place in self.new_media):
            raise ValueError(f"new_media is {self.new_media[:8]}, but must be places of media in the prompt")
        return self


class Document(_Part):
    """chat.json."""

    model_config = ConfigDict(strict=True, extra="allow", populate_by_name=True)

    version: Annotated[Literal[2], Field(alias="schema")]
    system: Words | None
    defaults: StoredSettings
    rounds: list[StoredRound]


def check(document: Any, folder: str) -> None:
    """Raises PromptError of one sentence: the value is no valid `chat.json`. `folder` is for the message."""
    if isinstance(document, dict) and isinstance(schema := document.get("schema"), int) and schema != SCHEMA:
        raise PromptError(
            f"{folder} holds a conversation of schema {schema}, this version of codi2 reads {SCHEMA}; open it with the "
            "version that wrote it"
        )
    try:
        Document.model_validate(document)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "the file"
        reason = first["msg"].removeprefix("Value error, ").replace("\n", " ")
        raise PromptError(
            f"{folder} holds no conversation that can be read: {place[:100]}: {reason[:300]}; copy the folder again"
        ) from error
