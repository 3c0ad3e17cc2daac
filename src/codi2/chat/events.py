"""What happens while a reply is made, in the order in which it does."""

from __future__ import annotations

from dataclasses import dataclass

from codi2.prompt.parts import Part
from codi2.reply import Reply


@dataclass(frozen=True)
class Said:
    """A piece of the reply's text."""

    text: str


@dataclass(frozen=True)
class Step:
    """How far a stage is: `encode`, `think` or `diffuse`; `step` of `total`."""

    stage: str
    step: int
    total: int


@dataclass(frozen=True)
class Made:
    """The reply's part number `place` is a medium, and here it is."""

    place: int
    part: Part


@dataclass(frozen=True)
class Done:
    """The whole reply: the last event."""

    reply: Reply


Event = Said | Step | Made | Done
