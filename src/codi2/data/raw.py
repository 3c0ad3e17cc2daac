"""The contract that every source reader keeps."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from PIL.Image import Image

Modality = Literal["image", "audio", "video"]
Sound = tuple[np.ndarray, int]
"""Float samples [N] or [N, channels] and their rate in Hz."""
Clip = Sequence[Image]
"""Frames of one size, spread evenly over as long as a sound of the corpus lasts."""


@dataclass(frozen=True)
class RawItem:
    """One media file as its source names it, before pictures are squared and sounds are cut."""

    key: str
    """Unique within the source."""
    modality: Modality
    file: str
    """Path below the source's folder (for archives: archive, then member)."""
    name: str
    """What is seen or heard, as a bare noun phrase; becomes the concept."""
    caption: str
    category: str
    """The source's own grouping, e.g. `animal-mammal`."""
    style: str
    """How it is rendered: one of `world.ALL_RENDERINGS`, photo, drawing, cartoon; recorded, synthesized."""
    load: Callable[[], Image | Sound | Clip]
    """Reads and decodes the file; pictures and frames are RGBA."""
    group: str
    """Shared by the renderings of one emoji and by the clips of one recording; else the key."""
    subject: str = ""
    """The individual shown, where several pictures show the same one."""


@dataclass(frozen=True)
class Source:
    """A package, what it may be used under, and its reader."""

    name: str
    licence: str
    attribution: str
    read: Callable[[Path], Iterator[RawItem]]
