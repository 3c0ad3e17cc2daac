"""The bodies of requests, in the shapes of OpenAI's API; fields that it does not have are under `codi2`.

Other fields are refused by name, unless they have no effect (`serve.fields`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from codi2.modalities import Modality
from codi2.serve import fields

MOST_PARTS, MOST_MESSAGES = 256, 512
MOST_VALUES = 100_000  # of a request's JSON: to parse more takes a second, in which the event loop stands still
DEEPEST = 32  # levels of nested lists and objects
COLDEST = 0.01  # the lowest temperature that samples; logits that are divided by less can overflow
Want = Literal["text", Modality]


def check_json(value: Any) -> Any:
    """Returns the JSON of a request unchanged.

    Raises ValueError: it nests too deep, has too many values, numbers that are not finite, or strings that UTF-8
    cannot hold (halves of surrogate pairs).
    """
    stack, count = [(value, 0)], 0
    while stack:
        item, depth = stack.pop()
        count += len(item) if isinstance(item, dict | list) else 0
        if depth > DEEPEST or count > MOST_VALUES:
            raise ValueError(f"the JSON has more than {MOST_VALUES} values, or lists nested over {DEEPEST} deep")
        if isinstance(item, str) and not item.isascii():
            try:
                item.encode()
            except UnicodeEncodeError as error:
                raise ValueError(f"a string has half of a surrogate pair at {error.start}; send whole ones") from error
        elif isinstance(item, float) and not math.isfinite(item):
            raise ValueError(f"a number is {item}; send finite ones")
        elif isinstance(item, dict):
            stack += [(part, depth + 1) for pair in item.items() for part in pair]
        elif isinstance(item, list):
            stack += [(part, depth + 1) for part in item]
    return value


def check_temperature(value: float) -> float:
    if 0 < value < COLDEST:
        raise ValueError(f"the temperature is {value}; send 0 for the likeliest words, or {COLDEST} to 2")
    return value


class Body(BaseModel):
    """A request."""

    model_config = ConfigDict(allow_inf_nan=False)
    accepts: ClassVar[Mapping[str, fields.Accepts]] = fields.SHARED

    @model_validator(mode="before")
    @classmethod
    def _fields(cls, value: Any) -> Any:
        """Raises FieldError, which pydantic does not wrap, so that clients get its message."""
        check_json(value)
        if isinstance(value, dict):
            fields.check(value, cls.model_fields, cls.accepts)
        return value


class Extension(BaseModel):
    """Fields of `Options`, and settings of the request."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)
    want: list[Want] | None = Field(None, max_length=8, description="Modalities of the reply, in order.")
    num_inference_steps: int | None = Field(None, ge=1, le=1000)
    guidance_scale: float | None = Field(None, ge=0, le=100)
    source_guidance_scale: float | None = Field(None, ge=0, le=100)
    negative_prompt: str | None = Field(None, max_length=2000)
    source: str | None = Field(None, max_length=20, description="What the reply edits: none, last or an item: image0.")
    timeout: float | None = Field(None, gt=0, le=3600, description="Seconds until the request is given up.")


class ChatExtension(Extension):
    content: Literal["text", "parts"] | None = Field(
        None, description="What message.content holds: the words (text), or all parts in order."
    )


def check_role(role: Any) -> Any:
    """Raises FieldError."""
    if role in ("tool", "function"):
        raise fields.FieldError(
            f"the role {role} brings the result of a tool, and the model calls no tools; send the result as the "
            "user's words",
            "messages.role",
        )
    return role


Role = Annotated[Literal["system", "developer", "user", "assistant"], BeforeValidator(check_role)]


class ChatMessage(BaseModel):
    role: Role
    content: str | Annotated[list[dict[str, Any]], Field(max_length=MOST_PARTS)] | None = None
    refusal: str | None = None
    images: Annotated[list[dict[str, Any]], Field(max_length=MOST_PARTS)] | None = Field(
        None, description="Of an assistant's message: the pictures of a reply."
    )
    codi2: dict[str, Any] | None = Field(None, description="Of an assistant's message: what a reply of ours held.")
    provider_specific_fields: dict[str, Any] | None = None

    @model_validator(mode="before")
    @classmethod
    def _fields(cls, value: Any) -> Any:
        if isinstance(value, dict):
            role = value.get("role")
            check_role(role)
            accepts = fields.MESSAGE if role == "assistant" else {}
            fields.check(value, cls.model_fields, accepts, f"a message of the {str(role)[:20]}")
        return value


