"""Caption and medium, both ways (section 4.1): generate the one from the other."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from codi2.data.builders.contract import Draft, exchange
from codi2.data.checks import caption
from codi2.data.record import Medium
from codi2.data.templates import write_prompt
from codi2.prompt.parts import Text

TASKS = (
    "image_from_caption",
    "caption_image",
    "audio_from_caption",
    "caption_audio",
    "video_from_caption",
    "caption_video",
)


def both_ways(
    medium: Medium, text: object, draw: np.random.Generator, licence: str, meta: Mapping[str, Any] | None = None
) -> Iterator[Draft]:
    """Two records: words → medium, medium → words. Raises BadRecord: the caption is unfit."""
    words, kind = caption(text), medium.modality
    asked = write_prompt(f"{kind}_from_caption", draw, {"caption": words})
    yield Draft(f"{kind}_from_caption", exchange(asked, [medium]), licence, meta or {})
    asked = write_prompt(f"caption_{kind}", draw, {"media": [medium]})
    yield Draft(f"caption_{kind}", exchange(asked, [Text(words)]), licence, meta or {})
