"""Replies as clients get them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from codi2.media import load
from codi2.prompt.parts import Part
from codi2.senses import load_as
from codi2.serve import wire
from codi2.serve.decoder_process import STILL


def decoded(parts: Sequence[Mapping[str, Any]]) -> list[Part]:
    """The parts of a message of the API, their media decoded."""
    return [_media(part) if isinstance(part, wire.Upload) else part for part in wire.prompt(parts)]


def _media(upload: wire.Upload) -> Part:
    file = upload.file
    return load(file.data, still=True) if file.kind == STILL else load_as(file.kind, file.data)
