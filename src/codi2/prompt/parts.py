"""The values in a prompt and a reply.

The command line, Python, HTTP and the training data share these types. A part is immutable and holds decoded media,
never a path: `codi2.media` reads files.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

from codi2.errors import MediaError, PromptError

if TYPE_CHECKING:
    import numpy as np
    from PIL import Image as PILImage


def check_characters(text: str) -> None:
    """Raises PromptError: not a str, or with half of a surrogate pair, which cannot be encoded or tokenized."""
    if not isinstance(text, str):
        raise PromptError(f"a text is a str, not {type(text).__name__}; decode bytes first")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise PromptError(
            f"the text holds {text[error.start]!r}, half of a surrogate pair, which is no character; remove it"
        ) from error


@dataclass(frozen=True)
class Text:
    """Plain text. `ids` are the tokens of text that the language model has written, for counts only.

    Raises PromptError: it cannot be encoded.
    """

    modality: ClassVar[str] = "text"
    text: str
    ids: tuple[int, ...] = field(default=(), compare=False, repr=False)

    def __post_init__(self) -> None:
        check_characters(self.text)


@dataclass(frozen=True)
class Phrase:
    """Text as *features* of the joint space instead of tokens: `[text0]` (section 4.1)."""

    modality: ClassVar[str] = "phrase"
    text: str

    def __post_init__(self) -> None:
        check_characters(self.text)


@dataclass(frozen=True, eq=False)
class Image:
    """A picture. `pixels` is RGB; transparency was composed over white.

    Pillow's pictures of any mode and arrays ([H, W], [H, W, C] or [C, H, W]; integers, or floats in [0, 1]) become RGB.
    Raises MediaError: other values.
    """

    modality: ClassVar[str] = "image"
    pixels: PILImage.Image
    name: str = ""

    def __post_init__(self) -> None:
        if getattr(self.pixels, "mode", "") != "RGB":
            from codi2.values.arrays import as_rgb

            object.__setattr__(self, "pixels", as_rgb(self.pixels, self.name))


@dataclass(frozen=True, eq=False)
class Audio:
    """A sound. `samples` is float32 mono [N] in [-1, 1]; `rate` is in Hz.

    Integers are scaled by their type; [C, N] and [N, C] are mixed to one channel. Raises MediaError: other values.
    """

    modality: ClassVar[str] = "audio"
    samples: np.ndarray
    rate: int
    name: str = ""

    def __post_init__(self) -> None:
        if str(getattr(self.samples, "dtype", "")) != "float32" or self.samples.ndim != 1:
            from codi2.values.arrays import as_mono

            object.__setattr__(self, "samples", as_mono(self.samples, self.name))
        if not self.rate > 0:
            raise MediaError(f"{self.name or 'A sound'} has {self.rate} samples a second; give a rate above 0")

    @property
    def seconds(self) -> float:
        return len(self.samples) / self.rate


@dataclass(frozen=True, eq=False)
class Video:
    """A clip. `frames` are RGB pictures of one size; `fps` is frames per second; `sound` begins with the first frame.

    Frames may be all that `Image` takes. Raises MediaError: no frame, frames of different sizes, or `fps` of 0.
    """

    modality: ClassVar[str] = "video"
    frames: tuple[PILImage.Image, ...]
    fps: float
    name: str = ""
    sound: Audio | None = None  # of a clip in a prompt; in replies sounds are parts of their own

    def __post_init__(self) -> None:
        if type(self.frames) is not tuple or any(getattr(frame, "mode", "") != "RGB" for frame in self.frames):
            object.__setattr__(self, "frames", tuple(Image(frame, self.name).pixels for frame in self.frames))
        sizes = {frame.size for frame in self.frames}
        if len(sizes) != 1 or not self.fps > 0:
            raise MediaError(
                f"{self.name or 'A clip'} has frames of {len(sizes)} sizes at {self.fps:g} frames a second; give one "
                "frame or more, all of one size, and a rate above 0"
            )


@dataclass(frozen=True, eq=False)
class Depth:
    """A depth map. `metres` is float32 [H, W]; 0: unknown."""

    modality: ClassVar[str] = "depth"
    metres: np.ndarray
    name: str = ""


@dataclass(frozen=True, eq=False)
class Thermal:
    """A thermal picture. `warmth` is float32 [H, W] in [0, 1]."""

    modality: ClassVar[str] = "thermal"
    warmth: np.ndarray
    name: str = ""


@dataclass(frozen=True, eq=False)
class IMU:
    """A recording of movement. `readings` is float32 [6, N]: accelerometer x y z, gyroscope x y z; `rate` is in Hz."""

    modality: ClassVar[str] = "imu"
    readings: np.ndarray
    rate: float
    name: str = ""


Sense = Depth | Thermal | IMU
"""Modalities that only some encoders read."""
Media = Image | Audio | Video | Sense
Part = Text | Phrase | Media
Prompt = tuple[Part, ...]
"""The parts of one message, in order."""
