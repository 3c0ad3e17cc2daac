"""The values that a prompt and a reply are made of.

One set of value types serves the command line, Python, HTTP and the training data. A part is immutable and holds
decoded media only, never a path: reading files is `codi2.media`'s business.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    import numpy as np
    from PIL import Image as PILImage


@dataclass(frozen=True)
class Text:
    """Plain words. `ids` are the tokens that the language model said them in, where it did: for counts only."""

    modality: ClassVar[str] = "text"
    text: str
    ids: tuple[int, ...] = field(default=(), compare=False, repr=False)


@dataclass(frozen=True)
class Phrase:
    """Words given as *features* of the joint space instead of tokens: `[text0]` (section 4.1)."""

    modality: ClassVar[str] = "phrase"
    text: str


@dataclass(frozen=True, eq=False)
class Image:
    """A picture. `pixels` is RGB; transparency has been laid on white."""

    modality: ClassVar[str] = "image"
    pixels: PILImage.Image
    name: str = ""


@dataclass(frozen=True, eq=False)
class Audio:
    """A sound. `samples` is float32 mono [N] in [-1, 1]; `rate` is in Hz."""

    modality: ClassVar[str] = "audio"
    samples: np.ndarray
    rate: int
    name: str = ""

    @property
    def seconds(self) -> float:
        return len(self.samples) / self.rate


@dataclass(frozen=True, eq=False)
class Video:
    """A clip. `frames` are RGB pictures of one size; `fps` is frames per second."""

    modality: ClassVar[str] = "video"
    frames: tuple[PILImage.Image, ...]
    fps: float
    name: str = ""


@dataclass(frozen=True, eq=False)
class Depth:
    """How far things are. `metres` is float32 [H, W]; 0: unknown."""

    modality: ClassVar[str] = "depth"
    metres: np.ndarray
    name: str = ""


@dataclass(frozen=True, eq=False)
class Thermal:
    """How warm things are. `warmth` is float32 [H, W] in [0, 1]."""

    modality: ClassVar[str] = "thermal"
    warmth: np.ndarray
    name: str = ""


@dataclass(frozen=True, eq=False)
class IMU:
    """How something moved. `readings` is float32 [6, N]: accelerometer x y z, gyroscope x y z; `rate` is in Hz."""

    modality: ClassVar[str] = "imu"
    readings: np.ndarray
    rate: float
    name: str = ""


Sense = Depth | Thermal | IMU
"""What only some encoders read."""
Media = Image | Audio | Video | Sense
Part = Text | Phrase | Media
Prompt = tuple[Part, ...]
"""One message: parts in the order in which they are read."""
