"""Caption and medium, both ways (section 4.1): generate the one from the other."""

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
    """`both`: two records of each pair; `either`: one, its way drawn, for sets so large that storage counts."""

    def __post_init__(self) -> None:
        if self.ways not in WAYS:
            raise ConfigError(f"ways is {self.ways!r}; it should be {' or '.join(WAYS)}")


def paired(
    medium: Medium,
    text: object,
    draw: np.random.Generator,
    ways: str,
    licence: str,
    meta: Mapping[str, Any] | None = None,
) -> Iterator[Draft]:
    """words → medium and medium → words, or either. Raises BadRecord: the caption is unfit."""
    words, kind = caption(text), medium.modality
    chosen = 2 if ways == "both" else int(draw.integers(2))
    if chosen != 1:
        asked = write_prompt(f"{kind}_from_caption", draw, {"caption": words})
        yield Draft(f"{kind}_from_caption", exchange(asked, [medium]), licence, meta or {})
    if chosen != 0:
        asked = write_prompt(f"caption_{kind}", draw, {"media": [medium]})
        yield Draft(f"caption_{kind}", exchange(asked, [Text(words)]), licence, meta or {})
