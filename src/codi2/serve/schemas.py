"""What the API takes, in the shapes of OpenAI's; what the standard has no word for stands under `codi2`.

Unknown fields are ignored, as there: clients send what other servers understand.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

MOST_PARTS, MOST_MESSAGES = 256, 512
Want = Literal["text", "image", "audio", "video"]


class Extension(BaseModel):
    """Fields of `Options`, and how a request is treated."""

    model_config = ConfigDict(extra="forbid")
    want: list[Want] | None = Field(None, max_length=8, description="Modalities of the reply, in order.")
    num_inference_steps: int | None = Field(None, ge=1, le=1000)
    guidance_scale: float | None = Field(None, ge=0, le=100)
    source_guidance_scale: float | None = Field(None, ge=0, le=100)
    negative_prompt: str | None = Field(None, max_length=2000)
    keep_source: bool | None = None
    timeout: float | None = Field(None, gt=0, le=3600, description="Seconds until the request is given up.")


class ChatMessage(BaseModel):
    role: Literal["system", "developer", "user", "assistant"]
    content: str | Annotated[list[dict[str, Any]], Field(max_length=MOST_PARTS)] | None = None
    codi2: dict[str, Any] | None = Field(None, description="Of an assistant's message: what a reply of ours held.")


class StreamOptions(BaseModel):
    include_usage: bool = False


class Settings(BaseModel):
    """What every request can say of its reply."""

    model: str = Field("codi2", max_length=200)
    seed: int | None = Field(None, ge=0, lt=2**63)
    temperature: float | None = Field(None, ge=0, le=2)
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


class NewSession(BaseModel):
    """`POST /v1/sessions`, and the new title of one."""

    title: str = Field("", max_length=200)
    system: str | None = Field(None, max_length=20_000)


class RoundRequest(Settings):
    """`POST /v1/sessions/{id}/rounds`: a message of a conversation that the server holds."""

    content: str | Annotated[list[dict[str, Any]], Field(min_length=1, max_length=MOST_PARTS)]
    modalities: list[Want] | None = Field(None, max_length=4)
    max_tokens: int | None = Field(None, ge=1, le=4096)
    stream: bool | None = False
