"""Fields of requests that this server does not support: each is refused by name, unless it has no effect.

Null, false, 0, empty values, and values that name the server's own behaviour have no effect. Hints that change no
reply, such as the keys of caches, are accepted.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any

from codi2.errors import PromptError

Accepts = Callable[[Any], bool]


class FieldError(PromptError):
    """A field that is not supported, or has a value that is not; `param` is its path."""

    def __init__(self, message: str, param: str) -> None:
        super().__init__(message)
        self.param = param


def any_value(value: Any) -> bool:
    return True


def one_of(*values: Any) -> Accepts:
    return lambda value: value in values


def like(**fields: Accepts) -> Accepts:
    """An object whose fields all have accepted values."""
    return lambda value: (
        isinstance(value, dict)
        and all(empty(field) or (name in fields and fields[name](field)) for name, field in value.items())
    )


def empty(value: Any) -> bool:
    """Whether a value has no effect."""
    return value is None or value is False or value in (0, "", [], {})


TOOLS = "the model calls no tools"
NO_TOOLS: Mapping[str, str] = dict.fromkeys(("tools", "tool_choice", "functions", "function_call", "tool_calls"), TOOLS)
WHY: Mapping[str, str] = {
    **NO_TOOLS,
    "response_format": "replies are words as they come, without a grammar",
    "text": "replies are words as they come, without a grammar",
    "logprobs": "no probabilities are given",
    "top_logprobs": "no probabilities are given",
    "logit_bias": "scores of words are not changed",
    "audio": "the model has no voice; ask for sounds with codi2.want",
    "store": "replies are not kept; use /v1/sessions",
    "background": "replies are not kept; use stream",
    "previous_response_id": "responses are not kept; send the whole conversation as input, or use /v1/sessions",
    "conversation": "conversations are kept by /v1/sessions",
    "prompt": "no templates are kept; send instructions and input",
    "name": "who speaks is told by the role; write the name into the content",
    "partial_images": "pictures come when they are drawn; leave it out",
    "mask": "say in words what is to change",
    "file_id": "no files are kept for this; send the bytes as a data URL",
}
_FORMAT = like(type=one_of("text"))
SHARED: Mapping[str, Accepts] = {
    "metadata": lambda value: isinstance(value, dict),
    "prompt_cache_key": any_value,
    "prompt_cache_retention": any_value,
    "safety_identifier": any_value,
    "service_tier": one_of("auto", "default"),
}
WORDS: Mapping[str, Accepts] = {**SHARED, "parallel_tool_calls": any_value, "tool_choice": one_of("none", "auto")}
CHAT: Mapping[str, Accepts] = {
    **WORDS,
    "response_format": _FORMAT,
    "reasoning_effort": one_of("none", "minimal"),
    "verbosity": one_of("medium"),
}
RESPONSES: Mapping[str, Accepts] = {
    **WORDS,
    "text": like(format=_FORMAT, verbosity=one_of("medium")),
    "truncation": one_of("disabled"),
    "reasoning": like(effort=one_of("none", "minimal"), summary=any_value, generate_summary=any_value),
    "include": lambda value: isinstance(value, list) and not any("logprobs" in str(item) for item in value),
    "max_tool_calls": any_value,
    "stream_options": like(),
}
IMAGES: Mapping[str, Accepts] = {
    **SHARED,
    "quality": one_of("auto", "standard"),
    "background": one_of("auto", "opaque"),
    "moderation": one_of("auto"),
}
MESSAGE: Mapping[str, Accepts] = dict.fromkeys(  # fields that servers add to their replies
    ("annotations", "reasoning", "reasoning_content", "reasoning_details", "thinking_blocks"), any_value
)


def check(fields: Mapping[str, Any], known: Collection[str], accepts: Mapping[str, Accepts], where: str = "") -> None:
    """Raises FieldError: a field that is not `known` has a value with an effect."""
    for name, value in fields.items():
        if name in known or empty(value) or (name in accepts and accepts[name](value)):
            continue
        path = f"{where}.{name}" if where else str(name)
        shown = f" as {value!r}" if name in accepts and isinstance(value, str | int | float) else ""
        why = WHY.get(name, "leave it out")
        raise FieldError(f"{path[:100]} is not done here{shown[:60]}: {why}", path[:100])
