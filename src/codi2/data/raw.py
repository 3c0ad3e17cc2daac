"""The contract of source readers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL.Image import Image

from codi2.modalities import Modality

Sound = tuple[np.ndarray, int]
"""Float samples [N] or [N, channels] and their rate in Hz."""
Clip = Sequence[Image]
"""Frames of one size, spread evenly over the length of a sound of the corpus."""


@dataclass(frozen=True)
class RawItem:
    """One media file of a source, before pictures are made square and sounds are cut."""

    key: str
    """Unique within the source."""
    modality: Modality
    file: str
    """Path below the source's folder (for archives: archive, colon, member)."""
    name: str
    """The thing that is seen or heard, as a noun phrase without article; becomes the concept."""
    caption: str
    category: str
    """A group of the source, e.g. `animal-mammal`."""
    style: str
    """The kind of rendering: one of `world.ALL_RENDERINGS`, photo, drawing, cartoon; recorded, synthesized."""
    load: Callable[[], Image | Sound | Clip]
    """Reads and decodes the file; pictures and frames are RGBA."""
    group: str
    """Shared by the renderings of one emoji and by the clips of one recording; else the key."""
    subject: str = ""
    """The individual shown, if several pictures show the same one."""


@dataclass(frozen=True)
class CorpusSource:
    """A package, its licence, and its reader."""

    name: str
    licence: str
    attribution: str
    read: Callable[[Path], Iterator[RawItem]]
