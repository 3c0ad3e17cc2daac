"""What happens while a reply is made, in the order in which it does."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from codi2.prompt.parts import Part
from codi2.reply import Reply


@dataclass(frozen=True)
class TextDelta:
    """A piece of the reply's text."""

    text: str
    place: int = 0  # of this stretch of text among the reply's parts


@dataclass(frozen=True)
class Began:
    """The reply's part number `place` will be a medium; it is drawn when all words are said."""

    place: int
    modality: str


@dataclass(frozen=True)
class Step:
    """How far a stage is: `read`, `write` or `decode`; `step` of `total`."""

    stage: str
    step: int
    total: int


@dataclass(frozen=True)
class MediaReady:
    """The reply's part number `place` is a medium, and here it is."""

    place: int
    part: Part
    recipe: Mapping[str, Any] = field(default_factory=dict)  # as `Reply.recipe`


@dataclass(frozen=True)
class Done:
    """The whole reply: the last event."""

    reply: Reply


Event = TextDelta | Began | Step | MediaReady | Done