class StreamOptions(BaseModel):
    include_usage: bool | None = False

    @model_validator(mode="before")
    @classmethod
    def _fields(cls, value: Any) -> Any:
        if isinstance(value, dict):
            fields.check(value, cls.model_fields, {}, "stream_options")
        return value


class ReplyRequest(Body):
    """Fields of every request for a reply."""

    model: str = Field("codi2", max_length=200)
    seed: int | None = Field(None, ge=0, lt=2**63)
    temperature: Annotated[float, AfterValidator(check_temperature)] | None = Field(
        None, ge=0, le=2, description=f"0: the likeliest words; otherwise {COLDEST} to 2."
    )
    user: str | None = Field(None, max_length=200)
    safety_identifier: str | None = Field(None, max_length=200)
    codi2: Extension | None = Field(default_factory=Extension)

    @property
    def own(self) -> Extension:
        """The fields under `codi2`."""
        return self.codi2 or Extension()

    @property
    def person(self) -> str | None:
        """The user whom the client names; users have turns of their own in the queue."""
        return self.user or self.safety_identifier


Stop = Annotated[str, Field(min_length=1, max_length=200)]


class TextRequest(ReplyRequest):
    """Fields of a request for a reply that has text."""

    accepts: ClassVar[Mapping[str, fields.Accepts]] = fields.WORDS
    modalities: list[Want] | None = Field(None, max_length=4)
    top_p: float | None = Field(None, ge=0, le=1, description="Words are drawn from the likeliest of this probability.")
    stop: Stop | Annotated[list[Stop], Field(max_length=16)] | None = Field(
        None, description="Strings at which the words of the reply end; they are no part of it."
    )
    stream: bool | None = False


class ChatRequest(TextRequest):
    """`POST /v1/chat/completions`"""

    accepts: ClassVar[Mapping[str, fields.Accepts]] = fields.CHAT
    codi2: ChatExtension | None = Field(default_factory=ChatExtension)
    messages: Annotated[list[ChatMessage], Field(min_length=1, max_length=MOST_MESSAGES)]
    max_tokens: int | None = Field(None, ge=1, le=4096)
    max_completion_tokens: int | None = Field(None, ge=1, le=4096)
    n: int | None = Field(1, ge=1, le=8)
    stream_options: StreamOptions | None = None
    metadata: dict[str, Any] | None = Field(None, description="Comes back as it is.")


class ResponsesRequest(TextRequest):
    """`POST /v1/responses`"""

    accepts: ClassVar[Mapping[str, fields.Accepts]] = fields.RESPONSES
    input: str | Annotated[list[dict[str, Any]], Field(min_length=1, max_length=MOST_MESSAGES)]
    instructions: str | None = Field(None, max_length=20_000)
    max_output_tokens: int | None = Field(None, ge=1, le=4096)
    metadata: dict[str, Any] | None = Field(None, description="Comes back as it is.")


class ImageRequest(ReplyRequest):
    """`POST /v1/images/generations`, and the form of `/v1/images/edits` without its pictures"""

    accepts: ClassVar[Mapping[str, fields.Accepts]] = fields.IMAGES
    prompt: str = Field(min_length=1, max_length=20_000)
    n: int | None = Field(1, ge=1, le=8)
    size: str | None = Field(None, max_length=20, description="WIDTHxHEIGHT in pixels, or auto: as the model draws.")
    response_format: Literal["b64_json", "url"] | None = None
    output_format: Literal["png", "jpeg", "webp"] | None = None
    output_compression: int | None = Field(None, ge=0, le=100, description="Quality of JPEG and WebP.")
    stream: bool | None = False


class SoundRequest(ReplyRequest):
    """`POST /v1/audio/generations`: a sound from a text. A route of ours: OpenAI's `speech` is for voices."""

    input: str = Field(min_length=1, max_length=20_000)
    response_format: Literal["wav", "flac", "ogg", "mp3"] = "wav"


class NewSession(Body):
    """`POST /v1/sessions`"""

    title: str = Field("", max_length=200)
    system: str | None = Field(None, max_length=20_000)


class SessionTitle(Body):
    """`PATCH /v1/sessions/{id}`"""

    title: str = Field(max_length=200)


class RoundRequest(TextRequest):
    """`POST /v1/sessions/{id}/rounds`: a message of a conversation that the server holds."""

    content: str | Annotated[list[dict[str, Any]], Field(min_length=1, max_length=MOST_PARTS)]
    max_tokens: int | None = Field(None, ge=1, le=4096)
    media: Literal["data", "ids"] = Field("data", description="How the reply's media come: themselves, or their ids.")
    rounds: int | None = Field(None, ge=0, description="Number of the rounds that the client knows; 409 if it differs.")
