"""Paired data (section 4.1): generate the medium from the caption, and the caption from the medium."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from codi2.data.builders.contract import Draft, exchange
from codi2.data.checks import caption
from codi2.data.record import Medium
from codi2.data.templates import write_prompt
from codi2.errors import ConfigError
from codi2.prompt.parts import Text

WAYS = ("both", "either")


@dataclass(frozen=True)
class Paired:
    """Options of the builders of paired data."""

    ways: str = "both"
    """`both`: two records for each pair; `either`: one of the two, drawn at random, for large sets."""

    def __post_init__(self) -> None:
        if self.ways not in WAYS:
            raise ConfigError(f"ways is {self.ways!r}; expected {' or '.join(WAYS)}")


def paired(
    medium: Medium,
    text: object,
    draw: np.random.Generator,
    ways: str,
    licence: str,
    meta: Mapping[str, Any] | None = None,
) -> Iterator[Draft]:
    """The records words → medium and medium → words, or one of them. Raises BadRecord: the caption is unfit."""
    words, modality = caption(text), medium.modality
    direction = 2 if ways == "both" else int(draw.integers(2))
    if direction != 1:
        prompt = write_prompt(f"{modality}_from_caption", draw, {"caption": words})
        yield Draft(f"{modality}_from_caption", exchange(prompt, [medium]), licence, meta or {})
    if direction != 0:
        prompt = write_prompt(f"caption_{modality}", draw, {"media": [medium]})
        yield Draft(f"caption_{modality}", exchange(prompt, [Text(words)]), licence, meta or {})
