"""What the API takes, in the shapes of OpenAI's; what the standard has no word for stands under `codi2`.

Unknown fields are ignored, as there: clients send what other servers understand.
"""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

MOST_PARTS, MOST_MESSAGES = 256, 512
MOST_VALUES, DEEPEST = 100_000, 32  # of the JSON of a request: values, and lists and objects inside each other
COLDEST = 0.01  # the least temperature that samples; logits that are divided by less can overflow
Want = Literal["text", "image", "audio", "video"]
Sense = Literal["depth", "thermal", "imu"]


def check_json(value: Any) -> Any:
    """The JSON of a request as it is.

    Raises ValueError: it nests too deep, has too many values, numbers that are not finite, or strings that UTF-8
    cannot hold (halves of surrogate pairs).
    """
    rest, count = [(value, 0)], 0
    while rest:
        item, depth = rest.pop()
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
            rest += [(part, depth + 1) for pair in item.items() for part in pair]
        elif isinstance(item, list):
            rest += [(part, depth + 1) for part in item]
    return value


def check_temperature(value: float) -> float:
    if 0 < value < COLDEST:
        raise ValueError(f"the temperature is {value}; send 0 for the likeliest words, or {COLDEST} to 2")
    return value


class Body(BaseModel):
    """A request."""

    model_config = ConfigDict(allow_inf_nan=False)
    _json = model_validator(mode="before")(check_json)


class Extension(BaseModel):
    """Fields of `Options`, and how a request is treated."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)
    want: list[Want] | None = Field(None, max_length=8, description="Modalities of the reply, in order.")
    num_inference_steps: int | None = Field(None, ge=1, le=1000)
    guidance_scale: float | None = Field(None, ge=0, le=100)
    source_guidance_scale: float | None = Field(None, ge=0, le=100)
    negative_prompt: str | None = Field(None, max_length=2000)
    source: str | None = Field(None, max_length=20, description="What the reply edits: none, last or an item: image0.")
    timeout: float | None = Field(None, gt=0, le=3600, description="Seconds until the request is given up.")


class ChatMessage(BaseModel):
    role: Literal["system", "developer", "user", "assistant"]
    content: str | Annotated[list[dict[str, Any]], Field(max_length=MOST_PARTS)] | None = None
    codi2: dict[str, Any] | None = Field(None, description="Of an assistant's message: what a reply of ours held.")


class StreamOptions(BaseModel):
    include_usage: bool = False


class Settings(Body):
    """What every request can say of its reply."""

    model: str = Field("codi2", max_length=200)
    seed: int | None = Field(None, ge=0, lt=2**63)
    temperature: Annotated[float, AfterValidator(check_temperature)] | None = Field(
        None, ge=0, le=2, description=f"0: the likeliest words; otherwise {COLDEST} to 2."
    )
    user: str | None = Field(None, max_length=200)
    codi2: Extension = Extension()


class ChatRequest(Settings):
    """`POST /v1/chat/completions`"""

    messages: Annotated[list[ChatMessage], Field(min_length=1, max_length=MOST_MESSAGES)]
    modalities: list[Want] | None = Field(None, max_length=4)
    max_tokens: int | None = Field(None, ge=1, le=4096)
    max_completion_tokens: int | None = Field(None, ge=1, le=4096)
    n: int | None = Field(1, ge=1, le=8)
    stream: bool | None = False
    stream_options: StreamOptions | None = None


class ResponsesRequest(Settings):
    """`POST /v1/responses`"""

    input: str | Annotated[list[dict[str, Any]], Field(min_length=1, max_length=MOST_MESSAGES)]
    instructions: str | None = Field(None, max_length=20_000)
    max_output_tokens: int | None = Field(None, ge=1, le=4096)
    modalities: list[Want] | None = Field(None, max_length=4)
    previous_response_id: str | None = None
    stream: bool | None = False


class ImageRequest(Settings):
    """`POST /v1/images/generations`"""

    prompt: str = Field(min_length=1, max_length=20_000)
    n: int | None = Field(1, ge=1, le=8)
    size: str | None = None
    response_format: Literal["b64_json", "url"] | None = None


class SoundRequest(Settings):
    """`POST /v1/audio/generations`: a sound from words. Ours: OpenAI's `speech` is for voices."""

    input: str = Field(min_length=1, max_length=20_000)
    response_format: Literal["wav", "flac", "ogg", "mp3"] = "wav"


class NewSession(Body):
    """`POST /v1/sessions`, and the new title of one."""

    title: str = Field("", max_length=200)
    system: str | None = Field(None, max_length=20_000)


class RoundRequest(Settings):
    """`POST /v1/sessions/{id}/rounds`: a message of a conversation that the server holds."""

    content: str | Annotated[list[dict[str, Any]], Field(min_length=1, max_length=MOST_PARTS)]
    modalities: list[Want] | None = Field(None, max_length=4)
    max_tokens: int | None = Field(None, ge=1, le=4096)
    stream: bool | None = False
    media: Literal["data", "ids"] = Field("data", description="How the reply's media come: themselves, or their ids.")
    rounds: int | None = Field(None, ge=0, description="Of PUT: rounds that the client knows; 409 if there are others.")
