"""Replies as clients get them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from codi2.prompt.parts import Part
from codi2.serve import wire
from codi2.serve.decoder_process import decode


def decoded(parts: Sequence[Mapping[str, Any]]) -> list[Part]:
    """The parts of a message of the API, their media decoded."""
    return [
        decode(part.file.kind, part.file.data) if isinstance(part, wire.EncodedMedium) else part
        for part in wire.prompt(parts)
    ]
