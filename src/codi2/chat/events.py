"""The events of a reply in progress, in their order."""

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
    place: int = 0  # of this text among the reply's parts


@dataclass(frozen=True)
class MediaStarted:
    """Part number `place` of the reply will be a medium, which is decoded when the text is complete."""

    place: int
    modality: str


@dataclass(frozen=True)
class StageProgress:
    """Progress of a stage (`read`, `write` or `decode`): `step` of `total`."""

    stage: str
    step: int
    total: int


@dataclass(frozen=True)
class MediaReady:
    """Part number `place` of the reply is this medium."""

    place: int
    part: Part
    recipe: Mapping[str, Any] = field(default_factory=dict)  # as `Reply.recipe`


@dataclass(frozen=True)
class Done:
    """The whole reply: the last event."""

    reply: Reply


Event = TextDelta | MediaStarted | StageProgress | MediaReady | Done
